"""Evidence maps: what in a scan speaks for HH (positive) and what for HC (negative), by one of several methods.

All of them explain the same number, the scan head's logit of HH minus that of HC, and none shows where a disease is.
They differ in how faithful they are to the network and in what they cost: `benchmarks/evidence.py` measures both, and
`docs/evidence.md` holds its table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from torch import Tensor

from scripts.errors import InputError
from scripts.model.networks import QNet


def margin(network: QNet) -> Callable[[Tensor], Tensor]:
    """`[B, C, H, W, S]` -> the number that is explained, `[B]`: the scan's logit of HH minus that of HC."""

    def of(image: Tensor) -> Tensor:
        logits = network(image)
        return logits[:, 1] - logits[:, 0]

    return of


def slice_means(image: Tensor) -> Tensor:
    """Each slice of each map replaced by its mean: an image that shows nothing, `[B, C, H, W, S]`."""
    return image.mean((2, 3), keepdim=True).expand_as(image)


def integrated_gradients(network: QNet, image: Tensor, steps: int) -> Tensor:
    """Integrated gradients (Sundararajan et al., ICML 2017) from the slices' means to the image, `[B, 1, H, W, S]`.

    The map adds up to the margin of the image minus that of the means, as closely as `steps` points (Gauss-Legendre)
    follow the way between them.
    """
    method = IntegratedGradients(margin(network))
    # one step at a time: a batch of all would take `steps` times the memory and no less time
    parts = method.attribute(image, slice_means(image), n_steps=steps, internal_batch_size=len(image))
    return parts.sum(1, keepdim=True)


def input_x_gradient(network: QNet, image: Tensor) -> Tensor:
    """The image's difference from its slices' means times the gradient at the image, `[B, 1, H, W, S]`."""
    slope = Saliency(margin(network)).attribute(image, abs=False)
    return ((image - slice_means(image)) * slope).sum(1, keepdim=True)


def occlusion(network: QNet, image: Tensor, patch: int) -> Tensor:
    """By how much the margin falls when a patch of one slice is replaced by the slice's mean, `[B, 1, H, W, S]`.

    Patches lie side by side; at the far edges they may be narrower.
    """
    means, found = slice_means(image), torch.zeros_like(image[:, :1])
    if getattr(network, "reads_volumes", False):  # a patch changes the embeddings of other slices too
        window = (image.shape[1], patch, patch, 1)
        return Occlusion(margin(network)).attribute(image, window, strides=window, baselines=means)[:, :1]
    for scan in range(len(image)):
        embeddings = network.embed(image[scan : scan + 1])
        for index in range(image.shape[4]):

            def of_slice(planes: Tensor, embeddings: Tensor = embeddings, index: int = index) -> Tensor:
                """Margins `[N]` of the scan with each of `[N, C, H, W]` in the place of one slice."""
                others = embeddings.repeat(len(planes), 1, 1)
                others[:, index] = network.embed(planes[..., None])[:, 0]
                logits = network.sequence(others)[0]
                return logits[:, 1] - logits[:, 0]

            parts = Occlusion(of_slice).attribute(
                image[scan : scan + 1, ..., index],
                (image.shape[1], patch, patch),
                strides=(image.shape[1], patch, patch),
                baselines=means[scan : scan + 1, ..., index],
                perturbations_per_eval=32,
            )
            found[scan, 0, ..., index] = parts[0, 0]
    return found


def _check_smoothing(size: int, shortest: int) -> None:
    if size // 2 > shortest:
        raise InputError(f"evidence_smoothing is {size}, but a side of the slice has {shortest} pixels; lower it")


def smoothed(volume: Tensor, size: int) -> Tensor:
    """In-plane means over `size` x `size` pixels (an odd number) of `[B, 1, H, W, S]`; the sum of a slice is kept.

    The image is mirrored at its edges: every pixel then gives as much as it gets.

    Raises:
        InputError: half of `size` is more than a side of the slice.
    """
    reach, shortest = size // 2, min(volume.shape[2:4])
    _check_smoothing(size, shortest)
    for axis in (2, 3):
        edges = [volume.narrow(axis, 0, reach).flip(axis), volume, volume.flip(axis).narrow(axis, 0, reach)]
        volume = torch.cat(edges, axis).unfold(axis, size, 1).mean(-1)
    return volume


@dataclass(frozen=True)
class Method:
    """A way to make evidence maps.

    Attributes:
        name: as readers know it.
        says: what a value of the map is, in a line for reports.
        smooths: whether its values jump from pixel to pixel, so that they are averaged for the eye.
    """

    name: str
    says: str
    smooths: bool


METHODS = {
    "integrated_gradients": Method(
        "integrated gradients",
        "what each pixel, against its slice's mean, adds to the output for HH, summed along the way between both",
        True,
    ),
    "input_x_gradient": Method(
        "input x gradient",
        "each pixel's difference from its slice's mean times the output's slope there",
        True,
    ),
    "occlusion": Method(
        "occlusion",
        "by how much the output for HH falls when a patch of a slice is replaced by the slice's mean",
        False,
    ),
    "class_activation": Method(
        "class activation map",
        "activation of the last layer, weighted by the output's slope, as in the paper; it does not agree with what"
        " covering a place does to the output",
        False,
    ),
}


class Evidence:
    """Makes evidence maps as a config asks for them.

    Args:
        method: a key of METHODS.
        steps: of `integrated_gradients`: gradients along the way, each as long as a forward and a backward pass.
        patch: of `occlusion`: side of a patch, pixels.
        smoothing: of the methods that give a value to each pixel: side of the square that is averaged, pixels, an odd
            number; 1 leaves them as they are.

    Raises:
        InputError: an unknown method, or a number out of range.
    """

    def __init__(self, method: str, steps: int, patch: int, smoothing: int) -> None:
        if method not in METHODS:
            raise InputError(f"evidence_method: {method!r} is unknown; use one of {', '.join(METHODS)}")
        for key, value in (("evidence_steps", steps), ("evidence_patch", patch), ("evidence_smoothing", smoothing)):
            if type(value) is not int or value < 1:
                raise InputError(f"{key} is {value!r}; give a whole number from 1 on")
        if smoothing % 2 == 0:
            raise InputError(f"evidence_smoothing is {smoothing}; give an odd number, whose middle is a pixel")
        self.method = method
        self.steps = steps
        self.patch = patch
        self.smoothing = smoothing

    def check(self, size: Sequence[int]) -> None:
        """Refuse what cannot be made of slices of a size, before there are any.

        Args:
            size: H, W of the network's input, pixels.

        Raises:
            InputError: a patch, or half the square that is averaged, is more than a side.
        """
        shortest = min(size)
        if self.method == "occlusion" and self.patch > shortest:
            raise InputError(
                f"evidence_patch is {self.patch}, but a side of the network's input has {shortest} pixels; lower it"
            )
        if METHODS[self.method].smooths:
            _check_smoothing(self.smoothing, shortest)

    def __call__(self, network: QNet, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` (0..1) -> the map `[B, 1, H, W, S]`: positive speaks for HH, negative for HC.

        Works inside `torch.no_grad` and `torch.inference_mode` too. `network` may be TorchScript.
        """
        with torch.inference_mode(False), torch.enable_grad():
            image = image.detach().clone()
            if self.method == "integrated_gradients":
                made = integrated_gradients(network, image, self.steps)
            elif self.method == "input_x_gradient":
                made = input_x_gradient(network, image)
            elif self.method == "occlusion":
                with torch.no_grad():
                    made = occlusion(network, image, self.patch)
            else:
                made = network.class_activation(image)
            made = made.detach()
        smooths = METHODS[self.method].smooths and self.smoothing > 1
        return smoothed(made, self.smoothing) if smooths else made

    def describe(self) -> dict[str, str]:
        """What a result must say of its map: `method`, its `name`, and what the map `says`."""
        method = METHODS[self.method]
        return {"method": self.method, "name": method.name, "says": method.says}
