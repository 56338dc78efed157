"""One map under two names: told by its voxels, whatever program compressed or saved it again."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from scripts.errors import InputError
from scripts.files.nifti import first_values, read_voxels
from scripts.maps.scan import Scan

#: So many voxels that are not zero tell two maps of people apart.
_VALUES = 256


def check_no_copies(scans: Sequence[Scan]) -> None:
    """Refuse two participants with one and the same map: a copy in a training fold tells of its twin in the test fold.

    Of each map only the first voxels that are not zero are read, some ms a file; all of it where those of two
    participants are equal.

    Raises:
        InputError: names both.
    """
    for number, name in enumerate(scans[0].files() if scans else ()):
        alike: dict[bytes, list[Scan]] = defaultdict(list)
        for scan in scans:
            alike[first_values(scan.maps[number], _VALUES)].append(scan)
        for group in alike.values():
            if len({scan.participant_id for scan in group}) > 1:
                _compare(group, number, name)


def _compare(scans: Sequence[Scan], number: int, name: str) -> None:
    """Compare all voxels of a map of some scans."""
    first: dict[bytes, Scan] = {}
    for scan in scans:
        path = scan.maps[number]
        other = first.setdefault(hashlib.sha256(np.ascontiguousarray(read_voxels(path)[0]).data).digest(), scan)
        if other.participant_id != scan.participant_id:
            raise InputError(
                f"{path}: is a copy of the {name} of {other.participant_id!r}; each participant needs maps of their"
                " own, so correct or remove one of the two"
            )
