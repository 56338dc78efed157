"""By what a scan is known again, whatever its files are called and whatever program saved them again."""

import hashlib
import os
from collections.abc import Collection, Iterable

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from scripts.files.nifti import read_voxels
from scripts.files.writing import sha256


def known_as(path: str | os.PathLike) -> tuple[str, str]:
    """SHA-256 of a scan's first map, and of its file's bytes, which older calibrations name alone.

    Args:
        path: NIfTI of the first map, or of all maps, of which the first counts.

    Returns:
        of the map: of its shape and voxels as float32, in the order of RAS, so that neither compression nor header nor
        the order in which they are stored changes it; of the file.

    Raises:
        InputError: see `scripts.files.nifti.read`.
    """
    voxels, affine = read_voxels(path)
    first = apply_orientation(voxels[..., 0] if voxels.ndim == 4 else voxels, io_orientation(affine))
    digest = hashlib.sha256(str(first.shape).encode())
    digest.update(np.ascontiguousarray(first.T, "<f4").data)  # as NIfTI orders them
    return digest.hexdigest(), sha256(path)


def met_before(names: Iterable[str], seen: Collection[str], calibrated_by: Collection[str]) -> str | None:
    """How weights know a scan: `calibrated` (alone, it did not train them), `seen` (it may have), None (not).

    Args:
        names: from `known_as`.
        seen, calibrated_by: lists of a calibration, the second of those who did not train the weights.
    """
    found = {*names} & {*seen, *calibrated_by}
    return None if not found else "calibrated" if found <= {*calibrated_by} else "seen"
