"""All scans of a cohort localised, with a table and a page of pictures to look at before anything is trained."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.errors import InputError
from scripts.failures import called, log_of, why
from scripts.localise import LEAST_IRON
from scripts.localiser import Localiser
from scripts.plausibility import iron_flag, region_flags
from scripts.provenance import check_output_dir, write_aside, write_table
from scripts.transforms import reading

COLUMNS = ("participant_id", "scan_id", "status", "confidence", "holds_annotation", "box", "flags", "message")


def localise_cohort(
    output_dir: str | os.PathLike,
    scans: Sequence[Mapping[str, Any]],
    localiser: Localiser,
    annotated_too: bool,
    resample_t1w: str = "refuse",
) -> None:
    """Localise scans into `output_dir`: boxes and pictures (see `Localiser`), `localise.tsv`, `index.html`.

    Args:
        output_dir: the derivative's root.
        scans: from `scripts.cohort.chosen_scans`.
        localiser: keeps what it finds in `output_dir`.
        annotated_too: also scans that have a box.
        resample_t1w: `refuse` or `rigid`: what is done with a T1W on another grid.

    Raises:
        InputError: some scans were refused; the table says which and why.
    """
    folder = check_output_dir(output_dir, 1e6 * len(scans))
    wanted = [scan for scan in scans if annotated_too or scan.get("box") is None]
    if not wanted:
        raise InputError("every scan has an annotated box; use --annotated_too true to find boxes all the same")
    localiser.ready()
    rows = [row_of(folder, scan, localiser, resample_t1w) for scan in tqdm(wanted, desc="localisation", unit="scan")]
    write_table(folder / "localise.tsv", COLUMNS, rows)
    write_aside(folder / "index.html", lambda part: Path(part).write_text(page(folder, rows, localiser)))
    bad = [row for row in rows if row["status"] != "ok"]
    print(f"{len(rows) - len(bad)} of {len(rows)} scans localised; look at {folder / 'index.html'}")
    if bad:
        raise InputError(
            f"{len(bad)} of {len(rows)} scans were refused, the others are done; {folder / 'localise.tsv'} says why"
            f" (first: {bad[0]['message']})"
        )


def row_of(folder: Path, scan: Mapping[str, Any], localiser: Localiser, resample_t1w: str) -> dict[str, Any]:
    """Localise one scan: a row of the table, and `picture` where there is one."""
    log = log_of(folder, scan["scan_id"])
    row: dict[str, Any] = {"participant_id": scan["participant_id"], "scan_id": scan["scan_id"], "status": "ok"}
    try:
        if "refused" in scan:
            raise InputError(scan["refused"])
        stem = localiser.where(scan["image"][0])[1]
        row["picture"] = Path(f"{stem}_desc-basalganglia_box.png")
        image = reading(resample_t1w)(dict(scan))["image"]
        found = localiser(image.numpy(), np.asarray(image.affine, float), scan["image"][0])
    except Exception as error:
        return {**row, "status": "refused", "message": why(error, log, called({"maps": scan.get("image", [])}))}
    log.unlink(missing_ok=True)  # of an earlier try
    flags = region_flags(image.numpy(), found.box) + iron_flag(found.measures.get("iron", LEAST_IRON), LEAST_IRON)
    row |= {"confidence": found.confidence, "box": found.box, "flags": "; ".join(flags) or "n/a"}
    if scan.get("box") is not None:
        row["holds_annotation"] = round(share_held(scan["box"], found.box), 3)
    return row


def share_held(annotated: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> float:
    """Share of the annotated box that lies in the found one, 0..1."""
    common = [min(b, d) - max(a, c) for (a, b), (c, d) in zip(annotated, found, strict=True)]
    return float(np.prod(np.maximum(common, 0)) / np.prod([b - a for a, b in annotated]))


def page(folder: Path, rows: Sequence[Mapping[str, Any]], localiser: Localiser) -> str:
    """The page: refused scans first, then the least certain."""
    order = sorted(rows, key=lambda row: row.get("confidence", -1.0))
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Basal ganglia localisation</title>",
        "<style>body{font:15px sans-serif;margin:2em;background:#111;color:#eee}img{max-width:100%}"
        "p.refused{color:#ff9a7a}</style>",
        f"<h1>Basal ganglia localisation</h1><p>{len(rows)} scans, the least certain first. A good picture shows the"
        " box (yellow) around the bright nuclei of QSM, and the hull of caudate, putamen and pallidum (blue) on them."
        f" Below a confidence of {localiser.least_confidence:g} a scan is refused. Research use only.</p>",
    ]
    for row in order:
        title = html.escape(row["scan_id"])
        if row["status"] != "ok":
            parts.append(f"<h2>{title}: refused</h2><p class='refused'>{html.escape(row['message'])}</p>")
        else:
            held = row.get("holds_annotation")
            beside = "" if held is None else f", holds {100 * held:.0f} % of the annotated box"
            parts.append(f"<h2>{title}: confidence {row['confidence']:.2f}{beside}</h2>")
            parts += [f"<p class='refused'>{html.escape(row['flags'])}</p>"] * (row["flags"] != "n/a")
        if row["picture"].exists():
            link = html.escape(os.path.relpath(row["picture"], folder))
            parts.append(f"<img src='{link}' alt='box of {title}' loading='lazy'>")
    return "\n".join(parts) + "\n"
