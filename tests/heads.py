"""Simulated heads for tests of localisation and nuclei: a handful, each made once a session."""

import functools
import sys

import nibabel as nib
import numpy as np
from blobs import BUNDLE, REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from moved_heads import MovedHead, moved_head, whole_head  # noqa: E402

from scripts.anatomy.atlas import LABELS, Templates

#: The template that the bundle carries.
TEMPLATE = str(BUNDLE / "models" / "template.nii.gz")
BASAL_GANGLIA = [value for name, value in LABELS.items() if "thalamus" not in name]


@functools.cache
def templates() -> Templates:
    return whole_head()


@functools.cache
def head(number: int, **how) -> MovedHead:
    """Head `number`, with keyword arguments of `moved_heads.moved_head` (plain values)."""
    return moved_head(number, templates(), **how)


def tight(labels: np.ndarray) -> np.ndarray:
    """Half-open ranges of the voxels of caudate, putamen and pallidum: `[3, 2]`."""
    found = np.argwhere(np.isin(labels, BASAL_GANGLIA))
    return np.stack([found.min(0), found.max(0) + 1], 1)


def held(labels: np.ndarray, box: list[list[int]]) -> float:
    """Share of the basal ganglia's voxels inside a box."""
    wanted = np.isin(labels, BASAL_GANGLIA)
    return float(wanted[tuple(slice(*pair) for pair in box)].sum() / wanted.sum())


def write_scan(root, participant_id: str, scan: MovedHead) -> None:
    folder = root / participant_id / "anat"
    folder.mkdir(parents=True)
    for suffix, volume in zip(("Chimap", "R2starmap", "T1w"), scan.maps, strict=True):
        nib.save(nib.Nifti1Image(volume, scan.affine), folder / f"{participant_id}_{suffix}.nii.gz")
