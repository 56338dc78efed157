"""Nuclei against age, drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from scripts.anatomy.atlas import NUCLEI
from scripts.errors import InputError
from scripts.files.writing import write_aside
from scripts.nuclei.curves import BANDS, cohort_rows, iron_curve, read_reference_curves
from scripts.nuclei.table import MEASURED
from scripts.reporting.style import GROUP_STYLE

COLOURS = {group: GROUP_STYLE[group].colour for group in ("HC", "HH")}


def age_figure(
    path: str | os.PathLike,
    nuclei_table: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    curves: str | os.PathLike | Mapping[str, Any],
    subject: Mapping[str, Any] | None = None,
) -> None:
    """Each nucleus against age: both groups, the controls' curve, and bands of its 5, 25, 75 and 95 percentiles.

    Args:
        path: without ending; gets `.png` and `.pdf`.
        nuclei_table: `nuclei.tsv`.
        dataset_dir: the cohort.
        curves: from `fit_reference_curves`, or the path of what was written.
        subject: what `age_z_scores` gave for one subject, to be marked.
    """
    content = curves if isinstance(curves, Mapping) else read_reference_curves(curves)
    if content is None:
        raise InputError(f"{curves}: no such file; run reference_curves of configs/nuclei.yaml first")
    rows = cohort_rows(nuclei_table, dataset_dir)
    figure = draw_ages(rows, content, subject)
    for ending in (".png", ".pdf"):
        write_aside(f"{path}{ending}", lambda part: figure.savefig(part, dpi=150))


def draw_ages(rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any], subject: Mapping[str, Any] | None) -> Any:
    """The figure of `age_figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {"Chimap": "QSM (ppm)", "R2starmap": "R2* (1/s)"}
    figure = Figure(figsize=(12, 6.2))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(MEASURED), len(NUCLEI), sharex=True)
    shown = [row["age"] for row in rows]
    marks = [] if subject is None else [{**mark, "age": subject["age"]} for mark in subject["nuclei"]]
    ages = np.linspace(min(shown), max(shown), 120)
    for line, suffix in zip(grid, MEASURED, strict=True):
        for axes, nucleus in zip(line, NUCLEI, strict=True):
            curve = content["Curves"][suffix][nucleus]
            middle = iron_curve(ages, curve["rise"], curve["rate"], curve["start"])
            for band in ((BANDS[0], BANDS[3]), (BANDS[1], BANDS[2])):
                low, high = (middle + curve["sd"] * norm.ppf(p / 100) for p in band)
                axes.fill_between(ages, low, high, color=COLOURS["HC"], alpha=0.13, linewidth=0)
            axes.plot(ages, middle, color=COLOURS["HC"], linewidth=1.5)
            for group, colour in COLOURS.items():
                points = [(row["age"], row["means"][f"{suffix}_{nucleus}"]) for row in rows if row["group"] == group]
                if points:
                    axes.scatter(*zip(*points, strict=True), s=12, color=colour, label=group, linewidths=0)
            for mark in marks:
                if (mark["map"], mark["nucleus"]) == (suffix, nucleus):
                    axes.plot(mark["age"], mark["value"], "*", color="black", markersize=11)
                    axes.set_title(f"z {mark['z']:+.1f}", loc="right", fontsize=9)
            axes.set_title(nucleus, loc="left", fontsize=10)
            axes.grid(alpha=0.2)
        line[0].set_ylabel(names[suffix])
    for axes in grid[-1]:
        axes.set_xlabel("age (years)")
    grid[0][0].legend(frameon=False, fontsize=8)
    simulated = "Simulated cohort. " if content["Input"].get("simulated") else ""
    fitted = max(curve["controls"] for curve in content["Curves"]["Chimap"].values())
    figure.suptitle(
        f"{simulated}Nuclei against age; line and bands: fitted to {fitted} healthy controls, 5 to 95 and 25 to 75"
        " percentiles",
        fontsize=11,
    )
    figure.tight_layout()
    return figure
