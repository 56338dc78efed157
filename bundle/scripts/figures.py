"""Figures drawn from the predictions table and from the learning curves, without any image.

Each function returns a figure, for `scripts.drawing.save_figure`. Its title says when the cohort is simulated.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from sklearn.metrics import roc_auc_score, roc_curve

from scripts.auc import bootstrap_aucs, clustered_delong, compare, delong, interval
from scripts.drawing import styles_of, titled
from scripts.predictions import REGIONS, Scores, at_level, ordered, scores

INPUTS = {"full": "full-size input", "cropped": "cropped input"}
#: Line, width and marker of an input where the colour is the model's.
INPUT_STYLE = {"full": ((0, (4, 1.5)), 1.3, "s"), "cropped": ("-", 2.0, "^")}
#: False positive rates at which the ROC curves of several repeats are averaged.
RATES = np.linspace(0, 1, 201)


def regions_of(table: pd.DataFrame) -> list[str]:
    """The inputs that a predictions table holds: full, cropped or both, in the paper's order."""
    return [region for region in REGIONS if region in set(table["region"])]


def models_of(table: pd.DataFrame, level: str) -> tuple[str, ...]:
    """Models with predictions at a level in any region, the paper's first."""
    return ordered(at_level(table, level)["model"])


# --- ROC: the paper's Figures 5, 6 and 8 ------------------------------------------------------------------------------
class Roc(NamedTuple):
    """ROC curve: rates 0..1, and the SD of the true positive rate over repeats (0 for one repeat)."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    spread: np.ndarray
    operating_point: tuple[float, float]


def average_roc(labels: np.ndarray, probabilities: np.ndarray) -> Roc:
    """ROC curve of one repeat as it is, or the vertical average over several (Fawcett, Pattern Recogn Lett 2006).

    Args:
        labels: `[n]`, 0 (HC) or 1 (HH).
        probabilities: of HH, `[repeats, n]`.

    Returns:
        The curve; its operating point is that of a threshold of 0.5, averaged over the repeats.
    """
    curves = [roc_curve(labels, p, drop_intermediate=False)[:2] for p in probabilities]
    called = probabilities >= 0.5
    point = (float(called[:, labels == 0].mean()), float(called[:, labels == 1].mean()))
    if len(curves) == 1:
        return Roc(*curves[0], np.zeros(len(curves[0][0])), point)
    raised = np.stack([np.interp(RATES, *curve) for curve in curves])
    return Roc(np.r_[0, RATES], np.r_[0, raised.mean(0)], np.r_[0, raised.std(0, ddof=1)], point)


def draw_roc(axes: Axes, chosen: Scores, index: int, label: str, marker: str, **look: Any) -> None:
    """The curve of one model with its band and its operating point; AUC and 95 % interval go into the legend."""
    roc = average_roc(chosen.labels, chosen.probabilities[index])
    legend = f"{label}, AUC {auc_with_interval(chosen, index)}"
    axes.plot(roc.false_positive_rate, roc.true_positive_rate, label=legend, **look)
    low, high = roc.true_positive_rate - roc.spread, np.minimum(roc.true_positive_rate + roc.spread, 1)
    if roc.spread.any():
        axes.fill_between(roc.false_positive_rate, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(*roc.operating_point, marker, color=look["color"], markersize=6, markeredgecolor="black", zorder=5)


def auc_with_interval(chosen: Scores, index: int) -> str:
    """AUC of one model with its 95 % interval over participants; alone where a group has one participant only."""
    fewest = min(len(set(chosen.clusters[chosen.labels == label])) for label in (0, 1))
    if fewest < 2:
        return f"{np.mean([roc_auc_score(chosen.labels, p) for p in chosen.probabilities[index]]):.3f}"
    aucs = clustered_delong(chosen.labels, chosen.probabilities[[index]], chosen.clusters)
    auc, variance = float(aucs.values[0]), float(aucs.covariance[0, 0])
    low, high = interval(auc, variance)
    return f"{auc:.3f} ({low:.2f}–{high:.2f})" if np.isfinite(low) else f"{auc:.3f}"


def roc_panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Square panels with the no-skill diagonal, a title each."""
    figure = Figure(figsize=(4.4 * len(titles), 5.0), layout="constrained")
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (6, 4)), label="no skill")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=title, aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.grid(color="0.93")
    return figure, panels


def finish_roc(figure: Figure, title: str, table: pd.DataFrame, simulated: bool) -> Figure:
    """Legends, the title, and below all what curve, band and marker are."""
    for axes in figure.axes:
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    repeats = table["repeat"].nunique()
    meaning = f"mean of {repeats} repeats, band ± SD over repeats; " if repeats > 1 else ""
    explained = f"{meaning}AUC with 95 % interval over participants; markers: threshold 0.5"
    figure.suptitle(titled(title, simulated))
    figure.supxlabel(f"\n{explained}", fontsize=8, color="0.3")
    return figure


def roc_models(table: pd.DataFrame, panels: Sequence[tuple[str, str]], simulated: bool) -> Figure:
    """ROC curves of all models, a panel a region and level (the paper's Figure 6).

    Args:
        table: from `scripts.predictions.read_predictions`.
        panels: region and level (`image` or `scan`) of each panel.
        simulated: whether the title must say so.
    """
    styles = styles_of(table["model"])
    figure, axes_of = roc_panels([f"{INPUTS[region]}, {level} level" for region, level in panels])
    for axes, (region, level) in zip(axes_of, panels, strict=True):
        chosen = scores(table, region, level)
        for index, model in enumerate(chosen.models):
            style = styles[model]
            draw_roc(axes, chosen, index, model, style.marker, color=style.colour, linestyle=style.line)
    return finish_roc(figure, "ROC of held-out scans", table, simulated)


def roc_inputs(table: pd.DataFrame, level: str, simulated: bool) -> Figure:
    """ROC curves of full-size against cropped input, a panel a model (the paper's Figures 5 and 8).

    Args:
        table: from `scripts.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
    """
    models, styles = models_of(table, level), styles_of(table["model"])
    figure, axes_of = roc_panels(models)
    for axes, model in zip(axes_of, models, strict=True):
        rows = table[table["model"] == model]
        for region in regions_of(at_level(rows, level)):
            line, width, marker = INPUT_STYLE[region]
            look = {"color": styles[model].colour, "linestyle": line, "linewidth": width}
            draw_roc(axes, scores(rows, region, level), 0, region, marker, **look)
    return finish_roc(figure, f"Full-size against cropped input, {level} level", table, simulated)


# --- box plots of bootstrapped AUCs: the paper's Figure 7 -----------------------------------------------------------
def auc_boxes(table: pd.DataFrame, level: str, simulated: bool, samples: int, seed: int) -> Figure:
    """Box plots of bootstrapped AUCs, a panel a region, with the significance of DeLong's tests (the paper's Figure 7).

    Whole participants are drawn. At image level each pair has two marks: DeLong on slices as in the paper's Table 2,
    and in brackets with the slices of a participant as a cluster.

    Args:
        table: from `scripts.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
        samples: bootstrap samples.
        seed: of the bootstrap.
    """
    regions, styles = regions_of(at_level(table, level)), styles_of(table["model"])
    figure = Figure(
        figsize=(max(4.2, 1.25 * len(models_of(table, level)) + 0.6) * len(regions), 5.2), layout="constrained"
    )
    panels = figure.subplots(1, len(regions), squeeze=False, sharey=True)[0]
    for axes, region in zip(panels, regions, strict=True):
        chosen = scores(table, region, level)
        aucs = bootstrap_aucs(chosen.labels, chosen.probabilities, chosen.clusters, samples, seed)
        boxes = axes.boxplot(
            aucs,
            tick_labels=[fill(model, 12) for model in chosen.models],
            widths=0.55,
            patch_artist=True,
            medianprops={"color": "black", "linewidth": 1.5},
            flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "0.5"},
        )
        for box, model in zip(boxes["boxes"], chosen.models, strict=True):
            box.set(facecolor=styles[model].colour, hatch=styles[model].hatch, alpha=0.85)
        height, step = aucs.max(), 0.07 * np.ptp(aucs)
        for (i, j), mark in significance_marks(chosen, level).items():
            height += 1.4 * step
            axes.plot([i + 1, i + 1, j + 1, j + 1], height + step * np.array([-0.3, 0, 0, -0.3]), "k", linewidth=0.9)
            axes.text((i + j) / 2 + 1, height, mark, ha="center", va="bottom", fontsize=9)
        axes.set(title=INPUTS[region])
        axes.margins(y=0.06)
        axes.yaxis.set_major_locator(FixedLocator(np.arange(0, 1.01, 0.05)))
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("AUC")
    clustered = "; in brackets: slices of a participant as a cluster" if level == "image" else ""
    figure.suptitle(titled(f"Bootstrapped AUC, {level} level", simulated))
    figure.supxlabel(f"\n{samples} samples of participants; DeLong's test{clustered}", fontsize=8, color="0.3")
    return figure


def significance_marks(chosen: Scores, level: str) -> dict[tuple[int, int], str]:
    """Pair of models (their numbers) -> significance of the difference between their AUCs, near pairs first."""
    plain = delong(chosen.labels, chosen.probabilities)
    clustered = clustered_delong(chosen.labels, chosen.probabilities, chosen.clusters)
    pairs = sorted(combinations(range(len(chosen.models)), 2), key=lambda pair: (pair[1] - pair[0], pair))
    marks = {pair: compare(plain, *pair).level for pair in pairs}
    if level == "scan":
        return marks
    return {pair: f"{mark} ({compare(clustered, *pair).level})" for pair, mark in marks.items()}


# --- ours: confusion matrices and learning curves ---------------------------------------------------------------------
def confusion_matrices(table: pd.DataFrame, level: str, simulated: bool) -> Figure:
    """Confusion matrices at a threshold of 0.5, counts (summed over the repeats) and rates of each true group.

    Args:
        table: from `scripts.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
    """
    regions, models = regions_of(at_level(table, level)), models_of(table, level)
    figure = Figure(figsize=(2.7 * len(models) + 0.4, 2.9 * len(regions) + 0.6), layout="constrained")
    grid = figure.subplots(len(regions), len(models), squeeze=False)
    for region, row in zip(regions, grid, strict=True):
        chosen = scores(table, region, level)
        for model, axes in zip(models, row, strict=True):
            if model not in chosen.models:
                axes.set_axis_off()
                continue
            called, labels = chosen.probabilities[chosen.models.index(model)] >= 0.5, chosen.labels
            counts = np.array([[np.sum(called[:, labels == g] == c) for c in (1, 0)] for g in (1, 0)])
            rates = counts / counts.sum(1, keepdims=True)
            axes.imshow(rates, cmap="Greys", vmin=0, vmax=1)
            for (i, j), rate in np.ndenumerate(rates):
                text = f"{100 * rate:.1f} %\n{counts[i, j]}/{counts[i].sum()}"
                axes.text(j, i, text, ha="center", va="center", color="white" if rate > 0.5 else "black", fontsize=10)
            axes.set(xticks=[0, 1], xticklabels=["HH", "HC"], yticks=[0, 1], yticklabels=["HH", "HC"])
            axes.set(xlabel="predicted", ylabel="true", title=f"{fill(model, 16)}\n{region}")
    repeats = table["repeat"].nunique()
    summed = f"\ncounts summed over {repeats} repeats" if repeats > 1 else ""
    figure.suptitle(titled(f"Confusion matrices, {level} level", simulated) + summed)
    return figure


def learning_curves(stages: Mapping[str, Sequence[str | os.PathLike]], title: str) -> Figure:
    """Loss and AUC by epoch, a column a stage: mean over the folds, band from the lowest to the highest fold.

    Args:
        stages: title of the stage -> CSVs that `scripts.handlers.LearningCurve` wrote, one a fold.
        title: above the picture.
    """
    figure = Figure(figsize=(4.4 * len(stages), 5.6), layout="constrained")
    grid = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for (stage, paths), (loss_axes, auc_axes) in zip(stages.items(), grid.T, strict=True):
        folds = pd.concat([pd.read_csv(path) for path in paths])
        draw_over_folds(loss_axes, folds, "train_loss", "training", color="0.25")
        draw_over_folds(auc_axes, folds, "train_auc", "training (augmented)", color="0.25")
        held_out = {"color": "#c44e52", "linestyle": "--", "marker": "o", "markersize": 3}
        draw_over_folds(auc_axes, folds, "val_auc", "held out", **held_out)
        loss_axes.set(title=f"{stage}" + (f", {len(paths)} folds" if len(paths) > 1 else ""), ylabel="training loss")
        auc_axes.set(xlabel="epoch", ylabel="AUC", ylim=(None, 1.02))
        auc_axes.legend(fontsize=8, framealpha=0.9, loc="lower right")
        for axes in (loss_axes, auc_axes):
            axes.grid(color="0.93")
    figure.suptitle(title)
    return figure


def draw_over_folds(axes: Axes, folds: pd.DataFrame, column: str, label: str, **style: object) -> None:
    """Mean over folds by epoch, and a band from the lowest to the highest; nothing where nothing was measured."""
    by_epoch = folds.dropna(subset=column).groupby("epoch")[column]
    if not by_epoch.ngroups:
        return
    mean = by_epoch.mean()
    axes.plot(mean.index, mean, label=label, **style)
    axes.fill_between(mean.index, by_epoch.min(), by_epoch.max(), color=style["color"], alpha=0.15, linewidth=0)
