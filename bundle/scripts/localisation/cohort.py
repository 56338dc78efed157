"""All scans of a cohort localised, with a table and a page of pictures to look at before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.files.writing import check_output_dir, write_table
from scripts.localisation.localiser import DESCRIPTION, TABLES, Localiser, check_kept
from scripts.maps.plausibility import LEAST_IRON, found_flags, region_flags
from scripts.maps.scan import Scan
from scripts.maps.transforms import reading
from scripts.provenance import RESEARCH_ONLY
from scripts.registration.t1w_grid import in_words
from scripts.reporting import page
from scripts.runs.engines import Engine, LocalEngine, run_jobs
from scripts.runs.failures import called, check_all_done, log_of, why
from scripts.runs.former import say_former
from scripts.runs.outputs import check_derivative, describe

COLUMNS = (
    "participant_id", "scan_id", "status", "confidence", "holds_annotation", "box", "t1w_registration", "flags",
    "message",
)  # fmt: skip


def localise_cohort(
    output_dir: str | os.PathLike,
    scans: Sequence[Scan],
    localiser: Localiser,
    annotated_too: bool,
    resample_t1w: str = "refuse",
    engine: Engine | None = None,
) -> None:
    """Localise scans into `output_dir`: boxes and pictures (see `Localiser`), `localise.tsv`, `index.html`.

    Args:
        output_dir: the derivative's root.
        scans: from `scripts.maps.bids.chosen_scans`.
        localiser: keeps what it finds in `output_dir`.
        annotated_too: also scans that have a box.
        resample_t1w: `refuse` or `rigid`: what is done with a T1W on another grid.
        engine: where scans are worked on; None: in this process.

    Raises:
        InputError: see `check_derivative`; or some scans were refused, and the table says which and why.
    """
    wanted = [scan for scan in scans if annotated_too or scan.box is None]
    if not wanted:
        raise InputError("every scan has an annotated box; use --annotated_too true to find boxes all the same")
    check_kept(localiser, wanted, "output_dir")
    check_derivative(output_dir, [*TABLES, *(log_of("", scan.scan_id) for scan in wanted)], "output_dir")
    folder = check_output_dir(output_dir, 1e6 * len(scans))
    localiser.ready()
    describe(folder, DESCRIPTION)
    jobs, shared = {scan.scan_id: scan for scan in wanted}, (folder, localiser, resample_t1w)
    engine = engine or LocalEngine(["cpu"], stay=True)
    made = dict(run_jobs(engine, work, shared, jobs, title="localisation", unit="scan"))
    rows = [
        refused(folder, scan, outcome) if isinstance(outcome := made[scan.scan_id], Exception) else outcome
        for scan in wanted
    ]
    write_table(folder / "localise.tsv", COLUMNS, rows)
    page.write_page(
        folder / "index.html",
        "localisation.html",
        title="Basal ganglia localisation",
        note=RESEARCH_ONLY,
        scans=shown(folder, rows),
        least_confidence=f"{localiser.least_confidence:g}",
        margin_mm=f"{localiser.margin_mm:g}",
        beside=True,
    )
    say_former(folder, "_desc-basalganglia_box.json", {scan.scan_id for scan in scans}, "localise.tsv")
    bad = [row for row in rows if row["status"] != "ok"]
    print(f"{len(rows) - len(bad)} of {len(rows)} scans localised; look at {folder / 'index.html'}")
    check_all_done(rows, folder / "localise.tsv")


def work(shared: tuple[Path, Localiser, str], scan: Scan, device: str) -> dict[str, Any]:
    """`row_of` as a job of an engine."""
    folder, localiser, resample_t1w = shared
    return row_of(folder, scan, localiser, resample_t1w)


def refused(folder: Path, scan: Scan, error: Exception) -> dict[str, Any]:
    """The row of a scan that could not be localised."""
    row = {"participant_id": scan.participant_id, "scan_id": scan.scan_id, "status": "refused"}
    return {**row, "message": why(error, log_of(folder, scan.scan_id), called(scan.files(), scan.scan_id))}


def row_of(folder: Path, scan: Scan, localiser: Localiser, resample_t1w: str) -> dict[str, Any]:
    """Localise one scan: a row of the table, and `picture` where there is one."""
    log = log_of(folder, scan.scan_id)
    row: dict[str, Any] = {"participant_id": scan.participant_id, "scan_id": scan.scan_id, "status": "ok"}
    try:
        scan.check_usable()
        stem = localiser.where(scan.maps[0])[1]
        row["picture"] = Path(f"{stem}_desc-basalganglia_box.png")
        image = reading(resample_t1w)(scan.item())["image"]
        found = localiser(image.numpy(), np.asarray(image.affine, float), scan.maps[0])
    except Exception as error:
        return {**row, **refused(folder, scan, error)}
    log.unlink(missing_ok=True)  # of an earlier try
    flags = region_flags(image.numpy(), found.box) + found_flags(found.measures, LEAST_IRON)
    if "t1w_registration" in image.meta:
        row["t1w_registration"] = in_words(json.loads(image.meta["t1w_registration"]))
    row |= {"confidence": found.confidence, "box": found.box, "flags": "; ".join(flags) or "n/a"}
    if scan.box is not None:
        row["holds_annotation"] = round(share_held(scan.box, found.box), 3)
    return row


def share_held(annotated: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> float:
    """Share of the annotated box that lies in the found one, 0..1."""
    common = [min(b, d) - max(a, c) for (a, b), (c, d) in zip(annotated, found, strict=True)]
    return float(np.prod(np.maximum(common, 0)) / np.prod([b - a for a, b in annotated]))


def shown(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the page says of each scan: refused ones first, then the least certain.

    Args:
        folder: of the page, which links to the pictures.
        rows: from `row_of`.
    """
    scans = []
    for row in sorted(rows, key=lambda row: row.get("confidence", -1.0)):
        if row["status"] != "ok":
            heading, words = f"{row['scan_id']}: refused", row["message"]
        else:
            held = row.get("holds_annotation")
            beside = "" if held is None else f", holds {100 * held:.0f} % of the annotated box"
            heading = f"{row['scan_id']}: confidence {row['confidence']:.2f}{beside}"
            words = "" if row["flags"] == "n/a" else row["flags"]
        there = "picture" in row and row["picture"].exists()
        picture = os.path.relpath(row["picture"], folder) if there else ""
        scans.append({"name": row["scan_id"], "heading": heading, "words": words, "picture": picture})
    return scans
