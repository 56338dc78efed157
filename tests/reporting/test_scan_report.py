"""The one-page report: what it says, what it must not say, and that both forms are one whole page."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pdf_words import pdf_pages

from scripts.inference.batch import RunFolder
from scripts.inference.results import write_scan
from scripts.maps.scan import Scan
from scripts.maps.transforms import StretchHistogramd
from scripts.model.trust import CALIBRATED, SEEN
from scripts.reporting.scan import HH_COLOUR, display_maps, pixel_aspect, write_scan_report

SHA = "6c" * 32
MODEL = {
    "name": "Q-Net",
    "version": "0.1.0",
    "sha256": SHA,
    "trained_with": "0.0.9",
    "trained_on": "A <simulated> cohort",
    "simulated": True,
    "performance": {"scan_auc_simulated_cohort": 0.887, "scan_accuracy_simulated_cohort": 0.9},
    "performance_of": "another simulated cohort, tested once",
}
SLICES = 6


def result(**changed) -> dict:
    return {
        "participant_id": "sub-01",
        "scan_id": "sub-01",
        "probability_HH": 0.731,
        "class": "HH",
        "threshold": 0.5,
        "slices": [{"slice": n, "input_slice": 10 + n, "probability_HH": n / SLICES} for n in range(SLICES)],
        "note": "Research use only, not for clinical use. The weights are trained on a simulated cohort.",
        "input": {"Chimap": "aa" * 32},
        "provenance": {"software": {"torch": "2.13.0", "monai": "1.6.1", "numpy": "2.4.6"}, "input": {}},
    } | changed


@pytest.fixture(scope="module")
def image() -> MetaTensor:
    maps = torch.rand(3, 12, 16, SLICES) * torch.tensor([0.2, 60, 900])[:, None, None, None]
    raw = MetaTensor(maps, affine=torch.diag(torch.tensor([2.0, 1, 3, 1]).double()))
    raw.meta["original_affine"] = np.diag([2.0, 1, 3, 1])
    return StretchHistogramd("image", 0, 100)({"image": raw})["image"]


@pytest.fixture(scope="module")
def pages(image, tmp_path_factory) -> tuple[str, Path]:
    """The HTML's text and the PDF's path of one report with everything in it."""
    folder = tmp_path_factory.mktemp("report")
    curves = {"caudate": {"age": [20, 80], "mean": [0.03, 0.07], "sd": [0.01, 0.02]}}
    nuclei = [{"nucleus": "caudate", "side": "left", "Chimap": 0.09}, {"nucleus": "dentate", "Chimap": ""}]
    evidence = torch.randn(1, 12, 16, SLICES)
    write_scan_report(
        folder / "r.html", folder / "r.pdf", result(), image, evidence, MODEL, nuclei, 54.0, curves
    )  # fmt: skip
    return (folder / "r.html").read_text(), folder / "r.pdf"


def test_the_page_says_what_was_found_and_how_far_to_trust_it(pages):
    text = pages[0]
    for words in (
        "Network&#39;s (not calibrated) probability of hereditary hemochromatosis (HH): 0.73", "Research use only",
        "simulated cohort", "0.887",
        "0.900", "another simulated cohort, tested once",
        "3 of 6", "54 years", "not calibrated", SHA, "aa" * 32, "torch 2.13.0",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(("probability", "shown"), [(0.003, "&lt; 0.01"), (0.998, "&gt; 0.99"), (0.007, "0.01")])
def test_no_probability_is_shown_as_sure(image, tmp_path, probability, shown):
    told = result(probability_HH=probability)
    write_scan_report(tmp_path / "r.html", tmp_path / "r.pdf", told, image, torch.zeros(1, 12, 16, SLICES), MODEL)
    assert f"(HH): {shown}<" in (tmp_path / "r.html").read_text()


def test_the_page_says_where_the_box_came_from_and_what_is_usual_at_the_age(image, tmp_path):
    scores = [
        {"map": suffix, "nucleus": name, "z": -0.04 if name == "caudate" else 1.25}
        for suffix in ("Chimap", "R2starmap")
        for name in ("caudate", "putamen", "pallidum", "thalamus")
    ]
    told = result(
        box={"source": "found", "confidence": 0.934}, age_z_scores={"nuclei": scores, "extrapolated": True}
    )  # fmt: skip
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    write_scan_report(html, pdf, told, image, torch.randn(1, 12, 16, SLICES), MODEL, None, 91.0)
    for text in (html.read_text(), *pdf_pages(pdf)):
        assert "confidence 0.93" in text and "beyond their ages" in text
        assert text.count("putamen +1.2") == 2 and text.count("caudate +0.0") == 2


def test_evidence_by_nucleus_without_a_healthy_range_says_why_and_how_to_get_it(image, tmp_path):
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    for usual, said in (({}, True), ({"low": -0.1, "high": 0.2}, False)):
        told = result(nucleus_evidence=[{"nucleus": "caudate", "evidence": 0.15, **usual}])
        write_scan_report(html, pdf, told, image, torch.randn(1, 12, 16, SLICES), MODEL)
        assert ("nuclei.yaml" in html.read_text() and "calibrate.yaml" in html.read_text()) == said
        assert any("the calibration has none" in " ".join(page.split()) for page in pdf_pages(pdf)) == said


def test_what_to_take_care_of_stands_before_all_other_facts(image, tmp_path):
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    told = result(flags=["unlike the training scans, 4.1 times the limit"])
    write_scan_report(html, pdf, told, image, torch.randn(1, 12, 16, SLICES), MODEL)
    for text in (html.read_text(), *pdf_pages(pdf)):
        assert text.index("(HH): 0.73") < text.index("4.1 times the limit") < text.index("Class at threshold")


TRUST = {
    "calibrated_probability_HH": 0.62,
    "answer": "cannot say",
    "trust": {
        "method": "platt", "calibrated_on": {"HC": 20, "HH": 20}, "scores_from": "a predictions table",
        "prevalence": 0.5, "prevalence_from": "the scans that calibrated", "conformal_error": 0.1,
        "p_HH": 0.3, "p_HC": 0.2,
    },
}  # fmt: skip


def test_the_calibrated_probability_and_the_networks_are_each_named(image, tmp_path):
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    write_scan_report(html, pdf, result(**TRUST), image, torch.zeros(1, 12, 16, SLICES), MODEL)
    for text in (html.read_text(), " ".join(" ".join(page.split()) for page in pdf_pages(pdf))):
        assert "Calibrated probability of hereditary hemochromatosis (HH): 0.62; answer: cannot say" in text
        assert "by a logistic curve" in text and "platt," not in text
        assert "0.5 (the scans that calibrated)" in text
    (words,) = pdf_pages(pdf)
    assert "scan 0.73" in words and "Network's P(HH)" in words


def test_a_page_of_a_calibration_by_temperature_claims_no_share_of_hh(image, tmp_path):
    html = tmp_path / "r.html"
    trust = {**TRUST["trust"], "prevalence": None, "prevalence_from": "unknown: temperature scaling fits none"}
    told = result(**{**TRUST, "trust": trust})
    write_scan_report(html, tmp_path / "r.pdf", told, image, torch.zeros(1, 12, 16, SLICES), MODEL)
    assert "unknown: temperature scaling fits none" in html.read_text()


@pytest.mark.parametrize("strange", [True, False])
def test_the_answer_for_a_strange_scan_says_not_to_rely_on_it_and_has_no_groups_colour(image, tmp_path, strange):
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    told = result(**{**TRUST, "answer": "HH"}, familiarity={"flagged": strange, "strangeness": 1.6})
    write_scan_report(html, pdf, told, image, torch.zeros(1, 12, 16, SLICES), MODEL)
    for text in (html.read_text(), *pdf_pages(pdf)):
        assert ("do not rely on this" in text) == strange
        assert ("0.887" in text or "tested once" in text) == (not strange)  # measures of other scans
    assert (f'class="finding" style="color:{HH_COLOUR}"' in html.read_text()) == (not strange)


@pytest.mark.parametrize("flag", [SEEN, CALIBRATED])
def test_a_scan_that_the_weights_know_is_noted_and_not_warned_of(image, tmp_path, flag):
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    write_scan_report(html, pdf, result(flags=[flag]), image, torch.zeros(1, 12, 16, SLICES), MODEL)
    for text in (html.read_text(), *pdf_pages(pdf)):
        assert "the result is no test of" in " ".join(text.split()) and "Take care" not in text


def test_the_version_that_trained_the_weights_is_told_beside_the_one_that_ran(image, tmp_path):
    html, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    write_scan_report(html, pdf, result(), image, torch.zeros(1, 12, 16, SLICES), MODEL)
    for text in (html.read_text(), *pdf_pages(pdf)):
        assert "trained with version 0.0.9 on" in text and "Q-Net bundle 0.1.0" in text


def test_the_page_needs_nothing_from_elsewhere(pages):
    assert set(re.findall(r"(?:src|href)=[\"']?(.{5})", pages[0])) == {"data:"}
    assert "<script" not in pages[0]


def test_what_comes_from_files_is_escaped(pages, image, tmp_path):
    assert "A &lt;simulated&gt; cohort" in pages[0]
    write_scan_report(
        tmp_path / "r.html", tmp_path / "r.pdf", result(scan_id="<img src=x onerror=alert(1)>"), image,
        torch.zeros(1, 12, 16, SLICES), MODEL,
    )  # fmt: skip
    assert "<img src=x" not in (tmp_path / "r.html").read_text()


def test_the_pdf_is_one_page_with_the_same_words(pages):
    (words,) = pdf_pages(pages[1])
    for expected in ("hemochromatosis (HH): 0.73", "Research use only", "not calibrated", SHA, "scan AUC"):
        assert expected in words


def test_the_same_scan_gives_the_same_page(image, tmp_path):
    evidence = torch.ones(1, 12, 16, SLICES)
    for name in ("a", "b"):
        write_scan_report(tmp_path / f"{name}.html", tmp_path / f"{name}.pdf", result(), image, evidence, MODEL)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_maps_are_shown_in_their_own_units(image):
    shown = display_maps(image)
    assert shown.max(axis=(1, 2, 3)) == pytest.approx([0.2, 60, 900], rel=0.05)
    unknown = MetaTensor(image.as_tensor(), affine=image.affine)
    assert float(display_maps(unknown).max()) == 1


def test_a_resized_crop_is_drawn_in_its_true_shape(image):
    assert pixel_aspect(image) == 2


def test_weights_without_measures_claim_none(image, tmp_path):
    model = {**copy.deepcopy(MODEL), "performance": {}}
    write_scan_report(
        tmp_path / "r.html", tmp_path / "r.pdf", result(), image, torch.zeros(1, 12, 16, SLICES), model
    )  # fmt: skip
    assert "no measures are kept with these weights" in (tmp_path / "r.html").read_text()


class Named(Scan):
    """A scan that knows whose it is."""

    def patient(self) -> dict[str, str]:
        return {"name": "Doe^Jane", "id": "SECRET-4711"}


@pytest.mark.parametrize("asked", [False, True])
def test_a_patient_is_named_only_where_asked_for(image, tmp_path, asked):
    (tmp_path / "map.nii").write_bytes(b"")
    scan = Named(participant_id="study-1", scan_id="study-1", maps=(str(tmp_path / "map.nii"),))
    run = RunFolder(tmp_path, {}, {"software": {}, "input": {}}, ("json", "report"))
    found = {key: result()[key] for key in ("probability_HH", "class", "threshold", "slices")}
    output = {"result": found, "image": image, "evidence": torch.zeros(1, 12, 16, SLICES)}
    write_scan(scan, output, run, MODEL, asked, 0.5)
    for ending in ("prediction.json", "report.html"):
        text = (tmp_path / "study-1" / f"study-1_{ending}").read_text()
        assert ("Doe^Jane" in text) == ("SECRET-4711" in text) == asked
