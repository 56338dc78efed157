"""What each map contributes: table and figure."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.data import Dataset

from scripts.evaluation.contributions import COLUMNS, ages_of, contributions, donors, probabilities
from scripts.files.writing import check_output_dir, write_json, write_table, write_text
from scripts.maps.scan import LabelledScan
from scripts.model.networks import QNet
from scripts.reporting.markup import fixed, markdown_table
from scripts.reporting.style import VECTOR, save_figure, titled

#: What the maps are called in pictures.
WORDS = {"Chimap": "QSM", "R2starmap": "R2*", "T1w": "T1W"}


def write_contributions(
    output_dir: str | os.PathLike,
    scans: Sequence[LabelledScan],
    dataset: Dataset,
    network: QNet,
    device: torch.device,
    ages: Mapping[str, float],
    draws: int,
    neighbours: int,
    bootstrap_samples: int,
    seed: int,
    record: Mapping[str, Any],
) -> None:
    """Write `contributions.csv`, `.md`, `.png`, `.pdf`, `.svg` and `.json` (what made them) of held-out scans.

    Args:
        output_dir: gets the files.
        scans: held out, in the order of `dataset`.
        dataset: the same, preprocessed.
        network: trained, see `scripts.evaluation.contributions`.
        device: what runs it.
        ages: participant -> years, as far as known.
        draws, neighbours, seed: see `donors`.
        bootstrap_samples: behind the intervals.
        record: from `scripts.provenance.record`.

    Raises:
        InputError: fewer than two subjects of a group, or the folder cannot be written.
    """
    folder = check_output_dir(output_dir, 10e6)
    labels = np.array([scan.label for scan in scans])
    people = np.unique([scan.participant_id for scan in scans], return_inverse=True)[1]
    years = ages_of(scans, ages)
    whole, swapped = probabilities(dataset, network, device, donors(years, people, draws, neighbours, seed))
    rows = contributions(labels, people, whole, swapped, bootstrap_samples, seed)
    simulated = bool(record["input"]["simulated"])
    write_table(folder / "contributions.csv", COLUMNS, rows)
    known = np.unique(people[np.isfinite(years)])
    text = in_words(rows, len(np.unique(people)), len(known), simulated)
    write_text(folder / "contributions.md", text)
    save_figure(drawn(rows, simulated), folder / "contributions", VECTOR)
    write_json(folder / "contributions.json", dict(record))
    print(text)


def in_words(rows: Sequence[Mapping[str, Any]], subjects: int, with_age: int, simulated: bool) -> str:
    """The table as Markdown, and what its columns mean."""
    heads = ["map of another subject", "AUC", "AUC without", "drop (95 % interval)", "mean change of the probability"]
    cells = [
        [
            WORDS[row["map"]],
            fixed(row["auc"], 3),
            fixed(row["auc_without"], 3),
            f"{fixed(row['drop'], 3)} ({fixed(row['ci_low'], 3)} to {fixed(row['ci_high'], 3)})",
            fixed(row["mean_change"], 3),
        ]
        for row in rows
    ]
    whose = "of like age" if with_age == subjects else f"of like age where it is known ({with_age} of {subjects})"
    words = (
        f"{subjects} held-out subjects{' of a simulated cohort' if simulated else ''}, whole scans. One map at a time"
        f" was taken from another subject {whose}; the network is the same. Maps say partly the same, so drops do not"
        " add up: a map without a drop may be replaced by the others. Interval: bootstrap over subjects."
    )
    return f"{markdown_table(pd.DataFrame(cells, columns=heads))}\n{words}\n"


def drawn(rows: Sequence[Mapping[str, Any]], simulated: bool) -> Figure:
    """Drops of the AUC with their intervals, a bar a map."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    drops = np.array([row["drop"] for row in rows])
    ends = np.array([[row["ci_low"], row["ci_high"]] for row in rows])
    places = np.arange(len(rows))
    axes.bar(places, drops, width=0.6, color="#b8cbe0", edgecolor="#33475b")
    axes.vlines(places, ends[:, 0], ends[:, 1], color="#33475b")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, [WORDS[row["map"]] for row in rows])
    axes.set_ylabel("drop of the scan AUC")
    axes.set_title(titled("Another subject's map in its place", simulated, figure))
    return figure
