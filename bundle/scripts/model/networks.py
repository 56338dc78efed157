"""The paper's models: ResNet18 on one slice (stage 1), and Q-Net, which reads a scan's slices together (stage 2)."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.errors import InputError, reason
from scripts.files.tensors import read_tensors
from scripts.files.writing import write_aside
from scripts.model.image_level import IMAGE_MODELS, check_image_model, image_level_network
from scripts.model.scan_level import scan_level_model

#: torchvision's ImageNet weights of ResNet18; the name holds the first digits of the file's SHA-256.
IMAGENET_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"


def image_level_model(
    imagenet_weights: str,
    download_dir: str | os.PathLike,
    image_model: str = "resnet18",
    num_maps: int = 3,
    spatial_size: Sequence[int] = (128, 128),
) -> nn.Module:
    """Stage 1: a network with an FC layer of two outputs, `[B, C, H, W] -> logits [B, 2]` (HC, HH).

    Args:
        imagenet_weights: a file with torchvision's ResNet18 state dict, or of `resnet18_3d` MedicalNet's, or a stage 1
            of ours; `download` to fetch torchvision's; or `none` to start from random weights. An FC layer in it is
            left out. The first convolution reads three colours, MedicalNet's one; of another number of maps each
            gets their mean, so scaled that the sum stays.
        download_dir: where `download` puts the file.
        image_model: a key of `scripts.model.image_level.IMAGE_MODELS`.
        num_maps: C.
        spatial_size: H, W.

    Raises:
        InputError: the weights cannot be fetched or are not ResNet18's, or see `check_image_model`.
    """
    check_image_model(image_model, spatial_size, imagenet_weights)
    network = image_level_network(image_model, num_maps, True, spatial_size)
    if imagenet_weights == "none":
        return network
    if imagenet_weights == "download":
        imagenet_weights = download_imagenet_weights(download_dir)
    state = {name: value for name, value in read_start(imagenet_weights).items() if not name.startswith("fc.")}
    colours = state.get("conv1.weight")
    if colours is not None and colours.ndim > 1 and colours.shape[1] != num_maps:
        mean = colours.mean(1, keepdim=True)
        state["conv1.weight"] = mean.expand(-1, num_maps, *mean.shape[2:]) * (colours.shape[1] / num_maps)
    fresh = network.state_dict()
    load_state_dict(network, {**state, "fc.weight": fresh["fc.weight"], "fc.bias": fresh["fc.bias"]}, imagenet_weights)
    return network


def ready_to_train(network: nn.Module, device: torch.device) -> nn.Module:
    """A network of stage 1 on its device, weights in the memory order that its convolutions like."""
    order = torch.channels_last_3d if network.reads_volumes else torch.channels_last
    return network.to(device, memory_format=order)  # type: ignore[call-overload]  # not in torch's stubs


def download_imagenet_weights(download_dir: str | os.PathLike) -> str:
    """Fetch torchvision's ResNet18 weights once, check them against the hash in their name, and return the path.

    Raises:
        InputError: no network, or the file is damaged.
    """
    path = Path(download_dir) / Path(IMAGENET_URL).name
    if path.exists():
        return str(path)
    try:
        write_aside(
            path,
            lambda part: torch.hub.download_url_to_file(IMAGENET_URL, part, hash_prefix=path.stem.rsplit("-", 1)[1]),
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{IMAGENET_URL}: cannot be fetched ({reason(error)}); put the file at {path},"
            " or train from random weights with --imagenet_weights none"
        ) from error
    return str(path)


#: Side of the made-up slices that a network is tried on, where it takes any.
_TRIED_SIDE = 32
#: Difference of its logits (HH minus HC), relative, up to which two answers are one; and a logit that is no answer to
#: any scan: the odds would be over 1e34.
_LEAST_DIFFERENCE, _SURE = 1e-6, 80.0


class QNet(nn.Module):
    """Q-Net: the frozen embedding of stage 1 and the scan-level model of stage 2.

    `forward` is what serving needs, the scan's logits; the exported methods give the rest.

    Args:
        num_slices: S, slices a scan.
        hidden_size: Bi-LSTM units per direction (the paper leaves it open).
        scan_model: what reads the slices, see `scripts.model.scan_level.scan_level_model`.
        image_model: what embeds them, a key of `scripts.model.image_level.IMAGE_MODELS`.
        num_maps: C, channels of the input.
        spatial_size: H, W of a slice; only the vision transformer is made for one size.

    Raises:
        InputError: another name, or a size that `image_model` cannot take.
    """

    def __init__(
        self,
        num_slices: int = 16,
        hidden_size: int = 128,
        scan_model: str = "bilstm",
        image_model: str = "resnet18",
        num_maps: int = 3,
        spatial_size: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        self.embedding = image_level_network(image_model, num_maps, False, spatial_size).requires_grad_(False)
        self.sequence = scan_level_model(scan_model, num_slices, hidden_size, IMAGE_MODELS[image_model].features)
        self.image_model, self.num_maps, self.spatial_size = image_model, num_maps, list(spatial_size)
        self.reads_volumes = bool(self.embedding.reads_volumes)
        self.embedding.eval()

    def train(self, mode: bool = True) -> "QNet":
        """Set training mode for stage 2 alone: the frozen embedding keeps its batch-norm statistics too."""
        super().train(mode)
        self.embedding.eval()
        return self

    @torch.jit.ignore
    def image_level(self) -> nn.Module:
        """A network of stage 1 like the embedding, with an FC layer and random weights."""
        return image_level_network(self.image_model, self.num_maps, True, self.spatial_size)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` (0..1) -> scan logits `[B, 2]` (HC, HH)."""
        return self.sequence(self.embed(image))[0]

    @torch.jit.export
    def embed(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` -> embeddings `[B, S, F]`; each slice on its own unless `reads_volumes`."""
        return self.embedding.embed(image)  # type: ignore[operator]

    @torch.jit.export
    def image_logits(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` -> logits of each slice `[B, S, 2]`."""
        return self.sequence(self.embed(image))[1]

    @torch.jit.export
    def class_activation(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` -> the class activation map `[B, 1, H, W, S]` of the scan's HH-minus-HC logit.

        As in the paper (Zhou et al., CVPR 2016). Q-Net has no single FC layer after the pooling, so the class weights
        are the logit's gradient with respect to each slice's embedding (as in Grad-CAM, Selvaraju et al., ICCV 2017,
        without its ReLU): positive for HH, negative for HC. Its mean over the feature maps' pixels, summed over the
        slices, is gradient . embedding. It does not agree with what covering a place does to the output: for maps that
        do, see `scripts.model.evidence`.
        """
        maps = self.embedding.feature_maps(image)  # type: ignore[operator]
        shape = (image.shape[0], image.shape[4])
        embeddings = maps.mean([2, 3]).unflatten(0, shape).detach()
        grad_enabled = torch.is_grad_enabled()  # switched by hand: TorchScript has no torch.enable_grad
        torch.set_grad_enabled(True)
        embeddings.requires_grad_()
        scan_logits, _ = self.sequence(embeddings)
        margin = (scan_logits[:, 1] - scan_logits[:, 0]).sum()
        gradient = torch.autograd.grad([margin], [embeddings])[0]
        torch.set_grad_enabled(grad_enabled)
        assert gradient is not None
        activation = (maps * gradient.flatten(0, 1)[:, :, None, None]).sum(1, keepdim=True)
        activation = nn.functional.interpolate(activation, [image.shape[2], image.shape[3]], mode="bilinear")
        return activation.unflatten(0, shape).permute(0, 2, 3, 4, 1)


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a file of plain tensors, as float32 where they are floating point. Nothing in the file is executed.

    Raises:
        InputError: no such file, anything but a state dict, or values that no training leaves (`check_trained`).
    """
    return _trained_tensors(_read_weights(path), path)


def read_start(path: str | os.PathLike) -> dict[str, Tensor]:
    """Weights of others to start from, as `read_state_dict`: also in a checkpoint under `state_dict`, and with the
    names that several GPUs give (`module.`), as MedicalNet's are.

    Raises:
        InputError: see `read_state_dict`.
    """
    content = _read_weights(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return {name.removeprefix("module."): value for name, value in _trained_tensors(content, path).items()}


def _read_weights(path: str | os.PathLike) -> Any:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weights file; train first or give the right path")
    return read_tensors(path, "give a state dict, as network.state_dict() has it")


def _trained_tensors(state: Any, path: str | os.PathLike) -> dict[str, Tensor]:
    named_tensors = isinstance(state, dict) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    )
    if not named_tensors or not state:
        raise InputError(f"{path}: holds no state dict; save network.state_dict() alone")
    for name, value in state.items():
        check_trained(name, value, path)
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def check_trained(name: str, value: Tensor, path: str | os.PathLike) -> None:
    """Refuse values that no training leaves: of another kind (quantised, sparse, complex), not finite, weights that are
    0 or one number throughout, a negative variance.

    Raises:
        InputError: names them.
    """
    if value.is_quantized or value.is_complex() or value.layout is not torch.strided or value.is_meta:
        raise InputError(
            f"{path}: {name!r} is no plain tensor of real numbers (quantised, sparse, complex or without values); give"
            " the state dict as training wrote it"
        )
    if not value.isfinite().all():
        raise InputError(f"{path}: {name!r} holds NaN or infinite values; its training diverged, train again")
    if not value.is_floating_point() or value.numel() == 0:
        return
    own = name.rsplit(".", 1)[-1]
    low, high = (float(end) for end in value.aminmax())
    if "weight" in own and low == high and (low == 0 or value.ndim > 1 and value.numel() > 1):
        raise InputError(f"{path}: {name!r} is {low:g} throughout, so nothing was trained; give trained weights")
    if own == "running_var" and low < 0:
        raise InputError(f"{path}: {name!r} holds a variance of {low:g}; give weights as their training wrote them")


def load_state_dict(network: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Load weights that must fit exactly.

    Raises:
        InputError: see `check_fits`.
    """
    check_fits(network.state_dict(), state, path)
    network.load_state_dict(state)


def check_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Refuse weights that are not exactly those of a network.

    Args:
        own: the network's state dict.
        state: what a file holds.
        path: of the file, for the message.

    Raises:
        InputError: a parameter is missing, unknown or of another shape; it names the first.
    """
    for name in [*own, *state]:
        if name not in state or name not in own:
            raise InputError(
                f"{path}: its weights are of another network ({name!r} is not in both); check the path, image_model and"
                " scan_model"
            )
        if own[name].is_floating_point() != state[name].is_floating_point():
            raise InputError(f"{path}: {name!r} holds {state[name].dtype}, not {own[name].dtype}; check the path")
        theirs, ours = list(state[name].shape), list(own[name].shape)
        if theirs != ours and len(ours) > 3 and theirs[:1] + theirs[2:] == ours[:1] + ours[2:]:
            raise InputError(
                f"{path}: its network reads {theirs[1]} maps, but maps names {ours[1]}; name those of its training, in"
                " their order"
            )
        if theirs != ours:
            raise InputError(
                f"{path}: {name!r} has shape {theirs}, the config's network {ours};"
                " use the settings (num_slices, hidden_size, scan_model, maps) that it was trained with"
            )


def load_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load a weights file into a network and return the network, in evaluation mode.

    Raises:
        InputError: see `read_state_dict`, `load_state_dict` and `check_answers`.
    """
    load_state_dict(network, read_state_dict(path), path)
    network.eval()
    check_answers(network, path)
    return network


def check_answers(network: nn.Module, path: str | os.PathLike) -> None:
    """Try Q-Net, or an ensemble of it, on three small made-up scans. Other networks pass.

    Args:
        network: with its weights, in evaluation mode.
        path: of the weights, for the message.

    Raises:
        InputError: its answers are one and the same, or no numbers.
    """
    if not hasattr(network, "sequence"):
        return
    one: Any = network.members[0] if hasattr(network, "members") else network  # type: ignore[index]
    height, width = one.spatial_size if one.image_model == "vit" else (_TRIED_SIDE, _TRIED_SIDE)
    reader = one.sequence
    slices = reader.scan_head.in_features // (2 * reader.lstm.hidden_size) if hasattr(reader, "lstm") else 4
    noise = torch.rand(one.num_maps, height, width, slices, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, height)[:, None, None].expand_as(noise)
    tried = torch.stack([torch.zeros_like(noise), noise, ramp]).to(next(network.parameters()).device)
    with torch.no_grad():
        embeddings: Tensor = network.embed(tried)  # type: ignore[operator]
        logits = network.sequence(embeddings)[0]  # type: ignore[operator]
    margins = logits[:, 1] - logits[:, 0]
    if not margins.isfinite().all():
        raise InputError(f"{path}: its answers are no numbers; its training diverged, train again")
    low, high = (float(end) for end in margins.aminmax())
    if high - low <= _LEAST_DIFFERENCE * max(1.0, abs(low)) or low > _SURE or high < -_SURE:
        dead = float(embeddings.std(0).max()) <= _LEAST_DIFFERENCE * float(embeddings.abs().max())
        raise InputError(
            f"{path}: gives one answer to everything, so it learned nothing; train longer or with a lower"
            f" {'image' if dead else 'scan'}_learning_rate, or give other weights"
        )


def load_embedding(network: QNet, path: str | os.PathLike) -> None:
    """Give Q-Net the image-level model at `path` as its embedding, without FC layer (paper, Sequential Modeling)."""
    state = {k: v for k, v in read_state_dict(path).items() if not k.startswith("fc.")}
    load_state_dict(network.embedding, state, path)


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The first tensor with NaN or infinite values; None where all are finite."""
    return next((name for name, value in state.items() if not value.isfinite().all()), None)


def save_weights(
    network: nn.Module,
    path: str | os.PathLike,
    dtype: torch.dtype,
    before: Callable[[str], object] = lambda part: None,
) -> None:
    """Write a network's state dict, aside then renamed.

    Args:
        network: whose.
        path: the file.
        dtype: of floating point values in the file.
        before: called with the new file's temporary name before it takes its place.

    Raises:
        InputError: NaN, infinite values, or such that the type has no room for, or what `load_weights` would refuse;
            nothing is written.
    """
    state = {
        k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype) for k, v in network.state_dict().items()
    }
    if name := not_finite(state):
        raise InputError(
            f"{path}: {name!r} is not finite as {str(dtype).removeprefix('torch.')}, so its training diverged and it is"
            " not written; train again with lower image_learning_rate and scan_learning_rate"
        )
    tried = copy.deepcopy(network).eval()
    try:
        load_state_dict(tried, _trained_tensors(state, path), path)
        check_answers(tried, path)
    except InputError as error:
        raise InputError(f"{error} (it is not written)") from error
    write_tensors(path, state, before)


def write_tensors(
    path: str | os.PathLike, content: dict[str, Any], before: Callable[[str], object] = lambda part: None
) -> None:
    """`torch.save`, aside then renamed; the same content gives the same bytes. `before` as in `save_weights`."""

    def write(part: str) -> None:
        with open(part, "wb") as file:  # given a path, torch would put the temporary name into the file
            torch.save(content, file)
        before(part)

    write_aside(path, write)
