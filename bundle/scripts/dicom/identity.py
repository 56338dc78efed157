"""Between the headers that strangers' scanners write and what we make of them: identifiers, names and text, made clean.

Whatever a header holds (other character sets, dates that are none, UIDs that are none or missing, text too long), an
output object gets values that DICOM allows, or none. All output objects go through `source_of` and `claim`, so nothing
that a person wrote into a header reaches a library that would quote it.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EnhancedMRImageStorage, MRImageStorage, SecondaryCaptureImageStorage
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

#: Who the patient and what the study is: what an output object takes over from its source images. The first row is due
#: in every object (type 2 in DICOM), empty where nothing is known.
_DUE = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
        "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
_WELCOME = ("PatientAge", "IssuerOfPatientID", "StudyDescription")
#: UIDs that every image has; where one is missing it is derived, from what the file says or holds.
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
#: What a UID is derived from where it is missing.
STUDY_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyID", "AccessionNumber")
SERIES_TAGS = ("SeriesNumber", "SeriesDescription", "ProtocolName", "Modality")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae"})
#: Parts of a name that name somebody inside a longer word too; the first range is East Asian.
_PARTS = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]{2,}|[^\W\d]{3,}|\d{4,}")
_LONGEST = {"LO": 64, "SH": 16, "CS": 16, "PN": 64}
#: Leading zeros are not allowed, but written by some; a UID that is changed would lead nowhere.
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
_SEXES = {"M": "M", "MALE": "M", "MAN": "M", "F": "F", "FEMALE": "F", "WOMAN": "F", "W": "F", "O": "O", "OTHER": "O"}


def text(value: object) -> str:
    """A header's value as one line of printable text; several values joined by a backslash."""
    values = value if isinstance(value, (list, tuple, MultiValue)) else [value]
    joined = "\\".join("" if v is None else str(v) for v in values)
    return "".join(c if c.isprintable() else " " for c in joined).strip()[:128]


def made_uid(*parts: object) -> str:
    """A UID that is the same for the same parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def uids_of(dataset: Dataset, content_hash: Callable[[], str]) -> dict[str, str]:
    """The UIDS of an image, as its header says them, or derived where it does not.

    Args:
        dataset: with UIDS, STUDY_TAGS, SERIES_TAGS and file meta information, as far as they are there.
        content_hash: of the whole file; asked only where no UID of the image is told.
    """
    meta = getattr(dataset, "file_meta", Dataset())
    said = {tag: text(dataset.get(tag)) for tag in UIDS}
    said["SOPClassUID"] = said["SOPClassUID"] or text(meta.get("MediaStorageSOPClassUID")) or _class_of(dataset)
    said["SOPInstanceUID"] = (
        said["SOPInstanceUID"] or text(meta.get("MediaStorageSOPInstanceUID")) or made_uid("image", content_hash())
    )
    study = said["StudyInstanceUID"] or made_uid("study", *(text(dataset.get(tag)) for tag in STUDY_TAGS))
    said["StudyInstanceUID"] = study
    said["SeriesInstanceUID"] = said["SeriesInstanceUID"] or made_uid(
        "series", study, *(text(dataset.get(tag)) for tag in SERIES_TAGS)
    )
    return said


def _class_of(dataset: Dataset) -> str:
    """What kind of object a file without SOP class is: a map may be in it only if it says MR."""
    if text(dataset.get("Modality")) != "MR":
        return SecondaryCaptureImageStorage
    return EnhancedMRImageStorage if "NumberOfFrames" in dataset else MRImageStorage


# --- what an output object may hold ----------------------------------------------------------------------------------


def allowed(keyword: str, value: object) -> str:
    """A value of one of our header fields as DICOM allows it (PS3.5, 6.2); empty where nothing of it can be kept.

    Args:
        keyword: of a field of text, date, time, age or UID.
        value: what the file says.
    """
    kind = dictionary_VR(keyword)
    said = " ".join(text(value).split())
    if kind == "PN":
        return _person(said)
    said = said.replace("\\", " ") if kind != "UI" else said
    if keyword == "PatientSex":
        return _SEXES.get(said.upper(), "")
    if kind == "DA":
        return _date(said)
    if kind == "TM":
        return _time(said)
    if kind == "AS":
        found = re.fullmatch(r"(\d{1,3})([DWMY])", said.upper())
        return f"{int(found[1]):03d}{found[2]}" if found else ""
    if kind == "UI":
        return said if _UID.fullmatch(said) else made_uid(said) if said else ""
    if kind == "CS":
        said = re.sub(r"[^A-Z0-9 _]", " ", said.upper())
    return said[: _LONGEST.get(kind, 64)].strip()


def _person(said: str) -> str:
    """Up to three groups (alphabetic, ideographic, phonetic) of up to five components and 64 characters."""
    groups = []
    for group in said.replace("\\", " ").split("=")[:3]:
        parts = [part.strip() for part in group.split("^")]
        groups.append("^".join([*parts[:4], " ".join(parts[4:])] if len(parts) > 5 else parts)[: _LONGEST["PN"]])
    joined = "=".join(groups).rstrip("=")
    return joined if "^" in joined or not joined else f"{joined}^"


def _date(said: str) -> str:
    digits = re.sub(r"[-./ :]", "", said)[:8]
    try:
        return datetime.strptime(digits, "%Y%m%d").strftime("%Y%m%d") if re.fullmatch(r"\d{8}", digits) else ""
    except ValueError:
        return ""


def _time(said: str) -> str:
    found = re.fullmatch(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d)(\.\d{1,6})?\d*)?)?", said)
    return "".join(part or "" for part in found.groups()) if found else ""


def source_of(dataset: Dataset, uids: Mapping[str, str]) -> Dataset:
    """A source image as output objects may refer to it: which image, and where it lies. Nobody is named in it.

    Args:
        dataset: the image's headers.
        uids: from `uids_of`.

    Returns:
        a new dataset that holds nothing but clean values; `identity` in it is for `claim`.
    """
    clean = Dataset()
    for tag in UIDS:
        setattr(clean, tag, UID(allowed(tag, uids[tag])))
    for tag in _DUE:
        setattr(clean, tag, "")
    clean.FrameOfReferenceUID = UID(allowed("FrameOfReferenceUID", dataset.get("FrameOfReferenceUID"))
                                    or made_uid("frame", uids["SeriesInstanceUID"]))  # fmt: skip
    clean.PositionReferenceIndicator = ""
    clean.Modality = allowed("Modality", dataset.get("Modality")) or "MR"
    clean.Rows, clean.Columns = (_whole(dataset.get(tag)) for tag in ("Rows", "Columns"))
    _copy_places(dataset, clean)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups:
        clean.NumberOfFrames = len(groups)
        clean.PerFrameFunctionalGroupsSequence = Items([_places_of(group) for group in groups])
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
        clean.SharedFunctionalGroupsSequence = Items([_places_of(group) for group in shared])
    clean.identity = {tag: allowed(tag, dataset.get(tag)) for tag in (*_DUE, *_WELCOME)}
    return clean


_PLACES = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "SliceThickness": 1}
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
}


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _copy_places(dataset: Dataset, clean: Dataset, keywords: Sequence[str] = tuple(_PLACES)) -> None:
    """The numbers that say where an image lies, those that are numbers."""
    for keyword in keywords:
        try:
            numbers = np.array(dataset.get(keyword), np.float64).reshape(-1)
        except (TypeError, ValueError):
            continue
        if len(numbers) == _PLACES[keyword] and np.isfinite(numbers).all():
            short = decimals(numbers)
            setattr(clean, keyword, short if len(short) > 1 else short[0])


def _places_of(group: Dataset) -> Dataset:
    """One functional group, with nothing but where its frame lies."""
    clean = Dataset()
    for sequence, keywords in _GROUPS.items():
        for item in (group.get(sequence) or [])[:1]:
            inner = Dataset()
            _copy_places(item, inner, keywords)
            setattr(clean, sequence, Items([inner]))
    return clean


def decimals(values: Iterable[float]) -> list[float]:
    """Numbers that fit the 16 characters of a DICOM decimal string."""
    return [round(float(value), 6) for value in values]


def claim(document: Dataset, sources: Sequence[Dataset]) -> None:
    """Say in an output object whose it is: patient and study as its sources say them.

    In UTF-8 where letters ask for it, and else in Latin 1, which every reader of DICOM knows.

    Args:
        document: made from `sources`, which name nobody.
        sources: from `source_of`.
    """
    for tag, value in sources[0].identity.items():
        if value or tag in _DUE:
            setattr(document, tag, value)
    plain = all(str(element.value).isascii() for element in document.iterall() if element.VR in CUSTOMIZABLE_CHARSET_VR)
    document.SpecificCharacterSet = "ISO_IR 100" if plain else "ISO_IR 192"
