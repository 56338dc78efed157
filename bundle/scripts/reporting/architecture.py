"""A diagram of Q-Net (the paper's Figure 4), with the sizes that the network itself has."""

from collections.abc import Sequence
from textwrap import fill

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from scripts.maps.scan import KNOWN_MAPS, MAPS
from scripts.model.image_level import IMAGE_MODELS, SliceResNet
from scripts.model.networks import QNet
from scripts.model.scan_level import NUM_CLASSES
from scripts.reporting.style import NETWORK_FILLS


def layer_sizes(network: QNet, size: tuple[int, int]) -> list[tuple[str, tuple[int, ...]]]:
    """Name and output shape `[C, H, W]` of the stages of the embedding for one slice of `size`; of another network than
    ResNet18 on slices that of the whole."""
    net = network.embedding
    if not isinstance(net, SliceResNet):
        with torch.inference_mode():
            (maps, *_) = net.feature_maps(torch.zeros(1, network.num_maps, *size, 2))  # type: ignore[operator]
        return [(IMAGE_MODELS[network.image_model].name, tuple(maps.shape))]
    shapes: list[tuple[str, tuple[int, ...]]] = []
    stages = {"7×7 conv,\nBN, ReLU": net.act, "max-pool": net.maxpool}
    stages |= {f"2 ResBlocks ({index})": getattr(net, f"layer{index}") for index in range(1, 5)}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, name=name: shapes.append((name, tuple(out.shape[1:]))))
        for name, stage in stages.items()
    ]
    with torch.inference_mode():
        network.embedding(torch.zeros(1, network.num_maps, *size))
    for hook in hooks:
        hook.remove()
    return [next(item for item in shapes if item[0] == name) for name in stages]


#: What the figure calls the readers of `scripts.model.scan_level`, and what the scan's FC layer reads of them.
READERS = {
    "bilstm": ("Bi-LSTM, 1 layer,\n2 × {hidden_size} units", "outputs side by side"),
    "attention": ("attention,\n{hidden_size} units", "weighted mean of slices"),
    "mean": ("embeddings\nas they are", "mean of slices"),
}


def inputs_of(module: nn.Module, name: str) -> int:
    """How many numbers a fully connected layer of a module reads."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer.in_features


def architecture(
    num_slices: int,
    hidden_size: int,
    size: tuple[int, int] = (128, 128),
    scan_model: str = "bilstm",
    image_model: str = "resnet18",
    maps: Sequence[str] = MAPS,
) -> Figure:
    """Draw both stages from left to right.

    Args:
        num_slices, hidden_size, scan_model, image_model: of `QNet`.
        size: H, W of a slice.
        maps: what it sees, BIDS suffixes.
    """
    count = len(maps)
    network = QNet(num_slices, hidden_size, scan_model, image_model, count, size).eval()
    name, embedding_size = IMAGE_MODELS[image_model].name, IMAGE_MODELS[image_model].features
    features, all_features = (inputs_of(network.sequence, name) for name in ("image_head", "scan_head"))
    reader, read = READERS[scan_model]
    whose = "every slice and its neighbours" if network.reads_volumes else "every slice on its own"
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 13), ylim=(0, 5.4))
    axes.set_axis_off()

    axes.text(0.1, 5.15, f"Stage 1: {whose} ({name}; with SWA: {name}SWA)", fontsize=11, weight="bold")
    blocks: list[tuple[str, tuple[int, ...], str]] = [
        (f"slice\n{fill(', '.join(KNOWN_MAPS[suffix].name for suffix in maps), 16)}", (count, *size), "input")
    ]
    blocks += [(name, shape, "frozen") for name, shape in layer_sizes(network, size)]
    blocks += [
        ("global average\npooling", (embedding_size,), "frozen"),
        ("FC", (NUM_CLASSES,), "head"),
    ]
    right = 0.1
    for index, (name, shape, kind) in enumerate(blocks):
        block(axes, right, 3.55, 1.2, name, shape, kind)
        if index:
            arrow(axes, (right - 0.23, 4.15), (right, 4.15))
        right += 1.43
    axes.text(right - 0.1, 4.15, "HC / HH\nof the slice", fontsize=9, va="center")

    axes.text(0.1, 2.85, f"Stage 2: all {num_slices} slices of a scan (Q-Net)", fontsize=11, weight="bold")
    block(axes, 0.1, 0.9, 1.5, "scan", (num_slices, count, *size), "input")
    block(
        axes,
        2.1,
        0.9,
        2.1,
        "embedding of stage 1\n(weights frozen)",
        (num_slices, embedding_size),
        "frozen",
    )
    block(axes, 4.7, 0.9, 2.1, reader.format(hidden_size=hidden_size), (num_slices, features), "sequence")
    block(axes, 7.6, 1.6, 1.9, "FC on each slice", (num_slices, NUM_CLASSES), "head")
    block(axes, 7.6, 0.1, 1.9, read, (all_features,), "sequence")
    block(axes, 10.0, 0.1, 1.2, "FC", (NUM_CLASSES,), "head")
    for start, end in (((1.6, 1.5), (2.1, 1.5)), ((4.2, 1.5), (4.7, 1.5)), ((6.8, 1.6), (7.6, 2.2)),
                       ((6.8, 1.4), (7.6, 0.7)), ((9.5, 0.7), (10.0, 0.7))):  # fmt: skip
        arrow(axes, start, end)
    axes.text(9.65, 2.2, "HC / HH of each slice (image level)", fontsize=9, va="center")
    axes.text(11.35, 0.7, "HC / HH of the scan\n(scan level)", fontsize=9, va="center")
    return figure


def block(axes: Axes, left: float, bottom: float, width: float, name: str, shape: tuple[int, ...], kind: str) -> None:
    """A box with a name and the shape that leaves it."""
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            1.2,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=NETWORK_FILLS[kind],
            edgecolor="0.3",
        )
    )
    axes.text(left + width / 2, bottom + 0.72, name, ha="center", va="center", fontsize=8.5)
    axes.text(
        left + width / 2, bottom + 0.2, " × ".join(map(str, shape)), ha="center", va="center", fontsize=8, color="0.35"
    )


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0})
