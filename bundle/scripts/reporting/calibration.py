"""How far the probabilities can be taken at their word: calibration curves, Brier score, calibration error."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts.evaluation.calibration import bin_intervals, reliability
from scripts.evaluation.predictions import regions_of, scores
from scripts.evaluation.trust import VOTERS
from scripts.reporting.figures import INPUTS
from scripts.reporting.markup import fixed
from scripts.reporting.style import footer, styles_of, titled


def calibration(table: pd.DataFrame, level: str, simulated: bool, bins: int = 10) -> Figure:
    """Calibration curves with Brier score and expected calibration error, above the number of cases in each bin.

    The repeats are pooled; bars are 95 % intervals over participants. An empty bin has no point, and no line leads
    over it. At scan level ResNet and ResNetSWA give the share of slices that voted HH.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
        bins: equally wide bins over 0..1.
    """
    regions, styles = regions_of(table, level), styles_of(table["model"])
    figure = Figure(figsize=(4.4 * len(regions), 7.2), layout="constrained")
    grid = figure.subplots(2, len(regions), squeeze=False, sharex=True, height_ratios=(3, 1))
    for region, (curve, histogram) in zip(regions, grid.T, strict=True):
        curve.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (6, 4)), label="perfect")
        chosen = scores(table, region, level)
        for number, (model, repeated) in enumerate(zip(chosen.models, chosen.probabilities, strict=True)):
            pooled, style = repeated.ravel(), styles[model]
            labels, clusters = (np.tile(values, len(repeated)) for values in (chosen.labels, chosen.clusters))
            name = f"{model} (share of votes)" if level == "scan" and model in VOTERS else model
            found = reliability(labels, pooled, bins)
            low, high = bin_intervals(labels, pooled, clusters, bins).T
            # NaN where a bin is empty, so that no line pretends to know what lies between its neighbours
            mean, share, count = np.full(bins, np.nan), np.full(bins, np.nan), np.zeros(bins)
            mean[found.place], share[found.place] = found.mean_probability, found.share_positive
            count[found.place] = found.cases
            look = {"color": style.colour, "linestyle": style.line}
            curve.plot(
                mean,
                share,
                marker=style.marker,
                markersize=5,
                label=f"{name}, Brier {fixed(found.brier, 3)}, ECE {fixed(found.ece, 3)}",
                **look,
            )
            # beside each other, so that the bars of several models can be told apart
            shift = 0.006 * (number - (len(chosen.models) - 1) / 2)
            curve.vlines(found.mean_probability + shift, low, high, color=style.colour, linewidth=0.9, alpha=0.6)
            histogram.stairs(count, np.linspace(0, 1, bins + 1), linewidth=1.4, **look)
        curve.set(title=INPUTS[region], ylabel="share that is HH", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        handles = curve.get_legend_handles_labels()
        histogram.legend(*handles, loc="upper center", bbox_to_anchor=(0.5, -0.5), fontsize=8, frameon=False)
        histogram.set(xlabel="probability of HH", ylabel="slices" if level == "image" else "scans")
        for axes in (curve, histogram):
            axes.grid(color="0.93")
            axes.set_axisbelow(True)
    figure.suptitle(titled(f"Calibration, {level} level", simulated, figure))
    repeats = table["repeat"].nunique()
    footer(
        figure,
        f"{bins} bins; bars: 95 % intervals over participants; an empty bin has no point"
        + (f"; counts summed over {repeats} repeats" if repeats > 1 else ""),
    )
    return figure
