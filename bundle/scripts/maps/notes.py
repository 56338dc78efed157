"""What is to be said of each scan of a cohort, found while it was preprocessed: a table beside the results."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.files.nifti import read_header
from scripts.files.table import MISSING, read_table
from scripts.files.writing import write_table
from scripts.maps.bids import checked_box
from scripts.maps.scan import Scan
from scripts.registration.t1w_grid import in_words

COLUMNS = ("participant_id", "scan_id", "box_source", "box_confidence", "box", "t1w_registration", "flags")


def write_notes(path: str | os.PathLike, *datasets: Sequence[Mapping[str, Any]]) -> None:
    """Write a row a scan: its box and where that is from, how its T1W was registered, and what is unlikely about its
    maps.

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
    if "box_voxels" in notes:
        row["box"] = json.dumps(notes["box_voxels"])
    if "t1w_registration" in notes:
        row["t1w_registration"] = in_words(notes["t1w_registration"])
    return {**row, "flags": "; ".join(notes.get("flags", ())) or "n/a"}


def flagged(path: str | os.PathLike) -> list[tuple[str, str]]:
    """Each scan of such a table whose maps are unlikely, and why; none where there is no table."""
    if not Path(path).exists():
        return []
    rows = read_table(path, ["scan_id", "flags"], cure="run it again")
    return [(row["scan_id"], row["flags"]) for row in rows if row["flags"] != "n/a"]


def cut_as_noted(path: str | os.PathLike, scans: Sequence[Scan]) -> list[Scan]:
    """Scans with the boxes that the network's input was cut by, annotated and found ones alike.

    Args:
        path: of a table from `write_notes`. Where there is none, or one of version 0.10 or before, which has no boxes,
            scans keep the annotated box that they may have; so does a scan without a row.
        scans: of that cohort.

    Raises:
        InputError: see `cut_by`.
    """
    if not Path(path).exists():
        return list(scans)
    rows = read_table(path, ["scan_id"], cure="run it again")
    noted = {row["scan_id"]: row["box"] for row in rows if "box" in row}
    return [cut_by(scan, noted[scan.scan_id], path) if scan.scan_id in noted else scan for scan in scans]


def cut_by(scan: Scan, noted: Any, path: str | os.PathLike) -> Scan:
    """A scan with the box that its network input was cut by.

    Args:
        scan: as found in its cohort, with the annotated box if any.
        noted: the box, as it is or as JSON text; None, or what is missing in a table: the whole scan was the input.
        path: of the file that says so.

    Raises:
        InputError: no box, or none of these maps.
    """
    if noted is None or noted in MISSING:
        return replace(scan, box=None)
    try:
        box = checked_box(json.loads(noted) if isinstance(noted, str) else noted, path)
    except (ValueError, RecursionError, InputError) as error:
        raise InputError(f"{path}: the box of {scan.scan_id} is {noted!r:.80}, which is none; run it again") from error
    shape = read_header(scan.maps[0]).shape
    if any(low < 0 or high > size for (low, high), size in zip(box, shape, strict=False)):
        raise InputError(
            f"{path}: the box of {scan.scan_id}, {box}, reaches outside its maps, which are others now; run it again"
        )
    return replace(scan, box=box)
