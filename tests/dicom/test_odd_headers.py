"""Whatever stands in the headers of a study, its report, evidence map and segmentation are made; nobody is named."""

import copy
import io
import logging
import random
import re
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_study import write_study
from monai.data import MetaTensor
from odd_headers import changes
from pydicom.config import RAISE
from pydicom.valuerep import validate_value

pytest.importorskip("highdicom")

from scripts.dicom.discretion import discreet  # noqa: E402
from scripts.dicom.evidence import write_parametric_map, write_segmentation  # noqa: E402
from scripts.dicom.files import read_headers  # noqa: E402
from scripts.dicom.identity import allowed  # noqa: E402
from scripts.dicom.sources import read_series
from scripts.dicom.structured_report import write_structured_report

MODEL = {"name": "Q-Net", "version": "0.1.0", "sha256": "ab" * 32}
METHOD = {"method": "occlusion", "name": "occlusion", "says": "what covering a patch does"}
SHAPE, AFFINE = (6, 5, 3), np.diag([-3.0, -3, 4, 1])
RESULT = {
    "probability_HH": 0.7, "class": "HH", "threshold": 0.5, "note": "Research use only.",
    "slices": [{"slice": 0, "input_slice": 1, "probability_HH": 0.7}],
}  # fmt: skip
TURNS = 1
TEXTS = ("PN", "LO", "SH", "CS", "DA", "TM", "AS", "LT", "ST", "UT", "UI", "DS", "IS", "DT")


@pytest.fixture(scope="module")
def evidence() -> MetaTensor:
    values = torch.linspace(-1, 1, int(np.prod(SHAPE))).reshape(1, *SHAPE)
    return MetaTensor(values, affine=torch.from_numpy(AFFINE))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> dict[str, list[pydicom.Dataset]]:
    """Good headers, to be spoilt in memory."""
    files = write_study(tmp_path_factory.mktemp("odd") / "study", SHAPE, AFFINE)
    return {name: [pydicom.dcmread(path) for path in paths] for name, paths in files.items()}


@contextmanager
def listening(caplog):
    """Everything that is said by whatever way, as a list of one text."""
    said, text = [], io.StringIO()
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with redirect_stdout(text), redirect_stderr(text):
            yield said
    said.append(text.getvalue() + caplog.text + " ".join(str(w.message) for w in warned))


def spoilt(study, folder: Path, change) -> dict[str, list[Path]]:
    """The study on disk, every header changed."""
    files = {}
    for name, datasets in study.items():
        (folder / name).mkdir(parents=True)
        files[name] = []
        for number, good in enumerate(datasets):
            dataset = copy.deepcopy(good)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                change(dataset)
                path = folder / name / f"{number}.dcm"
                dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
            files[name].append(path)
    return files


def write_all(files, evidence, folder: Path) -> list[pydicom.Dataset]:
    """The three objects, read back."""
    read_headers("the study", [str(path) for paths in files.values() for path in paths])
    series = read_series(files)
    write_structured_report(folder / "sr.dcm", RESULT, evidence, series, MODEL)
    write_parametric_map(folder / "map.dcm", evidence, series, MODEL, METHOD)
    write_segmentation(folder / "seg.dcm", evidence, series, MODEL, 0.5, METHOD)
    return [pydicom.dcmread(folder / name) for name in ("sr.dcm", "map.dcm", "seg.dcm")]


def check_valid(document: pydicom.Dataset) -> None:
    """Every value of an output object is one that DICOM allows, but for zeros in UIDs that a source brought along."""
    for element in document.iterall():
        values = element.value if element.VM > 1 else [element.value]
        for value in values if element.VR not in ("SQ", "OW", "OF", "OB", "OD") else ():
            if element.VR == "UI":
                value = re.sub(r"(^|\.)0+(?=\d)", r"\1", value or "")
            if value not in (None, ""):
                validate_value(element.VR, str(value) if element.VR in TEXTS else value, RAISE)


def kinds() -> list[str]:
    return list(changes(random.Random(0)))


@pytest.mark.parametrize("kind", kinds())
def test_objects_are_made_of_odd_headers_and_nobody_is_named(study, evidence, tmp_path, caplog, kind):
    for turn in range(TURNS):
        folder = tmp_path / str(turn)
        change = changes(random.Random(f"{kind} {turn}"))[kind]
        with listening(caplog) as said:
            documents = write_all(spoilt(study, folder, change), evidence, folder)
        assert not re.search("secretname|Doe|SECRET", said[0], re.IGNORECASE), said[0]
        for document in documents:
            check_valid(document)


def test_everything_odd_at_once(study, evidence, tmp_path, caplog):
    def change(dataset):
        for one in changes(random.Random(5)).values():
            one(dataset)

    with listening(caplog) as said:
        documents = write_all(spoilt(study, tmp_path, change), evidence, tmp_path)
    assert not re.search("secretname|SECRET", said[0], re.IGNORECASE)
    for document in documents:
        check_valid(document)


@pytest.mark.parametrize(
    ("characters", "raw", "name"),
    [
        (["", "ISO 2022 IR 87"],
         b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
        (["", "ISO 2022 IR 149"],
         b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=\u6d2a^\u5409\u6d1e"),
        (["ISO_IR 100"], b"M\xfcller^J\xf6rg", "M\u00fcller^J\u00f6rg"),
    ],
)  # fmt: skip
def test_a_name_keeps_its_characters(study, evidence, tmp_path, characters, raw, name):
    def change(dataset):
        dataset.SpecificCharacterSet = characters
        dataset.add_new("PatientName", "PN", raw)

    for document in write_all(spoilt(study, tmp_path, change), evidence, tmp_path):
        assert str(document.PatientName) == name and document.SpecificCharacterSet == "ISO_IR 192"


def test_missing_uids_are_made_of_what_the_files_say_and_the_same_every_time(study, evidence, tmp_path, caplog):
    def change(dataset):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            delattr(dataset, keyword)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"

    files = spoilt(study, tmp_path, change)
    first, again = read_series(files), read_series(files)
    uids = [source.SOPInstanceUID for sources in first.values() for source in sources]
    assert uids == [source.SOPInstanceUID for sources in again.values() for source in sources]
    assert len(set(uids)) == 9 and all(uid.startswith("2.25.") for uid in uids)
    assert len({sources[0].SeriesInstanceUID for sources in first.values()}) == 3
    assert len({source.StudyInstanceUID for sources in first.values() for source in sources}) == 1
    with caplog.at_level(logging.WARNING):
        report, *_ = write_all(files, evidence, tmp_path)
    assert "9 images lack UIDs" in caplog.text
    assert report.StudyInstanceUID == first["T1w"][0].StudyInstanceUID


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("PatientSex", "MALE", "M"),
        ("PatientSex", "unknown", ""),
        ("StudyDate", "2025.01.31", "20250131"),
        ("StudyDate", "20250132", ""),
        ("StudyTime", "10:11:12", "101112"),
        ("StudyTime", "2561", ""),
        ("PatientAge", "45Y", "045Y"),
        ("PatientName", "Yamada", "Yamada^"),
        ("PatientName", "a^b^c^d^e^f", "a^b^c^d^e f"),
        ("StudyID", "x" * 40, "x" * 16),
        ("PatientID", "a\\b\x00c", "a b c"),
        ("StudyInstanceUID", "1.2.840.01", "1.2.840.01"),
    ],
)
def test_values_become_what_dicom_allows(keyword, value, kept):
    assert allowed(keyword, value) == kept


def test_a_word_that_names_somebody_is_left_out_of_a_description():
    assert discreet("QSM_Erika Muster t1", ("Muster^Erika", "ID-90210")) == "QSM_*** *** t1"
    assert discreet("QSM Siemens 90210", ("Siemens^GE", "ID-90210")) == "QSM *** ***"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("DoeJane loc", "Doe^Jane"), ("MUELLER JUERGEN loc", "Müller^Jürgen"), ("Muller loc", "Müller^Jürgen"),
        ("Mu\u0308llerQSM loc", "Müller"), ("qsm4711 loc", "SECRET-4711"), ("山田太郎 loc", "山田^太郎"),
    ],
)  # fmt: skip
def test_a_name_inside_a_word_or_spelt_otherwise_is_left_out_too(said, name):
    assert set(discreet(said, [name]).split()) == {"***", "loc"}


@pytest.mark.parametrize(
    ("said", "names", "left"),
    [
        ("DoeJane loc", "Doe^Jane", "*** loc"),
        ("t1_DOE2 JaneT1", "Doe^Jane", "t1_*** ***"),
        ("MUELLER JUERGEN loc", "Müller^Jürgen", "*** *** loc"),
        ("Muller Jurgen loc", "Müller^Jürgen", "*** *** loc"),
        ("Müller_MÜLLER loc", "Mueller^J", "***_*** loc"),
        ("Mu\u0308ller loc", "Muller^J", "*** loc"),
        ("Strasse Soren Lukasz", "Straße^Søren^Łukasz", "*** *** ***"),
        ("loc4711 4711x t2", "SECRET-4711", "*** *** t2"),
        ("secretloc 90210", "ID90210", "secretloc ***"),
        ("born 1960 or 19600101a", "19600101", "born *** or ***"),
        ("NgLi ng li LiNg t1", "Ng^Li", "*** *** *** *** t1"),
        ("山田太郎 head 山田T1", "山田^太郎", "*** head ***"),
        ("김철수 T1", "김^철수", "*** T1"),
        ("हिन्दी T1", "हिन्दी^क", "*** T1"),
        ("Jane T1", "DoeJane", "*** T1"),
        ("t1_mprage_sag 123 01", "J^D\\SIM-12", "t1_mprage_sag 123 01"),
    ],
)
def test_a_name_is_left_out_however_it_is_spelt_or_joined(said, names, left):
    assert discreet(said, (names,)) == left
