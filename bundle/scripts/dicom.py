"""A DICOM study as one scan: its QSM, R2* and T1W series found by rules, put on one grid, or refused with the reason.

Names and ids of patients, and names of files and folders, stay out of every message and result, unless
`include_identifiers` asks for them. A study is called by a hash of its UID, a series by its number and description.
"""

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    ParametricMapStorage,
)

from scripts.cohort import MAPS
from scripts.dicom_files import (
    PATIENT_TAGS,
    Header,
    check_sizes,
    folders_with_files,
    is_dicom,
    read_dataset,
    read_headers,
    text,
)
from scripts.dicom_rules import Rule, Rules
from scripts.dicom_volume import Volume, read_volume
from scripts.errors import InputError
from scripts.provenance import sha256

LOGGER = logging.getLogger(__name__)
#: Kinds of objects that can hold a map. A secondary capture (screenshot) cannot, whatever it is called.
MAP_CLASSES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, ParametricMapStorage)
#: How many files of a folder are tried to learn which study it holds.
_MOST_PEEKS = 20


@dataclass(frozen=True)
class SourceSeries:
    """Which images a map came from: what a structured report or a segmentation refers to.

    `instances`: for each slice, foot to head along the slices' normal, its SOP Instance UID and its frame number
    (from 1; None for single-frame files). `files`: in the same order, not to be shown, for their names may hold names.
    """

    map: str
    number: str
    description: str
    study_uid: str
    series_uid: str
    sop_class_uid: str
    frame_of_reference_uid: str
    instances: tuple[tuple[str, int | None], ...]
    files: tuple[str, ...] = field(repr=False)

    def datasets(self) -> list[Dataset]:
        """The headers (no pixels) of the series' files in order, each file once; they do name the patient."""
        where = f"series {self.number} {self.description!r}"
        return [read_dataset(path, where, pixels=False) for path in dict.fromkeys(self.files)]

    def as_json(self) -> dict[str, Any]:
        """Plain values for a result file: which series, without a patient or a file name."""
        return {
            "map": self.map,
            "series_number": self.number,
            "series_description": self.description,
            "series_uid": self.series_uid,
            "images": len(self.instances),
        }


@dataclass(frozen=True)
class DicomStudy:
    """A study that waits to be read. LoadImageMapsd reads it when its turn comes.

    `name` is how messages call it; `study_uid` is empty where no file of it could be read.
    """

    name: str
    study_uid: str
    patient_id: str = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    rules: Rules = field(repr=False)

    def load(self) -> tuple[MetaTensor, list[SourceSeries]]:
        """Read the three maps.

        Returns:
            the stack `[3, I, J, K]` (float32; QSM in ppm, R2* in 1/s, T1W; axes are columns, rows and slices) with
            its affine to RAS+ mm, as the same maps in NIfTI would give; and where each map came from.

        Raises:
            InputError: the study is refused; docs/dicom.md lists the reasons.
        """
        check_sizes(self.name, self.files, self.rules)
        headers = read_headers(self.name, self.files)
        _check_one_patient(self.name, headers)
        series = _series(self.name, headers)
        chosen = choose_series(self.name, series, self.rules)
        volumes = []
        for files, rule in chosen.values():
            try:
                volumes.append(read_volume(files, rule, self.rules))
            except InputError as error:
                said = str(error)
                raise InputError(said if said.startswith(self.name) else f"{self.name}: {said}") from error
        labels = [files[0].label for files, _ in chosen.values()]
        _check_one_grid(self.name, labels, volumes, self.rules)
        stack = torch.from_numpy(np.stack([volume.values for volume in volumes]))
        affine = torch.from_numpy(volumes[0].affine)
        meta = {
            "original_affine": affine.clone(),
            "spatial_shape": np.array(stack.shape[1:]),
            "original_channel_dim": 0,
            "space": "RAS",
            "filename_or_obj": self.name,
        }
        sources = [
            _source(suffix, files[0], volume)
            for (suffix, (files, _)), volume in zip(chosen.items(), volumes, strict=True)
        ]
        return MetaTensor(stack, affine=affine, meta=meta), sources


def find_studies(root: str | Path, rules: Rules, *, include_identifiers: bool = False) -> list[DicomStudy]:
    """The studies below a folder, told apart by their UID, whatever the folders are called.

    One file of each folder is opened; everything else is read when a study is loaded.

    Args:
        root: a study's folder, or one that holds several studies.
        rules: from `read_rules`.
        include_identifiers: call studies by their Patient ID too.

    Returns:
        the studies, in the order of their folders; none if there is no DICOM file.

    Raises:
        InputError: a folder or file that cannot be read.
    """
    files: dict[str, list[str]] = defaultdict(list)
    patients: dict[str, str] = {}
    damaged = 0
    for _, paths in folders_with_files(Path(root)):
        peeked = _peek(paths)
        if peeked is None:
            continue
        uid, patient = peeked
        if not uid:
            damaged += 1
            uid = f"damaged {damaged}"
        files[uid] += paths
        patients.setdefault(uid, patient)
    studies = []
    for uid, paths in files.items():
        known = not uid.startswith("damaged")
        name = f"study-{hashlib.sha256(uid.encode()).hexdigest()[:10]}" if known else f"study-{uid.replace(' ', '-')}"
        if include_identifiers and (patient := re.sub(r"[^A-Za-z0-9-]", "", patients[uid])):
            name = f"{patient}_{name}"
        studies.append(DicomStudy(name, uid if known else "", patients[uid], tuple(paths), rules))
    return studies


def _peek(paths: Sequence[str]) -> tuple[str, str] | None:
    """Study Instance UID and Patient ID of a folder's first DICOM images; None without any, empty if damaged."""
    damaged, tries = False, 0
    for path in paths:
        if not is_dicom(path):
            continue
        tries += 1
        if tries > _MOST_PEEKS:
            break
        try:
            dataset = read_dataset(path, "a file", pixels=False, tags=["StudyInstanceUID", "PatientID"])
        except InputError:
            damaged = True
            continue
        if uid := text(dataset.get("StudyInstanceUID")):
            return uid, text(dataset.get("PatientID"))
        damaged = damaged or "MediaStorageSOPClassUID" not in dataset.file_meta
    return ("", "") if damaged else None


def _check_one_patient(name: str, headers: Sequence[Header]) -> None:
    """All files are of one study and one patient."""
    first = headers[0]
    for header in headers:
        for tag, one, other in zip(PATIENT_TAGS, first.patient, header.patient, strict=True):
            if one != other:
                raise InputError(
                    f"{name}: holds images of two patients ({tag} differs between {first.label} and {header.label});"
                    " take the wrong one out"
                )
        if header.study_uid != first.study_uid:
            raise InputError(
                f"{name}: its folders hold images of two studies ({first.label} and {header.label}); give each study"
                " a folder of its own"
            )


def _series(name: str, headers: Sequence[Header]) -> list[list[Header]]:
    """Files grouped by series, without copies of the same image."""
    by_image: dict[str, Header] = {}
    copies = 0
    for header in headers:
        known = by_image.setdefault(header.sop_instance_uid, header)
        if known is not header:
            copies += 1
            if sha256(known.path) != sha256(header.path):
                raise InputError(f"{name}: {header.label} holds two different images with one SOPInstanceUID; send the"
                                 " study again")  # fmt: skip
    if copies:
        LOGGER.info("%s: %d files are exact copies of others and were passed over", name, copies)
    series: dict[str, list[Header]] = defaultdict(list)
    for header in by_image.values():
        series[header.series_uid].append(header)
    for files in series.values():
        for tag in ("sop_class_uid", "label"):
            if len({getattr(file, tag) for file in files}) > 1:
                raise InputError(f"{name}: {files[0].label} holds images of another kind or description under one"
                                 " SeriesInstanceUID; export one series a map")  # fmt: skip
    return sorted(series.values(), key=lambda files: (len(files[0].headers["SeriesNumber"]), files[0].label))


def choose_series(
    name: str, series: Sequence[Sequence[Header]], rules: Rules
) -> dict[str, tuple[Sequence[Header], Rule]]:
    """For each map its series and the rule that it met.

    Args:
        name: the study's, for messages.
        series: files by series.
        rules: from `read_rules`.

    Raises:
        InputError: no series or several for a map, or one series for two maps.
    """
    chosen: dict[str, tuple[Sequence[Header], Rule]] = {}
    for suffix in MAPS:
        found = []
        for files in series:
            rule = next((rule for rule in rules.series[suffix] if rule.meets(files[0].headers)), None)
            if rule is None:
                continue
            if files[0].sop_class_uid in MAP_CLASSES:
                found.append((files, rule))
            else:
                kind = pydicom.uid.UID(files[0].sop_class_uid).name
                LOGGER.warning("%s: %s is a %s and was not taken for the %s", name, files[0].label, kind, suffix)
        if len(found) > 1:
            labels = ", ".join(files[0].label for files, _ in found)
            raise InputError(f"{name}: {len(found)} series could be the {suffix} ({labels}); tell them apart in the"
                             " DICOM rules")  # fmt: skip
        if not found:
            tried = " or ".join(f"[{rule}]" for rule in rules.series[suffix])
            there = ", ".join(files[0].label for files in series[:30])
            raise InputError(f"{name}: no series is the {suffix}; the rules want {tried}, the study holds {there};"
                             " correct the DICOM rules")  # fmt: skip
        files, rule = found[0]
        for other, (taken, _) in chosen.items():
            if taken is files:
                raise InputError(f"{name}: {files[0].label} meets the rules of the {other} and of the {suffix}; tell"
                                 " them apart in the DICOM rules")  # fmt: skip
        chosen[suffix] = (files, rule)
    return chosen


def _check_one_grid(name: str, labels: Sequence[str], volumes: Sequence[Volume], rules: Rules) -> None:
    """The maps have the same voxels at the same places."""
    first = volumes[0]
    for label, volume in zip(labels, volumes, strict=True):
        if rules.one_frame_of_reference and volume.frame_of_reference != first.frame_of_reference:
            raise InputError(f"{name}: {label} has another FrameOfReferenceUID than {labels[0]}; register them, or set"
                             " one_frame_of_reference in the DICOM rules")  # fmt: skip
        if volume.values.shape != first.values.shape:
            raise InputError(f"{name}: {label} has {volume.values.shape} columns, rows and slices, {labels[0]} has"
                             f" {first.values.shape}; resample it to that grid")  # fmt: skip
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(np.array(first.values.shape) - 1), 1]
        if np.abs((volume.affine - first.affine) @ corners.T).max() > 2 * rules.position_tolerance_mm:
            raise InputError(f"{name}: {label} lies elsewhere or is turned otherwise than {labels[0]}; resample it to"
                             " that grid")  # fmt: skip


def _source(suffix: str, header: Header, volume: Volume) -> SourceSeries:
    return SourceSeries(
        map=suffix,
        number=header.headers["SeriesNumber"],
        description=header.headers["SeriesDescription"],
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_class_uid=header.sop_class_uid,
        frame_of_reference_uid=volume.frame_of_reference,
        instances=tuple((uid, frame) for _, uid, frame in volume.frames),
        files=tuple(path for path, _, _ in volume.frames),
    )
