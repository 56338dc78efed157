"""Nuclei that inference itself measures, from scans of which nothing is known but their maps."""

import json
from pathlib import Path

import pytest
import torch
from blobs import BUNDLE
from heads import TEMPLATE, head, write_scan
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from pdf_words import pdf_pages
from refusal import refused

from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.localisation.localiser import Localiser
from scripts.model.networks import QNet, save_weights
from scripts.nuclei.table import MEASURED
from scripts.nuclei.transform import MeasureNucleid, check_atlas

CURVE = {"rise": 0.1, "rate": 0.03, "start": 0.02, "sd": 0.01}
NUMBER = 70_010  # of the simulated head


@pytest.fixture(scope="module")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What inference wrote of a scan without a box, with the atlas installed, and with reference curves."""
    root = tmp_path_factory.mktemp("nuclei")
    write_scan(root / "cohort", "sub-01", head(NUMBER))
    (root / "cohort" / "participants.tsv").write_text("participant_id\tage\nsub-01\t50\n")
    torch.manual_seed(0)
    save_weights(QNet(4, 8), root / "model.pt", torch.float32)
    curves = {
        "AgeRange": [20, 80],
        "Input": {"simulated": True},
        "Curves": {suffix: dict.fromkeys(NUCLEI, CURVE | {"unit": unit}) for suffix, (_, unit) in MEASURED.items()},
    }
    (root / "curves.json").write_text(json.dumps(curves))
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        logging_file=False,
        bundle_root=str(BUNDLE),
        template=TEMPLATE,
        input=str(root / "cohort"),
        output_dir=str(root / "out"),
        weights=str(root / "model.pt"),
        weights_record="config",
        reference_curves=str(root / "curves.json"),
        outputs=["json", "report"],
        device="cpu",
        spatial_size=[32, 32],
        num_slices=4,
        hidden_size=8,
    )
    workflow.initialize()
    workflow.run()
    return root / "out" / "sub-01"


def test_each_nucleus_is_measured_near_its_true_mean(inferred):
    found = json.loads((inferred / "sub-01_prediction.json").read_text())["nuclei"]
    assert {(row["nucleus"], row["side"]) for row in found} == {(n, s) for n in NUCLEI for s in SIDES}
    scan = head(NUMBER)
    for row in found:
        if row["nucleus"] not in ("putamen", "pallidum"):
            continue
        truth = scan.maps[1][scan.labels == LABELS[f"{row['side']}_{row['nucleus']}"]].mean()
        assert row["R2starmap"] == pytest.approx(truth, rel=0.08)


def test_json_and_report_compare_them_with_healthy_people_of_that_age(inferred):
    made = json.loads((inferred / "sub-01_prediction.json").read_text())
    assert made["age"] == 50
    assert {(row["map"], row["nucleus"]) for row in made["age_z_scores"]["nuclei"]} == {
        (suffix, nucleus) for suffix in MEASURED for nucleus in NUCLEI
    }
    (words,) = pdf_pages(inferred / "sub-01_report.pdf")
    (putamen,) = [z for z in made["age_z_scores"]["nuclei"] if (z["map"], z["nucleus"]) == ("Chimap", "putamen")]
    assert f"putamen {putamen['z']:+.1f}" in words and "simulated healthy controls" in words


def image(shape: tuple[int, ...] = (24, 24, 12)) -> dict:
    values = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    return {"image": MetaTensor(values, affine=affine, meta={"filename_or_obj": "data/somebody/study.nii.gz"})}


def test_a_scan_that_cannot_be_measured_passes_with_the_reason_and_no_place():
    done = MeasureNucleid("image", "measure", Localiser(TEMPLATE))(image())
    told = json.loads(done["image"].meta["nuclei"])
    assert isinstance(told, str) and told
    assert "somebody" not in told
    assert torch.equal(done["image"].as_tensor(), image()["image"].as_tensor())


def test_what_a_table_says_is_not_measured_again():
    done = MeasureNucleid("image", "measure", Localiser("none"))({**image(), "nuclei": []})
    assert "nuclei" not in done["image"].meta


def test_known_measures_nothing():
    assert "nuclei" not in MeasureNucleid("image", "known", None)(image())["image"].meta


def test_bad_choices_are_refused(monkeypatch):
    with refused("nuclei", "sometimes"):
        MeasureNucleid("image", "sometimes", None)
    monkeypatch.setattr("scripts.nuclei.transform.ATLAS_PACKAGE", "no_such_package")
    with refused("no_such_package", "pip install"):
        check_atlas("measure")
    check_atlas("auto")
    assert MeasureNucleid("image", "auto", Localiser("none")).localiser is None
