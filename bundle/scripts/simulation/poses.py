"""One random head per subject: where it lies in the scanner, its size and warp, and the template sampled there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.anatomy.atlas import CHANNELS, NUCLEI, Templates

# Where the middle of every scan lies in MNI space, mm: between the basal ganglia, so that they are always in view.
SLAB_CENTRE_MM = (0.0, -18.0, 6.0)


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
