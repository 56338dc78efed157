"""Directions of the body: along the axes of an array, and in the world coordinates of formats."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np

#: Orientation of a scan in memory: H to posterior, W to the patient's left, S to superior (nibabel's axis codes).
AXCODES = "PLS"
#: World coordinates of DICOM and ITK (x to the left, y to the back) to those of NIfTI, and back: its own inverse.
LPS_RAS = np.diag([-1.0, -1.0, 1.0])


def oriented_box(box: Sequence[Sequence[int]], stored_affine: np.ndarray, affine: np.ndarray) -> list[list[int]]:
    """Voxel ranges of a box after the array's axes were permuted and flipped.

    Args:
        box: half-open ranges along the stored axes.
        stored_affine, affine: `[4, 4]` voxel-to-world of the stored and of the oriented array.
    """
    corners = np.array([[low - 0.5, high - 0.5] for low, high in box])
    world = stored_affine @ np.vstack([corners, np.ones((1, 2))])
    moved = np.rint(np.linalg.solve(affine, world)[:3] + 0.5).astype(int)
    return [[int(a), int(b)] for a, b in zip(moved.min(axis=1), moved.max(axis=1), strict=True)]


def oriented(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A NIfTI image with its axes in the order of AXCODES."""
    wanted = nib.orientations.axcodes2ornt(AXCODES)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
