"""`configs/reconstruct.yaml` ends here: all scans of a folder, checked first, then one after the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.errors import InputError
from scripts.provenance import check_output_dir, cohort_fingerprint, settings, software
from scripts.stage.bids import find_raw, from_files
from scripts.stage.derivatives import finished, write_cohort_files, write_maps
from scripts.stage.raw import RawScan, Volume, check_scan
from scripts.stage.reconstruct import Reconstruction


def find_scans(
    input_dir: str | None,
    magnitude: Sequence[Any] | None,
    phase: Sequence[Any] | None,
    participant_id: str,
    echo_times_s: Sequence[float] | None,
    flip_angles_deg: Sequence[float] | None,
    repetition_time_s: float | None,
    field_strength_t: float | None,
    dicom_rules: str,
) -> list[RawScan]:
    """The scans that the keys name: NIfTI files (`magnitude`, `phase`), or a folder with BIDS or DICOM.

    Of `dicom_rules` (configs/dicom_series.yaml) the limits and the tolerance count.

    Raises:
        InputError: nothing found, or something is wrong with what headers and sidecars say.
    """
    if (magnitude is None) != (phase is None):
        raise InputError("magnitude: given without phase or the other way round; give both")
    if magnitude is not None:
        scans = [
            from_files(
                magnitude, phase, participant_id, echo_times_s, flip_angles_deg, repetition_time_s, field_strength_t
            )
        ]
    else:
        root = Path(input_dir)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give --input a BIDS or DICOM folder")
        scans = find_raw(root) if any(root.glob("sub-*")) else dicom_scans(root, participant_id, dicom_rules)
        for acquisition in (a for scan in scans for a in scan.acquisitions):
            if field_strength_t is not None:
                acquisition.field_strength_t = field_strength_t
    for scan in scans:
        check_scan(scan)
    return scans


def dicom_scans(root: Path, participant_id: str, dicom_rules: str) -> list[RawScan]:
    """The scan of a DICOM folder.

    Raises:
        InputError: pydicom is not installed, or see `scripts.stage.dicom.find_dicom`.
    """
    try:
        from scripts.dicom_rules import read_rules
        from scripts.stage.dicom import find_dicom
    except ImportError as error:
        raise InputError(f"reading DICOM needs {error.name}; pip install 'qnet-hemochromatosis[dicom]'") from error
    return find_dicom(root, participant_id, read_rules(dicom_rules))


def load_mask(path: str, scan: RawScan) -> np.ndarray:
    """A given brain mask, bool on the scan's grid.

    Args:
        path: of a NIfTI file; `{scan}` in it stands for the scan's name.

    Raises:
        InputError: it cannot be read, is empty, or lies on another grid.
    """
    volume = Volume(path.format(scan=scan.scan_id))
    check_same_grid(volume, scan, "mask")
    mask = volume.load() > 0.5
    if not mask.any():
        raise InputError(f"{volume.path}: the mask is empty; it must be 1 in the brain")
    return mask


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
    scans: Sequence[RawScan],
    reconstruction: Reconstruction,
    mask: str | None,
    resolved: Mapping[str, Any],
) -> None:
    """Reconstruct every scan that is not done yet, and write a cohort.

    Args:
        output_dir: folder of the maps.
        input_dir: folder of the raw data; None for single files.
        scans: from `find_scans`.
        reconstruction: the steps.
        mask: see `load_mask`; None finds the brain.
        resolved: the config's resolved content, for the record.
    """
    root = Path(input_dir) if input_dir is not None else None
    for scan in scans:
        if mask is not None:
            check_same_grid(Volume(mask.format(scan=scan.scan_id)), scan, "mask")
        reconstruction.check(scan)
    steps = reconstruction.steps()
    output = Path(output_dir)
    todo = [scan for scan in scans if not finished(output, scan, steps)]
    check_output_dir(output, int(sum(15.0 * np.prod(scan.shape) for scan in todo)))
    origin = cohort_fingerprint(root) if root is not None else {"name": scans[0].scan_id, "simulated": False}
    record = {"software": software(), "settings": settings(resolved), "input": origin}
    for scan in todo:
        given = None if mask is None else load_mask(mask, scan)
        maps = reconstruction(scan, given)
        folder = write_maps(output, root, scan, maps, record)
        for line in maps.warnings:
            print(f"warning: {scan.scan_id}: {line}")
        print(f"{scan.scan_id}: {folder}, look at {output / (scan.scan_id + '.html')}")
    if len(todo) < len(scans):
        print(f"{len(scans) - len(todo)} of {len(scans)} scans were there already")
    write_cohort_files(output, root, record)
