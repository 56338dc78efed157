"""One map under two names: told by its voxels, whatever program compressed or saved it again."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from scripts.errors import InputError
from scripts.files.nifti import first_values, read_voxels
from scripts.maps.scan import Scan

#: So many voxels that are not zero tell two maps of people apart.
_VALUES = 256


def check_no_copies(scans: Sequence[Scan]) -> None:
    """Refuse two participants with one and the same map, since a copy in a training fold tells of its twin in the test
    fold; and two scans of one participant with the same first map. (Their T1w may be one: some sites scan it once.)

    Of each map only the first voxels that are not zero are read, some ms a file; all of it where those of two scans
    are equal.

    Raises:
        InputError: names both.
    """
    for number, name in enumerate(scans[0].files() if scans else ()):
        for scan, twin in _copies(scans, number, across_participants=number > 0):
            raise InputError(f"{scan.maps[number]}: {_said(name, scan, twin)}")


def without_copies(scans: Sequence[Scan]) -> list[Scan]:
    """The scans, but those with a map that is also another participant's, or whose first map is also another scan's,
    are refused: nobody knows of which of the two it is. What cannot be read is for its own turn to say."""
    found = list(scans)
    usable = [scan for scan in scans if scan.refused is None]
    for number, name in enumerate(usable[0].files() if usable else ()):
        twins: dict[str, Scan] = {}
        for scan, twin in _copies(usable, number, across_participants=number > 0, unreadable_too=True):
            twins.setdefault(scan.scan_id, twin)
            twins.setdefault(twin.scan_id, scan)
        for place, scan in enumerate(found):
            if scan.refused is None and scan.scan_id in twins:
                said = f"{Path(scan.maps[number]).name}: {_said(name, scan, twins[scan.scan_id])}"
                found[place] = replace(scan, maps=(), refused=said)
    return found


def _said(name: str, scan: Scan, twin: Scan) -> str:
    """That two scans have one map, and what to do."""
    of = twin.participant_id if twin.participant_id != scan.participant_id else twin.scan_id
    whom = "participant" if twin.participant_id != scan.participant_id else "scan"
    return f"is a copy of the {name} of {of!r}; each {whom} needs maps of its own, so correct or remove one of the two"


def _digest(path: str) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(read_voxels(path)[0]).data).digest()


def _copies(
    scans: Sequence[Scan], number: int, across_participants: bool = False, unreadable_too: bool = False
) -> Iterator[tuple[Scan, Scan]]:
    """Scans whose map is that of one before them, with that one; of other participants alone if asked so. What cannot
    be read raises, or is like no other."""

    def told(read: Callable[[str], bytes], scan: Scan) -> bytes:
        try:
            return read(scan.maps[number])
        except InputError:
            if not unreadable_too:
                raise
            return scan.scan_id.encode()

    alike: dict[bytes, list[Scan]] = defaultdict(list)
    for scan in scans:
        alike[told(partial(first_values, count=_VALUES), scan)].append(scan)
    for group in alike.values():
        if len({scan.participant_id if across_participants else scan.scan_id for scan in group}) < 2:
            continue
        first: dict[bytes, Scan] = {}
        for scan in group:
            other = first.setdefault(told(_digest, scan), scan)
            if other is not scan and not (across_participants and other.participant_id == scan.participant_id):
                yield scan, other
