"""Results of scans that the input does not hold any more: they stay where they are, and one line says so."""

import logging
import os
from collections.abc import Collection
from pathlib import Path

LOGGER = logging.getLogger(__name__)


def say_former(folder: str | os.PathLike, ending: str, scan_ids: Collection[str], table: str) -> int:
    """Log one line if an output folder holds results of scans that are not among those of this run.

    Nothing is removed: perhaps the run is of a part of the cohort, or the other results are all that is left.

    Args:
        folder: the output folder.
        ending: what a result's file is called behind the name of its scan, as `_prediction.json`.
        scan_ids: the scans of this run.
        table: the table of this run, which has no row of those results.

    Returns:
        how many results are of other scans.
    """
    found = {path.name.removesuffix(ending) for path in Path(folder).glob(f"*/**/*{ending}")}
    former = len(found - set(scan_ids))
    if former:
        LOGGER.warning(
            "%d result%s in output_dir of scans that this input does not hold; %s stay%s, and %s is without",
            former, *(("", "it", "s") if former == 1 else ("s", "they", "")), table,
        )  # fmt: skip
    return former
