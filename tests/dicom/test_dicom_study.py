"""Which series of a study are taken, what of a study is refused, and that nobody's name gets out."""

import logging
import os
import random
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
import torch
from blobs import BOX
from pydicom.dataset import Dataset
from refusal import refused
from studies import QSM, R2STAR, RULES, T1W, edit, edit_series, files_of, only_study

from scripts.dicom.rules import read_rules
from scripts.dicom.sources import read_series
from scripts.dicom.study import find_studies
from scripts.errors import InputError
from scripts.inference.inputs import find_input
from scripts.simulation.dicom import write_study

SECRET = re.compile("SIM-|Simulated|Secretname|/")  # patient's id and name in the simulated studies, and any path


@contextmanager
def refused_discreetly(*words: str):
    """`refused`, and the line holds no name, id or path."""
    with pytest.raises(InputError) as caught:
        with refused(*words):
            try:
                yield
            except InputError as error:
                caught_first = error
                raise
        raise caught_first
    assert not SECRET.search(str(caught.value)), caught.value


def relabel(study: Path, number: int, **headers) -> None:
    edit_series(study, number, lambda dataset: dataset.update(headers))


def with_rules(folder: Path, old: str, new: str) -> Path:
    """The shipped rules with a piece of text replaced."""
    text = RULES.read_text()
    assert old in text
    path = folder / "rules.yaml"
    path.write_text(text.replace(old, new))
    return path


# --- series ---------------------------------------------------------------------------------------


def test_other_series_do_not_disturb_and_a_screenshot_is_not_taken(scan, template, tmp_path, caplog):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", box=BOX)  # with localizer and screenshot
    (study / "DICOMDIR.txt").write_text("no DICOM")
    (study / ".DS_Store").write_text("hidden")
    with caplog.at_level(logging.WARNING):
        image = only_study(study).load()
    assert torch.equal(image, only_study(template).load())
    assert "series 99 'STAGE_tra_QSM screenshot' is a Secondary Capture" in caplog.text


def test_a_map_with_burned_in_annotations_is_refused(study):
    relabel(study, QSM, BurnedInAnnotation="YES")
    with refused_discreetly("series 3 'STAGE_tra_QSM'", "burned into the image"):
        only_study(study).load()


def test_no_series_for_a_map_says_in_words_what_was_looked_for_and_what_is_there(study):
    relabel(study, R2STAR, SeriesDescription="T2Star")
    with refused_discreetly(
        "no series is the R2starmap", "as an R2* map is; the study holds series", "series 4 'T2Star'"
    ):
        only_study(study).load()


def test_a_series_that_the_user_names_is_taken_whatever_it_is_called(study):
    relabel(study, T1W, SeriesDescription="Gehirn anatomisch")
    with refused_discreetly("series 5 'Gehirn anatomisch'", "--series#T1w NUMBER"):
        only_study(study).load()
    (item,) = find_input(study, dicom_rules=RULES, series={"T1w": T1W, "Chimap": None})
    files, rule = item.study.choose()["T1w"]
    assert files[0].headers["SeriesNumber"] == str(T1W) and rule.unit == "any"
    (item,) = find_input(study, dicom_rules=RULES, series={"T1w": 99})
    with refused_discreetly("holds no series 99", "series 5 'Gehirn anatomisch'"):
        item.study.choose()


def test_a_t1w_after_contrast_agent_is_not_taken_by_itself(study):
    relabel(study, T1W, ContrastBolusAgent="None")
    only_study(study).load()
    relabel(study, T1W, ContrastBolusAgent="Gadovist")
    with refused_discreetly("no series is the T1w", "--series#T1w NUMBER"):
        only_study(study).load()


def test_of_two_candidates_the_user_chooses_by_number_and_no_unit_is_guessed(study):
    relabel(study, T1W, SeriesDescription="QSM second try")
    (item,) = find_input(study, dicom_rules=RULES, series={"Chimap": QSM, "T1w": T1W})
    assert item.study.choose()["Chimap"][0][0].headers["SeriesNumber"] == str(QSM)
    (item,) = find_input(study, dicom_rules=RULES, series={"Chimap": R2STAR, "T1w": T1W})
    with refused_discreetly("chosen for the Chimap", "no rule says what its numbers mean"):
        item.study.choose()


def test_two_series_for_a_map_are_listed(study):
    relabel(study, T1W, SeriesDescription="QSM second try")
    two = "2 series could be the Chimap (series 3 'STAGE_tra_QSM', series 5 'QSM second try')"
    with refused_discreetly(two, "--series#Chimap NUMBER"):
        only_study(study).load()


def test_one_series_for_two_maps_is_refused(study, tmp_path):
    rules = with_rules(tmp_path, "&r2star 'r2[ _-]?(star|\\*|s(?![a-z]))'", "&r2star 'qsm'")
    with refused_discreetly("series 3", "rules of the Chimap and of the R2starmap"):
        only_study(study, rules).load()


def test_a_sites_own_rules_find_its_series(study, template, tmp_path):
    relabel(study, QSM, SeriesDescription="Suszeptibilitaet x10", RescaleSlope=1.0, RescaleType="US")
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        RULES.read_text().replace(
            "  Chimap:\n",
            "  Chimap:\n"
            "  - where: {SeriesDescription: '^suszept', Manufacturer: siemens, ImageType: 'DERIVED.*QSM'}\n"
            "    unit: ppb\n    scaling: rescale\n    multiply: 0.1\n",
        )
    )
    torch.testing.assert_close(only_study(study, rules).load(), only_study(template).load())


def test_a_file_that_names_another_unit_than_the_rule_is_refused(study):
    relabel(study, QSM, RescaleType="ppm")
    with refused_discreetly("series 3", "its unit is ppm", "the rule says ppb"):
        only_study(study).load()


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (R2STAR, "ms"), (R2STAR, "msec"), (R2STAR, "1/ms"), (R2STAR, "[ppm]"), (R2STAR, "HU"), (QSM, "rad"),
        (QSM, "Hz"), (QSM, "ppm"), (T1W, "ms"), (T1W, "mm2/s"), (T1W, "PCT"),
    ],
)  # fmt: skip
def test_a_unit_that_contradicts_the_map_is_refused(study, number, unit):
    relabel(study, number, RescaleType=unit, RescaleSlope=1.0, RescaleIntercept=0.0)
    with refused(f"series {number}", f"its unit is {unit}"):
        only_study(study).load()


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (R2STAR, "US"),
        (R2STAR, "normalized"),
        (R2STAR, "Hz"),
        (R2STAR, "s^-1"),
        (R2STAR, ""),
        (QSM, "[ppb]"),
        (T1W, "US"),
    ],
)
def test_the_maps_own_unit_and_words_that_are_no_unit_are_read(study, number, unit):
    relabel(study, number, RescaleType=unit)
    only_study(study).load()


def test_copies_are_passed_over_and_two_images_of_one_uid_are_refused(study, template):
    path = files_of(study, QSM)[0]
    shutil.copy(path, copy := path.with_name("copy.IMA"))
    assert torch.equal(only_study(study).load(), only_study(template).load())
    edit(copy, lambda dataset: setattr(dataset, "PixelData", bytes(len(dataset.PixelData))))
    with refused_discreetly("series 3", "two different images with one SOPInstanceUID"):
        only_study(study).load()


def test_two_descriptions_in_one_series_are_refused(study):
    edit(files_of(study, QSM)[0], lambda dataset: setattr(dataset, "SeriesDescription", "QSM magnitude"))
    with refused_discreetly("under one SeriesInstanceUID"):
        only_study(study).load()


# --- patients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "SIM-sub-02"),
        ("PatientName", "Secretname^Jane"),
        ("PatientBirthDate", "19711231"),
    ],
)
def test_a_series_of_another_patient_is_refused(study, keyword, value):
    relabel(study, T1W, **{keyword: value})
    with refused_discreetly("two patients", keyword, "series 3", "series 5"):
        only_study(study).load()


def test_what_a_derived_series_leaves_out_of_the_patient_is_no_other_patient(study):
    whole = only_study(study)
    patient, age = whole.patient(), whole.age()
    for tag in ("PatientSex", "PatientBirthDate", "PatientAge", "PatientID"):
        for path in files_of(study, QSM):
            edit(path, lambda dataset, tag=tag: dataset.pop(tag, None))
    partly = only_study(study)
    assert partly.patient() == patient and all(patient.values()) and partly.age() == age
    sources = read_series(partly.series_files)
    assert sources["Chimap"][0].identity["PatientID"] == patient["PatientID"]
    relabel(study, QSM, PatientName="")
    with refused_discreetly("does not say of whom it is", "series 3", "PatientID"):
        only_study(study).load()


def test_another_way_to_write_a_name_is_no_other_patient(study):
    relabel(study, T1W, PatientName="SIMULATED^SUB-01^")
    assert len(only_study(study).load()) == 3


def test_a_folder_with_images_of_two_studies_is_refused(study):
    edit(files_of(study, QSM)[2], lambda dataset: setattr(dataset, "StudyInstanceUID", "2.25.77"))
    with refused_discreetly("two studies", "a folder of its own"):
        only_study(study).load()


def test_studies_are_told_apart_by_their_uid_whatever_their_folders(template, scan, tmp_path):
    shutil.copytree(template, tmp_path / "archive" / "Secretname_Jane" / "A")
    write_study(tmp_path / "archive" / "flat", scan.maps, "sub-09", "philips", seed=5, box=BOX)
    studies = find_studies(tmp_path / "archive", read_rules(RULES))
    assert len({study.name for study in studies}) == 2
    assert all(re.fullmatch(r"study-[0-9a-f]{10}", study.name) for study in studies)
    assert not SECRET.search(repr(studies))
    assert [study.load().shape[0] for study in studies] == [3, 3]


def test_names_come_out_only_if_asked_for_and_cannot_lead_elsewhere(study):
    edit_series(study, QSM, lambda dataset: setattr(dataset, "PatientID", "../../etc/Secretname"))
    named = only_study(study, include_identifiers=True)
    assert re.fullmatch(r"etcSecretname_study-[0-9a-f]{10}", named.name)
    assert re.fullmatch(r"study-[0-9a-f]{10}", only_study(study).name)


# --- files ----------------------------------------------------------------------------------------


def test_links_that_leave_the_folder_are_not_followed(study, tmp_path, caplog):
    outside = tmp_path / "outside"
    outside.mkdir()
    path = files_of(study, QSM)[3]
    shutil.move(path, outside / "Secretname.IMA")
    path.symlink_to(outside / "Secretname.IMA")
    (study / "loop").symlink_to(study)
    with caplog.at_level(logging.WARNING), refused_discreetly("1 of its slices is missing"):
        only_study(study).load()
    assert "2 links" in caplog.text and not SECRET.search(caplog.text)


def test_links_within_the_folder_are_followed(study, template):
    path = files_of(study, QSM)[3]
    (study / "objects").mkdir()
    shutil.move(path, study / "objects" / "f1")
    path.symlink_to(study / "objects" / "f1")
    os.rename(study / "objects", study / ".objects")
    path.unlink()
    path.symlink_to(study / ".objects" / "f1")
    assert torch.equal(only_study(study).load(), only_study(template).load())


def test_a_huge_file_is_refused_by_its_size(study):
    with (study / "03" / "Secretname.IMA").open("wb") as file:
        file.truncate(2 * 10**9)  # takes no room on the disk
    with refused_discreetly("2.00 GB where 1 are allowed", "file_gb"):
        only_study(study).load()


def test_too_many_files_and_too_large_a_study_are_refused(study, tmp_path):
    with refused_discreetly("24 files where 20 are allowed"):
        only_study(study, with_rules(tmp_path, "files: 20000", "files: 20")).load()
    with refused_discreetly("GB where 1e-05 are allowed", "study_gb"):
        only_study(study, with_rules(tmp_path, "study_gb: 4.0", "study_gb: 0.00001")).load()


def test_a_damaged_file_is_refused_by_its_place(study):
    path = files_of(study)[5]
    path.write_bytes(path.read_bytes()[:300])
    with refused_discreetly("file 6 of 24"):
        only_study(study).load()


def test_mutated_files_end_in_a_volume_or_in_one_discreet_line(template, enhanced_template, tmp_path):
    """Hundreds of damaged files: flipped, cut, doubled and swapped bytes, in headers and pixels."""
    rng = random.Random(0)
    classic = tmp_path / "classic"
    for number in (QSM, R2STAR, T1W):
        for path in files_of(template, number)[:2]:
            (classic / str(number)).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, classic / str(number))
    enhanced = Path(shutil.copytree(enhanced_template, tmp_path / "enhanced"))
    rules, outcomes = read_rules(RULES), {"read": 0, "refused": 0}
    for turn in range(300):
        folder = classic if turn % 3 else enhanced
        path = rng.choice(files_of(folder))
        good = path.read_bytes()
        path.write_bytes(mutated(good, rng))
        try:
            for study in find_studies(folder, rules):
                study.load()
            outcomes["read"] += 1
        except InputError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error) and ";" in str(error) and not SECRET.search(str(error)), str(error)
        finally:
            path.write_bytes(good)
    assert outcomes["refused"] > 100 and outcomes["read"] > 20, outcomes  # both ends were reached


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with one kind of damage, mostly in its first two kilobytes, where the headers are."""
    changed = bytearray(data)
    end = min(len(data), 2200) if rng.random() < 0.8 else len(data)
    at = rng.randrange(128, end - 8)
    kind = rng.randrange(5)
    if kind == 0:
        for _ in range(rng.randint(1, 12)):
            changed[rng.randrange(128, end)] = rng.randrange(256)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        del changed[at : at + rng.randint(1, 40)]
    elif kind == 3:
        changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 40)))
    else:
        changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"9999"])
    return bytes(changed)


# --- the rules file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("unit: ppb", "unit: mT", "rule 2 of Chimap has unit 'mT'; use ppm or ppb"),
        ("scaling: philips", "scaling: guess", "rule 1 of Chimap has scaling 'guess'"),
        ("where: {SeriesDescription: '^$'}", "where: {PatientName: '^$'}", "looks at 'PatientName'"),
        ("where: {SeriesDescription: '^$'}", "where: {SeriesDescription: '^$('}", "no regular expression"),
        ("where: {SeriesDescription: *qsm}", "where: {}", "empty where"),
        ("ranges: {EchoTime: [0.1, 30]", "ranges: {EchoTime: [30, 0.1]", "range of EchoTime of rule 1 of T1w"),
        ("ranges: {EchoTime: [0.1, 30]", "ranges: {ImageType: [0.1, 30]", "ranges of rule 1 of T1w look at"),
        ("  T1w:", "  T2w:", "series has no T1w"),
        ("study_gb: 4.0", "study_gb: -1", "study_gb is -1"),
        ("one_frame_of_reference: true", "one_frame_of_reference: maybe", "one_frame_of_reference is 'maybe'"),
        ("limits:", "limit:", "it has no limits"),
        ("series:", "series: [", "not YAML"),
    ],
)
def test_a_mistake_in_the_rules_is_named(tmp_path, old, new, said):
    path = with_rules(tmp_path, old, new)
    with refused(path, said):
        read_rules(path)


def test_rules_that_are_not_there_are_refused(tmp_path):
    with refused(tmp_path / "none.yaml", "--dicom_rules"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize("style", ["siemens", "ge", "philips"])
def test_the_shipped_rules_find_every_vendors_series(scan, tmp_path, style):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", style, box=BOX, layout="enhanced")
    chosen = only_study(study).series_files
    numbers = {name: int(pydicom.dcmread(files[0]).SeriesNumber) for name, files in chosen.items()}
    assert numbers == {"Chimap": QSM, "R2starmap": R2STAR, "T1w": T1W}


def test_pydicoms_warnings_do_not_quote_the_patient(study, capfd, recwarn):
    def spoil(dataset: Dataset) -> None:
        dataset.PatientName = "Secretname^" + "x" * 300  # longer than DICOM allows
        dataset.PatientBirthDate = "19700101"

    edit_series(study, QSM, spoil)
    edit_series(study, R2STAR, spoil)
    edit_series(study, T1W, spoil)
    recwarn.clear()
    capfd.readouterr()
    only_study(study).load()
    said = capfd.readouterr()
    assert "Secretname" not in said.out + said.err + "".join(str(w.message) for w in recwarn.list)
