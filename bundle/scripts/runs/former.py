"""Results of scans that the input does not hold any more, and tables that somebody changed: all stays, and one line
says so."""

import itertools
import logging
import os
from collections.abc import Collection
from pathlib import Path

from scripts.runs.finished import content_of_file

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


def keep_changed(path: Path, written: str | None) -> Path | None:
    """Rename a file that somebody changed since it was written, before it is written anew; one line says so.

    Args:
        path: of the file, which may be missing or, of a full disk, empty.
        written: its SHA-256 as it was written; None where nothing says it, so that nothing is kept.

    Returns:
        what it is called now, `NAME_of_yours` with a number where that is taken; None where it was not changed.
    """
    if written is None or not path.is_file() or not path.stat().st_size or content_of_file(path) == written:
        return None
    numbers = itertools.chain([""], (f"_{n}" for n in itertools.count(2)))
    name, dot, ending = path.name.partition(".")  # .nii.gz is one ending
    names = (path.with_name(f"{name}_of_yours{number}{dot}{ending}") for number in numbers)
    kept = next(free for free in names if not os.path.lexists(free))
    path.rename(kept)
    LOGGER.warning("%s was changed since it was written, so it is kept as %s", path.name, kept.name)
    return kept
