"""Maps on disk: BIDS derivatives that say how they were made, a cohort that training and inference take as it is."""

import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.errors import InputError
from scripts.files.nifti import SIMULATED
from scripts.files.parts import part_file, part_folder
from scripts.files.text import read_content
from scripts.files.writing import sha256, write_json, write_table
from scripts.maps.bids import BIDS_VERSION, BOX_DERIVATIVE, read_participants
from scripts.provenance import bundle_version, declared_name
from scripts.reconstruction.quality import write_page
from scripts.reconstruction.raw import RawScan
from scripts.reconstruction.reconstruct import Maps
from scripts.runs.failures import bids_name
from scripts.runs.finished import Origin, contents, not_as_written
from scripts.runs.former import keep_changed

LOGGER = logging.getLogger(__name__)
#: Unit and description of each map, by BIDS suffix.
MAPS = {
    "Chimap": ("ppm", "Magnetic susceptibility, relative to the mean of the brain"),
    "R2starmap": ("1/s", "Effective transverse relaxation rate"),
    "T1w": ("arbitrary", "First echo of the largest flip angle, as scanned"),
    "T1map": ("s", "Longitudinal relaxation time"),
    "PDmap": ("arbitrary", "Proton density times receive sensitivity, relative to the median of the brain"),
    "TB1map": ("arbitrary", "True over nominal flip angle"),
}
#: What every scan gets, whatever its acquisitions.
_ALWAYS = ("Chimap", "R2starmap", "T1w", "desc-brain_mask")


def write_maps(
    output_dir: Path,
    input_dir: Path | None,
    scan: RawScan,
    maps: Maps,
    record: Mapping[str, Any],
    basis: Mapping[str, str],
) -> Path:
    """Write one scan: maps, page and box. The sidecar of the QSM says in the end that all of it is there.

    Maps that an earlier reconstruction wrote are replaced one by one, so that whatever else lies in the folder stays.

    Args:
        output_dir: the cohort.
        input_dir: the raw BIDS folder; its basal ganglia box of this scan is copied, for the grid is the same.
        scan, maps: what was reconstructed.
        record: see `scripts.provenance.record`.
        basis: what it was made from, see `scripts.runs.finished`.

    Returns:
        The folder of the maps.
    """
    final = output_dir / scan.folder
    simulated = is_simulated(scan, record)
    with part_folder(final.parent) as part:
        for suffix, (units, words) in MAPS.items():
            if suffix in maps.volumes:
                save(part / f"{scan.scan_id}_{suffix}.nii.gz", maps.volumes[suffix], scan.affine, simulated)
                sidecar = {"Description": words, "Units": units, **sidecar_of(input_dir, scan, maps, record)}
                write_json(part / f"{scan.scan_id}_{suffix}.json", sidecar)
        save(part / f"{scan.scan_id}_desc-brain_mask.nii.gz", maps.volumes["mask"], scan.affine, simulated)
        write_json(
            part / f"{scan.scan_id}_desc-brain_mask.json", {"Type": "Brain", "RawSources": sources(input_dir, scan)}
        )
        names = sorted(path.name for path in part.iterdir())
        own = marker(output_dir, scan)
        box = read_marker(own).get("BoxSha256")
        content = json.loads((part / own.name).read_text())
        write_json(part / own.name, {**content, "Finished": None, "Files": names, "BoxSha256": box})
        if final.exists():
            replace(part, final, own, names)
        else:
            part.rename(final)
    facts = {"warnings": maps.warnings, "findings": maps.findings, "steps": maps.steps, "software": record["software"]}
    write_page(output_dir / f"{scan.scan_id}.html", scan.scan_id, simulated, maps.planes.pictures, facts)
    box = copy_box(input_dir, output_dir, scan, box)
    there = [str(path.relative_to(output_dir)) for name in names if (path := final / name) != own]
    written = contents(output_dir, [*there, f"{scan.scan_id}.html"])
    write_json(own, {**content, "Finished": basis, "Files": names, "Contents": written, "BoxSha256": box})
    return final


def replace(part: Path, final: Path, own: Path, names: Sequence[str]) -> None:
    """Put new maps in the place of those of an earlier reconstruction, which its marker lists; touch nothing else."""
    known = read_marker(own)
    before, written = known.get("Files", []), known.get("Contents", {})
    marked = json.loads((part / own.name).read_text())
    write_json(part / own.name, {**marked, "Files": sorted({*before, *names})})
    os.replace(part / own.name, own)  # first: from here on these maps are not finished
    for name in names:
        if name != own.name:
            keep_changed(final / name, next((v for k, v in written.items() if Path(k).name == name), None))
            os.replace(part / name, final / name)
    for name in set(before) - set(names):
        (final / Path(name).name).unlink(missing_ok=True)


def check_free(output_dir: Path, scan: RawScan) -> None:
    """Refuse to write over maps that no reconstruction made.

    Raises:
        InputError: names the first of them.
    """
    own = marker(output_dir, scan)
    content = read_marker(own)
    for name in sorted(set(file_names(scan.scan_id)) - set(content.get("Files", []))):
        if (own.parent / name).exists():
            if not content and own.exists():
                raise InputError(
                    f"{own}: is damaged or was not made by reconstruction: it does not say which maps beside it were,"
                    " so nothing is replaced; restore it, move it and those maps away, or choose another output folder"
                )
            raise InputError(
                f"{own.parent / name}: was not made by reconstruction, so it is not replaced; choose another output"
                " folder, or move it away"
            )


def file_names(scan_id: str) -> list[str]:
    """All that a scan's folder may get."""
    stems = [*MAPS, "desc-brain_mask"]
    return [f"{scan_id}_{stem}.{ending}" for stem in stems for ending in ("nii.gz", "json")]


def marker(output_dir: Path, scan: RawScan) -> Path:
    """The sidecar that says which files a scan's reconstruction made, and from what once all are there."""
    return output_dir / scan.folder / f"{scan.scan_id}_Chimap.json"


def read_marker(path: Path) -> dict[str, Any]:
    """Content of a marker; empty where there is none, or another program's."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or "Steps" not in content or "Software" not in content:
        return {}
    if not isinstance(content.get("Files", []), list):
        return {}
    # version 0.3 and before did not list them
    return {"Files": file_names(path.name.removesuffix("_Chimap.json")), **content}


def box_of(root: Path, scan: RawScan) -> Path:
    """Where a cohort keeps a scan's annotated box."""
    return root / BOX_DERIVATIVE / scan.folder / f"{scan.scan_id}_desc-basalganglia_box.json"


def copy_box(input_dir: Path | None, output_dir: Path, scan: RawScan, copied: str | None) -> str | None:
    """Take over a scan's annotated box; one beside the maps that somebody drew or changed stays, and a line says so.

    Args:
        copied: SHA-256 of the box that an earlier reconstruction took over.

    Returns:
        SHA-256 of the box that is taken over; None where none is.
    """
    if input_dir is None or not os.path.lexists(box_of(input_dir, scan)):
        return None
    source, target = box_of(input_dir, scan), box_of(output_dir, scan)
    given = sha256(source)
    if os.path.lexists(target) and sha256(target) not in (given, copied):
        print(f"{target}: differs from the raw data's box and was left so; move it away to take theirs")
        return None
    copy(source, target)
    return given


def sources(input_dir: Path | None, scan: RawScan) -> list[str]:
    """Where a scan came from: BIDS URIs, or file names."""
    paths = [v.path for a in scan.acquisitions for v in (*a.first, *a.second)]
    if input_dir is not None:
        return sorted(
            {f"bids:raw:{Path(p).relative_to(input_dir)}" for p in paths if Path(p).is_relative_to(input_dir)}
        )
    return sorted({bids_name(p) for p in paths})  # other names may hold a person's


def sidecar_of(input_dir: Path | None, scan: RawScan, maps: Maps, record: Mapping[str, Any]) -> dict[str, Any]:
    """What every map's sidecar says."""
    return {
        "RawSources": sources(input_dir, scan),
        "MagneticFieldStrength": scan.acquisitions[0].field_strength_t,
        "EchoTimes": scan.acquisitions[0].echo_times_s,
        "FlipAngles": [a.flip_angle_deg for a in scan.acquisitions],
        "Simulated": is_simulated(scan, record),
        "Steps": maps.steps,
        "Findings": maps.findings,
        "Warnings": maps.warnings,
        "Software": record["software"],
    }


def is_simulated(scan: RawScan, record: Mapping[str, Any]) -> bool:
    """Whether a scan, or the cohort's name in a record, says that nobody was scanned: other scans say nothing of it."""
    return SIMULATED in str(record["input"].get("name", "")).lower() or scan.simulated()


def save(path: Path, volume: np.ndarray, affine: np.ndarray, simulated: bool) -> None:
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
    if simulated:
        image.header["descrip"] = SIMULATED
    nib.save(image, path)


def finished(output_dir: Path, scan: RawScan, steps: Mapping[str, Any], origin: Origin) -> bool:
    """Whether all of a scan is there, made of the same input by the same code.

    Raises:
        InputError: it was made with other steps.
    """
    own = marker(output_dir, scan)
    content = read_marker(own)
    if not content:
        return False
    if content["Steps"] != json.loads(json.dumps(steps)):
        raise InputError(f"{own}: was made with other steps or parameters; choose another output folder or delete it")
    if not origin.made(content.get("Finished")):
        return False
    names = {*content["Files"], *(f"{scan.scan_id}_{stem}.nii.gz" for stem in _ALWAYS)} - {own.name}
    due = [f"{scan.scan_id}.html", *(f"{scan.folder}/{name}" for name in sorted(names))]
    damaged = not_as_written(output_dir, content.get("Contents"), due)
    if damaged is not None:
        LOGGER.warning("%s: %s is not as it was written; its maps are made anew", scan.scan_id, damaged)
    return damaged is None


def check_cohort_files(input_dir: Path) -> None:
    """Refuse a raw BIDS folder whose files for the whole cohort cannot be copied, before any work.

    Raises:
        InputError: one is there and no file that can be read.
    """
    for path in (input_dir / "participants.json", input_dir / "participants.tsv"):
        if os.path.lexists(path):
            read_content(path)
    if os.path.lexists(input_dir / "participants.tsv"):
        read_participants(input_dir / "participants.tsv", ["participant_id"])


def description_of(input_dir: Path | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """What dataset_description.json says of the maps."""
    name = "gradient echo data" if input_dir is None else declared_name(input_dir)
    return {
        "Name": f"STAGE maps of: {name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "qnet_hemochromatosis, configs/reconstruct.yaml", "Version": bundle_version()}],
        "SourceDatasets": [{"Name": name}],
        "Provenance": record,
    }


def write_participants(output_dir: Path, input_dir: Path | None, participants: Collection[str]) -> None:
    """Take over a raw BIDS folder's participants whose maps are there; a cohort has a scan for every row.

    What stands beside the maps already stays: rows, columns and cells. Only what is missing comes from the raw table,
    and one line says where the two differ.
    """
    if input_dir is None:
        return
    if os.path.lexists(input_dir / "participants.json") and not os.path.lexists(output_dir / "participants.json"):
        copy(input_dir / "participants.json", output_dir / "participants.json")
    if not os.path.lexists(input_dir / "participants.tsv"):
        return
    raw = read_participants(input_dir / "participants.tsv", ["participant_id"])
    target = output_dir / "participants.tsv"
    rows = read_participants(target, ["participant_id"]) if os.path.lexists(target) else {}
    other = []
    for name, row in raw.items():
        if name in participants:
            known = {key: value for key, value in rows.get(name, {}).items() if value not in ("", "n/a")}
            other += [f"{name}, {key}" for key in row if key in known and known[key] != row[key]]
            rows[name] = rows.get(name, {}) | row | known
    if other:
        print(f"{target}: differs from the raw table in {len(other)} cells and was left so (first: {other[0]})")
    columns = list(dict.fromkeys(column for table in (raw, rows) for row in table.values() for column in row))
    write_table(target, columns or ["participant_id"], rows.values())


def copy(source: Path, target: Path) -> None:
    """Copy a file, making folders."""
    with part_file(target) as part:
        shutil.copyfile(source, part)
