"""Pictures of the paper, drawn from data and never from memory.

Each function writes a PNG for the screen and a PDF for print beside it, first under another name and then renamed, so
that a killed run leaves no half picture.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from scripts.predictions import MODELS
from scripts.provenance import write_aside
from scripts.transforms import oriented, oriented_box

#: One colour and line style a model, the same in every figure; the styles keep them apart in grey print.
MODEL_STYLE = {"ResNet": ("#4c72b0", ":"), "ResNetSWA": ("#dd8452", "--"), "Q-Net": ("#c44e52", "-")}


def augmentation_samples(
    images: Mapping[str, torch.Tensor],
    augment: Callable[[torch.Tensor], torch.Tensor],
    output: str | os.PathLike,
    num_samples: int = 7,
    title: str = "",
) -> list[Path]:
    """Draw what augmentation makes of one image: the paper's Figure 3.

    Args:
        images: name of the row -> network input `[3, H, W]` in 0..1, of which channel 0 (QSM) is drawn; for the paper
            one full-size and one cropped slice. Sizes may differ.
        augment: `[B, 3, H, W]` -> the same shape, as `BatchAugment`.
        output: path of the PNG; the PDF gets the same name. Missing folders are made.
        num_samples: augmented samples a row, right of the original.
        title: above the picture; empty for none.

    Returns:
        The paths of the PNG and the PDF.

    Raises:
        ValueError: when there is no image, or one is not `[3, H, W]`.
    """
    if not images or any(image.ndim != 3 for image in images.values()):
        raise ValueError("images must hold at least one image, each [3, H, W]")
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


def save_figure(figure: Figure, output: str | os.PathLike) -> list[Path]:
    """Write a figure as PNG and PDF beside each other, aside then renamed; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    metadata = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}
    paths = [Path(output).with_suffix(suffix) for suffix in metadata]
    for path in paths:
        write_aside(path, partial(figure.savefig, format=path.suffix[1:], dpi=150, metadata=metadata[path.suffix]))
    return paths


def roc_curves(rows: Sequence[Mapping[str, Any]], output: str | os.PathLike, simulated: bool) -> list[Path]:
    """ROC curves of all models, at image level and at scan level (the paper's Figures 6 and 8).

    Args:
        rows: of the predictions table.
        output: path without suffix.
        simulated: whether the title must say so.
    """
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    for axes, level in zip(figure.subplots(1, 2), ("image", "scan"), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, label="chance")
        for model in MODELS:
            chosen = [r for r in rows if r["model"] == model and (r["slice"] == "") == (level == "scan")]
            if not chosen:
                continue
            labels, scores = [r["label"] for r in chosen], [r["probability_HH"] for r in chosen]
            colour, style = MODEL_STYLE[model]
            rates = roc_curve(labels, scores)[:2]
            axes.plot(*rates, style, color=colour, label=f"{model}, AUC {roc_auc_score(labels, scores):.3f}")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"{level} level", aspect="equal")
        axes.legend(loc="lower right", fontsize=8, frameon=False)
    figure.suptitle("Held-out scans" + (" of a simulated cohort" if simulated else ""))
    return save_figure(figure, output)


def learning_curves(curves: Mapping[str, str | os.PathLike], output: str | os.PathLike) -> list[Path]:
    """Loss and AUC by epoch, a column a stage.

    Args:
        curves: title of the stage -> CSV that `scripts.handlers.LearningCurve` wrote.
        output: path without suffix.
    """
    figure = Figure(figsize=(4.5 * len(curves), 5.4), layout="constrained")
    grid = figure.subplots(2, len(curves), squeeze=False, sharex="col")
    for (title, path), (loss_axes, auc_axes) in zip(curves.items(), grid.T, strict=True):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        epochs = [int(r["epoch"]) for r in rows]
        loss_axes.plot(epochs, [float(r["train_loss"]) for r in rows], color="0.2")
        loss_axes.set(title=title, ylabel="training loss")
        auc_axes.plot(epochs, [float(r["train_auc"]) for r in rows], color="0.2", label="training (augmented)")
        measured = [(int(r["epoch"]), float(r["val_auc"])) for r in rows if r["val_auc"]]
        if measured:
            auc_axes.plot(*zip(*measured, strict=True), "o--", color="#c44e52", markersize=3, label="held out")
        auc_axes.set(xlabel="epoch", ylabel="AUC", ylim=(0.3, 1.02))
        auc_axes.legend(fontsize=8, frameon=False)
    return save_figure(figure, output)


#: Rows of pictures of maps: name, BIDS suffix, grey range in the map's unit (None: 1st to 99th percentile).
DISPLAY = (("QSM (ppm)", "Chimap", (-0.1, 0.25)), ("R2* (1/s)", "R2starmap", (0, 90)), ("T1W", "T1w", None))


def example_maps(scans: Mapping[str, Mapping[str, Any]], output: str | os.PathLike, title: str) -> list[Path]:
    """The three maps of some subjects at the middle basal ganglia slice, box drawn (the paper's Figure 1).

    Args:
        scans: row title -> item of `scripts.cohort.find_scans` with a `box`.
        output: path without suffix.
        title: above the picture.
    """
    figure = Figure(figsize=(8, 2.9 * len(scans) + 0.4), layout="constrained")
    grid = figure.subplots(len(scans), len(DISPLAY), squeeze=False)
    for axes_row, (name, scan) in zip(grid, scans.items(), strict=True):
        for axes, path, (label, _, limits) in zip(axes_row, scan["image"], DISPLAY, strict=True):
            plane, box = middle_slice(nib.load(path), scan["box"])
            low, high = limits or np.percentile(plane, (1, 99.5))
            axes.imshow(plane, cmap="gray", vmin=low, vmax=high)
            (top, bottom), (left, right) = box
            corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
            axes.plot(*corners, color="#dd8452", linewidth=0.8)
            axes.set(xticks=[], yticks=[], title=label)
        axes_row[0].set_ylabel(name)
    figure.suptitle(title)
    return save_figure(figure, output)


def middle_slice(image: nib.Nifti1Image, box: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[list[int]]]:
    """The middle slice of a box drawn as radiologists see it, and the box's row and column ranges in it."""
    turned = oriented(image)
    rows, columns, slices = oriented_box(box, image.affine, turned.affine)
    return turned.get_fdata(dtype=np.float32)[:, :, (slices[0] + slices[1]) // 2], [rows, columns]


def evidence_overlays(
    scans: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    results: Sequence[Mapping[str, Any]],
    evidence: Sequence[str],
    output: str | os.PathLike,
    title: str,
) -> list[Path]:
    """QSM with the evidence on top, a column a scan (the paper's Figures 9 and 10): red speaks for HH, blue for HC.

    Args:
        scans: items of `scripts.cohort.find_scans`, with `box`.
        names: what is known of each.
        results: their prediction JSONs.
        evidence: their evidence NIfTI files.
        output: path without suffix.
        title: above the picture.
    """
    figure = Figure(figsize=(2.6 * len(scans), 2.8), layout="constrained")
    columns_of = figure.subplots(1, len(scans), squeeze=False)[0]
    for axes, scan, name, result, path in zip(columns_of, scans, names, results, evidence, strict=True):
        qsm, (rows, columns) = middle_slice(nib.load(scan["image"][0]), scan["box"])
        heat, _ = middle_slice(nib.load(path), scan["box"])
        part = (slice(*rows), slice(*columns))
        limit = float(np.abs(heat).max()) or 1.0
        axes.imshow(qsm[part], cmap="gray", vmin=DISPLAY[0][2][0], vmax=DISPLAY[0][2][1])
        strength = np.abs(heat[part]) / limit
        axes.imshow(heat[part], cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.55 * strength)
        axes.set(xticks=[], yticks=[])
        axes.set_title(
            f"{scan['scan_id']}, {name}\n{result['class']}, P(HH) {result['probability_HH']:.2f}", fontsize=9
        )
    figure.suptitle(title)
    return save_figure(figure, output)
