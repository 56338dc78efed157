"""One scan's failure as one line of a table: why, without anybody's name, while the other scans go on."""

import os
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.errors import InputError, input_error_in, reason, system_reason
from scripts.files.parts import part_file

#: A file that BIDS entities name; other names may hold anybody's.
_BIDS = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*(?:_[A-Za-z0-9]+)?(?:\.[A-Za-z0-9.]+)?")
_PATH = re.compile(r"(?<![\w./<])(?:~|\.{1,2})?/(?:[^\s'\",;:()]+/)*[^\s'\",;:()]+")


@dataclass(frozen=True)
class Refused:
    """A scan that cannot be worked on, in the place where it would be.

    Attributes:
        participant_id, scan_id: which.
        error: why.
    """

    participant_id: str
    scan_id: str
    error: Exception


def why(error: BaseException, log: str | os.PathLike, places: Mapping[str, str] | None = None) -> str:
    """The reason of a scan's failure, in one line for its row. What nobody expected leaves its traceback in a file.

    Args:
        error: what was raised.
        log: file for the traceback of an unexpected error, beside the table.
        places: paths that the message may hold -> what to call them instead.
    """
    known = input_error_in(error)
    if known is not None:
        return without_paths(str(known), places or {})
    system = system_reason(error)
    if system is not None:
        return system
    kind = type(error).__name__
    try:
        with part_file(log) as part:
            Path(part).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as problem:
        return f"unexpected {kind}, and its log could not be written ({reason(problem).split(':')[0]}); report it"
    return f"unexpected {kind}; {Path(log).name} says where: please report it"


#: Status of a scan that nobody has worked on; one that failed has `failed`.
NOT_DONE = "not done yet"


def check_all_done(rows: Sequence[Mapping[str, Any]], table: str | os.PathLike) -> None:
    """At a command's end, when its table is written: say how many of its scans failed, if any.

    Args:
        rows: of the table: `scan_id`, `status` (`ok` where it is done) and `message`.
        table: where it lies.

    Raises:
        InputError: some failed, or are not done yet.
    """
    bad = [row for row in rows if row["status"] != "ok"]
    waiting = sum(row["status"] == NOT_DONE for row in bad)
    counts = {"failed": len(bad) - waiting, NOT_DONE: waiting}
    parts = [f"{count} of {len(rows)} scans {what}" for what, count in counts.items() if count]
    if bad:
        raise InputError(
            f"{' and '.join(parts)}, the others are done; {table} says why"
            f" (first: {bad[0]['scan_id']}: {bad[0]['message']})"
        )


def without_paths(message: str, places: Mapping[str, str]) -> str:
    """A message on one line whose paths are replaced: the given ones by what they are called, others by their last
    part where BIDS named it, else by `...`."""
    for place in sorted(places, key=len, reverse=True):
        if place.strip("./"):
            name = places[place].replace("\\", r"\\")
            message = re.sub(rf"(?<![\w./]){re.escape(place)}(?![\w])", name, message)
    message = _PATH.sub(lambda found: bids_name(found[0]), message)
    return " ".join(message.split())


def called(files: Mapping[str, Sequence[str]], scan_id: str = "") -> dict[str, str]:
    """Paths of a scan's files -> what its row calls them.

    Args:
        files: by map.
        scan_id: stands in the row anyway, so a file that is called so is named.

    Returns:
        the file's name where BIDS or the scan's name made it; else the map's, and how the file's name ends.
    """
    found = {}
    for name, paths in files.items():
        for path in map(str, paths):
            last = path.rstrip("/").rsplit("/", 1)[-1]
            known = scan_id and re.fullmatch(rf"{re.escape(scan_id)}_\w+\.nii(\.gz)?", last)
            kept = last if known else bids_name(path)
            ending = re.search(rf"(_{name})?(\.nii)?(\.gz)?$", last)
            tail = ending[0] if ending else ""
            found[path] = f"{name} (*{tail})" if kept == "..." and tail else name if kept == "..." else kept
    return found


def bids_name(path: str) -> str:
    """The last part of a path if BIDS names it, else `...`."""
    name = path.rstrip("/").rsplit("/", 1)[-1]
    return name if _BIDS.fullmatch(name) else "..."


def log_of(folder: str | os.PathLike, scan_id: str) -> Path:
    """Where the traceback of a scan goes: beside the tables, whatever the scan is called."""
    return Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', scan_id).lstrip('.') or 'scan'}_error.log"
