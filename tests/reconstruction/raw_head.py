"""A quick raw data set for tests: a round head with spheres for nuclei, whose fields are written down, not computed.

Nothing here is shared with the reconstruction: a sphere's field is (chi/3) (a/r)^3 (3 cos^2 - 1) outside, 0 inside.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE, SPACING = (44, 48, 40), (3.0, 3.0, 3.0)
TIMES = (0.005, 0.010, 0.015, 0.020, 0.025, 0.030)
GAMMA_HZ = 42.577478518e6
NUCLEI = ((-24.0, 6.0, 0.0), (24.0, 6.0, 0.0))
RADIUS, CHI = 12.0, 0.15
REPETITION = 0.036


def positions(shape=SHAPE, spacing=SPACING) -> list[np.ndarray]:
    """x, y, z (mm) of every voxel; 0 in the middle."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def sphere_field(centre, radius, chi, b0=(0.0, 0.0, 1.0), shape=SHAPE, spacing=SPACING) -> np.ndarray:
    """Field (ppm) of a sphere of susceptibility chi (ppm)."""
    offset = [x - c for x, c in zip(positions(shape, spacing), centre, strict=True)]
    r = np.sqrt(sum(o**2 for o in offset))
    cosine = sum(o * b for o, b in zip(offset, b0, strict=True)) / np.maximum(r, 1e-6)
    return np.where(r > radius, chi / 3 * (radius / np.maximum(r, 1e-6)) ** 3 * (3 * cosine**2 - 1), 0.0)


def true_maps() -> dict[str, np.ndarray]:
    """Brain, susceptibility (ppm), R2* (1/s), T1 (s), and the field of nuclei and of air above the nose (ppm)."""
    x, y, z = positions()
    brain = (x / 52) ** 2 + (y / 60) ** 2 + (z / 50) ** 2 < 1
    scalp = ((x / 62) ** 2 + (y / 69) ** 2 + (z / 58) ** 2 < 1) & ((x / 57) ** 2 + (y / 65) ** 2 + (z / 55) ** 2 > 1)
    nuclei = [np.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) <= RADIUS for a, b, c in NUCLEI]
    iron = nuclei[0] | nuclei[1]
    field = sum(sphere_field(centre, RADIUS, CHI) for centre in NUCLEI)
    field = field + sphere_field((0.0, 70.0, -48.0), 14.0, 9.4) + 0.3 + 0.004 * x - 0.002 * z
    return {
        "brain": brain,
        "scalp": scalp,
        "nuclei": iron,
        "chi": np.where(iron, CHI, 0.0),
        "r2star": np.where(iron, 45.0, 20.0),
        "t1": np.where(iron, 1.2, 0.878),
        "field": field,
    }


def echoes(flip_deg: float, rng: np.random.Generator, sign: int = 1) -> np.ndarray:
    """Complex signal `[E, X, Y, Z]` of one flip angle."""
    maps = true_maps()
    angle, e1 = np.deg2rad(flip_deg), np.exp(-REPETITION / maps["t1"])
    signal = np.where(maps["brain"], 1.0, 0.0) + 0.8 * maps["scalp"]
    signal = signal * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)
    offset = 0.5 + positions()[1] / 200
    stack = []
    for time in TIMES:
        phase = offset + 2 * np.pi * GAMMA_HZ * 3.0 * 1e-6 * maps["field"] * time
        noise = rng.normal(0, 0.0005, (2, *SHAPE))
        stack.append(signal * np.exp(-maps["r2star"] * time + 1j * sign * phase) + noise[0] + 1j * noise[1])
    return np.stack(stack)


def affine() -> np.ndarray:
    matrix = np.diag([*SPACING, 1.0])
    matrix[:3, 3] = -np.array(SPACING) * (np.array(SHAPE) - 1) / 2
    return matrix


def save(path: Path, array: np.ndarray, matrix: np.ndarray | None = None, **sidecar) -> None:
    """One NIfTI file and its sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine() if matrix is None else matrix), path)
    if sidecar:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def write_raw(root: Path, flips=(6, 24), parts=("mag", "phase"), sign: int = 1) -> Path:
    """A raw BIDS folder with one subject."""
    rng = np.random.default_rng(0)
    for flip in flips:
        for echo, (time, image) in enumerate(zip(TIMES, echoes(flip, rng, sign), strict=True), 1):
            volumes = {"mag": abs(image), "phase": np.angle(image), "real": image.real, "imag": image.imag}
            for part in parts:
                name = f"sub-01_acq-fa{flip:02d}_echo-{echo}_part-{part}_MEGRE.nii.gz"
                facts = {"EchoTime": time, "FlipAngle": flip, "RepetitionTimeExcitation": REPETITION}
                facts |= {"MagneticFieldStrength": 3.0, "Units": "rad" if part == "phase" else "arbitrary"}
                save(root / "sub-01" / "anat" / name, volumes[part], **facts)
    (root / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tHC\n")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Simulated spheres", "BIDSVersion": "1.10.0"}))
    return root
