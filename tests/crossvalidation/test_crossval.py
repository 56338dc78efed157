"""Cross-validation end to end on a toy cohort: every subject once, resumable, one table, clear refusals."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from blobs import BUNDLE, SHAPE
from monai.bundle import ConfigWorkflow
from refusal import refused

from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.crossvalidation.collect import calibrate_folds, roi_rows
from scripts.crossvalidation.folds import Fold, Setup
from scripts.crossvalidation.run import analyse, checked_settings, config_files, run_folds
from scripts.errors import InputError
from scripts.evaluation.contributions import SCANS, read_probabilities
from scripts.maps.bids import labelled_scans, split
from scripts.nuclei.table import MEASURED
from scripts.reporting.contributions import section
from scripts.runs.outputs import LOCK, MARK

TINY = {
    "num_folds": 3,
    "full_size": [32, 40],
    "cropped_size": [32, 32],
    "num_slices": 4,
    "hidden_size": 8,
    "imagenet_weights": "none",
    "image_epochs": 2,
    "image_batch_size": 16,
    "scan_epochs": 2,
    "num_views": 2,
    "val_interval": 1,
}
#: Two folds at a time, always: another number would change the last digits.
SETTINGS = {"regions": ["cropped"], "num_repeats": 1, "folds_on_cpu": 2, "analysis": {"bootstrap_samples": 100}}


def cross_validate(cohort: Path, folder: Path, run_id: str = "cross_validation", **changed) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "cross_validation.yaml"),
        logging_file=False,
        run_id=run_id,
        bundle_root=str(BUNDLE),
        dataset_dir=str(cohort),
        output_dir=str(folder),
        **{"training": TINY, **SETTINGS, **changed},
    )
    workflow.initialize()
    workflow.run()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(shared_cohort, tmp_path_factory) -> Path:
    """Both inputs, two repeats, three folds of twelve subjects, two folds at a time."""
    folder = tmp_path_factory.mktemp("cross_validation")
    cross_validate(shared_cohort, folder, regions=["full", "cropped"], num_repeats=2)
    return folder


@pytest.fixture(scope="module")
def kept(shared_cohort, tmp_path_factory) -> Path:
    """Two folds with their weights."""
    folder = tmp_path_factory.mktemp("kept")
    cross_validate(shared_cohort, folder, "folds", keep_weights=True, training={**TINY, "num_folds": 2})
    return folder


def test_every_subject_is_tested_once_in_each_repeat_and_input(finished):
    scans = Counter(
        (r["repeat"], r["region"], r["model"], r["participant_id"]) for r in rows(finished) if not r["slice"]
    )
    assert set(scans.values()) == {1}
    assert len(scans) == 2 * 2 * 4 * 12  # the paper's models, and age and sex alone
    assert {model for _, _, model, _ in scans} == {"ResNet", "ResNetSWA", "Q-Net", "Age-sex-LR"}


def test_no_subject_is_in_the_training_of_its_own_fold(finished):
    for record in finished.glob("folds/*/repeat-*/fold-*/evaluation.json"):
        with (record.parent / "held_out.tsv").open(newline="") as file:
            held_out = {r["participant_id"] for r in csv.DictReader(file, delimiter="\t")}
        with (record.parent / "predictions.csv").open(newline="") as file:
            assert {r["participant_id"] for r in csv.DictReader(file)} == held_out
        assert len(held_out) == 4


def test_repeats_have_other_folds(finished):
    table = pd.read_csv(finished / "predictions.csv")
    folds = [
        {frozenset(ids) for _, ids in part.groupby("fold")["participant_id"]} for _, part in table.groupby("repeat")
    ]
    assert folds[0] != folds[1]


def test_the_record_names_the_weights_of_every_fold(finished):
    record = json.loads((finished / "predictions.json").read_text())
    assert record["input"]["simulated"] is True
    assert len(record["folds"]) == 2 * 2 * 3
    assert record["rows"] == len(pd.read_csv(finished / "predictions.csv"))
    assert all(set(fold["weights"]) == {"resnet.pt", "resnet_swa.pt", "model.pt"} for fold in record["folds"])
    assert "region" not in record["settings"] and record["settings"]["image_epochs"] == 2


def test_evidence_of_the_first_repeat_lies_on_the_grid_of_each_scan(finished, shared_cohort):
    for region in ("full", "cropped"):
        files, papers = (
            sorted((finished / "evidence" / region).glob(f"*/*_{kind}.nii.gz")) for kind in ("evidence", "activation")
        )
        assert len(files) == len(papers) == 12
        scan = nib.load(shared_cohort / "sub-01" / "anat" / "sub-01_Chimap.nii.gz")
        assert nib.load(files[0]).shape == nib.load(papers[0]).shape == scan.shape
        assert files[0].read_bytes() != papers[0].read_bytes()


def test_weights_are_dropped_unless_they_are_wanted(finished, kept):
    assert not list(finished.glob("folds/**/*.pt"))
    assert len(list(kept.glob("folds/*/*/*/models/model.pt"))) == 2


def test_kept_weights_tell_later_what_maps_and_nuclei_contribute(kept, shared_cohort, tmp_path):
    grid = nib.load(shared_cohort / "sub-01" / "anat" / "sub-01_Chimap.nii.gz").affine
    labels = np.zeros(SHAPE, np.uint8)
    labels[12:17, 18:28, 5:9] = LABELS["left_putamen"]
    for scan in labelled_scans(shared_cohort):
        path = tmp_path / scan.participant_id / "anat" / f"{scan.scan_id}_desc-nuclei_dseg.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(labels, grid), path)
    predictions = {path: path.stat().st_mtime_ns for path in kept.glob("folds/**/predictions.csv")}
    settings = {"contributions": True, "keep_weights": True, "nuclei_table": str(tmp_path / "nuclei.tsv")}
    training = {**TINY, "num_folds": 2, "draws": 2}
    cross_validate(shared_cohort, kept, "folds", training=training, **settings)
    assert predictions == {path: path.stat().st_mtime_ns for path in kept.glob("folds/**/predictions.csv")}
    table = read_probabilities(kept / SCANS)
    counts = table.groupby(["map", "nucleus"]).size()
    assert counts[("", "")] == counts[("all", "putamen")] == counts[("T1w", "putamen")] == 12
    assert counts[("T1w", "")] == 2 * 12 and set(table["fold"]) == {0, 1}
    with (kept / "predictions.csv").open(newline="") as file:
        told = {r["participant_id"]: r for r in csv.DictReader(file) if r["model"] == "Q-Net" and not r["slice"]}
    for row in table[(table["map"] == "") & (table["nucleus"] == "")].to_dict("records"):
        assert row["probability_HH"] == pytest.approx(float(told[row["participant_id"]]["probability_HH"]), abs=1e-3)
    analyse(BUNDLE, kept, {"bootstrap_samples": 100})
    assert (kept / "figures" / "contributions.svg").exists()
    ((title, note, shown),) = section(kept / "tables", simulated=True)
    assert "simulated cohort" in title and "putamen in all maps" in shown
    with refused("measured with draws 2, not 3", "--training#draws 2"):
        cross_validate(shared_cohort, kept, "folds", training={**training, "draws": 3}, **settings)


def test_contributions_of_folds_without_weights_are_refused_before_work(finished, shared_cohort):
    with refused("finished without contributions", "--contributions false"):
        cross_validate(shared_cohort, finished, "folds", regions=["full", "cropped"], num_repeats=2, contributions=True)


def test_tables_figures_and_report_are_written(finished):
    for name in ("table1_image_level", "table2_delong", "table3_scan_level"):
        for suffix in (".csv", ".md", ".tex"):
            assert (finished / "tables" / f"{name}{suffix}").exists()
    assert len(list((finished / "figures").glob("*.pdf"))) >= 10
    parts = pd.read_csv(finished / "tables" / "table4_subgroups.csv", keep_default_na=False)
    assert set(parts["subgroup"]) == {"all", "sex", "age"}  # the cohort has no column `site`
    page = (finished / "report" / "index.html").read_text()
    assert "Whole scans in parts of the cohort" in page and "Decision curve of whole scans" in page
    assert "simulated" in (finished / "report" / "index.html").read_text()


def test_tables_come_from_the_predictions_table_alone(finished, tmp_path):
    shutil.copy(finished / "predictions.csv", tmp_path)
    shutil.copy(finished / "subjects.tsv", tmp_path)  # who they are, for the table of subgroups
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "analyse.yaml"),
        logging_file=False,
        bundle_root=str(BUNDLE),
        predictions=str(tmp_path / "predictions.csv"),
        output_dir=str(tmp_path),
        simulated=True,
        bootstrap_samples=100,
    )
    workflow.initialize()
    workflow.run()
    for path in (finished / "tables").glob("*.csv"):
        assert (tmp_path / "tables" / path.name).read_text() == path.read_text()


def test_a_finished_fold_is_not_run_again(finished, shared_cohort):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("folds/**/predictions.csv")}
    cross_validate(shared_cohort, finished, "folds", regions=["full", "cropped"], num_repeats=2)
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("folds/**/predictions.csv")}


def test_rows_that_somebody_added_to_the_table_are_kept(finished, shared_cohort):
    table, ours = finished / "predictions.csv", (finished / "predictions.csv").read_text()
    theirs = ours + "".join(f"{line.replace('Q-Net', 'Mine')}\n" for line in ours.splitlines() if ",Q-Net," in line)
    table.write_text(theirs)
    cross_validate(shared_cohort, finished, "folds", regions=["full", "cropped"], num_repeats=2)
    assert table.read_text() == ours
    assert (finished / "predictions_of_yours.csv").read_text() == theirs
    (finished / "predictions_of_yours.csv").unlink()


def test_a_killed_run_goes_on_to_the_same_predictions(finished, shared_cohort, tmp_path):
    flags = {f"training#{key}": value for key, value in TINY.items()} | {"regions": ["cropped"], "num_repeats": 1}
    config = str(BUNDLE / "configs" / "cross_validation.yaml")
    command = ["-m", "monai.bundle", "run", "folds", "--config_file", config, "--bundle_root", str(BUNDLE)]
    command += ["--dataset_dir", str(shared_cohort), "--output_dir", str(tmp_path), "--folds_on_cpu", "2"]
    process = subprocess.Popen(
        [sys.executable, *command, *(f"--{k}={v}" for k, v in flags.items())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list(tmp_path.glob("folds/**/scan_level.csv")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "predictions.csv").exists()
    cross_validate(shared_cohort, tmp_path, "folds")
    whole = [r for r in rows(finished) if r["region"] == "cropped" and r["repeat"] == "0"]
    for one, other in zip(rows(tmp_path), whole, strict=True):
        assert float(one.pop("probability_HH")) == pytest.approx(float(other.pop("probability_HH")), abs=1e-4)
        assert one == other


def test_changed_settings_are_refused_instead_of_mixed_in(finished, shared_cohort):
    with refused("scan_epochs", finished):
        cross_validate(shared_cohort, finished, "folds", training={**TINY, "scan_epochs": 3})


def test_another_cohort_is_refused_instead_of_mixed_in(finished, cohort):
    with refused("cohort", finished):
        cross_validate(cohort, finished, "folds", training={**TINY, "num_folds": 2})


def test_folds_from_different_configs_are_not_joined(finished, shared_cohort, tmp_path):
    shutil.copytree(finished, tmp_path / "mixed")
    path = tmp_path / "mixed" / "folds" / "cropped" / "repeat-0" / "fold-01" / "evaluation.json"
    record = json.loads(path.read_text())
    record["settings"]["augment#rotate_limit"] = 10
    path.write_text(json.dumps(record))
    with refused("rotate_limit", path.parent):
        cross_validate(shared_cohort, tmp_path / "mixed", "folds")


def test_too_few_subjects_for_the_folds_are_refused_before_work_starts(cohort, tmp_path):
    with refused("num_folds"):
        cross_validate(cohort, tmp_path / "out", "folds")
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {LOCK, MARK}


def test_a_bad_scan_is_named_and_nothing_is_left_half_done(cohort, tmp_path):
    bad = cohort / "sub-02" / "anat" / "sub-02_R2starmap.nii.gz"
    bad.write_bytes(bad.read_bytes()[:2000])
    with refused(bad.name):
        cross_validate(cohort, tmp_path / "out", "folds", training={**TINY, "num_folds": 2})
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_an_error_inside_a_fold_names_the_fold(cohort, tmp_path):
    with refused("cropped/repeat-0/fold-0", "none.pth"):
        cross_validate(
            cohort,
            tmp_path / "out",
            "folds",
            training={**TINY, "num_folds": 2, "imagenet_weights": str(tmp_path / "none.pth")},
        )


def test_a_fold_that_fails_does_not_stop_the_others(cohort, tmp_path, capsys):
    class FirstFails:
        keys, slots = "", 1
        reached: list[str] = []

        def each(self, work, shared, jobs, tick):
            for name in jobs:
                self.reached.append(name)
                yield name, InputError("killed; go on") if name.endswith("00") else None

    engine = FirstFails()
    with refused("cropped/repeat-0/fold-00: killed; go on"):
        run_folds(
            BUNDLE, cohort, tmp_path / "out", tmp_path / "cache", ["cropped"], 1, {**TINY, "num_folds": 2}, [], engine,
            False, tmp_path / "nuclei.tsv", "mean",
        )  # fmt: skip
    assert len(engine.reached) == 2
    assert "fold-00: killed; go on (the other folds go on)" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["a scan without nuclei", "an age that is none"])
def test_a_table_that_the_baselines_cannot_use_is_refused_before_any_training(cohort, tmp_path, fault):
    nuclei = tmp_path / "nuclei.tsv"
    if fault == "a scan without nuclei":
        columns = [f"{m}_{side}_{n}_mean" for m in MEASURED for side in SIDES for n in NUCLEI]
        rows = [["participant_id", "scan_id", *columns], ["sub-01", "sub-01", *["1.5"] * len(columns)]]
        nuclei.write_text("\n".join(map("\t".join, rows)) + "\n")
    else:
        table = cohort / "participants.tsv"
        table.write_text(table.read_text().replace("\t41\t", "\tforty\t"))
    with refused("no nuclei of" if fault == "a scan without nuclei" else "'forty'"):
        cross_validate(cohort, tmp_path / "out", "folds", nuclei_table=str(nuclei), training={**TINY, "num_folds": 2})
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {LOCK, MARK}


def test_two_scans_of_one_participant_are_refused_before_work_starts(cohort, tmp_path):
    anat = cohort / "sub-01" / "anat"
    for session in ("ses-01", "ses-02"):
        shutil.copytree(anat, cohort / "sub-01" / session / "anat")
        for path in (cohort / "sub-01" / session / "anat").iterdir():
            path.rename(path.with_name(path.name.replace("sub-01_", f"sub-01_{session}_")))
    shutil.rmtree(anat)
    shutil.rmtree(cohort / "derivatives" / "basalganglia" / "sub-01")  # a box of no session
    with refused("sub-01", "ses-01", "ses-02"):
        cross_validate(cohort, tmp_path / "out", "folds", training={**TINY, "num_folds": 2})
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {LOCK, MARK}


def test_the_roi_baseline_is_tested_on_the_same_folds(shared_cohort, tmp_path):
    scans = labelled_scans(shared_cohort)
    columns = [f"{m}_{side}_{n}_mean" for m in MEASURED for side in SIDES for n in NUCLEI]
    rng = np.random.default_rng(0)
    lines = ["\t".join(["participant_id", "scan_id", *columns])]
    for scan in scans:
        values = rng.normal(1 + 0.5 * scan.label, 0.1, len(columns))
        lines.append("\t".join([scan.participant_id, scan.scan_id, *map(str, values)]))
    table = tmp_path / "nuclei.tsv"
    table.write_text("\n".join(lines) + "\n")
    setup = Setup((), {"dataset_dir": str(shared_cohort)}, str(tmp_path), num_folds=6, seed=3, keep_weights=False)
    folds = [Fold("cropped", repeat, fold) for repeat in range(2) for fold in range(6)]
    rows = roi_rows(setup, folds, scans, table, "mean")
    assert Counter((r["repeat"], r["model"]) for r in rows) == {
        (repeat, model): 12 for repeat in range(2) for model in ("ROI-LR", "ROI-SVM")
    }
    for row in rows:
        held_out = split(scans, 6, row["fold"], 3 + row["repeat"])[1]
        assert row["participant_id"] in {scan.participant_id for scan in held_out}
    logistic = [r for r in rows if r["model"] == "ROI-LR"]
    assert all((r["probability_HH"] > 0.5) == (r["label"] == 1) for r in logistic)


@pytest.mark.parametrize("key", ["image_epoch", "region", "dataset_dir"])
def test_training_keys_that_are_unknown_or_managed_are_refused(key):
    with refused(key):
        checked_settings(config_files(BUNDLE, []), {key: 3})


def test_overlays_and_training_are_read_as_their_keys_want(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("image_learning_rate: 3e-4\n")
    files = config_files(BUNDLE, [str(overlay)])
    assert checked_settings(files, {"swa": "no"}) == {"image_learning_rate": 3e-4, "swa": False}
    overlay.write_text("image_epoch: 3\n")
    with refused("mine.yaml: image_epoch"):
        checked_settings(files, {})


def test_an_overlay_that_is_not_there_is_refused():
    with refused("absent.yaml"):
        config_files(BUNDLE, ["configs/absent.yaml"])


@pytest.mark.other_programs
def test_ray_runs_folds_as_the_local_engine_does(finished, shared_cohort, tmp_path):
    ray = pytest.importorskip("ray")
    try:
        cross_validate(shared_cohort, tmp_path, "folds", engine="ray")
    finally:
        ray.shutdown()
    whole = [r for r in rows(finished) if r["region"] == "cropped" and r["repeat"] == "0"]
    for one, other in zip(rows(tmp_path), whole, strict=True):
        assert float(one["probability_HH"]) == pytest.approx(float(other["probability_HH"]), abs=1e-4)


def test_kept_weights_of_a_fold_are_calibrated_by_the_other_folds_alone(tmp_path):
    setup = Setup((), {}, str(tmp_path), num_folds=3, seed=0, keep_weights=True)
    folds = [Fold("cropped", 0, fold) for fold in range(3)]
    rows = [
        {"region": region, "repeat": repeat, "fold": n % 3, "model": model, "participant_id": f"sub-{n}", "slice": "",
         "label": n % 2,
         "probability_HH": 0.1 + 0.01 * n + 0.1 * (n % 2) + (0.2 if (region, model) != ("cropped", "Q-Net") else 0)}
        for region in ("full", "cropped") for repeat in (0, 1) for model in ("ResNet", "Q-Net") for n in range(36)
    ]  # fmt: skip
    for fold in folds[:2]:  # the third's weights were not kept
        (setup.folder(fold) / "models").mkdir(parents=True)
        (setup.folder(fold) / "models" / "model.pt").write_bytes(b"weights %d" % fold.fold)
    turned = [{**row, "probability_HH": 0.5 - 0.4 * row["label"] + 0.001 * n} for n, row in enumerate(rows)]
    calibrate_folds(setup, folds, turned, "platt")  # a model that tells nothing is not turned round
    assert not list(tmp_path.rglob("model_calibration.json"))
    calibrate_folds(setup, folds, rows, "platt")
    for fold in folds[:2]:
        found = json.loads((setup.folder(fold) / "models" / "model_calibration.json").read_text())
        scores = [1 / (1 + math.exp(-score)) for score in (*found["scores"]["HC"], *found["scores"]["HH"])]
        expected = [0.1 + 0.01 * n + 0.1 * (n % 2) for n in range(36) if n % 3 != fold.fold]
        assert sorted(scores) == pytest.approx(sorted(expected), abs=1e-4)
    assert not (setup.folder(folds[2]) / "models").exists()
