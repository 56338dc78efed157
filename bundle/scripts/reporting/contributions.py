"""What each map and each nucleus contributes: table, figure, and both on the page of a cross-validation."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.anatomy.atlas import NUCLEI
from scripts.evaluation.contributions import (
    ALL,
    COLUMNS,
    SCANS,
    contributions,
    read_contributions,
    read_probabilities,
)
from scripts.files.writing import write_table, write_text
from scripts.maps.bids import GROUPS
from scripts.maps.scan import KNOWN_MAPS
from scripts.reporting.markup import fixed, html, markdown
from scripts.reporting.style import FURTHER_STYLES, VECTOR, save_figure, titled

NAME = "contributions"
TITLE = "What each map and nucleus contributes to Q-Net"
NOTE = (
    "Held-out scans. A map is hidden by that of another subject, of like age where ages are known; a nucleus (of both"
    " sides) by what lies around it in its slice. The network stays the same. Drop: AUC of whole scans, folds pooled,"
    " minus the AUC without. Changes are of the mean probability of HH in each group. Intervals of 95 %: bootstrap over"
    " subjects. Maps and nuclei say partly the same, so drops do not add up: what has none may be replaced by others."
)
WORDS = {ALL: "all maps", **{suffix: kind.name for suffix, kind in KNOWN_MAPS.items()}}
#: How bars are drawn, by what was hidden, or in what a nucleus was.
_STYLES = dict(zip((ALL, *KNOWN_MAPS), FURTHER_STYLES, strict=True))


def write_contributions(
    scans: str | os.PathLike,
    tables_dir: str | os.PathLike,
    figures_dir: str | os.PathLike,
    simulated: bool,
    bootstrap_samples: int,
    seed: int,
) -> None:
    """Write `contributions.csv` and `.md`, and the figure; print the table.

    Args:
        scans: the table of `scripts.evaluation.contributions.write_probabilities`, or the folder that holds it.
        tables_dir, figures_dir: get them.
        simulated: whether the cohort is; Markdown and figure say so.
        bootstrap_samples, seed: behind the intervals.

    Raises:
        InputError: the table is missing or damaged, or has fewer than two subjects of a group.
    """
    path = Path(scans) / SCANS if Path(scans).is_dir() else Path(scans)
    rows = contributions(read_probabilities(path), bootstrap_samples, seed)
    write_table(Path(tables_dir) / f"{NAME}.csv", COLUMNS, rows)
    frame = pd.DataFrame(rows)
    text = markdown(_title(simulated), NOTE, cells(frame))
    write_text(Path(tables_dir) / f"{NAME}.md", text)
    save_figure(drawn(frame, simulated), Path(figures_dir) / NAME, VECTOR)
    print(text)


def _title(simulated: bool) -> str:
    return f"{TITLE}{', simulated cohort' if simulated else ''}"


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as readers see it."""

    def shown(name: str) -> list[str]:
        ends = frame[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        return [f"{fixed(v, 3)} ({fixed(low, 3)} to {fixed(high, 3)})" for v, low, high in ends]

    hidden = zip(frame["map"], frame["nucleus"], strict=True)
    return pd.DataFrame(
        {
            "Input": frame["region"],
            "Hidden": [f"{nucleus} in {WORDS[name]}" if nucleus else WORDS[name] for name, nucleus in hidden],
            "Subjects": [f"{int(n)}" for n in frame["subjects"]],
            "AUC": [fixed(value, 3) for value in frame["auc"]],
            "AUC without": [fixed(value, 3) for value in frame["auc_without"]],
            "Drop": shown("drop"),
            **{f"Change in {group}": shown(f"change_{group}") for group in reversed(GROUPS)},
        }
    )


def section(folder: str | os.PathLike, simulated: bool) -> list[tuple[str, str, Markup]]:
    """Title, note and table for the page; none where there is no table."""
    frame = read_contributions(Path(folder) / f"{NAME}.csv")
    return [] if frame is None else [(_title(simulated), NOTE, html(cells(frame)))]


def drawn(frame: pd.DataFrame, simulated: bool) -> Figure:
    """Drops of the AUC with their intervals: maps, and beside them nuclei in all maps and in each; a row a region."""
    regions = list(dict.fromkeys(frame["region"]))
    nuclei = [name for name in NUCLEI if name in set(frame["nucleus"])]
    maps = [suffix for suffix in KNOWN_MAPS if suffix in set(frame["map"])]
    kinds = [ALL, *maps]
    figure = Figure(figsize=(9 if nuclei else 4.5, 0.4 + 2.9 * len(regions)), layout="constrained")
    widths = [1, 2.6] if nuclei else [1]
    panels = figure.subplots(len(regions), len(widths), squeeze=False, sharey=True, width_ratios=widths)
    for region, line in zip(regions, panels, strict=True):
        part = frame[frame["region"] == region]
        of_maps = part[part["nucleus"] == ""].set_index("map").reindex(maps)
        _bars(line[0], np.arange(len(maps)), of_maps, 0.7, maps)
        line[0].set_xticks(np.arange(len(maps)), [WORDS[name] for name in maps])
        line[0].set_ylabel(f"drop of the scan AUC\n{region} input")
        if not nuclei:
            continue
        for place, kind in enumerate(kinds):
            of_kind = part[part["map"] == kind].set_index("nucleus").reindex(nuclei)
            places = np.arange(len(nuclei)) + (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
            _bars(line[1], places, of_kind, 0.72 / len(kinds), [kind] * len(nuclei), f"in {WORDS[kind]}")
        line[1].set_xticks(np.arange(len(nuclei)), nuclei)
    panels[0][0].set_title("hidden: a map", fontsize=10)
    if nuclei:
        panels[0][1].set_title("hidden: a nucleus", fontsize=10)
        handles, names = panels[0][1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower right", frameon=False, fontsize=8, ncols=len(kinds))
    figure.suptitle(titled(TITLE, simulated, figure))
    return figure


def _bars(
    axes: Axes, places: np.ndarray, rows: pd.DataFrame, width: float, kinds: Sequence[str], label: str = ""
) -> None:
    """Bars of `drop` with their intervals; what was not measured has none."""
    for place, kind, row in zip(places, kinds, rows.to_dict("records"), strict=True):
        _bar(axes, place, row, width, kind, label)
        label = ""
    axes.axhline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _bar(axes: Axes, place: float, row: Mapping[Any, Any], width: float, kind: str, label: str) -> None:
    style = _STYLES[kind]
    colours: dict[str, Any] = {"color": style.colour, "alpha": 0.6, "hatch": style.hatch, "edgecolor": "#33475b"}
    axes.bar(place, row["drop"], width=width, label=label or None, **colours)
    axes.vlines(place, row["drop_low"], row["drop_high"], color="#33475b")
