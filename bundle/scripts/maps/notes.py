"""What is to be said of each scan of a cohort, found while it was preprocessed: a table beside the results."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.files.table import read_table
from scripts.files.writing import write_table
from scripts.registration.t1w_grid import in_words

COLUMNS = ("participant_id", "scan_id", "box_source", "box_confidence", "t1w_registration", "flags")


def write_notes(path: str | os.PathLike, *datasets: Sequence[Mapping[str, Any]]) -> None:
    """Write a row a scan: where its box is from, how its T1W was registered, and what is unlikely about its maps.

    Args:
        path: of the table, TSV; what does not apply is `n/a`, several flags have semicolons between them.
        datasets: items with `participant_id`, `scan_id` and `notes` (`scripts.maps.transforms.NoteScand`).
    """
    rows = [row_of(item) for dataset in datasets for item in dataset]
    write_table(path, COLUMNS, sorted(rows, key=lambda row: row["scan_id"]))


def row_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """A scan's row."""
    notes = json.loads(item["notes"])
    row = {"participant_id": item["participant_id"], "scan_id": item["scan_id"]}
    row |= {name: notes[name] for name in ("box_source", "box_confidence") if name in notes}
    if "t1w_registration" in notes:
        row["t1w_registration"] = in_words(notes["t1w_registration"])
    return {**row, "flags": "; ".join(notes.get("flags", ())) or "n/a"}


def flagged(path: str | os.PathLike) -> list[tuple[str, str]]:
    """Each scan of such a table whose maps are unlikely, and why; none where there is no table."""
    if not Path(path).exists():
        return []
    rows = read_table(path, ["scan_id", "flags"], cure="run it again")
    return [(row["scan_id"], row["flags"]) for row in rows if row["flags"] != "n/a"]
