"""The DICOM files of a folder: found without following links out of it, measured before they are read.

Nothing here puts a file's name into a message, for names of files and folders often hold the name of a patient.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from scripts.dicom_rules import HEADERS, Rules
from scripts.errors import InputError

LOGGER = logging.getLogger(__name__)
#: Who the patient is. All files of a study must agree on them.
PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_SERIES_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "BurnedInAnnotation",
    "SpecificCharacterSet",
)  # fmt: skip
_MAGIC_AT, _MAGIC = 128, b"DICM"

# pydicom's remarks on odd values quote them, patients' names too: none is made, whatever thread or module reads.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Header:
    """What decides to which series a file belongs. `where` says in messages which file it is, without its name."""

    path: str
    where: str
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    burned_in: bool
    patient: tuple[str, ...]
    headers: dict[str, str]

    @property
    def label(self) -> str:
        """The file's series for messages: its number and description."""
        number, text = self.headers.get("SeriesNumber") or "without number", self.headers.get("SeriesDescription", "")
        return f"series {number} {text!r}"


def folders_with_files(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `root` with the files in it, both sorted by name.

    Hidden ones are left out. A link is followed only if it is to a file below `root`.
    """
    outside = 0
    pending = [str(root)]
    real_root = os.path.realpath(root)
    while pending:
        folder = pending.pop()
        files, below = [], []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"a folder of the input cannot be read ({error.strerror}); check its rights") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if os.path.isfile(target) and os.path.commonpath([real_root, target]) == real_root:
                    files.append(entry.path)
                else:
                    outside += 1
            elif entry.is_dir():
                below.append(entry.path)
            elif entry.is_file():
                files.append(entry.path)
        pending += reversed(below)
        if files:
            yield folder, files
    if outside:
        LOGGER.warning("%d links to folders or out of the input were not followed", outside)


def is_dicom(path: str) -> bool:
    """Whether a file starts as DICOM files do (PS3.10). Raises InputError if it cannot be read at all."""
    try:
        with open(path, "rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise InputError(f"a file of the input cannot be read ({error.strerror}); check its rights") from error


def check_sizes(name: str, files: Sequence[str], rules: Rules) -> None:
    """Refuse a study of too many or too large files before any is read.

    Args:
        name: the study's, for messages.
        files: all its files.
        rules: with the limits.

    Raises:
        InputError: a limit is passed.
    """
    if len(files) > rules.max_files:
        raise InputError(f"{name}: {len(files)} files where {rules.max_files} are allowed; give one study, or raise"
                         " limits: files in the DICOM rules")  # fmt: skip
    sizes = [os.path.getsize(path) for path in files]
    for number, size in enumerate(sizes, 1):
        if size > rules.max_file_bytes:
            raise InputError(f"{name}: file {number} of {len(files)} has {size / 1e9:.2f} GB where"
                             f" {rules.max_file_bytes / 1e9:g} are allowed; remove it, or raise limits: file_gb in the"
                             " DICOM rules")  # fmt: skip
    if sum(sizes) > rules.max_study_bytes:
        raise InputError(f"{name}: {sum(sizes) / 1e9:.2f} GB where {rules.max_study_bytes / 1e9:g} are allowed; give"
                         " one study, or raise limits: study_gb in the DICOM rules")  # fmt: skip


def read_dataset(path: str, where: str, *, pixels: bool, tags: Sequence[str] | None = None) -> Dataset:
    """Read one DICOM file.

    Args:
        path: the file.
        where: how messages call it.
        pixels: whether to read the pixel data too.
        tags: keywords of the elements wanted; None: all.

    Raises:
        InputError: a damaged file, or one that is deflated as a whole: such a file can unpack to any size, so it is
            refused unread.
    """
    try:
        syntax = UID(str(read_file_meta_info(path).get("TransferSyntaxUID", "")))
        if syntax and syntax != DeflatedExplicitVRLittleEndian:
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags and list(tags))
            if tags is not None:  # parse what is wanted now: pydicom does so late, and damage must show here
                for element in dataset:
                    str(element.value)
            return dataset
    except Exception as error:  # pydicom raises many kinds for a damaged file
        raise InputError(f"{where}: is damaged ({type(error).__name__}); export or send it again") from error
    if not syntax:
        raise InputError(f"{where}: has no Transfer Syntax UID (0002,0010); export it again")
    raise InputError(f"{where}: is deflated (transfer syntax {syntax}), which is not read; export it uncompressed")


def text(value: object) -> str:
    """A header's value as one line of printable text; several values joined by a backslash."""
    values = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    joined = "\\".join("" if v is None else str(v) for v in values)
    return "".join(c if c.isprintable() else " " for c in joined).strip()[:128]


def read_headers(name: str, files: Sequence[str]) -> list[Header]:
    """The headers of a study's DICOM files; other files are passed over.

    Args:
        name: the study's, for messages.
        files: all files of its folders.

    Raises:
        InputError: a damaged DICOM file, or one that lacks a UID.
    """
    found, others = [], 0
    wanted = [*_SERIES_TAGS, *PATIENT_TAGS, *HEADERS]
    for number, path in enumerate(files, 1):
        if not is_dicom(path):
            others += 1
            continue
        where = f"{name}: file {number} of {len(files)}"
        dataset = read_dataset(path, where, pixels=False, tags=wanted)
        if dataset.get("SOPClassUID", dataset.file_meta.get("MediaStorageSOPClassUID")) == MediaStorageDirectoryStorage:
            continue  # DICOMDIR, a table of contents
        uids = {tag: text(dataset.get(tag)) for tag in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
                                                         "SeriesInstanceUID")}  # fmt: skip
        for tag, value in uids.items():
            if not value:
                raise InputError(f"{where}: has no {tag} {pydicom.tag.Tag(tag)}; export it again")
        found.append(
            Header(
                path,
                where,
                *uids.values(),
                text(dataset.get("BurnedInAnnotation")).upper() == "YES",
                tuple(text(dataset.get(tag)).rstrip("^ ").casefold() for tag in PATIENT_TAGS),
                {header: text(dataset.get(header)) for header in HEADERS},
            )
        )
    if not found:
        raise InputError(f"{name}: none of its {len(files)} files is DICOM; give a DICOM study's folder")
    if others:
        LOGGER.info("%s: %d files are not DICOM and were passed over", name, others)
    return found
