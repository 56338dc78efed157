"""Whether what was measured of nuclei is still of the maps that are there."""

import os
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.maps.scan import MAPS, Scan
from scripts.maps.sidecars import with_sidecars
from scripts.runs.finished import Files, of_these

#: What a scan's file is called, behind its name, that keeps what its nuclei were measured in.
STATS = "desc-nuclei_stats.json"


def measured_files(scan: Scan) -> Files:
    """What nuclei are measured in: the three maps that every scan has, with their sidecars."""
    return with_sidecars({"maps": scan.maps[: len(MAPS)]})


def changed_since(nuclei_table: str | os.PathLike, scans: Sequence[Scan]) -> list[Scan]:
    """The scans whose maps are others than when their nuclei were measured, told by what `configs/nuclei.yaml` keeps
    beside its table; of a table that lies alone nobody can tell.

    Args:
        nuclei_table: `nuclei.tsv`.
        scans: of the cohort; refused ones are none of them.
    """
    changed = []
    for scan in scans:
        stats = Path(nuclei_table).parent / scan.participant_id / "anat" / f"{scan.scan_id}_{STATS}"
        if scan.refused is not None or not stats.is_file():
            continue
        try:
            basis = read_json(stats, "nuclei of a scan").get("Basis")
        except InputError:
            basis = None
        if not of_these(measured_files(scan), basis):
            changed.append(scan)
    return changed


def check_current(nuclei_table: str | os.PathLike, scans: Sequence[Scan]) -> None:
    """Refuse a table of nuclei that were measured in other maps than are there.

    Raises:
        InputError: names the first scan.
    """
    if changed := changed_since(nuclei_table, scans):
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise InputError(
            f"{nuclei_table}: the maps of {changed[0].scan_id}{more} changed since their nuclei were measured; run"
            " configs/nuclei.yaml again"
        )
