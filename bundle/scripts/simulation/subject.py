"""One participant of the simulated cohort: from random numbers to files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.anatomy import atlas
from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.files.nifti import SIMULATED
from scripts.simulation import acquisition, iron, poses, water

#: What every scan has, and the further maps that a cohort may have.
UNITS = {"Chimap": "ppm", "R2starmap": "1/s", "T1w": "arbitrary"}
FURTHER_UNITS = {"T1map": "s", "PDmap": "arbitrary"}
#: Maps in which HH can act: iron changes nothing about proton density.
OF_IRON = (*UNITS, "T1map")
DESCRIPTIONS = {
    "Chimap": "Simulated quantitative susceptibility map",
    "R2starmap": "Simulated effective transverse relaxation rate",
    "T1w": "Simulated T1-weighted gradient echo",
    "T1map": "Simulated longitudinal relaxation time",
    "PDmap": "Simulated proton density times receive sensitivity, percent of water",
}
# One integer step of each map as stored (int16): far below its noise. The same in every file, so that headers say
# nothing about the subject.
STEPS = {"Chimap": 5e-4, "R2starmap": 0.05, "T1w": 1.0, "T1map": 1e-3, "PDmap": 0.01}
# A T1-weighted signal of 1 is stored as this.
T1W_SCALE = 1000.0
# Nuclei that the box must hold, and the share of their voxels that the box may miss at its feet and head together.
BOX_NUCLEI = ("caudate", "putamen", "pallidum")
_BOX_SLICES_MISS = 0.006


@dataclass(frozen=True)
class Participant:
    """Who is scanned, and where. Ages in years; ``latents`` by name as in ``iron.iron_maps``."""

    participant_id: str
    index: int
    age: float
    sex: str
    group: str
    latents: dict[str, float]
    site: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How everybody is scanned.

    Attributes:
        matrix: voxels along the three array axes (left-right, back-front, foot-head).
        spacing_mm: voxel size along them.
        seed: seed of the cohort.
        anatomy: arguments of ``poses.draw_pose``.
        scanner: arguments of ``acquisition.draw_scanner``.
        texture_sd: standard deviation of the random relative fluctuation of iron inside nuclei.
        texture_mm: its length, mm.
        shell_mm: mean thickness of fluid, skull and scalp around the brain, mm.
        box_margin_mm: lowest and highest margin of the box around the nuclei in-plane, mm.
        field_strength_t: T; R2* grows with it from its values at 3 T.
        echo_time_s: of the T1-weighted image, s.
        qsm_gain: multiplies QSM.
        effect_maps: maps in which HH acts, of OF_IRON.
        latents: of the cohort; where HH acts in some maps only, the others show a healthy draw of them.
        maps: UNITS, then some of FURTHER_UNITS.
        further: faults of these, arguments of ``water.acquire_water``.
    """

    matrix: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    seed: int
    anatomy: dict[str, float]
    scanner: dict[str, Any]
    texture_sd: float
    texture_mm: float
    shell_mm: tuple[float, float, float]
    box_margin_mm: tuple[float, float]
    field_strength_t: float = 3.0
    echo_time_s: float = acquisition.ECHO_TIME_S
    qsm_gain: float = 1.0
    effect_maps: tuple[str, ...] = OF_IRON
    latents: Mapping[str, iron.Latent] = field(default_factory=dict)
    maps: tuple[str, ...] = tuple(UNITS)
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def affine(self) -> np.ndarray:
        """Voxel to scanner (RAS+, mm), 0 in the middle of the scan; the same for every subject."""
        spacing = np.array(self.spacing_mm)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -spacing * (np.array(self.matrix) - 1) / 2.0
        return affine


@dataclass(frozen=True)
class Head:
    """Everything random about one participant's head, before anything is imaged.

    Attributes:
        pose: position, size and deformation.
        texture: relative fluctuation of iron ``[H, W, S]`` on the protocol's grid.
        more_on_left: which side holds more iron.
        vein_points_mm, vein_area_mm2: courses of the veins in MNI space, ``[N, 3]`` and ``[N]``.
        shell_mm: thickness of fluid, skull and scalp.
    """

    pose: poses.Pose
    texture: np.ndarray
    more_on_left: bool
    vein_points_mm: np.ndarray
    vein_area_mm2: np.ndarray
    shell_mm: tuple[float, float, float]


def draw_head(rng: np.random.Generator, protocol: Protocol) -> tuple[Head, acquisition.Scanner]:
    """Draw a participant's head and the faults of the scan."""
    pose = poses.draw_pose(rng, np.array(protocol.matrix) * protocol.spacing_mm, **protocol.anatomy)
    scanner = acquisition.draw_scanner(rng, **protocol.scanner)
    texture = acquisition.smooth_field(rng, protocol.matrix, protocol.spacing_mm, protocol.texture_mm)
    more_on_left = bool(rng.integers(2))
    points, area = acquisition.draw_veins(rng, scanner.veins)
    fluid, skull, scalp = np.array(protocol.shell_mm) * rng.uniform(0.8, 1.2, 3)
    shell = (fluid, skull, scalp)
    return Head(pose, texture * protocol.texture_sd, more_on_left, points, area, shell), scanner


def random_numbers(participant: Participant, protocol: Protocol) -> np.random.Generator:
    """The participant's own source of random numbers: the same whoever else is in the cohort."""
    return np.random.default_rng(np.random.SeedSequence([protocol.seed, 1 + participant.index]))


def other_numbers(participant: Participant, protocol: Protocol, number: int = 1) -> np.random.Generator:
    """Another source (1: healthy iron; 2: further maps), for what only some cohorts draw: the first gives everybody the
    same numbers as before."""
    return np.random.default_rng(np.random.SeedSequence([protocol.seed, 1 + participant.index, number]))


def image_maps(
    participant: Participant, protocol: Protocol, templates: atlas.Templates
) -> tuple[dict[str, np.ndarray], np.ndarray, list[list[int]]]:
    """Simulate one scan.

    Returns:
        the maps by suffix as stored (int16 ``[H, W, S]``, in units of ``STEPS``), the true nuclei (uint8, values of
        ``atlas.LABELS``), and the basal ganglia box.
    """
    rng = random_numbers(participant, protocol)
    matrix, spacing = protocol.matrix, protocol.spacing_mm
    head, scanner = draw_head(rng, protocol)
    coordinates = poses.template_coordinates(matrix, spacing, head.pose)
    sampled = poses.sample(templates, coordinates)
    xyz = coordinates.numpy()
    labels = poses.label_map(sampled, xyz[0])

    # Iron only matters where a nucleus is: a hundredth of the scan.
    where = np.nonzero(np.sum([sampled[name] for name in NUCLEI], 0) > 0)
    here = {name: sampled[name][where] for name in NUCLEI}
    points = poses.scanner_coordinates(head.vein_points_mm, head.pose)
    veins = acquisition.vein_fraction(points, head.vein_area_mm2, matrix, spacing)

    def iron_of(latents: dict[str, float]) -> dict[str, np.ndarray]:
        return iron.iron_maps(
            participant.age,
            latents,
            head.more_on_left,
            head.texture[where],
            here,
            xyz[:, where[0], where[1], where[2]],
            templates,
        )

    def clean_maps(maps: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nuclei_iron = np.zeros(matrix, np.float32)
        nuclei_iron[where] = sum(maps[name] * here[name] for name in NUCLEI)
        tissue = acquisition.tissue_maps(sampled, nuclei_iron, veins, head.shell_mm)
        return acquisition.at_field(tissue, protocol.field_strength_t, protocol.echo_time_s, protocol.qsm_gain)

    amounts = iron_of(participant.latents)
    clean, in_t1 = clean_maps(amounts), amounts
    if not set(protocol.maps) & set(OF_IRON) <= set(protocol.effect_maps):
        # Drawn anew in both groups: maps that agreed in HC alone would tell the groups apart by that.
        usual = iron_of(iron.healthy_latents(other_numbers(participant, protocol), protocol.latents))
        healthy, in_t1 = clean_maps(usual), amounts if "T1map" in protocol.effect_maps else usual
        q, r, t = (a if name in protocol.effect_maps else b for name, a, b in zip(UNITS, clean, healthy, strict=True))
        clean = q, r, t
    scanned = acquisition.acquire(rng, clean, sampled["outside_mm"], spacing, scanner)
    scanned["T1w"] = scanned["T1w"] * T1W_SCALE
    if set(protocol.maps) - set(UNITS):
        still = water.quantities(sampled, veins, where, in_t1, protocol.field_strength_t)
        own = other_numbers(participant, protocol, 2)
        made = water.acquire_water(own, still, sampled["outside_mm"], spacing, scanner.blur_mm, **protocol.further)
        scanned |= {suffix: made[suffix] for suffix in protocol.maps if suffix not in UNITS}
    stored = {
        suffix: np.clip(np.round(volume / STEPS[suffix]), -32767, 32767).astype(np.int16)
        for suffix, volume in scanned.items()
    }
    return stored, labels, basal_ganglia_box(rng, labels, spacing, protocol.box_margin_mm)


def basal_ganglia_box(
    rng: np.random.Generator, labels: np.ndarray, spacing_mm: tuple[float, ...], margin_mm: tuple[float, float]
) -> list[list[int]]:
    """A rough box around caudate, putamen and pallidum, as an expert would draw it.

    Args:
        rng: the expert's hand: each in-plane side gets its own margin.
        labels: true nuclei ``[H, W, S]``.
        spacing_mm: voxel size.
        margin_mm: lowest and highest margin in-plane, mm. Slices get none: those that hold the nuclei are taken, but
            for end slices that barely touch one.

    Returns:
        half-open voxel ranges ``[[i0, i1], [j0, j1], [k0, k1]]`` inside the image.
    """
    wanted = np.isin(labels, [LABELS[f"{side}_{nucleus}"] for side in SIDES for nucleus in BOX_NUCLEI])
    box = []
    for axis in range(2):
        found = np.nonzero(wanted.any(tuple(a for a in range(3) if a != axis)))[0]
        before, after = rng.uniform(*margin_mm, 2) / spacing_mm[axis]
        low, high = int(np.floor(found[0] - before)), int(np.ceil(found[-1] + 1 + after))
        box.append([max(low, 0), min(high, labels.shape[axis])])
    share = np.cumsum(wanted.sum((0, 1))) / wanted.sum()
    k0 = int(np.searchsorted(share, _BOX_SLICES_MISS / 2, side="right"))
    k1 = int(np.searchsorted(share, 1.0 - _BOX_SLICES_MISS / 2)) + 1
    return [*box, [k0, k1]]


def measure_nuclei(
    stored: dict[str, np.ndarray], labels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """What somebody with perfect segmentations would measure on the maps as written.

    Returns:
        For QSM (ppm) and R2* (1/s): ``{suffix}_{side}_{nucleus}``, the mean; and for each nucleus over both sides,
        relative to its mean and per standard deviation of its extent, ``{suffix}_{nucleus}_posterior``,
        ``_lateral``, ``_head``, the slopes of a plane fitted to it, and ``_asymmetry``, the absolute difference of
        the sides. Empty nuclei give NaN.
    """
    middle = np.mean([np.argwhere(labels == LABELS[f"{side}_putamen"])[:, 0].mean() for side in SIDES])
    row = {}
    for nucleus in NUCLEI:
        where = {side: np.nonzero(labels == LABELS[f"{side}_{nucleus}"]) for side in SIDES}
        both = tuple(np.concatenate([where[side][a] for side in SIDES]) for a in range(3))
        xyz = np.stack([(np.abs(both[0] - middle)), both[1], both[2]], 1) * spacing_mm
        xyz -= xyz.mean(0)
        lateral = xyz[:, 0] - xyz[:, 1:] @ np.linalg.lstsq(xyz[:, 1:], xyz[:, 0], rcond=None)[0]
        axes = np.stack([-xyz[:, 1], lateral, xyz[:, 2]], 1)
        design = np.column_stack([axes / axes.std(0), np.ones(len(axes))])
        for suffix in ("Chimap", "R2starmap"):
            means = {side: float(stored[suffix][where[side]].mean() * STEPS[suffix]) for side in SIDES}
            values = stored[suffix][both] * STEPS[suffix]
            slopes = np.linalg.lstsq(design, values, rcond=None)[0][:3] / values.mean()
            for side in SIDES:
                row[f"{suffix}_{side}_{nucleus}"] = means[side]
            for axis, slope in zip(("posterior", "lateral", "head"), slopes, strict=True):
                row[f"{suffix}_{nucleus}_{axis}"] = float(slope)
            row[f"{suffix}_{nucleus}_asymmetry"] = abs(means["left"] - means["right"]) / sum(means.values())
    return row


def nifti_bytes(stored: np.ndarray, affine: np.ndarray, step: float | None) -> bytes:
    """A gzipped NIfTI file without a time stamp, so that the same image gives the same bytes.

    Args:
        stored: int16 or uint8 ``[H, W, S]``.
        affine: voxel to scanner, mm.
        step: value of one integer step; None for label images.
    """
    image = nib.Nifti1Image(stored, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = SIMULATED
    image.header.set_slope_inter(step, 0 if step else None)
    # Noise hardly compresses: the fastest level costs a few per cent of size.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_subject(
    root: Path, participant: Participant, protocol: Protocol, templates: atlas.Templates, image: Callable
) -> dict[str, float]:
    """Simulate a participant and write all of their files below ``root``.

    Args:
        root: BIDS folder.
        participant: who.
        protocol: how.
        templates: for the head.
        image: :func:`image_maps`, or another function of participant, protocol and templates with its result.

    Returns:
        the row of :func:`measure_nuclei`.
    """
    stored, labels, box = image(participant, protocol, templates)
    name = participant.participant_id
    folder = root / name / "anat"
    folder.mkdir(parents=True)
    for suffix, volume in stored.items():
        (folder / f"{name}_{suffix}.nii.gz").write_bytes(nifti_bytes(volume, protocol.affine, STEPS[suffix]))
        sidecar = {
            "Description": DESCRIPTIONS[suffix],
            "Units": (UNITS | FURTHER_UNITS)[suffix],
            "Simulated": True,
            "MagneticFieldStrength": int(b0) if (b0 := protocol.field_strength_t).is_integer() else b0,
        }
        write_json(folder / f"{name}_{suffix}.json", sidecar)

    folder = root / "derivatives" / "basalganglia" / name / "anat"
    folder.mkdir(parents=True)
    content = {
        "Box": box,
        "Description": "Rough box around caudate, putamen and pallidum: half-open voxel ranges along the three axes "
        "of the stored array; the third is the slice axis, foot to head",
        "Sources": [f"bids::{name}/anat/{name}_T1w.nii.gz"],
    }
    write_json(folder / f"{name}_desc-basalganglia_box.json", content)

    folder = root / "derivatives" / "groundtruth" / name / "anat"
    folder.mkdir(parents=True)
    (folder / f"{name}_desc-nuclei_dseg.nii.gz").write_bytes(nifti_bytes(labels, protocol.affine, None))
    return measure_nuclei(stored, labels, protocol.spacing_mm)
