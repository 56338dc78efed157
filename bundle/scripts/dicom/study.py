"""A DICOM study as one scan: its QSM, R2* and T1W series found by rules, put on one grid, or refused with the reason.

Names and ids of patients, and names of files and folders, stay out of every message and result, unless
`include_identifiers` asks for them. A study is called by a hash of its UID, a series by its number and description.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from pydicom.uid import MediaStorageDirectoryStorage

from scripts.dicom.address import parse_address
from scripts.dicom.discretion import NAMING_TAGS, discreet
from scripts.dicom.files import (
    PATIENT_TAGS,
    SOFTWARE,
    Header,
    check_sizes,
    folders_with_files,
    is_dicom,
    read_dataset,
    read_headers,
    says_simulated,
)
from scripts.dicom.identity import STUDY_TAGS, UIDS, text, uids_of
from scripts.dicom.rules import Rule, Rules
from scripts.dicom.series import check_one_patient, choose_series, group_series
from scripts.dicom.volume import Volume, read_volume
from scripts.dicom.web import Archive, FetchedFiles
from scripts.errors import InputError
from scripts.maps.scan import MAPS
from scripts.registration.t1w_grid import register, same_grid

#: How many files of a folder are tried to learn which study it holds.
_MOST_PEEKS = 20
SCANNER_TAGS = {"manufacturer": "Manufacturer", "model": "ManufacturerModelName"}
FIELD_TAG = "MagneticFieldStrength"
_MOST_TESLA = 50.0
#: An age beyond is none, years.
OLDEST = 120
AGE_TAGS = ("PatientAge", "PatientBirthDate", "StudyDate")


@dataclass(frozen=True)
class DicomStudy:
    """A study that waits to be read. LoadImageMapsd reads it when its turn comes.

    `name` is how messages call it, `maps` what is read of it: MAPS, then further ones that the rules have. The names of
    `files` are not to be shown; those of an archive are fetched when they are first asked for.
    """

    name: str
    files: Sequence[str] = field(repr=False)
    rules: Rules = field(repr=False)
    maps: tuple[str, ...] = MAPS

    def choose(self) -> dict[str, tuple[Sequence[Header], Rule]]:
        """Read the headers; for each map its series and the rule that it met.

        Raises:
            InputError: the study is too large, damaged, of several patients, or its maps are not found.
        """
        check_sizes(self.name, self.files, self.rules)
        headers = read_headers(self.name, self.files)
        check_one_patient(self.name, headers)
        chosen = choose_series(self.name, group_series(self.name, headers), self.rules, self.maps)
        self.__dict__["series_files"] = _series_files(chosen)
        return chosen

    @cached_property
    def series_files(self) -> dict[str, list[str]]:
        """Map -> the files of its series: what a structured report refers to. Reads the headers if nobody has yet."""
        return _series_files(self.choose())

    def load(self, resample_t1w: str = "refuse") -> MetaTensor:
        """Read the maps.

        Args:
            resample_t1w: `rigid` registers a T1W on another grid; `refuse` refuses it.

        Returns:
            the stack `[C, I, J, K]` (float32; QSM in ppm, R2* in 1/s, T1W, further maps in their units; axes are
            columns, rows and slices) with its affine to RAS+ mm, as the same maps in NIfTI would give.

        Raises:
            InputError: the study is refused; docs/dicom.md lists the reasons.
        """
        chosen = self.choose()
        volumes = []
        for files, rule in chosen.values():
            try:
                volumes.append(read_volume(files, rule, self.rules))
            except InputError as error:
                said = str(error)
                raise InputError(said if said.startswith(self.name) else f"{self.name}: {said}") from error
        labels = [files[0].label for files, _ in chosen.values()]
        quality = None
        if resample_t1w == "rigid" and not _on_one_grid(volumes[0], volumes[2]):
            others = [number for number, suffix in enumerate(self.maps) if suffix != "T1w"]
            _check_one_grid(
                self.name,
                [self.maps[number] for number in others],
                [labels[number] for number in others],
                [volumes[number] for number in others],
                self.rules,
            )
            qsm, r2star, t1w = volumes[: len(MAPS)]
            found = register(t1w.values, t1w.affine, qsm.values, r2star.values, qsm.affine, f"{self.name}: {labels[2]}")
            volumes[2], quality = replace(qsm, values=found.t1w), found.quality
        else:
            _check_one_grid(self.name, self.maps, labels, volumes, self.rules)
        stack = torch.from_numpy(np.stack([volume.values for volume in volumes]))
        affine = torch.from_numpy(volumes[0].affine)
        meta = {
            "original_affine": affine.clone(),
            "spatial_shape": np.array(stack.shape[1:]),
            "original_channel_dim": 0,
            "space": "RAS",
            "filename_or_obj": self.name,
        }
        if quality is not None:
            meta["t1w_registration"] = json.dumps(quality)
        return MetaTensor(stack, affine=affine, meta=meta)

    def simulated(self) -> bool:
        """Whether the study says that nobody was scanned: a map's first file, or before the maps were chosen the
        study's."""
        try:
            known = self.__dict__.get("series_files")
            firsts = [paths[0] for paths in known.values()] if known else [next(filter(is_dicom, self.files))]
            return any(says_simulated(read_dataset(path, self.name, pixels=False, tags=[SOFTWARE])) for path in firsts)
        except (InputError, StopIteration):
            return False  # what is wrong with it, its own turn will say

    def patient(self) -> dict[str, str]:
        """What the study says of the patient, by DICOM keyword; only for results that shall name the patient."""
        return self._said(PATIENT_TAGS)

    def _said(self, tags: Sequence[str]) -> dict[str, str]:
        """What the maps' headers say, the first that says it: a program that makes a series may leave some out."""
        found = dict.fromkeys(tags, "")
        for path, *_ in self.series_files.values():
            dataset = read_dataset(path, self.name, pixels=False, tags=[tag for tag in tags if not found[tag]])
            found |= {tag: said for tag in tags if not found[tag] and (said := text(dataset.get(tag)))}
            if all(found.values()):
                break
        return found

    def scanner(self) -> dict[str, str | float]:
        """What the study says of the machine: `manufacturer`, `model` and `field_strength_t`, as far as it does."""
        (path, *_) = self.series_files[MAPS[0]]
        tags = [*SCANNER_TAGS.values(), FIELD_TAG, *NAMING_TAGS]
        dataset = read_dataset(path, self.name, pixels=False, tags=tags)
        names = [text(dataset.get(tag)) for tag in NAMING_TAGS]  # some stand where the scanner belongs
        words = {key: discreet(text(dataset.get(tag)), names) for key, tag in SCANNER_TAGS.items()}
        said: dict[str, str | float] = {key: word for key, word in words.items() if word}
        with suppress(TypeError, ValueError):
            if (found := float(dataset.get(FIELD_TAG))) > 0:
                said["field_strength_t"] = found if found < _MOST_TESLA else found / 1e4  # some write gauss
        return said

    def age(self) -> float | None:
        """The patient's age in years by Patient's Age or else by birth and study date; None where neither is told."""
        return age_in_years(*self._said(AGE_TAGS).values())


def age_in_years(age: str, birth_date: str, study_date: str) -> float | None:
    """Years from an age string (`045Y`, `018M`, `010W`, `010D`), else from two dates (`YYYYMMDD`); None if unknown."""
    if match := re.fullmatch(r"(\d{3})([YMWD])", age):
        told = int(match[1]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]]
        return told if told <= OLDEST else None  # 999Y stands for unknown
    try:
        born, seen = (datetime.strptime(date, "%Y%m%d") for date in (birth_date, study_date))
    except ValueError:
        return None
    years = (seen - born).days / 365.25
    return round(years, 1) if 0 <= years <= OLDEST else None


def _series_files(chosen: Mapping[str, tuple[Sequence[Header], Rule]]) -> dict[str, list[str]]:
    return {suffix: [file.path for file in files] for suffix, (files, _) in chosen.items()}


def find_studies(
    root: str | Path, rules: Rules, *, include_identifiers: bool = False, maps: tuple[str, ...] = MAPS
) -> list[DicomStudy]:
    """The studies below a folder, told apart by their UID, whatever the folders are called.

    One file of each folder is opened; everything else is read when a study is loaded.

    Args:
        root: a study's folder, or one that holds several studies.
        rules: from `read_rules`.
        include_identifiers: call studies by their Patient ID too.
        maps: of `DicomStudy`.

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
        studies.append(DicomStudy(name_of(uid, patients[uid], include_identifiers), tuple(paths), rules, maps))
    return studies


def name_of(uid: str, patient_id: str, include_identifiers: bool = False) -> str:
    """What messages and results call a study.

    Args:
        uid: its Study Instance UID, or `damaged` and a number.
        patient_id: Patient ID.
        include_identifiers: whether the name tells the Patient ID.
    """
    known = not uid.startswith("damaged")
    name = f"study-{hashlib.sha256(uid.encode()).hexdigest()[:10]}" if known else f"study-{uid.replace(' ', '-')}"
    patient = re.sub(r"[^A-Za-z0-9-]", "", patient_id) if include_identifiers else ""
    return f"{patient}_{name}" if patient else name


def find_in_archive(
    address: str, rules: Rules, folder: Path, *, include_identifiers: bool = False, maps: tuple[str, ...] = MAPS
) -> list[DicomStudy]:
    """The studies that are asked for in an archive; each is fetched when its turn comes.

    Args:
        address: see `scripts.dicom.web.parse_address`.
        rules: from `read_rules`.
        folder: gets the studies' files.
        include_identifiers: call studies by their Patient ID too.
        maps: of `DicomStudy`.

    Raises:
        InputError: see `scripts.dicom.web.Archive.find`.
    """
    url, query = parse_address(address, "input")
    archive = Archive(url)
    studies = []
    for uid, patient_id in archive.find("input", query).items():
        name = name_of(uid, patient_id, include_identifiers)
        fetch = partial(archive.fetch, uid, name, folder / name_of(uid, ""), rules.max_files)
        studies.append(DicomStudy(name, FetchedFiles(fetch), rules, maps))
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
            dataset = read_dataset(
                path, "a file", pixels=False, tags=[*UIDS, *STUDY_TAGS, "Modality", "NumberOfFrames"]
            )
        except InputError:
            damaged = True
            continue
        if dataset.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:  # a table of contents
            return uids_of(dataset, partial(str, path))["StudyInstanceUID"], text(dataset.get("PatientID"))
    return ("", "") if damaged else None


def _on_one_grid(first: Volume, other: Volume) -> bool:
    return same_grid(first.values.shape, first.affine, other.values.shape, other.affine)


def _check_one_grid(
    name: str, maps: Sequence[str], labels: Sequence[str], volumes: Sequence[Volume], rules: Rules
) -> None:
    """The maps have the same voxels at the same places."""
    first = volumes[0]
    for suffix, label, volume in zip(maps, labels, volumes, strict=True):
        cure = "resample it to that grid" + (", or let --resample_t1w rigid do it" if suffix == "T1w" else "")
        if rules.one_frame_of_reference and volume.frame_of_reference != first.frame_of_reference:
            raise InputError(f"{name}: {label} has another FrameOfReferenceUID than {labels[0]}; register them, or set"
                             " one_frame_of_reference in the DICOM rules")  # fmt: skip
        if volume.values.shape != first.values.shape:
            raise InputError(f"{name}: {label} has {volume.values.shape} columns, rows and slices, {labels[0]} has"
                             f" {first.values.shape}; {cure}")  # fmt: skip
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(np.array(first.values.shape) - 1), 1]
        if np.abs((volume.affine - first.affine) @ corners.T).max() > 2 * rules.position_tolerance_mm:
            raise InputError(f"{name}: {label} lies elsewhere or is turned otherwise than {labels[0]}; {cure}")
