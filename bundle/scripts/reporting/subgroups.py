"""Subgroups of a cohort as a table, and the decision curve: for the page of a cross-validation and beside it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from scripts.evaluation.predictions import at_level, ordered
from scripts.evaluation.subgroups import (
    COLUMNS,
    WANTED_WIDTH,
    by_participant,
    main_row,
    net_benefit,
    subgroup_rows,
    subjects_for_width,
)
from scripts.files.table import read_frame
from scripts.files.writing import write_table, write_text
from scripts.reporting.markup import html
from scripts.reporting.style import titled

NAME = "table4_subgroups"
TITLE = "Whole scans in parts of the cohort"
NOTE = (
    "AUC with DeLong's interval of 95 %, sensitivity and specificity at 0.5 with Wilson's; averaged over repeats. Parts"
    " are small: look at the intervals before you compare."
)
#: Thresholds of the decision curve.
THRESHOLDS = np.arange(0, 0.96, 0.01)


def write_subgroups(
    folder: str | os.PathLike, table: pd.DataFrame, people: pd.DataFrame, simulated: bool
) -> list[Path]:
    """Write the table of subgroups as CSV (full precision) and Markdown.

    Args:
        folder: gets both.
        table: from `scripts.evaluation.predictions.read_predictions`.
        people: from `scripts.evaluation.subgroups.read_subjects`.
        simulated: whether the cohort is; the Markdown says so.
    """
    rows = subgroup_rows(table, people)
    paths = [Path(folder) / f"{NAME}{ending}" for ending in (".csv", ".md")]
    write_table(paths[0], COLUMNS, rows)
    cohort = ", simulated cohort" if simulated else ""
    text = f"**{TITLE}{cohort}**\n\n{cells(pd.DataFrame(rows)).to_markdown(index=False)}\n\n{NOTE} {needed(rows)}\n"
    write_text(paths[1], text)
    return paths


def needed(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many subjects the AUC of the main model needs for a narrow interval, in a sentence."""
    row = main_row(rows)
    number = row and subjects_for_width(int(row["subjects"]), row["auc_low"], row["auc_high"])
    if not row or number is None:
        return ""
    return (
        f"The interval of {row['model']}'s AUC is {row['auc_high'] - row['auc_low']:.2f} wide with"
        f" {int(row['subjects'])} subjects; for {WANTED_WIDTH:g} about {number} like these are needed."
    )


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as readers see it."""

    def shown(row: pd.Series, name: str) -> str:
        if np.isnan(row[name]):
            return "–"
        ends = "" if np.isnan(row[f"{name}_low"]) else f" ({row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f})"
        return f"{row[name]:.3f}{ends}"

    return pd.DataFrame(
        {
            "Input": frame["region"],
            "Model": frame["model"],
            "Part": [f"{kind} {value}".strip() for kind, value in zip(frame["subgroup"], frame["value"], strict=True)],
            "Subjects (HH)": [f"{int(n)} ({int(hh)})" for n, hh in zip(frame["subjects"], frame["hh"], strict=True)],
            "AUC": [shown(row, "auc") for _, row in frame.iterrows()],
            "Sensitivity": [shown(row, "sensitivity") for _, row in frame.iterrows()],
            "Specificity": [shown(row, "specificity") for _, row in frame.iterrows()],
        }
    )


def read_subgroups(folder: str | os.PathLike) -> pd.DataFrame | None:
    """The table that `write_subgroups` wrote; None where it is not."""
    path = Path(folder) / f"{NAME}.csv"
    if not path.is_file():
        return None
    words = ("region", "model", "subgroup", "value")
    return read_frame(path, COLUMNS, numbers=[name for name in COLUMNS if name not in words])


def section(folder: str | os.PathLike, simulated: bool) -> list[tuple[str, str, Markup]]:
    """Title, note and table for the page; none where there is no table."""
    frame = read_subgroups(folder)
    if frame is None:
        return []
    title = f"{TITLE}{', simulated cohort' if simulated else ''}"
    return [(title, f"{NOTE} {needed(frame.to_dict('records'))}", html(cells(frame)))]


def decision_curve(table: pd.DataFrame, simulated: bool) -> Figure:
    """Net benefit of whole scans' probabilities against the threshold, for every model of the last input."""
    scans = at_level(table, "scan")
    region = [name for name in ("cropped", "full") if name in set(scans["region"])] or [scans["region"].iloc[0]]
    chosen = scans[scans["region"].isin([region[0], "none"])]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = np.array([])
    for model in ordered(chosen["model"]):
        of = chosen[chosen["model"] == model]["region"].iloc[0]
        found, wide = by_participant(table, of, model)
        labels = found.to_numpy()
        curves = [net_benefit(labels, wide[repeat].to_numpy(), THRESHOLDS) for repeat in wide]
        axes.plot(THRESHOLDS, np.mean(curves, 0), label=model)
    everybody = net_benefit(labels, np.ones(len(labels)), THRESHOLDS)
    axes.plot(THRESHOLDS, everybody, color="0.5", linestyle="--", label="everybody")
    axes.axhline(0, color="0.2", linewidth=0.8, label="nobody")
    axes.set(xlim=(0, 0.95), ylim=(-0.1, 1.05 * labels.mean()), xlabel="threshold probability", ylabel="net benefit")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(titled(f"Decision curve, whole scans, {region[0]} input", simulated))
    return figure


def facts(folder: str | os.PathLike) -> dict[str, str]:
    """What the table says, as fields of the checklists: `subgroups`, `sites` and `sample_size`, those that it knows."""
    frame = read_subgroups(folder)
    row = main_row(frame.to_dict("records")) if frame is not None else None
    if frame is None or row is None:
        return {"subgroup_note": "; no subgroups are known"}
    own = frame[(frame["region"] == row["region"]) & (frame["model"] == row["model"])]
    own = own[(own["subgroup"] != "all") & own["auc"].notna()]
    said = {}
    for name, kinds in (("subgroups", ("sex", "age")), ("sites", ("site",))):
        chosen = own[own["subgroup"].isin(kinds)].to_dict("records")
        parts = [f"{r['subgroup']} {r['value']} {r['auc']:.3f} (n = {int(r['subjects'])})" for r in chosen]
        if parts:
            said[name] = f"{row['model']}'s AUC of whole scans: {'; '.join(parts)}"
    note = f"; subgroups: {said['subgroups']}" if "subgroups" in said else "; no subgroups are known"
    return {**said, "sample_size": needed(frame.to_dict("records")), "subgroup_note": note}
