"""Which series are taken for the T1w by their names: a table of real names, and tags that confirm what a name says."""

import csv
import logging
from pathlib import Path

import pytest
from refusal import refused
from studies import QSM, RULES, T1W, edit_series, files_of, only_study

from scripts.dicom.files import read_headers
from scripts.dicom.rules import read_rules, words_of
from scripts.dicom.series import choose_series, group_series


def table(name: str) -> list[dict[str, str]]:
    """A table of names beside this file, each with its right answer."""
    with (Path(__file__).parent / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


NAMES, MADE_UP = table("series_names.tsv"), table("made_up_series_names.tsv")
T1W_RULES = read_rules(RULES).series["T1w"]


def taken(**headers: str) -> bool:
    return any(rule.meets(headers) for rule in T1W_RULES)


def test_every_real_name_is_known_for_what_it_is():
    wrong = [row for row in NAMES if taken(SeriesDescription=row["SeriesDescription"]) != (row["T1w"] == "yes")]
    assert not wrong
    assert len(NAMES) >= 80 and {row["manufacturer"] for row in NAMES} == {"Siemens", "GE", "Philips", "UIH"}


def test_a_protocols_name_counts_where_there_is_no_description():
    assert taken(ProtocolName="t1_mprage_sag_p2_iso")
    assert not taken(ProtocolName="t2_tse_tra") and not taken()
    assert not taken(SeriesDescription="ADC", ProtocolName="t1_mprage_sag")


@pytest.mark.parametrize(
    "headers",
    [
        {"EchoTime": "98"},
        {"InversionTime": "2500"},
        {"ScanningSequence": "EP\\IR"},
        {"ImageType": "ORIGINAL\\PRIMARY\\P\\ND"},
        {"ImageType": "DERIVED\\SECONDARY\\MPR\\CSA MPR"},
    ],
)
def test_tags_that_contradict_the_name_win(headers):
    mprage = {"SeriesDescription": "t1_mprage_sag", "EchoTime": "2.98", "InversionTime": "900",
              "ScanningSequence": "GR\\IR", "ImageType": "ORIGINAL\\PRIMARY\\M\\ND\\NORM"}  # fmt: skip
    assert taken(**mprage) and taken(**mprage | {"InversionTime": "0"})
    assert not taken(**mprage | headers)


def test_words_are_words_whatever_stands_between_them():
    assert words_of("t1_MPRAGE-sag (p2)/iso") == "t1 mprage sag p2 iso"


def added_t1(study: Path, number: int, **headers) -> None:
    """Another T1w series in a study: copies under other UIDs."""
    import pydicom

    for path in files_of(study, T1W):
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID, image.SOPInstanceUID = f"2.25.{number}", f"{image.SOPInstanceUID}.{number}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesNumber = number
        image.update(headers)
        image.save_as(path.with_name(f"{number}_{path.name}"))


def chosen(study: Path) -> dict[str, int]:
    found = only_study(study)
    series = choose_series(found.name, group_series(found.name, read_headers(found.name, found.files)), found.rules)
    return {name: int(files[0].headers["SeriesNumber"]) for name, (files, _) in series.items()}


def test_two_candidates_are_named_and_the_normalised_one_is_preferred(study, caplog):
    added_t1(study, 8, SeriesDescription="t1_mprage_sag ND", ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    edit_series(study, T1W, lambda image: setattr(image, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND"]))
    with refused("2 series could be the T1w", "series 5", "series 8 't1_mprage_sag ND'"):
        chosen(study)
    edit_series(study, T1W, lambda image: setattr(image, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]))
    with caplog.at_level(logging.WARNING):
        assert chosen(study)["T1w"] == T1W
    assert "series 8 't1_mprage_sag ND' could be the T1w too and was not preferred" in caplog.text


def test_a_series_that_was_acquired_otherwise_than_its_name_says_is_spoken_of(study, caplog):
    added_t1(study, 8, SeriesDescription="t1 tse", EchoTime=90)
    with caplog.at_level(logging.WARNING):
        assert chosen(study)["T1w"] == T1W
    assert "series 8 't1 tse' is called like the T1w, but EchoTime 90 is not 0.1 to 30" in caplog.text


def test_a_map_of_another_modality_is_refused(study):
    edit_series(study, QSM, lambda image: setattr(image, "Modality", "CT"))
    with refused("series 3", "is of modality CT"):
        chosen(study)


def test_names_made_up_the_way_that_sites_name_things_are_known_too():
    wrong = [row for row in MADE_UP if taken(SeriesDescription=row["SeriesDescription"]) != (row["T1w"] == "yes")]
    assert not wrong


@pytest.mark.parametrize(
    ("suffix", "wanted", "other"),
    [("Chimap", "QSM_ppb, Suszeptibilität, chi map, Magic_QSM", "gre_qsm_mag, QSM_MAG, QSM pha, qsm_magnitude, T1"),
     ("R2starmap", "R2s map, R2s, R2_star, R2*", "R2 map, r2sum, T2star, R2star mask")],
)  # fmt: skip
def test_names_of_qsm_and_r2star(suffix, wanted, other):
    rules = read_rules(RULES).series[suffix]
    for names, meant in ((wanted, True), (other, False)):
        for name in names.split(", "):
            assert any(rule.meets({"SeriesDescription": name}) for rule in rules) == meant, name
