"""`configs/reconstruct.yaml` ends here: all scans of a folder, checked first, then one after the other."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.errors import InputError
from scripts.files.writing import check_output_dir, write_table
from scripts.maps.bids import of_participants
from scripts.provenance import cohort_fingerprint, settings, software
from scripts.reconstruction.bids import find_raw, from_files
from scripts.reconstruction.derivatives import (
    box_of,
    check_cohort_files,
    check_free,
    description_of,
    finished,
    write_maps,
    write_participants,
)
from scripts.reconstruction.raw import RawScan, Volume, check_scan
from scripts.reconstruction.reconstruct import Reconstruction
from scripts.runs.bars import Bar
from scripts.runs.engines import Engine, LocalEngine, run_jobs
from scripts.runs.failures import Refused, called, check_all_done, log_of, why
from scripts.runs.finished import Origin
from scripts.runs.former import say_former
from scripts.runs.outputs import check_derivative, describe, paths_of

LOGGER = logging.getLogger(__name__)
#: Maps that other code made are made again.
CODE = ("scripts.reconstruction.reconstruct", "scripts.reconstruction.derivatives")


def find_scans(
    input_dir: str | None,
    magnitude: str | Sequence[Any] | None,
    phase: str | Sequence[Any] | None,
    participant_id: str | None,
    echo_times_s: Sequence[float] | None,
    flip_angles_deg: Sequence[float] | None,
    repetition_time_s: float | None,
    field_strength_t: float | None,
    dicom_rules: str,
    series: int | str | Sequence[int | str] | None = None,
    participants: str | os.PathLike | None = None,
) -> list[RawScan | Refused]:
    """The scans that the keys name: NIfTI files (`magnitude`, `phase`), or a folder with BIDS or DICOM, whose headers
    and sidecars say what else only the keys say.

    Of `dicom_rules` (configs/dicom_series.yaml) the limits and the tolerance count; `series` chooses among the scans of
    a DICOM study; `participants` is a table that names whom to take of a BIDS folder.

    Returns:
        the scans, and `Refused` where something is wrong with what headers and sidecars say of one.

    Raises:
        InputError: nothing found, what was found cannot be one scan, or a key that is not read of such an input.
    """
    called_so = "sub-01" if participant_id is None else participant_id
    if not re.fullmatch(r"sub-[A-Za-z0-9]+", called_so):  # a folder of the output is called so
        raise InputError(f"participant_id: {participant_id!r} is no BIDS name; write sub- and letters or digits")
    if magnitude is None and phase is not None:
        raise InputError("phase: given without magnitude; give both")
    if magnitude is not None:
        first, second = (_by_angle(files) for files in (magnitude, phase))
        scans: list[RawScan | Refused] = [
            from_files(
                first or [], second, called_so, echo_times_s, flip_angles_deg, repetition_time_s, field_strength_t
            )
        ]
    elif input_dir is None:
        raise InputError("input: not given; give --input a BIDS or DICOM folder, or --magnitude and --phase")
    else:
        root = Path(input_dir)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give --input a BIDS or DICOM folder")
        bids = any(root.glob("sub-*"))
        of_files = {
            "echo_times_s": echo_times_s,
            "flip_angles_deg": flip_angles_deg,
            "repetition_time_s": repetition_time_s,
            "series": series if bids else None,
            "participant_id": participant_id if bids else None,
        }
        for key, value in of_files.items():
            if value is not None:
                raise InputError(
                    f"{key}: is not read of {'a BIDS' if bids else 'a DICOM'} folder, whose own"
                    f" {'sidecars and names' if bids else 'headers'} count; correct those, and leave {key} out"
                )
        scans = [*find_raw(root)] if bids else [*dicom_scans(root, called_so, dicom_rules, series)]
        give_field_strength([scan for scan in scans if isinstance(scan, RawScan)], field_strength_t)
    if participants is not None:
        scans = of_participants(scans, participants)
    return [checked(scan, check_scan) for scan in scans]


def give_field_strength(scans: Sequence[RawScan], field_strength_t: float | None) -> None:
    """Put a field strength, T, where headers and sidecars lack it; what they say is told where it is another."""
    if field_strength_t is None:
        return
    for acquisition in (acquisition for scan in scans for acquisition in scan.acquisitions):
        if acquisition.field_strength_t is None:
            acquisition.field_strength_t = field_strength_t
    said = {a.field_strength_t for scan in scans for a in scan.acquisitions}
    others = {value for value in said if value not in (None, field_strength_t)}
    if others:
        LOGGER.warning(
            "field_strength_t %g: headers or sidecars of some scans say %s T, which counts there; correct them if they"
            " are wrong", field_strength_t, ", ".join(f"{value:g}" for value in sorted(others)),
        )  # fmt: skip


def _by_angle(files: str | Sequence[Any] | None) -> Sequence[Any] | None:
    """Files by flip angle, of a list or of text with commas between."""
    return files if files is None or not isinstance(files, str) else [str(path) for path in paths_of(files)]


def checked(scan: RawScan | Refused, check: Callable[[RawScan], None]) -> RawScan | Refused:
    """The scan, or `Refused` where a check raises."""
    if isinstance(scan, Refused):
        return scan
    try:
        check(scan)
    except InputError as error:
        return Refused(scan.participant_id, scan.scan_id, error)
    return scan


def dicom_scans(
    root: Path, participant_id: str, dicom_rules: str, series: int | str | Sequence[int | str] | None
) -> list[RawScan]:
    """The scan of a DICOM folder.

    Raises:
        InputError: pydicom is not installed, or see `scripts.reconstruction.dicom.find_dicom`.
    """
    try:
        from scripts.dicom.rules import read_rules
        from scripts.reconstruction.dicom import find_dicom
    except ImportError as error:
        raise InputError(f"reading DICOM needs {error.name}; pip install 'qnet-hemochromatosis[dicom]'") from error
    return find_dicom(root, participant_id, read_rules(dicom_rules), series)


def load_mask(path: str, scan: RawScan) -> np.ndarray:
    """A given brain mask, bool on the scan's grid.

    Args:
        path: of a NIfTI file; `{scan}` in it stands for the scan's name.

    Raises:
        InputError: it cannot be read, is no mask or empty, or lies on another grid.
    """
    volume = Volume(path_for(path, scan))
    check_same_grid(volume, scan, "mask")
    values = volume.load()
    if values.min() < 0 or (values.max() > 1 and len(np.unique(values)) > 2):  # 0 and 255 is a mask, 0 to 1 how sure
        raise InputError(
            f"{volume.path}: is an image or labels, not a mask ({len(np.unique(values))} values, {values.min():.3g} to"
            f" {values.max():.3g}); it must be 0 outside of the brain and 1 in it"
        )
    mask = values > 0.5
    if not mask.any():
        raise InputError(f"{volume.path}: the mask is empty; it must be 1 in the brain")
    return mask


def path_for(template: str, scan: RawScan) -> str:
    """A path with the scan's name for `{scan}`; other braces stay where there is such a file.

    Raises:
        InputError: there is none, so they were meant for something else.
    """
    path = template.replace("{scan}", scan.scan_id)
    if re.search("[{}]", path) and not os.path.lexists(path):
        raise InputError(
            f"{template}: of words in braces {{scan}} alone is filled in; write {{scan}}, or a file's path"
        )
    return path


def check_same_grid(volume: Volume, scan: RawScan, what: str) -> None:
    """Refuse a volume on another grid than the scan.

    Raises:
        InputError: shape or position differ.
    """
    shape, affine = volume.header()
    if shape != scan.shape or not np.allclose(affine, scan.affine, atol=1e-2):
        raise InputError(
            f"{volume.path}: the {what} lies on another grid ({shape}) than the scan ({scan.shape});"
            " resample it to the scan"
        )


def reconstruct(
    output_dir: str,
    input_dir: str | None,
    scans: Sequence[RawScan | Refused],
    reconstruction: Reconstruction,
    mask: str | None,
    resolved: Mapping[str, Any],
    engine: Engine | None = None,
) -> None:
    """Reconstruct every scan that is not done yet, and write a cohort; a scan that fails does not stop the others.

    Args:
        output_dir: folder of the maps; also gets `reconstruct.tsv`, a row a scan with what became of it.
        input_dir: folder of the raw data; None for single files.
        scans: from `find_scans`.
        reconstruction: the steps.
        mask: see `load_mask`; None finds the brain.
        resolved: the config's resolved content, for the record.
        engine: where scans are worked on; None: in this process.

    Raises:
        InputError: no scan can be worked on, the folder holds maps of other steps, or some scans failed.
    """
    root = Path(input_dir) if input_dir is not None else None
    output = Path(output_dir)

    def check(scan: RawScan) -> None:
        if mask is not None:
            check_same_grid(Volume(path_for(mask, scan)), scan, "mask")
        reconstruction.check(scan)
        check_free(output, scan)

    if root is not None:
        check_cohort_files(root)
    scans = [checked(scan, check) for scan in scans]
    refused = [scan for scan in scans if isinstance(scan, Refused)]
    if len(refused) == len(scans):
        raise refused[0].error  # nothing was begun
    steps = reconstruction.steps()
    good = [scan for scan in scans if isinstance(scan, RawScan)]
    origins = {scan.scan_id: origin_of(scan, root, mask, steps) for scan in good}
    done = {scan.scan_id for scan in good if finished(output, scan, steps, origins[scan.scan_id])}
    todo = [scan for scan in good if scan.scan_id not in done]
    written = ["participants.tsv", "participants.json", "reconstruct.tsv", *(f"{scan.scan_id}.html" for scan in todo)]
    check_derivative(output, [*written, *(log_of("", scan.scan_id) for scan in scans)], "output_dir")
    check_output_dir(output, int(sum(15.0 * np.prod(scan.shape) for scan in todo)))
    origin = cohort_fingerprint(root) if root is not None else {"name": scans[0].scan_id, "simulated": False}
    origin["simulated"] = bool(origin["simulated"]) or any(scan.simulated() for scan in good)
    record = {"software": software(), "settings": settings(resolved), "input": origin}
    describe(output, description_of(root, record))  # from now on it is ours
    shared = Common(output, root, reconstruction, mask, record, steps)
    failed = {scan.scan_id: scan.error for scan in refused}
    given = {"input": root, "output_dir": output, "brain_mask": mask}
    places = {str(path): name for name, path in given.items() if path is not None}
    for raw in good if root is None else ():  # files of any name: their keys name them
        places |= called(raw.files(), raw.scan_id)
    engine = engine or LocalEngine([str(reconstruction.device)], stay=True)
    jobs = {scan.scan_id: scan for scan in todo}
    for name, outcome in run_jobs(
        engine, work, shared, jobs, title="reconstruction", unit="scan", total=len(jobs) + len(done)
    ):
        if isinstance(outcome, Exception):
            failed[name] = outcome
        else:
            Bar.write("\n".join(outcome))
    rows = []
    for scan in scans:
        row = {"participant_id": scan.participant_id, "scan_id": scan.scan_id, "status": "ok", "message": ""}
        rows.append(row)
        log = log_of(output, scan.scan_id)
        if scan.scan_id in failed:
            row |= {"status": "failed", "message": why(failed[scan.scan_id], log, places)}
        else:
            log.unlink(missing_ok=True)
    if done:
        print(f"{len(done)} of {len(scans)} scans were there already")
    write_participants(output, root, {row["participant_id"] for row in rows if row["status"] == "ok"})
    write_table(output / "reconstruct.tsv", list(rows[0]), rows)
    say_former(output, "_desc-brain_mask.json", {row["scan_id"] for row in rows}, "reconstruct.tsv")
    check_all_done(rows, output / "reconstruct.tsv")


@dataclass
class Common:
    """What all scans of a run have in common.

    Attributes:
        output, root: folders of the maps and of the raw data (None for single files).
        reconstruction, mask, record, steps: see `reconstruct`.
    """

    output: Path
    root: Path | None
    reconstruction: Reconstruction
    mask: str | None
    record: Mapping[str, Any]
    steps: Mapping[str, Any]


def work(common: Common, scan: RawScan, device: str) -> list[str]:
    """Reconstruct one scan and write what it became: a job of an engine. Returns what there is to say of it."""
    common.reconstruction.device = torch.device(device)
    basis = origin_of(scan, common.root, common.mask, common.steps).basis()  # before anything is read
    maps = common.reconstruction(scan, None if common.mask is None else load_mask(common.mask, scan))
    folder = write_maps(common.output, common.root, scan, maps, common.record, basis)
    warnings = [f"warning: {scan.scan_id}: {line}" for line in maps.warnings]
    return [*warnings, f"{scan.scan_id}: {folder}, look at {common.output / (scan.scan_id + '.html')}"]


def origin_of(scan: RawScan, root: Path | None, mask: str | None, steps: Mapping[str, Any]) -> Origin:
    """What a scan's maps depend on: files, what headers and sidecars say of them, mask, box, steps and code."""
    volumes = [volume for a in scan.acquisitions for volume in (*a.first, *a.second)]
    files: dict[str, Sequence[str | os.PathLike]] = {
        "echoes": [volume.path for volume in volumes if volume.array is None]
    }
    if mask is not None:
        files["mask"] = [path_for(mask, scan)]
    if root is not None:
        files["box"] = [box_of(root, scan)]
    said = [
        {key: value for key, value in vars(acquisition).items() if key not in ("first", "second")}
        for acquisition in scan.acquisitions
    ]
    arrays = [hashlib.sha256(np.ascontiguousarray(v.array).data).hexdigest() for v in volumes if v.array is not None]
    facts = [said, arrays, [volume.index for volume in volumes], scan.affine, dict(steps)]
    return Origin(files, facts, CODE)
