"""One page about a batch of scans: how many, how the probabilities spread, what failed, how fast it went."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scripts.files.table import read_table
from scripts.inference.batch import RunFolder
from scripts.model.conformal import CANNOT_SAY
from scripts.model.trust import STRANGE, flags_and_notes
from scripts.reporting import page
from scripts.reporting.style import GROUP_STYLE
from scripts.runs.failures import NOT_DONE

BINS = 20


def scan_rows(table: str | os.PathLike) -> Iterator[dict[str, str]]:
    """The rows of `predictions.csv` that are of scans, one by one."""
    rows = read_table(table, ["scan_id", "status", "slice"], cure="run inference.yaml again")
    yield from (row for row in rows if not row["slice"])


def histogram(probabilities: Sequence[float], threshold: float | None, name: str = "P(HH)") -> Figure:
    """Number of scans by probability of HH, in the groups' colours on either side of the threshold.

    Args:
        probabilities: 0..1.
        threshold: None: it is not of these probabilities.
        name: what they are.
    """
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    counts, edges = np.histogram(probabilities, BINS, (0, 1))
    sides = [None if threshold is None else "HH" if low >= threshold else "HC" for low in edges[:-1]]
    colours = [GROUP_STYLE[side].colour if side else "0.6" for side in sides]
    bars = axes.bar(edges[:-1], counts, width=0.94 / BINS, align="edge", color=colours)
    axes.bar_label(bars, [count or "" for count in counts], fontsize=8)
    axes.margins(y=0.15)
    axes.set(xlim=(-0.005, 1.005), xlabel=name, ylabel="scans")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_summary(
    path: str | os.PathLike, table: str | os.PathLike, run: RunFolder, model: Mapping[str, Any], note: str
) -> None:
    """Write the batch's page beside its table, aside then renamed. It is computed from the table alone.

    Args:
        path: the HTML file; links to the scans' reports are relative to it.
        table: `predictions.csv`.
        run: the output folder: its settings, when it started, and how many scans were done before.
        model: from `scripts.inference.results.model_info`.
        note: the warning on top.
    """
    rows = list(scan_rows(table))
    done = [row for row in rows if row["status"] == "ok"]
    answers = Counter(row["answer"] for row in done if row.get("answer"))
    waiting = [row["scan_id"] for row in rows if row["status"] == NOT_DONE]
    # calibrated ones where there are such: two kinds side by side would be taken for one another
    key = "calibrated_probability_HH" if answers else "probability_HH"
    lines = [scan_line(row, run.path, key) for row in done]
    failed = [(row["scan_id"], row["message"]) for row in rows if row["status"] not in ("ok", NOT_DONE)]
    # by the answer where there are such; and what nobody should rely on is not counted as if one could
    said = Counter(line["answer"] or line["class"] for line in lines if not line["strange"])
    counts = [(name, said[name]) for name in ("HH", "HC", *([CANNOT_SAY] if answers else []))]
    if any(line["strange"] for line in lines):
        counts.append(("not to be relied on", sum(line["strange"] for line in lines)))
    seconds, fresh = time.perf_counter() - run.started, len(done) - run.resumed
    processes = f"{idist.get_world_size()} process{'es' if idist.get_world_size() > 1 else ''}"
    resumed = f"; {run.resumed} were done by an earlier run" if run.resumed else ""
    kind = "calibrated P(HH)" if answers else "the network's P(HH), not calibrated"
    threshold = run.settings.get("threshold")
    probabilities = [float(row[key]) for row in done if row.get(key)]
    drawn, picture = histogram(probabilities, None if answers else threshold, kind), BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "qnet"}):
        drawn.savefig(picture, format="svg", metadata={"Date": None})
    page.write_page(
        path,
        "batch.html",
        title=f"Q-Net: {len(rows)} scan{'' if len(rows) == 1 else 's'}",
        note=note,
        total=len(rows),
        counts=counts,
        flagged=sum(bool(flags_and_notes(flags_of(row))[0]) for row in rows),
        noted=sum(bool(flags_and_notes(flags_of(row))[1]) for row in rows),
        kind=kind,
        threshold=threshold,
        answers=bool(answers),
        error=run.settings.get("conformal_error"),
        histogram=page.embedded(picture.getvalue(), ".svg"),
        speed=f"{fresh} scan{'' if fresh == 1 else 's'} in {seconds:.0f} s ({fresh / seconds:.2f} scans/s, {processes})"
        f"{resumed}.",
        numbers=Path(table).name,
        failed=failed,
        waiting=waiting,
        scans=lines,
        weights=f"{model['name']} bundle {model['version']}; weights: sha256 {model['sha256']}",
    )


def flags_of(row: Mapping[str, str]) -> list[str]:
    """The flags in a row of the table."""
    return [flag for flag in (row.get("flags") or "").split("; ") if flag]


def scan_line(row: Mapping[str, str], folder: Path, key: str) -> dict[str, Any]:
    """A scan's row of the page, with its files in `folder`, reports first, by what their names end in.

    Args:
        row: of the table.
        folder: the run's.
        key: column of the probability that is shown.
    """
    flags, notes = flags_and_notes(flags_of(row))
    start = f"{row['scan_id']}_"
    endings = [
        path.name.removeprefix(start)
        for path in (folder / row["participant_id"]).glob("*_*")
        if path.name.startswith(start)
    ]
    endings.sort(key=lambda ending: (not ending.startswith("report"), ending))
    return {
        "name": row["scan_id"],
        "simulated": row.get("simulated") == "yes",
        "class": row["class"],
        "probability": float(row[key]) if row.get(key) else "",
        "answer": row.get("answer") or "",
        "files": [(ending, f"{row['participant_id']}/{start}{ending}") for ending in endings],
        "flags": flags,
        "notes": notes,
        "strange": any(flag.startswith(STRANGE) for flag in flags),
    }
