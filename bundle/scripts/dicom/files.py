"""The DICOM files of a folder: found without following links out of it, measured before they are read.

Nothing here puts a file's name into a message, for names of files and folders often hold the name of a patient.
"""

import io
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    ParametricMapStorage,
)
from pydicom.valuerep import VR

from scripts.dicom.discretion import NAMING_TAGS, discreet
from scripts.dicom.frames import TIMING_TAGS, Frame
from scripts.dicom.identity import SERIES_TAGS, STUDY_TAGS, UIDS, text, uids_of
from scripts.dicom.rules import HEADERS, Rules
from scripts.errors import InputError
from scripts.files.writing import sha256

LOGGER = logging.getLogger(__name__)
#: Who the patient is. All files of a study must agree on them.
#: What names the programs that made an image.
SOFTWARE = "SoftwareVersions"
PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
#: Kinds of objects that can hold a map. A secondary capture (screenshot) cannot, whatever it is called.
MAP_CLASSES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, ParametricMapStorage)
_SERIES_TAGS = ("BurnedInAnnotation", "SpecificCharacterSet", "Rows", "Columns", "NumberOfFrames")
_MAGIC_AT, _MAGIC = 128, b"DICM"
_VALUE_KINDS = {kind.value.encode() for kind in VR}

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
    names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """The file's series for messages: its number and description, without words that name somebody."""
        number = self.headers.get("SeriesNumber") or "without number"
        return f"series {number} {discreet(self.headers.get('SeriesDescription', ''), self.names)!r}"


def folders_with_files(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `root` with the files in it, both sorted by name.

    Hidden ones are left out. A link is followed only if it is to a file below `root`.
    """
    outside = others = 0
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
            else:
                others += 1
        pending += reversed(below)
        if files:
            yield folder, files
    if outside:
        LOGGER.warning("%d links to folders or out of the input were not followed", outside)
    if others:
        LOGGER.warning("%d pipes, sockets or devices in the input were passed over", others)


def is_dicom(path: str) -> bool:
    """Whether a file starts as DICOM does: with a preamble (PS3.10), or with the first element (old archives).

    Raises:
        InputError: it cannot be read at all.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_MAGIC_AT + len(_MAGIC))
    except OSError as error:
        raise InputError(f"a file of the input cannot be read ({error.strerror}); check its rights") from error
    return start[_MAGIC_AT:] == _MAGIC or _is_bare(start)


def _is_bare(start: bytes) -> bool:
    """Whether a file without preamble starts with an element of group 2 or 8, as a DICOM data set does."""
    if len(start) < 16 or start[_MAGIC_AT:] == _MAGIC:
        return False
    for order in ("little", "big"):
        group, element = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))
        if group not in (0x0002, 0x0008) or element > 0x0100:
            continue
        explicit = start[4:6] in _VALUE_KINDS
        if explicit or (order == "little" and int.from_bytes(start[4:8], order) <= 1024):
            return True
    return False


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
        with open(path, "rb") as file:
            bare = _is_bare(file.read(_MAGIC_AT + len(_MAGIC)))
            file.seek(0)
            # what lacks the preamble is given one
            source = io.BytesIO(bytes(_MAGIC_AT) + _MAGIC + file.read()) if bare else path
        meta = io.BytesIO(source.getvalue()[: 1 << 16]) if isinstance(source, io.BytesIO) else path
        syntax = UID(str(_meta_of(meta).get("TransferSyntaxUID", "")))
        if syntax != DeflatedExplicitVRLittleEndian:
            dataset = pydicom.dcmread(
                source, stop_before_pixels=not pixels, specific_tags=None if tags is None else [*tags]
            )
            if not syntax:
                dataset.file_meta.TransferSyntaxUID = _seen_syntax(dataset)
            if tags is not None:  # parse what is wanted now: pydicom does so late, and damage must show here
                for element in dataset:
                    str(element.value)
            return dataset
    except Exception as error:  # pydicom raises many kinds for a damaged file
        raise InputError(f"{where}: is damaged ({type(error).__name__}); export or send it again") from error
    raise InputError(f"{where}: is deflated (transfer syntax {syntax}), which is not read; export it uncompressed")


def says_simulated(dataset: Dataset) -> bool:
    """Whether an image says that a program simulated it: nobody was scanned."""
    return "simulated" in text(dataset.get(SOFTWARE)).lower()


def _of_first_frame(path: str, where: str, uids: Mapping[str, str]) -> dict[str, str]:
    """What the first frame of a multi-frame object says that a classic object says of the whole; else nothing."""
    if uids["SOPClassUID"] not in (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage):
        return {}
    wanted = [*TIMING_TAGS, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "EchoPulseSequence",
              "EchoPlanarPulseSequence"]  # fmt: skip
    dataset = read_dataset(path, where, pixels=False, tags=wanted)
    if not dataset.get("PerFrameFunctionalGroupsSequence"):
        return {}
    try:
        frame = Frame(dataset, where, 0)
        said = {tag: frame.acquisition(tag) for tag in TIMING_TAGS}
    except Exception as error:  # values that pydicom parses late
        raise InputError(f"{where}: is damaged ({type(error).__name__}); export or send it again") from error
    echo = {"SPIN": "SE", "GRADIENT": "GR"}.get(text(dataset.get("EchoPulseSequence")), "")
    said["ScanningSequence"] = "EP" if text(dataset.get("EchoPlanarPulseSequence")) == "YES" else echo
    return {tag: value for tag, value in said.items() if value}


def _meta_of(source: str | io.BytesIO) -> Dataset:
    """The file meta information (group 2) alone."""
    if isinstance(source, str):
        return read_file_meta_info(source)
    return pydicom.filereader.read_partial(source, stop_when=lambda tag, *_: tag.group > 2).file_meta


def _seen_syntax(dataset: Dataset) -> UID:
    """How a data set without meta information was seen to be written; its pixels then count as uncompressed."""
    implicit, little = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def read_headers(name: str, files: Sequence[str]) -> list[Header]:
    """The headers of a study's images. What is no image is passed over: other files, and DICOM's other objects (raw
    data, presentation states, reports, PDF).

    Args:
        name: the study's, for messages.
        files: all files of its folders.

    Raises:
        InputError: a damaged DICOM file, or no image at all.
    """
    found, others, derived = [], 0, 0
    objects: Counter[str] = Counter()
    wanted = [*UIDS, *STUDY_TAGS, *SERIES_TAGS, *_SERIES_TAGS, *PATIENT_TAGS, *NAMING_TAGS, *HEADERS]
    for number, path in enumerate(files, 1):
        if not is_dicom(path):
            others += 1
            continue
        where = f"{name}: file {number} of {len(files)}"
        dataset = read_dataset(path, where, pixels=False, tags=wanted)
        uids = uids_of(dataset, partial(sha256, path))
        if "Rows" not in dataset and "Columns" not in dataset:
            if uids["SOPClassUID"] in MAP_CLASSES:
                raise InputError(
                    f"{where}: has no Rows {pydicom.tag.Tag('Rows')}, so it may be cut short; send it again"
                )
            objects[UID(uids["SOPClassUID"]).name] += 1  # DICOMDIR, a table of contents, too
            continue
        derived += any(not text(dataset.get(tag)) for tag in UIDS)
        found.append(
            Header(
                path,
                where,
                *(uids["SOPClassUID"], uids["SOPInstanceUID"], uids["StudyInstanceUID"], uids["SeriesInstanceUID"]),
                text(dataset.get("BurnedInAnnotation")).upper() == "YES",
                tuple(text(dataset.get(tag)).rstrip("^ ").casefold() for tag in PATIENT_TAGS),
                {header: text(dataset.get(header)) for header in HEADERS} | _of_first_frame(path, where, uids),
                tuple(filter(None, (text(dataset.get(tag)) for tag in NAMING_TAGS))),
            )
        )
    if not found:
        raise InputError(f"{name}: none of its {len(files)} files is a DICOM image; give a DICOM study's folder")
    if others:
        LOGGER.info("%s: %d files are not DICOM and were passed over", name, others)
    if objects:
        kinds = ", ".join(f"{count} {kind}" for kind, count in objects.items())
        LOGGER.info("%s: objects that are no images were passed over (%s)", name, kinds)
    if derived:
        LOGGER.warning("%s: %d images lack UIDs and got some made from their content", name, derived)
    return found
