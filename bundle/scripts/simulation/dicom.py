"""A simulated scan as the DICOM study that a scanner would have sent: three map series among others.

Nobody here is real: names and ids are made up from the BIDS ids, and every UID follows from the seed and these.
The numbers are stored as vendors do (`vendors.py`), so a reader has to undo slopes, private scaling and slice order.
"""

import os
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from scripts.errors import InputError
from scripts.files import nifti
from scripts.files.parts import part_folder
from scripts.files.writing import check_output_dir, write_json
from scripts.maps.bids import check_grid, chosen_scans, known_ages
from scripts.maps.scan import MAPS
from scripts.provenance import read_record
from scripts.runs.bars import Bar
from scripts.runs.finished import Origin
from scripts.simulation import dicom_headers as headers
from scripts.simulation.vendors import STYLES, Stored, store

TRANSFER_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
}
LAYOUTS = ("classic", "enhanced")
#: Of what the studies of an output folder were made; hidden, for it is no part of a study.
RECORD = ".simulated_studies.json"
CODE = ("scripts.simulation.dicom",)
#: Axes of a stored volume: columns to the patient's left, rows to the back, slices to the head.
_AXCODES = "LPS"


def uid(*words: object) -> str:
    """A UID under the root 2.25 that follows from the words alone."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, words))).int}"


def oblique(affine: np.ndarray, degrees: float) -> np.ndarray:
    """An affine turned by so many degrees about the left-right axis, then by half of them about the foot-head axis."""
    a, b = np.deg2rad([degrees, degrees / 2])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turn = np.eye(4)
    turn[:3, :3] = about_z @ about_x
    return turn @ affine


def stored_maps(
    scan_paths: Sequence[str | Path],
    style: str = "siemens",
    *,
    oblique_deg: float = 0.0,
    box: Sequence[Sequence[int]] | None = None,
    maps: Sequence[str] = MAPS,
) -> tuple[list[Stored], np.ndarray]:
    """The maps of a scan as `write_study` stores them: what a reader of the study must find.

    Args:
        scan_paths: QSM (ppm), R2* (1/s), T1W, and further maps; 3D NIfTI on one grid.
        style: one of `vendors.STYLES`.
        oblique_deg: how far to turn the slices out of the scanner's axes, degrees.
        box: half-open voxel ranges along the axes of the files as stored; only this part is kept. None: everything.
        maps: what the files are, BIDS suffixes.

    Returns:
        the maps, and their affine `[4, 4]` from voxels `[column, row, slice]` to RAS+ mm.

    Raises:
        InputError: an unknown style, another number of files, or files that are not on one grid.
    """
    if style not in STYLES:
        raise InputError(f"style {style!r} is unknown; use one of {', '.join(STYLES)}")
    paths = [str(path) for path in scan_paths]
    if len(paths) != len(maps):
        raise InputError(f"{len(paths)} files given for a study; give {', '.join(maps)}")
    check_grid(paths, names=maps)
    images = [nifti.read(path) for path in paths]
    if box is not None:
        (i0, i1), (j0, j1), (k0, k1) = box
        images = [image.slicer[i0:i1, j0:j1, k0:k1] for image in images]
    wanted = nib.orientations.axcodes2ornt(_AXCODES)
    turned = [
        image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        for image in images
    ]
    vendor = STYLES[style]
    stored = [store(image.get_fdata(), vendor.habits[name], vendor) for image, name in zip(turned, maps, strict=True)]
    return stored, oblique(turned[0].affine, oblique_deg)


def write_study(
    folder: str | Path,
    scan_paths: Sequence[str | Path],
    participant_id: str,
    style: str = "siemens",
    *,
    scan_id: str | None = None,
    seed: int = 0,
    oblique_deg: float = 0.0,
    layout: str = "classic",
    transfer_syntax: str = "explicit",
    extras: bool = True,
    box: Sequence[Sequence[int]] | None = None,
    age: float | None = None,
    maps: Sequence[str] = MAPS,
) -> Path:
    """Write one scan as a DICOM study.

    Args:
        folder: the study's folder; it must not exist. It appears when it is complete.
        scan_paths, style, oblique_deg, box, maps: see `stored_maps`.
        participant_id: from which the made-up patient name and id follow.
        scan_id: tells the studies of one participant apart; default: the participant's id.
        seed: another seed gives other UIDs.
        layout: `classic`, one file a slice, or `enhanced`, one multi-frame file a series.
        transfer_syntax: `explicit`, `implicit`, or compressed without loss: `rle`, `jpegls`.
        extras: also write what else lies in a study: a localizer in three orientations, and a screenshot
            (secondary capture) of the QSM with text burned in.
        age: of the participant, years; None: not told.

    Returns:
        the folder.

    Raises:
        InputError: an unknown choice, a folder that exists, or scans that `stored_maps` refuses.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise InputError(f"transfer_syntax {transfer_syntax!r} is unknown; use one of {', '.join(TRANSFER_SYNTAXES)}")
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder}: exists already; choose another folder or remove it")
    volumes, affine = stored_maps(scan_paths, style, oblique_deg=oblique_deg, box=box, maps=maps)
    vendor = STYLES[style]
    study = headers.Study(partial(uid, seed, scan_id or participant_id), participant_id, vendor, age)
    with part_folder(folder.parent) as part:
        for number, (suffix, stored) in enumerate(zip(maps, volumes, strict=True), 3):
            habit = vendor.habits[suffix]
            series = headers.Series(study, number, habit.description, habit.protocol, habit.image_type, affine)
            make = headers.classic if layout == "classic" else headers.enhanced
            for index, image in enumerate(make(series, stored)):
                save(image, part / vendor.file_name.format(series=number, image=index + 1), transfer_syntax)
        if extras:
            _write_extras(part, study, volumes[0], affine)
        part.rename(folder)
    return folder


def _write_extras(part: Path, study: headers.Study, qsm: Stored, affine: np.ndarray) -> None:
    """A localizer and a screenshot, as they lie in every study."""
    for index, image in enumerate(headers.localizer(study, qsm, affine)):
        save(image, part / study.style.file_name.format(series=1, image=index + 1), "explicit")
    save(
        headers.screenshot(study, qsm, study.style.habits["Chimap"].description),
        part / study.style.file_name.format(series=99, image=1),
        "explicit",
    )


def save(image: Dataset, path: Path, transfer_syntax: str) -> None:
    """Write one file, compressed if asked for."""
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.ImplementationClassUID = UID(uid("qnet_hemochromatosis", "phantom"))
    syntax = TRANSFER_SYNTAXES[transfer_syntax]
    image.file_meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if syntax == ImplicitVRLittleEndian else (ExplicitVRLittleEndian)
    )
    if syntax.is_compressed:
        image.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def write_cohort(
    dataset_dir: str | Path,
    participants: str | Path | None,
    output_dir: str | Path,
    *,
    slab: str,
    style: str,
    maps: Sequence[str] = MAPS,
    **settings: Any,
) -> list[Path]:
    """Write every chosen scan of a BIDS folder as a study; one that is there already, made of the same, stays.

    Args:
        dataset_dir, participants: see `scripts.maps.bids.chosen_scans`.
        output_dir: gets one folder a scan, named `<scan_id>`.
        slab: `whole`, or `basalganglia` to write only what lies in the scan's box (for `localise: whole`).
        style: one of `vendors.STYLES`, or `mixed`: each scan the next of them.
        maps: what a network shall see; those beyond the three become series of their own too.
        settings: further arguments of `write_study`.

    Returns:
        the studies' folders.

    Raises:
        InputError: as `chosen_scans` and `write_study`; no box where a slab is asked for; a study's folder is there
            and was not made of these maps with these settings.
    """
    if slab not in ("whole", "basalganglia"):
        raise InputError(f"slab {slab!r} is unknown; use whole or basalganglia")
    if style not in (*STYLES, "mixed"):
        raise InputError(f"style {style!r} is unknown; use one of {', '.join(STYLES)}, mixed")
    scans = chosen_scans(dataset_dir, participants, maps=maps)
    if slab == "basalganglia" and (bare := [scan.scan_id for scan in scans if scan.box is None]):
        raise InputError(f"{bare[0]}: has no basal ganglia box; annotate it, or use --slab whole")
    root = check_output_dir(output_dir, sum(Path(path).stat().st_size for scan in scans for path in scan.maps))
    ages = known_ages(Path(dataset_dir) / "participants.tsv")
    made = read_record(root / RECORD)
    studies = []
    for number, scan in enumerate(scans):
        how = (
            settings
            | {
                "style": list(STYLES)[number % len(STYLES)] if style == "mixed" else style,
                "box": scan.box if slab == "basalganglia" else None,
                "age": ages.get(scan.participant_id),
            }
            | ({} if scan.names == MAPS else {"maps": scan.names})
        )
        folder, origin = root / scan.scan_id, Origin({"maps": scan.maps}, [scan.scan_id, how], CODE)
        if os.path.lexists(folder) and not origin.made(made.get(scan.scan_id)):
            raise InputError(
                f"{folder}: is there and was not made of these maps with these settings; choose another output folder,"
                " or move it away"
            )
        studies.append((folder, scan, how, origin))
    for folder, scan, how, origin in Bar(studies, desc="DICOM studies", unit="study"):
        if not folder.exists():
            made[scan.scan_id] = origin.basis()
            write_json(root / RECORD, made)  # first: a folder without a record would be somebody else's
            write_study(folder, scan.maps, scan.participant_id, scan_id=scan.scan_id, **how)
    return [folder for folder, *_ in studies]
