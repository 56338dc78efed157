"""What was measured in the nuclei reaches the results of inference."""

import csv
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import BUNDLE, write_cohort
from monai.bundle import ConfigWorkflow
from refusal import refused
from scipy.stats import norm

from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.maps.bids import find_scans
from scripts.model.networks import QNet, save_weights
from scripts.model.trust import write_calibration
from scripts.nuclei.current import check_current, measured_files
from scripts.nuclei.curves import iron_curve, read_reference_curves, usual_for_age
from scripts.nuclei.known import with_nuclei
from scripts.nuclei.table import MEASURED, NUCLEI_TABLE
from scripts.runs.finished import Origin

CURVE = {"rise": 0.1, "rate": 0.03, "start": 0.02, "sd": 0.01, "unit": "ppm"}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two subjects of 41 and 42 years, the first with measured nuclei; its left thalamus has none."""
    root = write_cohort(tmp_path / "cohort", 2)
    columns = ["participant_id", "scan_id"]
    values = ["sub-01", "sub-01"]
    for side in SIDES:
        for nucleus in NUCLEI:
            absent = (side, nucleus) == ("left", "thalamus")
            columns += [f"{side}_{nucleus}_volume", *(f"{suffix}_{side}_{nucleus}_mean" for suffix in MEASURED)]
            values += ["n/a"] * 3 if absent else ["1.5", "0.08", "30"]
    table = root / NUCLEI_TABLE
    table.parent.mkdir(parents=True)
    table.write_text("\t".join(columns) + "\n" + "\t".join(values) + "\n")
    return root


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    path = tmp_path / "reference_curves.json"
    of_maps = {suffix: dict.fromkeys(NUCLEI, {**CURVE, "unit": unit}) for suffix, (_, unit) in MEASURED.items()}
    content = {"AgeRange": [20, 80], "Curves": of_maps}
    path.write_text(json.dumps(content))
    return path


def test_a_measured_scan_gets_its_nuclei_age_and_z_scores(cohort, curves):
    first, second = with_nuclei(find_scans(cohort), str(cohort), None)
    assert second.nuclei is None and second.age == 42
    assert len(first.nuclei) == 7
    assert first.nuclei[0] == {
        "nucleus": NUCLEI[0], "side": "left", "Chimap": 0.08, "R2starmap": 30.0, "volume_mm3": 1500.0,
    }  # fmt: skip
    assert first.age == 41
    scores = usual_for_age(first.nuclei, first.age, read_reference_curves(curves))
    (caudate,) = [s for s in scores["nuclei"] if (s["map"], s["nucleus"]) == ("Chimap", "caudate")]
    expected = (0.08 - iron_curve(41, 0.1, 0.03, 0.02)) / 0.01
    assert caudate["z"] == pytest.approx(expected)
    assert caudate["percentile"] == pytest.approx(100 * norm.cdf(expected))


@pytest.mark.parametrize("how", ["map", "sidecar"])
def test_nuclei_of_maps_that_changed_since_are_not_used(cohort, how, caplog):
    scan = find_scans(cohort)[0]
    stats = cohort / "derivatives/nuclei/sub-01/anat/sub-01_desc-nuclei_stats.json"
    stats.parent.mkdir(parents=True)
    stats.write_text(json.dumps({"Nuclei": {}, "Basis": Origin(measured_files(scan), "", ()).basis()}))
    os.utime(scan.maps[0])  # touched, as where a cohort was copied
    assert with_nuclei(find_scans(cohort), str(cohort), None)[0].nuclei and not caplog.messages
    check_current(cohort / NUCLEI_TABLE, find_scans(cohort))
    if how == "map":
        image = nib.load(scan.maps[0])
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) / 2, image.affine), scan.maps[0])
    else:
        (cohort / "Chimap.json").write_text('{"Units": "ppb"}')
    assert with_nuclei(find_scans(cohort), str(cohort), None)[0].nuclei is None
    assert "sub-01: its maps changed since its nuclei were measured" in caplog.messages[0]
    with refused(NUCLEI_TABLE, "the maps of sub-01 changed", "configs/nuclei.yaml again"):
        check_current(cohort / NUCLEI_TABLE, find_scans(cohort))


def test_a_table_without_a_column_of_a_nucleus_is_refused(cohort):
    table = cohort / NUCLEI_TABLE
    table.write_text(table.read_text().replace("Chimap_right_putamen_mean", "chi_right_putamen"))
    with refused(table, "'Chimap_right_putamen_mean'"):
        with_nuclei(find_scans(cohort), str(cohort), None)


def test_without_age_or_curves_nothing_is_said_to_be_usual(cohort, curves):
    first, _ = with_nuclei(find_scans(cohort), str(cohort), None)
    assert usual_for_age(first.nuclei, 41, None) is None
    assert usual_for_age(first.nuclei, None, read_reference_curves(curves)) is None
    assert usual_for_age(None, 41, read_reference_curves(curves)) is None


def test_a_folder_without_tables_is_left_as_it_is(cohort):
    (cohort / NUCLEI_TABLE).unlink()
    (cohort / "participants.tsv").unlink()
    scans = find_scans(cohort)
    assert with_nuclei(scans, str(cohort), None) == scans


def test_a_table_that_was_asked_for_must_be_there(cohort, tmp_path):
    with refused(tmp_path / "nuclei.tsv"):
        with_nuclei(find_scans(cohort), str(cohort), tmp_path / "nuclei.tsv")


def test_inference_writes_what_is_known_of_nuclei_and_weights_into_its_results(cohort, curves, tmp_path):
    torch.manual_seed(0)
    save_weights(QNet(4, 8), tmp_path / "model.pt", torch.float32)
    calibration = {
        "scores_from": "the held-out fold",
        "calibration": {"method": "platt", "slope": 0.5, "intercept": -0.2, "prevalence": 0.5},
        "scores": {"HC": [n / 2 - 5 for n in range(20)], "HH": [n / 2 - 5 for n in range(20)]},  # nothing is sure
        "nucleus_evidence": {"caudate": {"low": -0.1, "high": 0.2}},
    }
    write_calibration(tmp_path / "model.pt", calibration)
    scan = find_scans(cohort)[0]
    t1w = nib.load(scan.maps[2])
    labels = np.zeros(t1w.shape, np.uint8)
    middle = [sum(pair) // 2 for pair in scan.box]
    labels[tuple(slice(m - 2, m + 3) for m in middle)] = LABELS["left_caudate"]
    path = cohort / NUCLEI_TABLE.parent / "sub-01" / "anat" / "sub-01_desc-nuclei_dseg.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(labels, t1w.affine), path)
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(cohort),
        output_dir=str(tmp_path / "out"),
        weights=str(tmp_path / "model.pt"),
        weights_record="config",
        reference_curves=str(curves),
        outputs=["json", "report"],
        nuclei="known",
        device="cpu",
        spatial_size=[32, 32],
        num_slices=4,
        hidden_size=8,
    )
    workflow.initialize()
    workflow.run()
    made = json.loads((tmp_path / "out" / "sub-01" / "sub-01_prediction.json").read_text())
    assert made["age"] == 41 and len(made["nuclei"]) == 7 and made["age_z_scores"]["extrapolated"] is False
    page = (tmp_path / "out" / "sub-01" / "sub-01_report.html").read_text()
    first = made["age_z_scores"]["nuclei"][0]
    assert "41 years" in page and f"{first['nucleus']} {first['z']:+.1f}" in page
    assert made["answer"] == "cannot say" and made["trust"]["conformal_error"] == 0.1
    assert set(made["provenance"]["weights"]) == {"model.pt", "model_calibration.json"}
    for words in (f"answer: {made['answer']}", "The probability is calibrated", "-0.10 to +0.20"):
        assert words in page
    (row,) = made["nucleus_evidence"]
    assert row["nucleus"] == "caudate" and row["evidence"] != 0 and row["high"] == 0.2
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert first["answer"] == made["answer"]
    assert float(first["calibrated_probability_HH"]) == made["calibrated_probability_HH"]
    assert "Answers at an error of 0.1" in (tmp_path / "out" / "summary.html").read_text()
    other = json.loads((tmp_path / "out" / "sub-02" / "sub-02_prediction.json").read_text())
    assert "nuclei" not in other and "nucleus_evidence" not in other
