"""Simulated heads for the localisation benchmark: lying anywhere, stored in any way, with or without skull.

Everything about a head follows from its number; the numbers of the benchmark are never used for tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from scripts.anatomy import atlas
from scripts.registration import search as registration
from scripts.simulation import acquisition, iron, poses
from scripts.simulation.subject import STEPS, T1W_SCALE

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
#: Voxels and their size (mm). Tall enough that the basal ganglia stay in view at every pose.
GRIDS = {
    "small": ((144, 144, 44), (1.5, 1.5, 3.0)),
    "paper": ((366, 366, 64), (0.60109, 0.60109, 2.0)),
}
LARGEST_TURN_DEG, LARGEST_SHIFT_MM = 20.0, 25.0
LARGEST_TILT_DEG = 15.0  # of the slices against the scanner's axes, on top of the head's own pose
CODES = ("RAS", "LAS", "LPS", "PLS", "RPI", "SLA", "ASR", "IPR")


@dataclass(frozen=True)
class MovedHead:
    """One simulated scan and its truth.

    Attributes:
        maps: float32 `[3, I, J, K]`: QSM (ppm), R2* (1/s), T1W; axes as stored.
        affine: `[4, 4]` voxel to world, mm.
        labels: uint8 `[I, J, K]`, values of `atlas.LABELS`.
        how: pose and storage in words and numbers.
    """

    maps: np.ndarray
    affine: np.ndarray
    labels: np.ndarray
    how: dict


def moved_head(
    number: int,
    templates: atlas.Templates,
    grid: str = "small",
    *,
    turn_deg: float = LARGEST_TURN_DEG,
    shift_mm: float = LARGEST_SHIFT_MM,
    tilt_deg: float = LARGEST_TILT_DEG,
    skull: bool | None = None,
    codes: str | None = None,
    matrix: tuple[int, int, int] | None = None,
) -> MovedHead:
    """Simulate head `number`.

    Args:
        number: seed of everything.
        templates: of the whole head, `atlas.load_templates(atlas.WHOLE_Z_RANGE_MM)`.
        grid: key of GRIDS.
        turn_deg, shift_mm, tilt_deg: largest turn about and shift along each axis, and largest tilt of the slices.
        skull: whether T1W shows the skull; None lets the number decide.
        codes: storage orientation; None lets the number decide.
        matrix: voxels, instead of the grid's.
    """
    settings = yaml.safe_load((BUNDLE / "configs" / "simulate.yaml").read_text())
    size, spacing = GRIDS[grid]
    size = matrix or size
    rng = np.random.default_rng(np.random.SeedSequence([number, 77]))
    drawn = poses.draw_pose(rng, np.array(size) * spacing, **settings["anatomy"])
    turns, shift = rng.uniform(-turn_deg, turn_deg, 3), rng.uniform(-shift_mm, shift_mm, 3)
    pose = poses.Pose(registration.turns(turns), drawn.scale, shift, drawn.warp_mm)
    coordinates = poses.template_coordinates(size, spacing, pose)
    sampled = poses.sample(templates, coordinates)
    xyz = coordinates.numpy()
    labels = poses.label_map(sampled, xyz[0])

    where = np.nonzero(sum(sampled[name] for name in atlas.NUCLEI) > 0)
    texture = acquisition.smooth_field(rng, size, spacing, settings["texture"]["length_mm"])[where]
    latents = {name: iron.Latent(**values) for name, values in settings["latents"].items()}
    group, age = ("HH", "HC")[number % 2], float(rng.uniform(20, 85))
    values = dict(zip(latents, iron.draw_latents(rng, [group], latents)[0].tolist(), strict=True))
    here = {name: sampled[name][where] for name in atlas.NUCLEI}
    maps = iron.iron_maps(
        age, values, bool(rng.integers(2)), texture * settings["texture"]["sd"], here,
        xyz[(slice(None), *where)], templates,
    )  # fmt: skip
    nuclei_iron = np.zeros(size, np.float32)
    nuclei_iron[where] = sum(maps[name] * here[name] for name in atlas.NUCLEI)

    scanner = acquisition.draw_scanner(rng, **settings["scanner"])
    points, area = acquisition.draw_veins(rng, scanner.veins)
    veins = acquisition.vein_fraction(poses.scanner_coordinates(points, pose), area, size, spacing)
    shell = tuple(np.array(settings["shell_mm"]) * rng.uniform(0.8, 1.2, 3))
    clean = acquisition.tissue_maps(sampled, nuclei_iron, veins, shell)
    scanned = acquisition.acquire(rng, clean, sampled["outside_mm"], spacing, scanner)
    with_skull = bool(rng.integers(2)) if skull is None else skull
    t1w = scanned["T1w"] * T1W_SCALE
    if not with_skull:
        t1w = t1w * (sampled["outside_mm"] < 0)
    volumes = np.stack([scanned["Chimap"], scanned["R2starmap"], t1w]).astype(np.float32)
    steps = np.array([STEPS[name] for name in ("Chimap", "R2starmap", "T1w")], np.float32)[:, None, None, None]
    volumes = np.round(volumes / steps) * steps

    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(spacing) * (np.array(size) - 1) / 2
    tilts = rng.uniform(-tilt_deg, tilt_deg, 3)
    world = np.eye(4)
    world[:3, :3] = registration.turns(tilts)
    world[:3, 3] = rng.uniform(-40, 40, 3)
    codes = codes or CODES[int(rng.integers(len(CODES)))]
    wanted = nib.orientations.axcodes2ornt(codes)
    turned = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    stored = [nib.orientations.apply_orientation(volume, turned) for volume in (*volumes, labels)]
    affine = world @ affine @ nib.orientations.inv_ornt_aff(turned, labels.shape)
    how = {
        "number": number, "grid": grid, "skull": with_skull, "codes": codes, "group": group, "age": age,
        "turn_deg": turns.tolist(), "shift_mm": shift.tolist(), "tilt_deg": tilts.tolist(),
    }  # fmt: skip
    return MovedHead(np.stack(stored[:3]), affine, stored[3], how)


def whole_head() -> atlas.Templates:
    """The phantom's templates from the neck to above the vertex."""
    return atlas.load_templates(atlas.WHOLE_Z_RANGE_MM)
