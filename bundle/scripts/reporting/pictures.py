"""Pictures drawn from images: augmented samples, example maps and evidence maps.

Samples of augmentation are written by their function; the others return a figure for `style.save_figure`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy import ndimage

from scripts.anatomy.axes import oriented, oriented_box
from scripts.files import nifti
from scripts.maps.scan import KNOWN_MAPS, MAPS, Scan
from scripts.registration.t1w_grid import same_grid
from scripts.reporting.style import EVIDENCE_COLOURS, OUTLINE_COLOUR, save_figure, titled


def augmentation_samples(
    images: Mapping[str, torch.Tensor],
    augment: Callable[[torch.Tensor], torch.Tensor],
    output: str | os.PathLike,
    num_samples: int = 7,
    title: str = "",
) -> list[Path]:
    """Draw what augmentation makes of one image: the paper's Figure 3.

    Args:
        images: name of the row -> network input `[C, H, W]` in 0..1, of which channel 0 (QSM) is drawn; for the paper
            one full-size and one cropped slice. Sizes may differ.
        augment: `[B, C, H, W]` -> the same shape, as `BatchAugment`.
        output: path of the PNG; the PDF gets the same name. Missing folders are made.
        num_samples: augmented samples a row, right of the original.
        title: above the picture; empty for none.

    Returns:
        The paths of the PNG and the PDF.

    Raises:
        ValueError: when there is no image, or one is not `[C, H, W]`.
    """
    if not images or any(image.ndim != 3 for image in images.values()):
        raise ValueError("images must hold at least one image, each [C, H, W]")
    cell, margin, header = 1.5, 0.3, 0.55 if title else 0.3
    width, height = cell * (num_samples + 1) + margin, cell * len(images) + header
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.add_gridspec(
        len(images),
        num_samples + 1,
        left=margin / width,
        right=1 - 0.05 / width,
        bottom=0.05 / height,
        top=1 - header / height,
        wspace=0.04,
        hspace=0.04,
    )
    if title:
        figure.suptitle(title, fontsize=11, y=1 - 0.06 / height, va="top")
    for row, (name, image) in enumerate(images.items()):
        samples = augment(image.expand(num_samples, -1, -1, -1))
        for column, plane in enumerate([image[0], *samples[:, 0]]):
            axes = figure.add_subplot(grid[row, column])
            # one grey scale for all, or a change of brightness would not be seen
            axes.imshow(plane.detach().cpu().float().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="black", linewidth=1.5 if column == 0 else 0.5)
            if column == 0:
                axes.set_ylabel(name, fontsize=10)
            if row == 0:
                axes.set_title("original" if column == 0 else f"sample {column}", fontsize=9, pad=4)
    return save_figure(figure, output)


#: Share of a scan's strongest evidence at which its outlines are drawn.
OUTLINE = 0.5


def example_maps(scans: Mapping[str, Scan], title: str) -> Figure:
    """The maps of some subjects at the middle basal ganglia slice, box drawn (the paper's Figure 1); at the volume's
    middle slice where no box is known (`place_shown`).

    Args:
        scans: row title -> scan, from `scripts.maps.bids.find_scans`, all of the same maps.
        title: above the picture.
    """
    names = next(iter(scans.values())).names
    figure = Figure(figsize=(8 * len(names) / len(MAPS), 2.75 * len(scans) + 0.4), layout="constrained")
    grid = figure.subplots(len(scans), len(names), squeeze=False)
    for axes_row, (name, scan) in zip(grid, scans.items(), strict=True):
        for index, axes in enumerate(axes_row):
            volume, (rows, columns, slices) = shown_volume(scan.maps[index], scan.box, scan.maps[0])
            shown = draw_map(axes, volume[:, :, sum(slices) // 2], names[index])
            figure.colorbar(shown, ax=axes, shrink=0.7, pad=0.02).ax.tick_params(labelsize=7)
            if scan.box is not None:
                (top, bottom), (left, right) = rows, columns
                corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
                axes.plot(*corners, color=OUTLINE_COLOUR, linewidth=1.0)
        axes_row[0].set_ylabel(name)
    for axes, suffix in zip(grid[0], names, strict=True):
        axes.set_title(KNOWN_MAPS[suffix].title)
    figure.suptitle(title)
    return figure


def place_shown(scans: Iterable[Scan]) -> str:
    """Where in the head `example_maps` shows scans, and what it draws there: words of a caption."""
    boxed = [scan.box is not None for scan in scans]
    if not any(boxed):
        return "the middle slice"
    there = "the middle slice of the basal ganglia, with the box that the cropped input is cut to"
    return there if all(boxed) else f"{there}; where no box is known, at that of the volume"


def shown_volume(
    path: str | os.PathLike, box: Sequence[Sequence[int]] | None, like: str | os.PathLike | None = None
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A volume `[H, W, S]` turned as radiologists see it, and its box's ranges in it (no box: the whole volume).

    A T1W on another grid than `like` is shown on that grid, where the scanner says that it lies.
    """
    image = on_grid_of(nifti.read(path), like)
    turned = oriented(image)
    volume = turned.get_fdata(dtype=np.float32)
    ranges = oriented_box(box, image.affine, turned.affine) if box else [[0, size] for size in volume.shape]
    return volume, [(low, high) for low, high in ranges]


def on_grid_of(image: nib.Nifti1Image, like: str | os.PathLike | None) -> nib.Nifti1Image:
    """An image on the grid of another, by their headers alone; unchanged if it is there already."""
    if like is None:
        return image
    other = nifti.read_header(like)
    if same_grid(image.shape, image.affine, other.shape, other.affine):
        return image
    step = np.linalg.solve(image.affine, other.affine)
    values = image.get_fdata(dtype=np.float32)
    moved = ndimage.affine_transform(values, step[:3, :3], step[:3, 3], other.shape[:3], order=1)
    return nib.Nifti1Image(moved, other.affine)


def draw_map(axes: Axes, plane: np.ndarray, suffix: str = MAPS[0]) -> AxesImage:
    """One slice of a map in grey, without axes."""
    low, high = KNOWN_MAPS[suffix].shown or np.percentile(plane, (1, 99.5))
    axes.set(xticks=[], yticks=[])
    return axes.imshow(plane, cmap="gray", vmin=low, vmax=high)


def draw_evidence(axes: Axes, qsm: np.ndarray, share: np.ndarray) -> AxesImage:
    """QSM with evidence (-1..1, share of the scan's strongest) on top: red speaks for HH, blue for HC.

    Outlines at OUTLINE tell the sides apart in grey too: solid for HH, dashed for HC.
    """
    draw_map(axes, qsm)
    heat = axes.imshow(share, cmap="RdBu_r", vmin=-1, vmax=1, alpha=np.clip(0.7 * np.abs(share), 0, 1))
    for level, line, colour in (
        (OUTLINE, "solid", EVIDENCE_COLOURS["HH"]),
        (-OUTLINE, "dashed", EVIDENCE_COLOURS["HC"]),
    ):
        if share.min() < level < share.max():
            axes.contour(share, [level], colors=colour, linestyles=line, linewidths=1.2)
    return heat


@dataclass(frozen=True)
class Explained:
    """A held-out scan as the picture of its evidence needs it.

    Attributes:
        scan: from `scripts.maps.bids.find_scans`.
        evidence: NIfTI on the scan's grid; positive speaks for HH.
        group: the true one.
        predicted: the group that Q-Net gave.
        probability: of HH.
    """

    scan: Scan
    evidence: str | os.PathLike
    group: str
    predicted: str
    probability: float

    def planes(self, region: str) -> tuple[np.ndarray, np.ndarray]:
        """QSM and evidence (-1..1) `[H, W]` within the region, at the slice with most evidence of the middle half."""
        qsm, (rows, columns, slices) = shown_volume(self.scan.maps[0], self.scan.box)
        heat, _ = shown_volume(self.evidence, None)
        strength = np.abs(heat)
        quarter = (slices[1] - slices[0]) // 4
        first, last = slices[0] + quarter, slices[1] - quarter
        plane = first + int(strength[:, :, first:last].sum((0, 1)).argmax())
        part = (slice(*rows), slice(*columns), plane) if region == "cropped" else (slice(None), slice(None), plane)
        return qsm[part], heat[part] / (float(strength.max()) or 1.0)


def evidence_overlays(explained: Sequence[Explained], region: str, simulated: bool, method: str) -> Figure:
    """QSM without and with Q-Net's evidence, a column a scan (the paper's Figures 9, full, and 10, cropped).

    Args:
        explained: the scans.
        region: `full` shows whole slices, `cropped` the box.
        simulated: whether the title must say so.
        method: what made the evidence, in the title (`name` of `scripts.model.evidence.METHODS`).
    """
    planes = [item.planes(region) for item in explained]
    tallest = max(qsm.shape[0] / qsm.shape[1] for qsm, _ in planes)
    figure = Figure(figsize=(2.3 * len(explained) + 0.9, 4.4 * tallest + 1.5), layout="constrained")
    grid = figure.subplots(2, len(explained), squeeze=False)
    for (plain, overlaid), item, (qsm, share) in zip(grid.T, explained, planes, strict=True):
        draw_map(plain, qsm)
        heat = draw_evidence(overlaid, qsm, share)
        right = item.predicted == item.group
        plain.set_title(f"{item.scan.scan_id}\ntrue {item.group}", fontsize=9)
        verdict = f"P(HH) {item.probability:.2f}: {item.predicted}, {'correct' if right else 'WRONG'}"
        overlaid.set_title(verdict, fontsize=9, weight="normal" if right else "bold")
    grid[0, 0].set_ylabel(KNOWN_MAPS[MAPS[0]].title)
    grid[1, 0].set_ylabel("with evidence")
    bar = figure.colorbar(heat, ax=list(grid.ravel()), shrink=0.6, pad=0.02, ticks=[-1, -OUTLINE, 0, OUTLINE, 1])
    bar.set_label("for HC  ←  evidence (share of the scan's strongest)  →  for HH", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(titled(f"Evidence of Q-Net on held-out scans, {region} input: {method}", simulated))
    return figure


def subject_strip(scan: Scan, evidence: Mapping[str, str | os.PathLike]) -> Figure:
    """The maps of a scan and the evidence of each region, side by side around the basal ganglia, for a page.

    Args:
        scan: from `scripts.maps.bids.find_scans`.
        evidence: region -> NIfTI on the scan's grid; may be empty.
    """
    figure = Figure(figsize=(1.9 * (len(scan.names) + len(evidence)), 2.35), layout="constrained")
    panels = figure.subplots(1, len(scan.names) + len(evidence))
    for index, suffix in enumerate(scan.names):
        volume, (rows, columns, slices) = shown_volume(scan.maps[index], scan.box, scan.maps[0])
        draw_map(panels[index], volume[slice(*rows), slice(*columns), sum(slices) // 2], suffix)
        panels[index].set_title(KNOWN_MAPS[suffix].title, fontsize=8)
    for axes, (region, path) in zip(panels[len(scan.names) :], evidence.items(), strict=True):
        draw_evidence(axes, *Explained(scan, path, "", "", 0.0).planes("cropped"))
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"evidence, {region}", fontsize=8)
    return figure
