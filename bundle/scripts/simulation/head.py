"""A digital head for the scanner: susceptibility, R2*, T1 and proton density of brain, skull, scalp, neck and air.

Brain tissue takes its susceptibility and R2* from ``acquisition.tissue_maps`` and ``iron``. Further constants:

- air +9.4 ppm and cortical bone -2.1 ppm relative to water: Buch et al., Magn Reson Med 2015, 73:2185;
- T1 and proton density: ``water``.

The air-filled cavities and the neck are ellipsoids at their usual places: what matters is that their fields have the
size and reach of real ones. Fat's chemical shift is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from scripts.anatomy.atlas import NUCLEI, Templates
from scripts.simulation import acquisition, iron, poses
from scripts.simulation.subject import Head, Participant
from scripts.simulation.water import PROTON_DENSITY, T1_S, tissue_shares, water_and_rate

# Susceptibility relative to water, ppm.
AIR_PPM, BONE_PPM, SOFT_PPM = 9.4, -2.1, 0.0
# R2* (1/s) at 3 T of what is not brain.
SOFT_R2STAR, BONE_R2STAR = 30.0, 400.0
# Ellipsoids: centre and half axes in MNI mm.
_SOFT = (
    ((0, 38, -55), (68, 62, 70)),  # face and jaw
    ((0, -40, -100), (60, 62, 80)),  # neck
)
_AIR = (
    ((0, 16, -46), (13, 13, 10)),  # sphenoid sinus
    ((0, 46, -42), (12, 20, 12)),  # ethmoid cells
    ((-12, 74, -20), (11, 6, 10)),  # frontal sinuses
    ((12, 74, -20), (11, 6, 10)),
    ((-30, 46, -68), (13, 16, 16)),  # maxillary sinuses
    ((30, 46, -68), (13, 16, 16)),
    ((0, 62, -66), (12, 32, 20)),  # nose
    ((0, 8, -98), (10, 9, 50)),  # throat
    ((-54, -32, -46), (8, 12, 12)),  # mastoid cells and middle ear
    ((54, -32, -46), (8, 12, 12)),
    ((-70, -20, -42), (16, 4, 4)),  # ear canals
    ((70, -20, -42), (16, 4, 4)),
)
# Air comes no closer than this to the brain's hull, mm: fluid and a thin bone lie between.
_AIR_DISTANCE_MM = 4.0
# Where the head can be, relative to the middle of the scan, mm: a box that holds it for every pose.
_HEAD_BOX_MM = ((-96.0, 96.0), (-112.0, 126.0), (-172.0, 106.0))
# Voxels that are sampled at once, to keep memory low.
_CHUNK_VOXELS = 1_500_000


@dataclass(frozen=True)
class Grid:
    """The scan's grid, and the finer one on which the head is modelled.

    Attributes:
        matrix: voxels of the scan.
        affine: voxel to scanner (RAS+, mm), ``[4, 4]``; any rotation.
        supersampling: fine voxels along each side of a voxel.
        slice_share: how thick a slice is over the distance between slices; the rest is a gap that nobody sees.
    """

    matrix: tuple[int, int, int]
    affine: np.ndarray
    supersampling: tuple[int, int, int]
    slice_share: float = 1.0

    @property
    def slice_thickness_mm(self) -> float:
        """Thickness of a slice (third axis) without the gap."""
        return float(np.linalg.norm(self.affine[:3, 2])) * self.slice_share

    def voxel_mean(self, fine: torch.Tensor) -> torch.Tensor:
        """Mean over the fine voxels that each voxel sees: ``[..., H * a, W * b, S * c]`` to ``[..., H, W, S]``."""
        if tuple(self.supersampling) == (1, 1, 1):
            return fine
        a, b, c = self.supersampling
        h, w, s = (n // f for n, f in zip(fine.shape[-3:], self.supersampling, strict=True))
        apart = fine.reshape(*fine.shape[:-3], h, a, w, b, s, c)
        if self.slice_share >= 1.0:
            return apart.mean(dim=(-5, -3, -1))
        edges = np.clip(np.arange(c + 1) / c - 0.5, -self.slice_share / 2, self.slice_share / 2)
        weights = torch.from_numpy((np.diff(edges) / self.slice_share).astype(np.float32))
        return (apart.mean(dim=(-5, -3)) * weights).sum(-1)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of the fine voxels."""
        x, y, z = (float(d) for d in np.linalg.norm(self.affine[:3, :3], axis=0) / self.supersampling)
        return x, y, z

    @property
    def first(self) -> np.ndarray:
        """Scan voxel at which the fine grid starts (negative where the head reaches out of the scan)."""
        return self._extent()[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Fine voxels of the whole head and the scan."""
        low, high = self._extent()
        x, y, z = (int(n) for n in (high - low) * self.supersampling)
        return x, y, z

    @property
    def target(self) -> tuple[tuple[int, int], ...]:
        """Half-open ranges of fine voxels that lie in the scan."""
        starts = -self.first * self.supersampling
        return tuple((int(a), int(a + n * s)) for a, n, s in zip(starts, self.matrix, self.supersampling, strict=True))

    @property
    def fine_affine(self) -> np.ndarray:
        """Fine voxel to scanner, mm."""
        fine = self.affine.copy()
        fine[:3, :3] = self.affine[:3, :3] / self.supersampling
        # The first fine voxel's centre lies in the corner of the first voxel.
        corner = self.first - 0.5 + 0.5 / np.array(self.supersampling)
        fine[:3, 3] = self.affine[:3, 3] + self.affine[:3, :3] @ corner
        return fine

    def _extent(self) -> tuple[np.ndarray, np.ndarray]:
        corners = np.array(np.meshgrid(*_HEAD_BOX_MM, indexing="ij")).reshape(3, -1)
        index = np.linalg.inv(self.affine[:3, :3]) @ (corners - self.affine[:3, 3:])
        low = np.minimum(np.floor(index.min(1)), 0).astype(int)
        high = np.maximum(np.ceil(index.max(1)), self.matrix).astype(int)
        return low, high


def scan_affine(
    matrix: tuple[int, ...], spacing_mm: tuple[float, ...], tilt_deg: tuple[float, float, float]
) -> np.ndarray:
    """Affine of a scan whose middle is the isocentre.

    Args:
        matrix: voxels.
        spacing_mm: voxel size.
        tilt_deg: rotation of the slices about the scanner's x (right), y (front) and z (head) axis, one after the
            other, degrees; x is what planning along AC-PC needs.
    """
    rotation = Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(matrix) - 1) / 2.0)
    return affine


@dataclass(frozen=True)
class DigitalHead:
    """What there is before the scanner comes.

    Attributes:
        grid: the scan and the fine grid.
        chi: susceptibility relative to water, ppm, float32 of ``grid.shape``; air is ``AIR_PPM``.
        r2star, t1, pd: 1/s, s, and 1 = water; float32 of the fine voxels in the scan (``grid.target``).
        wm: white matter fraction, the same.
        brain: bool, the same: inside the brain's hull.
        nuclei: membership of each nucleus, float32 ``[4, ...]``, the same.
        left: bool, the same: left of the template's midline.
    """

    grid: Grid
    chi: torch.Tensor
    r2star: torch.Tensor
    t1: torch.Tensor
    pd: torch.Tensor
    wm: torch.Tensor
    brain: torch.Tensor
    nuclei: torch.Tensor
    left: torch.Tensor


def even_iron(age: float) -> Participant:
    """Somebody whose nuclei hold the published iron of an age (years), evenly."""
    names = [f"level_{name}" for name in ("all", *NUCLEI)]
    names += ["putamen_posterior", "caudate_front", "pallidum_lateral", "head", "pulvinar"]
    return Participant("", 0, age, "", "", dict.fromkeys(names, 0.0) | {"asymmetry": -np.inf})


def _stretched(volume: np.ndarray, xyz_mm: torch.Tensor, extent_mm: np.ndarray) -> torch.Tensor:
    """Values ``[C, ...]`` of a volume ``[C, a, b, c]`` whose first and last knots lie at +-``extent_mm``."""
    scaled = (xyz_mm / torch.from_numpy(extent_mm.astype(np.float32))[:, None, None, None]).flip(0)
    grid = scaled.permute(1, 2, 3, 0)[None]
    values = torch.from_numpy(np.ascontiguousarray(volume))[None]
    return torch.nn.functional.grid_sample(values, grid, align_corners=True, padding_mode="border")[0]


def _inside(ellipsoids: tuple, xyz: torch.Tensor) -> torch.Tensor:
    """Whether points ``[3, ...]`` (MNI mm) lie in any of the ellipsoids."""
    found = torch.zeros(xyz.shape[1:], dtype=torch.bool)
    for centre, half in ellipsoids:
        squares = [((xyz[a] - centre[a]) / half[a]) ** 2 for a in range(3)]
        found |= squares[0] + squares[1] + squares[2] < 1.0
    return found


def build_head(
    participant: Participant, head: Head, templates: Templates, grid: Grid, extent_mm: tuple[float, ...]
) -> DigitalHead:
    """Fill the fine grid with a participant's head.

    Args:
        participant: age and latents decide the iron.
        head: from ``subject.draw_head`` or ``raw_cohort.draw_digital_head``.
        templates: of the whole head, ``load_templates(WHOLE_Z_RANGE_MM)``.
        grid: the scan's grid.
        extent_mm: half the distance between the first and the last voxel of the grid that ``head`` was drawn for;
            its deformation and texture are stretched over that and go on unchanged outside.
    """
    shape, affine, target = grid.shape, grid.fine_affine, grid.target
    size = tuple(b - a for a, b in target)
    chi = torch.empty(shape)
    r2star, t1, pd, wm = (torch.zeros(size) for _ in range(4))
    brain, left = (torch.zeros(size, dtype=torch.bool) for _ in range(2))
    nuclei = torch.zeros((len(NUCLEI), *size))
    extent = np.maximum(np.array(extent_mm, float), 1e-3)

    veins = _veins(head, grid)
    to_template = head.pose.rotation / head.pose.scale[:, None]
    linear = torch.from_numpy((to_template @ affine[:3, :3]).astype(np.float32))
    world = torch.from_numpy(affine[:3, :3].astype(np.float32))
    origin = np.array(poses.SLAB_CENTRE_MM) + to_template @ (affine[:3, 3] - head.pose.shift_mm)
    j, k = (torch.arange(n, dtype=torch.float32) for n in shape[1:])
    inside_scan = tuple(slice(a, b) for a, b in target[1:])
    iron_voxels: list[tuple[np.ndarray, ...]] = []
    step = max(1, _CHUNK_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        i = torch.arange(start, min(start + step, shape[0]), dtype=torch.float32)

        def positions(matrix: torch.Tensor, offset: np.ndarray, i: torch.Tensor = i) -> torch.Tensor:
            rows = [
                (row[0] * i + float(o))[:, None, None] + (row[1] * j)[:, None] + row[2] * k
                for row, o in zip(matrix, offset, strict=True)
            ]
            return torch.stack(rows)

        scanner_mm = positions(world, affine[:3, 3])
        xyz = positions(linear, origin) + _stretched(head.pose.warp_mm, scanner_mm, extent)
        sampled = poses.sample(templates, xyz)
        below = xyz[2].numpy() < templates.origin[2]
        # The templates end at the neck: what lies below is no brain.
        sampled["outside_mm"] = np.where(below, np.maximum(sampled["outside_mm"], 20.0), sampled["outside_mm"])
        here = slice(start, start + len(i))
        chunk = _tissue(sampled, xyz, veins[here], head.shell_mm)
        chi[here] = torch.from_numpy(chunk["chi"])

        membership = np.stack([sampled[name] for name in NUCLEI]) * ~below
        where = np.nonzero(membership.sum(0) > 0)
        texture = _stretched(head.texture[None], scanner_mm, extent)[0].numpy()[where]
        rows, columns, slices = where
        place = np.stack([rows + start, columns, slices])
        iron_voxels.append(
            (place, membership[:, rows, columns, slices], xyz.numpy()[:, rows, columns, slices], texture)
        )

        low, high = max(start, target[0][0]), min(start + len(i), target[0][1])
        if low < high:
            source = (slice(low - start, high - start), *inside_scan)
            into = slice(low - target[0][0], high - target[0][0])
            for name, volume in (("r2star", r2star), ("t1", t1), ("pd", pd), ("wm", wm), ("brain", brain)):
                volume[into] = torch.from_numpy(chunk[name][source])
            nuclei[:, into] = torch.from_numpy(membership[(slice(None), *source)])
            left[into] = xyz[0][source] < 0

    index, shares, xyz_mm, texture = (np.concatenate(parts, axis=-1) for parts in zip(*iron_voxels, strict=True))
    share = dict(zip(NUCLEI, shares, strict=True))
    maps = iron.iron_maps(participant.age, participant.latents, head.more_on_left, texture, share, xyz_mm, templates)
    amount = torch.from_numpy(np.sum([maps[name] * share[name] for name in NUCLEI], 0).astype(np.float32))
    chi[tuple(index)] += acquisition.PPM_PER_IRON * amount
    index = index - np.array([a for a, _ in target])[:, None]
    scanned = ((index >= 0) & (index < np.array(size)[:, None])).all(0)
    r2star[tuple(index[:, scanned])] += acquisition.R2STAR_PER_IRON * amount[torch.from_numpy(scanned)]
    return DigitalHead(grid, chi, r2star, t1, pd, wm, brain, nuclei, left)


def _veins(head: Head, grid: Grid) -> np.ndarray:
    """Share of vein in each fine voxel."""
    points = poses.scanner_coordinates(head.vein_points_mm, head.pose)
    affine = grid.fine_affine
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    middle = affine[:3, 3] + affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2.0)
    return acquisition.vein_fraction((points - middle) @ axes, head.vein_area_mm2, grid.shape, grid.spacing_mm)


def _tissue(
    sampled: dict[str, np.ndarray], xyz: torch.Tensor, veins: np.ndarray, shell_mm: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    """Properties of some voxels, without the nuclei's iron."""
    outside = sampled["outside_mm"]
    brain = outside < 0
    veins = veins * brain
    chi, r2star, _ = acquisition.tissue_maps(sampled, np.zeros_like(outside), veins, shell_mm)

    shares = tissue_shares(sampled, veins)
    pd, rate = water_and_rate(shares)

    fluid, skull, scalp = np.cumsum(shell_mm)
    soft = (outside >= skull) & ((outside < scalp) | _inside(_SOFT, xyz).numpy())
    bone = (outside >= fluid) & (outside < skull)
    hollow = _inside(_AIR, xyz).numpy() & (outside > _AIR_DISTANCE_MM)
    fluid_layer = ~brain & (outside < fluid)
    air = hollow | ~(brain | fluid_layer | bone | soft)
    tissues = [
        (fluid_layer, 0.0, acquisition.TISSUE_R2STAR["csf"], T1_S["csf"], PROTON_DENSITY["csf"]),
        (bone, BONE_PPM, BONE_R2STAR, T1_S["bone"], PROTON_DENSITY["bone"]),
        (soft, SOFT_PPM, SOFT_R2STAR, T1_S["soft"], PROTON_DENSITY["soft"]),
        (air, AIR_PPM, 0.0, 1.0, 0.0),
    ]
    t1 = 1.0 / rate
    for where, *values in tissues:
        for volume, value in zip((chi, r2star, t1, pd), values, strict=True):
            volume[where] = value
    return {
        "chi": chi,
        "r2star": r2star,
        "t1": t1.astype(np.float32),
        "pd": pd.astype(np.float32),
        "wm": (shares["wm"] * brain).astype(np.float32),
        "brain": brain,
    }
