"""How far calibrated probabilities and answers may be believed: reliability, coverage, how often nothing is said."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.evaluation.calibration import bin_intervals, reliability
from scripts.evaluation.trust import BINS, coverage, trusted
from scripts.model.calibration import METHODS
from scripts.reporting.figures import INPUTS
from scripts.reporting.markup import fixed
from scripts.reporting.style import GROUP_STYLE, footer, styles_of, titled

#: Errors at which coverage and abstention are drawn.
ERRORS = np.linspace(0.02, 0.4, 39)
#: Of a scan that is unlike the training scans.
FLAGGED_COLOUR = "#c8102e"


def calibrated_reliability(table: pd.DataFrame, method: str, simulated: bool) -> Figure:
    """Reliability of scans after calibration by other folds, above the number of scans in each bin; a panel a region.

    Bars are 95 % intervals over participants; a thin line is the model before calibration. The repeats are pooled.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`, with enough subjects
            (`scripts.evaluation.trust.too_few`).
        method: how it is calibrated.
        simulated: whether the title must say so.
    """
    found = list(trusted(table, method))
    regions, styles = list(dict.fromkeys(one.region for one in found)), styles_of(table["model"])
    figure = Figure(figsize=(4.6 * len(regions), 7.4), layout="constrained")
    grid = figure.subplots(2, len(regions), squeeze=False, sharex=True, height_ratios=(3, 1))
    for region, (curve, histogram) in zip(regions, grid.T, strict=True):
        curve.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (6, 4)), label="perfect")
        of_region = [one for one in found if one.region == region]
        for number, one in enumerate(of_region):
            style, repeats = styles[one.model], len(one.raw)
            labels, people = np.tile(one.labels, repeats), np.tile(np.arange(len(one.labels)), repeats)
            look = {"color": style.colour, "linestyle": style.line}
            for values, after in ((one.raw.ravel(), False), (one.calibrated.ravel(), True)):
                points = reliability(labels, values, BINS)
                mean, share, count = np.full(BINS, np.nan), np.full(BINS, np.nan), np.zeros(BINS)
                mean[points.place], share[points.place] = points.mean_probability, points.share_positive
                count[points.place] = points.cases
                if not after:
                    curve.plot(mean, share, color=style.colour, linewidth=0.8, alpha=0.4)
                    before = points.ece
                    continue
                label = f"{one.model}: ECE {fixed(before, 3)} before, {fixed(points.ece, 3)} after"
                curve.plot(mean, share, marker=style.marker, markersize=5, label=label, **look)
                low, high = bin_intervals(labels, values, people, BINS).T
                shift = 0.006 * (number - (len(of_region) - 1) / 2)
                curve.vlines(points.mean_probability + shift, low, high, color=style.colour, linewidth=0.9, alpha=0.6)
                histogram.stairs(count, np.linspace(0, 1, BINS + 1), linewidth=1.4, **look)
        curve.set(title=INPUTS[region], ylabel="share that is HH", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        histogram.legend(
            *curve.get_legend_handles_labels(),
            loc="upper center",
            bbox_to_anchor=(0.5, -0.45),
            fontsize=8,
            frameon=False,
        )
        histogram.set(xlabel="calibrated probability of HH", ylabel="scans")
        for axes in (curve, histogram):
            axes.grid(color="0.93")
            axes.set_axisbelow(True)
    figure.suptitle(titled("Reliability after calibration, scan level", simulated, figure))
    footer(
        figure,
        f"each scan calibrated {METHODS[method]} on others alone, where there are folds on those of other folds; thin"
        f" lines: before; {BINS} bins; bars: 95 % intervals over participants; repeats, where there are any, are"
        " pooled",
    )
    return figure


def abstention(table: pd.DataFrame, method: str, simulated: bool) -> Figure:
    """Coverage against the wanted error, and the share of scans of which nothing is said; a column a region.

    Args:
        table, method, simulated: see `calibrated_reliability`.
    """
    found = list(trusted(table, method))
    regions, styles = list(dict.fromkeys(one.region for one in found)), styles_of(table["model"])
    figure = Figure(figsize=(4.6 * len(regions), 7.4), layout="constrained")
    grid = figure.subplots(2, len(regions), squeeze=False, sharex=True)
    for region, (covered, silent) in zip(regions, grid.T, strict=True):
        covered.plot(ERRORS, 1 - ERRORS, color="0.6", linewidth=0.8, linestyle=(0, (6, 4)), label="wanted")
        for one in (one for one in found if one.region == region):
            style = styles[one.model]
            said = [coverage(one, error) for error in ERRORS]
            for group in ("HC", "HH"):
                shares = [row[f"coverage_{group}"] for row in said]
                covered.plot(ERRORS, shares, color=style.colour, linestyle=GROUP_STYLE[group].line, linewidth=1.2)
            silent.plot(
                ERRORS, [row["cannot_say"] for row in said], color=style.colour, linestyle=style.line, label=one.model
            )
        for group in ("HC", "HH"):
            covered.plot([], [], color="0.3", linestyle=GROUP_STYLE[group].line, label=group)
        covered.set(title=INPUTS[region], ylabel="scans whose group is not ruled out", ylim=(None, 1.01))
        covered.legend(fontsize=8, frameon=False, loc="lower left")
        silent.set(
            xlabel="wanted error", ylabel='share of "cannot say"', ylim=(-0.01, 1.01), xlim=(ERRORS[0], ERRORS[-1])
        )
        silent.legend(fontsize=8, frameon=False, loc="upper right")
        for axes in (covered, silent):
            axes.grid(color="0.93")
            axes.set_axisbelow(True)
    figure.suptitle(titled("Coverage and abstention, scan level", simulated, figure))
    footer(
        figure,
        "class-conditional conformal prediction, each scan by others alone, where there are folds by those of other"
        " folds; colours above as below; scans of all repeats",
    )
    return figure


def draw_places(axes: Axes, places: Sequence[Sequence[float]], scans: Sequence[Mapping[str, Any]]) -> None:
    """Training scans on the first two main axes of what the network makes of them, by group, and scans among them.

    Args:
        axes: where to draw.
        places: of each training scan two coordinates and its group, 0 HC or 1 HH (`scripts.model.familiarity.fit`).
        scans: `familiarity` of results, each drawn as a star, red where it is flagged.
    """
    known = np.asarray(places, dtype=float).reshape(-1, 3)
    for label, group in enumerate(("HC", "HH")):
        x, y = known[known[:, 2] == label, :2].T
        style = GROUP_STYLE[group]
        axes.scatter(
            x, y, s=14, marker=style.marker, facecolor=style.colour, alpha=0.45, linewidth=0, label=f"training, {group}"
        )
    placed = [(one["place"], one["flagged"]) for one in scans if one.get("place")]
    for flagged, name in (
        (False, "this scan" if len(scans) == 1 else "new scans"),
        (True, "unlike the training scans"),
    ):
        here = np.array([place for place, is_flagged in placed if is_flagged == flagged]).reshape(-1, 2)
        if len(here):
            colour = "black" if not flagged else FLAGGED_COLOUR
            axes.scatter(
                here[:, 0],
                here[:, 1],
                s=70,
                marker="*",
                facecolor=colour,
                edgecolor="white",
                linewidth=0.6,
                label=name,
                zorder=3,
            )
    axes.set(xlabel="1st main axis (SD)", ylabel="2nd")
    axes.grid(color="0.93")
    axes.set_axisbelow(True)


def places_figure(places: Sequence[Sequence[float]], scans: Sequence[Mapping[str, Any]], simulated: bool) -> Figure:
    """Where scans lie among the training scans, and how strange each of them is against the limit.

    Args:
        places, scans: see `draw_places`; scans have `strangeness`, in limits.
        simulated: whether the title must say so.
    """
    figure = Figure(figsize=(9.2, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_places(left, places, scans)
    left.legend(fontsize=7, frameon=False, loc="best")
    times = [max(one["strangeness"], -1.0) for one in scans]
    right.hist(times, bins=min(20, max(5, len(times) // 3)), color="0.55")
    right.axvline(1, color=FLAGGED_COLOUR, linewidth=1.2, label="limit: flagged beyond")
    right.set(xlabel="strangeness (unlike the training scans), in limits", ylabel="scans")
    right.legend(fontsize=8, frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(titled("Where scans lie among the training scans", simulated, figure))
    return figure
