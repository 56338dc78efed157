"""Figures drawn from the predictions table and from the learning curves, without any image.

Each function returns a figure, for `scripts.reporting.style.save_figure`. Its title says when the cohort is simulated.
"""

import os
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_auc_score, roc_curve

from scripts.errors import InputError
from scripts.evaluation.auc import bootstrap_aucs, bootstrap_within_folds, clustered_delong, interval, within_folds
from scripts.evaluation.predictions import NO_INPUT, Scores, at_level, ordered, regions_of, scores
from scripts.files.table import read_frame
from scripts.reporting.markup import fixed
from scripts.reporting.style import MODEL_STYLE, Style, footer, styles_of, titled
from scripts.reporting.tables import delong_tests

INPUTS = {"full": "full-size input", "cropped": "cropped input", NO_INPUT: "no input region"}
#: Line, width and marker of an input where the colour is the model's.
INPUT_STYLE = {"full": ((0, (4, 1.5)), 1.3, "s"), "cropped": ("-", 2.0, "^"), NO_INPUT: ("-", 2.0, "D")}
#: False positive rates at which the ROC curves of several repeats are averaged.
RATES = np.linspace(0, 1, 201)


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
        ((false_positive_rate, true_positive_rate),) = curves
        return Roc(false_positive_rate, true_positive_rate, np.zeros_like(false_positive_rate), point)
    raised = np.stack([np.interp(RATES, *curve) for curve in curves])
    return Roc(np.r_[0, RATES], np.r_[0, raised.mean(0)], np.r_[0, raised.std(0, ddof=1)], point)


def draw_roc(axes: Axes, chosen: Scores, index: int, label: str, marker: str, **look: Any) -> None:
    """The curve of one model with its band and its operating point; AUCs and 95 % intervals go into the legend."""
    roc = average_roc(chosen.labels, chosen.probabilities[index])
    legend = f"{label}, AUC {auc_with_interval(chosen, index)}"
    if chosen.cross_validated:
        legend += f"\n  within folds {auc_with_interval(chosen, index, within=True)}"
    axes.plot(roc.false_positive_rate, roc.true_positive_rate, label=legend, **look)
    low, high = roc.true_positive_rate - roc.spread, np.minimum(roc.true_positive_rate + roc.spread, 1)
    if roc.spread.any():
        axes.fill_between(roc.false_positive_rate, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(*roc.operating_point, marker, color=look["color"], markersize=6, markeredgecolor="black", zorder=5)


def auc_with_interval(chosen: Scores, index: int, within: bool = False) -> str:
    """AUC of one model with its 95 % interval over participants; alone where a group has one participant only.

    Args:
        chosen: the scores.
        index: number of the model.
        within: pairs of one fold only instead of all.
    """
    fewest = min(len(set(chosen.clusters[chosen.labels == label])) for label in (0, 1))
    probabilities = chosen.probabilities[[index]]
    if fewest < 2:
        return (
            "not estimable"
            if within
            else fixed(np.mean([roc_auc_score(chosen.labels, p) for p in probabilities[0]]), 3)
        )
    if within:
        aucs = within_folds(chosen.labels, probabilities, chosen.clusters, chosen.folds)
    else:
        aucs = clustered_delong(chosen.labels, probabilities, chosen.clusters)
    auc, variance = float(aucs.values[0]), float(aucs.covariance[0, 0])
    if np.isnan(auc):
        return "not estimable"
    low, high = interval(auc, variance)
    return f"{fixed(auc, 3)} ({fixed(low, 2)}–{fixed(high, 2)})" if np.isfinite(low) else fixed(auc, 3)


def roc_panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Square panels with the no-skill diagonal, a title each."""
    figure = Figure(figsize=(4.4 * len(titles), 5.4), layout="constrained")
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (6, 4)), label="no skill")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=title, aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.grid(color="0.93")
    return figure, panels


def finish_roc(figure: Figure, title: str, table: pd.DataFrame, simulated: bool) -> Figure:
    """Legends, the title, and below all what curve, band and marker are."""
    lines = []
    for axes in figure.axes:
        # below the panel: inside, so many lines would hide the curves
        legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, frameon=False)
        lines.append(sum(words.get_text().count("\n") + 1 for words in legend.get_texts()))
    repeats = table["repeat"].nunique()
    meaning = f"mean of {repeats} repeats, band ± SD over repeats; " if repeats > 1 else ""
    explained = f"{meaning}AUC with 95 % interval over participants; markers: threshold 0.5"
    if table.groupby("repeat")["fold"].nunique().max() > 1:
        explained += "; curves and first AUC pool the folds, the second AUC ranks cases of one fold only"
    figure.set_figheight(5.4 + 0.18 * max(lines))
    figure.suptitle(titled(title, simulated, figure))
    footer(figure, explained)
    return figure


def roc_models(table: pd.DataFrame, panels: Sequence[tuple[str, str]], simulated: bool) -> Figure:
    """ROC curves of all models, a panel a region and level (the paper's Figure 6).

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
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
        table: from `scripts.evaluation.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
    """
    styles = styles_of(table["model"])
    seen = at_level(table, level)
    # a model without an input region has nothing to compare, and the other figures show it
    models = ordered(seen[seen["region"] != NO_INPUT]["model"]) or models_of(table, level)
    figure, axes_of = roc_panels(models)
    for axes, model in zip(axes_of, models, strict=True):
        rows = table[table["model"] == model]
        for region in regions_of(rows, level):
            line, width, marker = INPUT_STYLE[region]
            look = {"color": styles[model].colour, "linestyle": line, "linewidth": width}
            draw_roc(axes, scores(rows, region, level), 0, INPUTS[region], marker, **look)
    return finish_roc(figure, f"Full-size against cropped input, {level} level", table, simulated)


# --- box plots of bootstrapped AUCs: the paper's Figure 7 -----------------------------------------------------------
def auc_boxes(table: pd.DataFrame, level: str, simulated: bool, samples: int, seed: int) -> Figure:
    """Box plots of bootstrapped AUCs, a panel a region, with the significance of differences (the paper's Figure 7).

    Whole participants are drawn. Of a cross-validation each model has two boxes: folds pooled, and, paler, within
    folds; and each pair two marks likewise. Marks are the levels of Holm's corrected p of the tests over participants
    (`scripts.reporting.tables.delong_tests`).

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
        samples: bootstrap samples.
        seed: of the bootstrap.
    """
    regions, styles = regions_of(table, level), styles_of(table["model"])
    panels_scores = [scores(table, region, level) for region in regions]
    widths = [max(2.4, 1.3 * len(chosen.models)) for chosen in panels_scores]
    figure = Figure(figsize=(sum(widths) + 0.8, 5.6), layout=ConstrainedLayoutEngine(h_pad=0.1))  # inches
    panels = figure.subplots(1, len(regions), squeeze=False, sharey=True, width_ratios=widths)[0]
    marks, paired = significance_marks(table, level), False
    drawn = []
    for axes, chosen in zip(panels, panels_scores, strict=True):
        cases = chosen.labels, chosen.probabilities, chosen.clusters
        aucs = [bootstrap_aucs(*cases, samples, seed)]
        if chosen.cross_validated:
            aucs.append(bootstrap_within_folds(*cases, chosen.folds, samples, seed))
            paired = True
        for kind, values in enumerate(aucs):
            draw_boxes(axes, values, chosen.models, styles, kind, len(aucs))
        drawn.append(np.concatenate([values[np.isfinite(values)] for values in aucs]))
        places = np.arange(1, len(chosen.models) + 1)
        axes.set_xticks(places, [fill(model, 12) for model in chosen.models])
        axes.set(xlim=(0.4, len(chosen.models) + 0.6))
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
    # an AUC ends at 1: brackets stand in a band of their own above, which has no scale
    lowest, highest = min(values.min() for values in drawn), max(values.max() for values in drawn)
    most = max(len(marks.get(region, {})) for region in regions)
    for axes, region, chosen in zip(panels, regions, panels_scores, strict=True):
        band = axes.inset_axes((0, 1.0, 1, 0.085 * max(most, 1)), sharex=axes)
        band.set(ylim=(0, max(most, 1)), yticks=[])
        band.set_axis_off()
        axes.set_title(INPUTS[region], y=1.02 + 0.085 * most)
        for height, (pair, mark) in enumerate(marks.get(region, {}).items()):
            i, j = sorted(chosen.models.index(model) + 1 for model in pair)
            band.plot([i, i, j, j], height + np.array([0.1, 0.3, 0.3, 0.1]), "k", linewidth=0.9)
            band.text((i + j) / 2, height + 0.32, mark, ha="center", va="bottom", fontsize=8)
    margin = 0.05 * max(highest - lowest, 0.02)
    panels[0].set(ylabel="AUC", ylim=(max(lowest - margin, 0), min(highest + margin, 1.005)))
    panels[0].yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    both = "full boxes and first marks: folds pooled; pale boxes and second marks: within folds; " if paired else ""
    figure.suptitle(titled(f"Bootstrapped AUC, {level} level", simulated, figure))
    footer(
        figure,
        f"{samples} samples of participants; {both}marks: DeLong's test over participants, p corrected after Holm"
        " (ns: no difference was detected, * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001, **** p ≤ 0.0001)",
    )
    return figure


def draw_boxes(
    axes: Axes, values: np.ndarray, models: Sequence[str], styles: Mapping[str, Style], kind: int, kinds: int
) -> None:
    """A box a model from samples `[samples, k]`; kind 0 is drawn in full colour, kind 1 pale and to its right."""
    places = np.arange(1, len(models) + 1) + (0 if kinds == 1 else 0.38 * (kind - 0.5))
    boxes = axes.boxplot(
        [column[np.isfinite(column)] for column in values.T],
        positions=places,
        widths=0.55 if kinds == 1 else 0.32,
        patch_artist=True,
        medianprops={"color": "black", "linewidth": 1.5},
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "0.5"},
        manage_ticks=False,
    )
    for box, model in zip(boxes["boxes"], models, strict=True):
        box.set(facecolor=styles[model].colour, hatch=styles[model].hatch, alpha=0.4 if kind else 0.85)


def significance_marks(table: pd.DataFrame, level: str) -> dict[str, dict[tuple[str, str], str]]:
    """Region -> pair of its models -> significance of the difference between their AUCs, near pairs first.

    Folds pooled, and after a slash within folds where there are several.
    """
    tests = delong_tests(table)
    pooled, within = ("image_clustered" if level == "image" else "scan"), f"{level}_within_folds"
    marks: dict[str, dict[tuple[str, str], str]] = {}
    for region in regions_of(table, level):
        models = list(scores(table, region, level).models)
        found = tests[(tests["region"] == region) & tests["model1"].isin(models) & tests["model2"].isin(models)]
        levels = {
            test: {(row.model1, row.model2): row.level for row in rows.itertuples()}
            for test, rows in found.groupby("test")
        }
        pairs = sorted(
            levels.get(pooled, {}),
            key=lambda pair: (abs(models.index(pair[0]) - models.index(pair[1])), models.index(pair[1])),
        )
        marks[region] = {
            pair: " / ".join(levels[test][pair] for test in (pooled, within) if test in levels) for pair in pairs
        }
    return marks


# --- ours: confusion matrices and learning curves ---------------------------------------------------------------------
def confusion_matrices(table: pd.DataFrame, level: str, simulated: bool) -> Figure:
    """Confusion matrices at a threshold of 0.5, counts (summed over the repeats) and rates of each true group.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
    """
    regions = regions_of(table, level)
    of_regions = [scores(table, region, level) for region in regions]
    columns = max(len(chosen.models) for chosen in of_regions)
    apart = ConstrainedLayoutEngine(h_pad=0.1)  # inches: a row's label stays clear of the next row's title
    figure = Figure(figsize=(2.7 * columns + 0.4, 3.1 * len(regions) + 0.6), layout=apart)
    grid = figure.subplots(len(regions), columns, squeeze=False)
    for region, chosen, row in zip(regions, of_regions, grid, strict=True):
        for axes in row[len(chosen.models) :]:
            axes.set_axis_off()
        for index, (model, axes) in enumerate(zip(chosen.models, row, strict=False)):
            called, labels = chosen.probabilities[index] >= 0.5, chosen.labels
            counts = np.array([[np.sum(called[:, labels == g] == c) for c in (1, 0)] for g in (1, 0)])
            rates = counts / counts.sum(1, keepdims=True)
            axes.imshow(rates, cmap="Greys", vmin=0, vmax=1)
            for (i, j), rate in np.ndenumerate(rates):
                text = f"{100 * rate:.1f} %\n{counts[i, j]}/{counts[i].sum()}"
                axes.text(j, i, text, ha="center", va="center", color="white" if rate > 0.6 else "black", fontsize=10)
            axes.set(xticks=[0, 1], xticklabels=["HH", "HC"], yticks=[0, 1], yticklabels=["HH", "HC"])
            axes.set(xlabel="predicted", ylabel="true", title=f"{fill(model, 16)}\n{INPUTS[region]}")
    repeats = table["repeat"].nunique()
    summed = f"\ncounts summed over {repeats} repeats" if repeats > 1 else ""
    figure.suptitle(titled(f"Confusion matrices, {level} level", simulated, figure) + summed)
    return figure


def learning_curves(stages: Mapping[str, Sequence[str | os.PathLike]], title: str) -> Figure:
    """Loss and AUC by epoch, a column a stage: mean over the folds, band from the lowest to the highest fold.

    Args:
        stages: title of the stage -> CSVs that `scripts.training.handlers.LearningCurve` wrote, one a fold.
        title: above the picture.
    """
    figure = Figure(figsize=(4.4 * len(stages), 5.6), layout="constrained")
    grid = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for (stage, paths), (loss_axes, auc_axes) in zip(stages.items(), grid.T, strict=True):
        folds = pd.concat([read_curve(path) for path in paths])
        draw_over_folds(loss_axes, folds, "train_loss", "training", color="0.25")
        draw_over_folds(auc_axes, folds, "train_auc", "training (augmented)", color="0.25")
        held_out = {"color": MODEL_STYLE["Q-Net"].colour, "linestyle": "--", "marker": "o", "markersize": 3}
        draw_over_folds(auc_axes, folds, "val_auc", "held out", **held_out)
        loss_axes.set(title=f"{stage}" + (f", {len(paths)} folds" if len(paths) > 1 else ""), ylabel="training loss")
        auc_axes.set(xlabel="epoch", ylabel="AUC", ylim=(None, 1.02))
        auc_axes.legend(fontsize=8, framealpha=0.9, loc="lower right")
        for axes in (loss_axes, auc_axes):
            axes.grid(color="0.93")
    figure.suptitle(title)
    return figure


def read_curve(path: str | os.PathLike) -> pd.DataFrame:
    """A learning curve, numbers in all columns (NaN where nothing was measured).

    Raises:
        InputError: not a table that `scripts.training.handlers.LearningCurve` wrote.
    """
    cure = "train again, or leave the learning curves out"
    columns = ["epoch", "train_loss", "train_auc", "val_auc"]
    curve = read_frame(path, columns, numbers=columns, unique=["epoch"], cure=cure)
    if curve.empty:
        raise InputError(f"{path}: holds no epoch; {cure}")
    if not (curve["epoch"].ge(1) & curve["epoch"].mod(1).eq(0)).all():
        raise InputError(f"{path}: epochs are whole numbers from 1; {cure}")
    loss, auc = (np.inf, "is negative"), (1, "is not 0 to 1")
    for column, (most, words) in {"train_loss": loss, "train_auc": auc, "val_auc": auc}.items():
        if not curve[column].dropna().between(0, most).all():
            raise InputError(f"{path}: {column} {words}; {cure}")
    return curve[columns]


def draw_over_folds(axes: Axes, folds: pd.DataFrame, column: str, label: str, **style: Any) -> None:
    """Mean over folds by epoch, and a band from the lowest to the highest; nothing where nothing was measured."""
    by_epoch = folds.dropna(subset=column).groupby("epoch")[column]
    if not by_epoch.ngroups:
        return
    mean = by_epoch.mean()
    axes.plot(mean.index, mean, label=label, **style)
    axes.fill_between(mean.index, by_epoch.min(), by_epoch.max(), color=style["color"], alpha=0.15, linewidth=0)
