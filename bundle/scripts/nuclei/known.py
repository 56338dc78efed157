"""What is known of a scan beside its maps: nuclei that configs/nuclei.yaml measured, and what is usual at its age."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.maps.bids import known_ages
from scripts.maps.scan import Scan
from scripts.model.nucleus_evidence import label_file
from scripts.nuclei.current import changed_since
from scripts.nuclei.table import NUCLEI_TABLE, read_tsv, rows_of

LOGGER = logging.getLogger(__name__)


def with_nuclei(scans: Sequence[Scan], source: Any, nuclei_table: str | os.PathLike | None) -> list[Scan]:
    """The scans with their nuclei and ages, where those are known; others as they are.

    Args:
        scans: from `scripts.inference.inputs.find_input`.
        source: what they were found in; a BIDS folder may hold `nuclei.tsv`, and `participants.tsv` with ages.
        nuclei_table: another `nuclei.tsv`; None takes the BIDS folder's, if there is one.

    Returns:
        The scans, in their order. Nuclei that were measured in other maps than are there now are left out, with a
        warning.

    Raises:
        InputError: the table that was asked for is missing or holds none of the scans, or a table is damaged.
    """
    asked = nuclei_table is not None
    root = Path(source) if isinstance(source, (str, os.PathLike)) and os.path.isdir(source) else None
    if nuclei_table is None and root is not None and os.path.lexists(root / NUCLEI_TABLE):
        nuclei_table = root / NUCLEI_TABLE
    rows = read_tsv(nuclei_table) if nuclei_table is not None else []
    measured = {row["scan_id"]: rows_of(row, nuclei_table or "nuclei") for row in rows}
    if asked and measured.keys().isdisjoint(scan.scan_id for scan in scans):
        raise InputError(
            f"{nuclei_table}: holds none of these scans (its first: {next(iter(measured))}); give nuclei_table that of"
            " this input, or leave it out"
        )
    changed = {scan.scan_id for scan in changed_since(nuclei_table, scans)} if nuclei_table is not None else set()
    people = {scan.participant_id for scan in scans}
    ages = known_ages(root / "participants.tsv", people) if root is not None else {}
    found = []
    for scan in scans:
        if scan.scan_id in changed:
            LOGGER.warning(
                "%s: its maps changed since its nuclei were measured, so those are not used; run configs/nuclei.yaml"
                " again", scan.scan_id,
            )  # fmt: skip
        elif (nuclei := measured.get(scan.scan_id)) is not None:
            labels = label_file(Path(nuclei_table or "").parent, scan.participant_id, scan.scan_id)
            scan = replace(scan, nuclei=nuclei, nuclei_labels=labels)
        if (age := ages.get(scan.participant_id)) is not None:
            scan = replace(scan, age=age)
        found.append(scan)
    return found
