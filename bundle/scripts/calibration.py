"""How far the probabilities can be taken at their word: calibration curves, Brier score, calibration error."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts.drawing import styles_of, titled
from scripts.figures import INPUTS, regions_of
from scripts.predictions import at_level, scores

#: Models whose scan-level probability is the share of slices that voted HH.
VOTERS = ("ResNet", "ResNetSWA")


class Calibration(NamedTuple):
    """Reliability of probabilities: per non-empty bin the mean probability, the share of HH and the number of cases."""

    mean_probability: np.ndarray
    share_positive: np.ndarray
    count: np.ndarray
    brier: float
    ece: float


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> Calibration:
    """Brier score, expected calibration error (Naeini et al., AAAI 2015) and the points of a calibration curve.

    Args:
        labels: `[n]`, 0 or 1.
        probabilities: `[n]`, 0..1.
        bins: equally wide bins over 0..1.
    """
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    mean = np.bincount(index, probabilities, bins)[filled] / count[filled]
    share = np.bincount(index, labels, bins)[filled] / count[filled]
    ece = float(np.average(np.abs(mean - share), weights=count[filled]))
    return Calibration(mean, share, count[filled], float(np.mean((probabilities - labels) ** 2)), ece)


def calibration(table: pd.DataFrame, level: str, simulated: bool, bins: int = 10) -> Figure:
    """Calibration curves with Brier score and expected calibration error, above histograms of the probabilities.

    The repeats are pooled. At scan level ResNet and ResNetSWA give the share of slices that voted HH.

    Args:
        table: from `scripts.predictions.read_predictions`.
        level: `image` or `scan`.
        simulated: whether the title must say so.
        bins: equally wide bins over 0..1.
    """
    regions, styles = regions_of(at_level(table, level)), styles_of(table["model"])
    figure = Figure(figsize=(4.4 * len(regions), 6.8), layout="constrained")
    grid = figure.subplots(2, len(regions), squeeze=False, sharex=True, height_ratios=(3, 1))
    for region, (curve, histogram) in zip(regions, grid.T, strict=True):
        curve.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (6, 4)), label="perfect")
        chosen = scores(table, region, level)
        for model, repeated in zip(chosen.models, chosen.probabilities, strict=True):
            pooled, style = repeated.ravel(), styles[model]
            name = f"{model} (share of votes)" if level == "scan" and model in VOTERS else model
            found = reliability(np.tile(chosen.labels, len(repeated)), pooled, bins)
            look = {"color": style.colour, "linestyle": style.line}
            curve.plot(
                found.mean_probability,
                found.share_positive,
                marker=style.marker,
                markersize=5,
                label=f"{name}, Brier {found.brier:.3f}, ECE {found.ece:.3f}",
                **look,
            )
            weights = np.full(len(pooled), 1 / len(pooled))
            histogram.hist(pooled, bins, (0, 1), weights=weights, histtype="step", linewidth=1.4, **look)
        curve.set(title=INPUTS[region], ylabel="share that is HH", xlim=(0, 1), ylim=(-0.02, 1.02))
        handles = curve.get_legend_handles_labels()
        histogram.legend(*handles, loc="upper center", bbox_to_anchor=(0.5, -0.5), fontsize=8, frameon=False)
        histogram.set(xlabel="probability of HH", ylabel="share of cases")
        for axes in (curve, histogram):
            axes.grid(color="0.93")
            axes.set_axisbelow(True)
    figure.suptitle(titled(f"Calibration, {level} level", simulated))
    return figure
