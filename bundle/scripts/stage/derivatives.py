"""Maps on disk: BIDS derivatives that say how they were made, a cohort that training and inference take as it is."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.cohort import BIDS_VERSION, BOX_DERIVATIVE
from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.provenance import bundle_version, write_json
from scripts.stage.quality import write_page
from scripts.stage.raw import RawScan
from scripts.stage.reconstruct import Maps

#: Unit and description of each map, by BIDS suffix.
MAPS = {
    "Chimap": ("ppm", "Magnetic susceptibility, relative to the mean of the brain"),
    "R2starmap": ("1/s", "Effective transverse relaxation rate"),
    "T1w": ("arbitrary", "First echo of the largest flip angle, as scanned"),
    "T1map": ("s", "Longitudinal relaxation time"),
    "PDmap": ("arbitrary", "Proton density times receive sensitivity, relative to the median of the brain"),
    "TB1map": ("arbitrary", "True over nominal flip angle"),
}


def write_maps(output_dir: Path, input_dir: Path | None, scan: RawScan, maps: Maps, record: Mapping[str, Any]) -> Path:
    """Write one scan, complete or not at all.

    Args:
        output_dir: the cohort.
        input_dir: the raw BIDS folder; its basal ganglia box of this scan is copied, for the grid is the same.
        scan, maps: what was reconstructed.
        record: see `scripts.provenance.record`.

    Returns:
        The folder of the maps.
    """
    final = output_dir / scan.folder
    parent = final.parent
    parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=parent))
    try:
        for suffix, (units, words) in MAPS.items():
            if suffix in maps.volumes:
                save(part / f"{scan.scan_id}_{suffix}.nii.gz", maps.volumes[suffix], scan.affine)
                sidecar = {"Description": words, "Units": units, **sidecar_of(input_dir, scan, maps, record)}
                write_json(part / f"{scan.scan_id}_{suffix}.json", sidecar)
        save(part / f"{scan.scan_id}_desc-brain_mask.nii.gz", maps.volumes["mask"], scan.affine)
        write_json(
            part / f"{scan.scan_id}_desc-brain_mask.json", {"Type": "Brain", "RawSources": sources(input_dir, scan)}
        )
        os.chmod(part, 0o755)
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    facts = {"warnings": maps.warnings, "findings": maps.findings, "steps": maps.steps, "software": record["software"]}
    simulated = bool(record["input"].get("simulated"))
    write_page(output_dir / f"{scan.scan_id}.html", scan.scan_id, simulated, maps.planes.pictures, facts)
    if input_dir is not None:
        name = Path(scan.folder) / f"{scan.scan_id}_desc-basalganglia_box.json"
        if (input_dir / BOX_DERIVATIVE / name).exists():
            copy(input_dir / BOX_DERIVATIVE / name, output_dir / BOX_DERIVATIVE / name)
    return final


def sources(input_dir: Path | None, scan: RawScan) -> list[str]:
    """Where a scan came from: BIDS URIs, or file names."""
    paths = [v.path for a in scan.acquisitions for v in (*a.first, *a.second)]
    if input_dir is not None:
        return sorted(
            {f"bids:raw:{Path(p).relative_to(input_dir)}" for p in paths if Path(p).is_relative_to(input_dir)}
        )
    return sorted({Path(p).name for p in paths})


def sidecar_of(input_dir: Path | None, scan: RawScan, maps: Maps, record: Mapping[str, Any]) -> dict[str, Any]:
    """What every map's sidecar says."""
    return {
        "RawSources": sources(input_dir, scan),
        "MagneticFieldStrength": scan.acquisitions[0].field_strength_t,
        "EchoTimes": scan.acquisitions[0].echo_times_s,
        "FlipAngles": [a.flip_angle_deg for a in scan.acquisitions],
        "Simulated": bool(record["input"].get("simulated")),
        "Steps": maps.steps,
        "Findings": maps.findings,
        "Warnings": maps.warnings,
        "Software": record["software"],
    }


def save(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as NIfTI: bool as uint8, numbers as int16 with a slope (relative step 3e-5 of the largest)."""
    if volume.dtype == bool:
        image = nib.Nifti1Image(volume.astype(np.uint8), affine)
    else:
        largest = float(np.abs(volume).max()) or 1.0
        step = largest / 32767
        image = nib.Nifti1Image(np.rint(volume / step).astype(np.int16), affine)
        image.header.set_slope_inter(step, 0)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def finished(output_dir: Path, scan: RawScan, steps: Mapping[str, Any]) -> bool:
    """Whether a scan was reconstructed before with these steps.

    Raises:
        InputError: it was, but with other steps.
    """
    path = output_dir / scan.folder / f"{scan.scan_id}_Chimap.json"
    if not path.exists():
        return False
    before = read_json(path, "map sidecar", "delete its folder to reconstruct the scan anew")["Steps"]
    if before != json.loads(json.dumps(steps)):
        raise InputError(f"{path}: was made with other steps or parameters; choose another output folder or delete it")
    return True


def write_cohort_files(output_dir: Path, input_dir: Path | None, record: Mapping[str, Any]) -> None:
    """Write dataset_description.json, and copy the participants of a raw BIDS folder."""
    described = {}
    if input_dir is not None:
        for name in ("participants.tsv", "participants.json"):
            if (input_dir / name).exists():
                copy(input_dir / name, output_dir / name)
        raw = input_dir / "dataset_description.json"
        described = read_json(raw, "description", "correct it as BIDS has it") if raw.exists() else {}
    name = described.get("Name", "gradient echo data")
    content = {
        "Name": f"STAGE maps of: {name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "qnet_hemochromatosis, configs/reconstruct.yaml", "Version": bundle_version()}],
        "SourceDatasets": [{"Name": name}],
        "Provenance": record,
    }
    write_json(output_dir / "dataset_description.json", content)


def copy(source: Path, target: Path) -> None:
    """Copy a file, making folders."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
