"""The paper's training augmentation, on a whole batch and on the device that trains.

The steps are the paper's (Data Preparation); how likely and how strong they are is in `train.yaml`. The paper's
histogram stretching and cropping have probability 1, so preprocessing does them once and they are not here.

Order: flips, brightness and contrast, gamma, grid distortion, shift-scale-rotate. All geometry is composed into one
sampling grid and interpolated once. A flip only moves pixels, so doing it inside the grid, after the intensity, gives
the same values as doing it first.

Numbers are drawn on the CPU, a few per image. The CPU therefore knows which images need which step, only those get it,
and the device is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from scripts.errors import InputError

PADDING_MODES = ("reflection", "border", "zeros")


class AugmentParameters(NamedTuple):
    """What is done to each of B images. CPU tensors; a step that was not drawn has its identity value.

    Attributes:
        horizontal_flip: bool `[B]`, mirrors the last axis (W).
        vertical_flip: bool `[B]`, mirrors the axis H.
        contrast: `[B]`, the factor of `clip(contrast * x + brightness)`; identity 1.
        brightness: `[B]`, the offset of the same, as a fraction of the full range 0..1; identity 0.
        gamma: `[B]`, the exponent of `x ** gamma`; identity 1.
        grid_distortion: bool `[B]`, whether the image is distorted.
        steps: `[B, 2, grid_distortion_steps + 1]`, relative lengths of the grid cells along x (W) and y (H). The last
            cell holds the pixels that are left when the side is no multiple of the number of steps.
        shift_scale_rotate: bool `[B]`, whether the image is shifted, scaled and rotated.
        shift: `[B, 2]`, along x and y, as a fraction of the side; positive to the right and down.
        scale: `[B]`, above 1 enlarges.
        angle: `[B]`, degrees, positive turns the content counter-clockwise as displayed (row 0 on top).
    """

    horizontal_flip: torch.Tensor
    vertical_flip: torch.Tensor
    contrast: torch.Tensor
    brightness: torch.Tensor
    gamma: torch.Tensor
    grid_distortion: torch.Tensor
    steps: torch.Tensor
    shift_scale_rotate: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor
    angle: torch.Tensor


class BatchAugment(torch.nn.Module):
    """Random flips, brightness, contrast, gamma, grid distortion, shift, scale and rotation of a batch.

    Every image of the batch gets its own draw, and all its channels share it. The random numbers come from a generator
    of its own: `state_dict()` holds its state, so a run that was killed continues with the same numbers. The module
    augments in training and in evaluation mode alike; leave it out where nothing shall be augmented.

    Args:
        horizontal_flip_prob, vertical_flip_prob, brightness_contrast_prob, gamma_prob, grid_distortion_prob,
            shift_scale_rotate_prob: probabilities in 0..1.
        brightness_limit: largest offset up or down, as a fraction of the full range 0..1; in 0..1.
        contrast_limit: largest change of the contrast factor from 1; in 0..1.
        gamma_limit: smallest and largest exponent, above 0.
        grid_distortion_steps: number of grid cells along each axis, at least 1.
        grid_distortion_limit: largest relative change of a cell's length; at least 0, below 1.
        shift_limit: largest shift as a fraction of the image's side; in 0..1.
        scale_limit: largest change of the scale factor from 1; at least 0, below 1.
        rotate_limit: largest rotation, degrees; in 0..180.
        padding_mode: what is seen beyond the edge: `"reflection"` (OpenCV's reflect_101), `"border"` or `"zeros"`.
        seed: start of the random numbers. Ranks of a distributed run need different ones.

    Raises:
        InputError: (a ValueError) when an argument is out of its range; the message names it.

    Source: Buslaev et al., "Albumentations", Information 11(2):125, 2020. The formulas are those of its version 2,
    except that a shift is not rounded to whole pixels.
    """

    def __init__(
        self,
        horizontal_flip_prob: float,
        vertical_flip_prob: float,
        brightness_contrast_prob: float,
        brightness_limit: float,
        contrast_limit: float,
        gamma_prob: float,
        gamma_limit: Sequence[float],
        grid_distortion_prob: float,
        grid_distortion_steps: int,
        grid_distortion_limit: float,
        shift_scale_rotate_prob: float,
        shift_limit: float,
        scale_limit: float,
        rotate_limit: float,
        padding_mode: str,
        seed: int,
    ) -> None:
        super().__init__()
        probabilities = {
            "horizontal_flip_prob": horizontal_flip_prob,
            "vertical_flip_prob": vertical_flip_prob,
            "brightness_contrast_prob": brightness_contrast_prob,
            "gamma_prob": gamma_prob,
            "grid_distortion_prob": grid_distortion_prob,
            "shift_scale_rotate_prob": shift_scale_rotate_prob,
        }
        for name, value in probabilities.items():
            _require(0 <= value <= 1, name, value, "a probability in 0..1")
            setattr(self, name, value)
        _require(0 <= brightness_limit <= 1, "brightness_limit", brightness_limit, "in 0..1")
        _require(0 <= contrast_limit <= 1, "contrast_limit", contrast_limit, "in 0..1")
        _require(
            len(gamma_limit) == 2 and 0 < gamma_limit[0] <= gamma_limit[1],
            "gamma_limit",
            gamma_limit,
            "two numbers above 0, the smaller first",
        )
        _require(
            isinstance(grid_distortion_steps, int) and grid_distortion_steps >= 1,
            "grid_distortion_steps",
            grid_distortion_steps,
            "a whole number of at least 1",
        )
        _require(0 <= grid_distortion_limit < 1, "grid_distortion_limit", grid_distortion_limit, "at least 0, below 1")
        _require(0 <= shift_limit <= 1, "shift_limit", shift_limit, "in 0..1")
        _require(0 <= scale_limit < 1, "scale_limit", scale_limit, "at least 0, below 1")
        _require(0 <= rotate_limit <= 180, "rotate_limit", rotate_limit, "degrees in 0..180")
        _require(padding_mode in PADDING_MODES, "padding_mode", padding_mode, f"one of {', '.join(PADDING_MODES)}")

        self._probabilities = torch.tensor(list(probabilities.values()))
        self.brightness_limit = brightness_limit
        self.contrast_limit = contrast_limit
        self.gamma_limit = tuple(gamma_limit)
        self.grid_distortion_steps = grid_distortion_steps
        self.grid_distortion_limit = grid_distortion_limit
        self.shift_limit = shift_limit
        self.scale_limit = scale_limit
        self.rotate_limit = rotate_limit
        self.padding_mode = padding_mode
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> torch.Tensor:
        """State of the random numbers, uint8, for `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Continue from a state of the random numbers; `load_state_dict` calls it."""
        self.generator.set_state(state.cpu())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Draw and apply: see `apply` for shapes and errors."""
        return self.apply_parameters(images, self.draw(len(images)))

    def draw(self, batch_size: int) -> AugmentParameters:
        """Draw what is done to each of `batch_size` images.

        An image takes the same count of random numbers whatever is drawn, so that a change of one probability leaves
        the numbers of the other steps as they were.
        """
        cells = self.grid_distortion_steps + 1
        numbers = torch.rand(batch_size, 13 + 2 * cells, generator=self.generator)
        flip_x, flip_y, intensity, power, distort, move = (numbers[:, :6] < self._probabilities).unbind(1)
        symmetric = numbers[:, 6:] * 2 - 1

        def where(drawn: torch.Tensor, value: torch.Tensor, identity: float) -> torch.Tensor:
            return torch.where(drawn.view(-1, *[1] * (value.ndim - 1)), value, identity)

        low, high = self.gamma_limit
        return AugmentParameters(
            horizontal_flip=flip_x,
            vertical_flip=flip_y,
            contrast=where(intensity, 1 + self.contrast_limit * symmetric[:, 0], 1),
            brightness=where(intensity, self.brightness_limit * symmetric[:, 1], 0),
            gamma=where(power, low + (high - low) * numbers[:, 8], 1),
            grid_distortion=distort,
            steps=where(distort, 1 + self.grid_distortion_limit * symmetric[:, 7:].view(-1, 2, cells), 1),
            shift_scale_rotate=move,
            shift=where(move, self.shift_limit * symmetric[:, 3:5], 0),
            scale=where(move, 1 + self.scale_limit * symmetric[:, 5], 1),
            angle=where(move, self.rotate_limit * symmetric[:, 6], 0),
        )

    def apply_parameters(self, images: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
        """Apply drawn parameters to a batch.

        Args:
            images: floating `[B, C, H, W]`, values in 0..1, on any device; or scans `[B, C, H, W, S]`, whose slices
                share the draw of their scan.
            parameters: for B images, from `draw`.

        Returns:
            New tensor of the same shape, dtype and device, values in 0..1. An image for which nothing was drawn is
            equal bit for bit. Half-precision images are computed in float32.

        Raises:
            ValueError: when the shape, the dtype or the number of parameters does not fit.
        """
        if isinstance(images, MetaTensor):
            # the affine in its metadata would be wrong afterwards
            images = images.as_tensor()
        if images.ndim == 5:
            slices_first = images.permute(0, 1, 4, 2, 3)
            flat = self.apply_parameters(slices_first.flatten(1, 2), parameters)
            return flat.view(slices_first.shape).permute(0, 1, 3, 4, 2)
        self._check(images, parameters)
        work = images if images.dtype == torch.float64 else images.float()
        # one image stays in a CPU's cache, and asks for no large memory; a GPU wants all at once
        at_once = 1 if work.device.type == "cpu" else len(work)
        out = _intensity(work, parameters, at_once)
        self._geometry(out, parameters, at_once)
        return out.to(images.dtype)

    def _check(self, images: torch.Tensor, parameters: AugmentParameters) -> None:
        smallest = max(2, self.grid_distortion_steps)
        if images.ndim != 4 or min(images.shape[2:]) < smallest:
            raise ValueError(
                f"images must be [B, C, H, W] or [B, C, H, W, S] with H and W of at least {smallest}, "
                f"got {list(images.shape)}"
            )
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in 0..1, got {images.dtype}")
        if len(parameters.gamma) != len(images):
            raise ValueError(f"parameters are for {len(parameters.gamma)} images, got {len(images)}")

    def _geometry(self, images: torch.Tensor, parameters: AugmentParameters, at_once: int) -> None:
        """Flips, grid distortion and shift-scale-rotate, in place."""
        distorted, moved = parameters.grid_distortion, parameters.shift_scale_rotate
        # an image that is only flipped needs no interpolation
        for x, y, axes in ((True, False, [3]), (False, True, [2]), (True, True, [2, 3])):
            only = ~distorted & ~moved & (parameters.horizontal_flip == x) & (parameters.vertical_flip == y)
            _change(images, _indices(only), partial(_flipped, axes), at_once)
        for group, grid_of in (
            (moved & ~distorted, self._moved_grid),
            (distorted & ~moved, self._distorted_grid),
            (distorted & moved, self._both_grid),
        ):
            chosen = _indices(group)
            if len(chosen):
                grid = grid_of(AugmentParameters(*(value[chosen] for value in parameters)), images)
                _change(images, chosen, partial(self._sampled, grid), at_once)

    def _sampled(self, grid: Callable[[slice], torch.Tensor], part: torch.Tensor, among: slice) -> torch.Tensor:
        """Images `part` at the places that `grid` gives for them."""
        places = grid(among).permute(0, 2, 3, 1)
        return F.grid_sample(part, places, padding_mode=self.padding_mode, align_corners=True)

    # Where each pixel of the result is read, as a function of which of the images: planes `[b, 2, H, W]` (x, y) in
    # grid_sample's units (-1..1 between pixel centres). A result pixel goes back through the steps in reverse:
    # shift-scale-rotate, distortion, flips.

    @staticmethod
    def _moved_grid(parameters: AugmentParameters, images: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """A flip is part of the affine map."""
        return _affine_grid(_inverse_affine(parameters, *images.shape[2:]) * _signs(parameters)[:, :, None], images)

    @staticmethod
    def _distorted_grid(parameters: AugmentParameters, images: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """A flip is part of the distortion."""
        along_x, along_y = _distortion_maps(parameters, images)
        height, width = images.shape[2:]
        return lambda among: torch.stack(
            [
                along_x[among, None, :].expand(-1, height, -1),
                along_y[among, :, None].expand(-1, -1, width),
            ],
            1,
        )

    def _both_grid(self, parameters: AugmentParameters, images: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """The distortion is itself an image of coordinates; the affine grid samples it."""
        points_of = _affine_grid(_inverse_affine(parameters, *images.shape[2:]), images)
        maps_of, signs = self._distorted_grid(parameters, images), _move(_signs(parameters), images)
        reflect = self.padding_mode == "reflection"

        def grid(among: slice) -> torch.Tensor:
            points = points_of(among)
            found = F.grid_sample(
                maps_of(among),
                points.permute(0, 2, 3, 1),
                padding_mode="reflection" if reflect else "border",
                align_corners=True,
            )
            if not reflect:
                # a point beyond the distorted image stays beyond the original one
                found += (points - points.clamp(-1, 1)) * signs[among, :, None, None]
            return found

        return grid


def _intensity(images: torch.Tensor, parameters: AugmentParameters, at_once: int) -> torch.Tensor:
    """Brightness, contrast and gamma: a new tensor like `images`."""
    factor, offset, gamma = (
        _move(value, images)[:, None, None, None]
        for value in (parameters.contrast, parameters.brightness, parameters.gamma)
    )
    out = torch.empty_like(images)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        # with contrast 1 and brightness 0 this returns every value in 0..1 as it was
        torch.mul(images[part], factor[part], out=out[part]).add_(offset[part]).clamp_(0, 1)
    chosen = _indices(parameters.gamma != 1)
    exponents = gamma[_move(chosen, images)]
    _change(out, chosen, lambda part, among: part.pow_(exponents[among]), at_once)
    return out


def _flipped(axes: list[int], part: torch.Tensor, among: slice) -> torch.Tensor:
    """Images turned around along some axes, whichever of the batch they are."""
    return part.flip(axes)


def _change(
    images: torch.Tensor,
    chosen: torch.Tensor,
    function: Callable[[torch.Tensor, slice], torch.Tensor],
    at_once: int,
) -> None:
    """Replace some images of a batch by what `function` makes of them, so many at once.

    Args:
        images: `[B, C, H, W]`, changed.
        chosen: positions in the batch, CPU.
        function: gets images `[b, C, H, W]`, which it may change, and which of the chosen they are; returns as many.
        at_once: largest b.
    """
    positions = chosen.tolist()
    for first in range(0, len(positions), at_once):
        among = slice(first, min(first + at_once, len(positions)))
        if at_once == 1:  # a view needs no copy
            part = images[positions[first] : positions[first] + 1]
            made = function(part, among)
            if made is not part:
                part.copy_(made)
        else:
            index = _move(chosen[among], images)
            images.index_copy_(0, index, function(images.index_select(0, index), among))


def _affine_grid(affine: torch.Tensor, images: torch.Tensor) -> Callable[[slice], torch.Tensor]:
    """Grids of affine maps `[B, 2, 3]`, see `BatchAugment._geometry`."""
    height, width = images.shape[2:]
    x = torch.linspace(-1, 1, width, dtype=images.dtype, device=images.device)
    y = torch.linspace(-1, 1, height, dtype=images.dtype, device=images.device)[:, None]
    along_x, along_y, offset = _move(affine, images)[..., None, None].unbind(2)
    columns, rows = along_x * x, along_y * y + offset
    return lambda among: rows[among] + columns[among]


def _signs(parameters: AugmentParameters) -> torch.Tensor:
    """`[B, 2]`: -1 where x or y is mirrored."""
    return torch.where(torch.stack([parameters.horizontal_flip, parameters.vertical_flip], 1), -1.0, 1.0)


def _distortion_maps(parameters: AugmentParameters, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where distortion and flip read each column `[B, W]` and each row `[B, H]`, in grid_sample's units."""
    height, width = images.shape[2:]
    signs, steps = _signs(parameters), parameters.steps
    return (
        _move(_distortion_map(steps[:, 0], width) * signs[:, :1], images),
        _move(_distortion_map(steps[:, 1], height) * signs[:, 1:], images),
    )


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise InputError(f"{name} must be {wanted}, got {value!r}")


def _indices(mask: torch.Tensor) -> torch.Tensor:
    """Positions of the true values of a CPU mask `[B]`."""
    return mask.nonzero().flatten()


def _move(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """A small CPU tensor to the device of the images (numbers to their dtype too), without waiting for that device."""
    dtype = images.dtype if values.is_floating_point() else values.dtype
    return values.to(images.device, dtype, non_blocking=True)


def _inverse_affine(parameters: AugmentParameters, height: int, width: int) -> torch.Tensor:
    """`[B, 2, 3]`: from result to source about the image's centre, in grid_sample's units.

    Shift, scale and rotation happen in pixels, so that an image that is not square is not sheared.
    """
    half = torch.tensor([width - 1, height - 1]) / 2
    side = torch.tensor([width, height])
    radians = parameters.angle.deg2rad()
    cos, sin = radians.cos(), radians.sin()
    pixels = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2) / parameters.scale[:, None, None]
    offset = -(pixels @ (parameters.shift * side)[:, :, None]) / half[:, None]
    return torch.cat([pixels * half / half[:, None], offset], 2)


def _distortion_map(steps: torch.Tensor, size: int) -> torch.Tensor:
    """`[B, size]`: where each pixel of an axis is read after grid distortion, in grid_sample's units.

    Args:
        steps: `[B, cells]`, relative lengths of the cells.
        size: pixels of the axis.
    """
    cells = steps.shape[1]
    length = size // (cells - 1)
    pixel = torch.arange(size)
    cell = (pixel // length).clamp(max=cells - 1)
    rest = size - length * (cells - 1)
    pixels = torch.tensor([length] * (cells - 1) + [rest]).to(steps)
    source = steps * pixels
    # normalised as in Albumentations 2: the cells together cover the axis, whatever was drawn
    source = source * (size / source.sum(1, keepdim=True))
    # as in Albumentations, the first pixel of a cell and the last of the one before read the same point
    fraction = (pixel - cell * length) / (pixels[cell] - 1).clamp(min=1)
    position = (source.cumsum(1) - source)[:, cell] + fraction * source[:, cell]
    return position * (2 / (size - 1)) - 1
