"""Weights get their calibration: from held-out scans, inner folds or a table, or a line that says why not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import BUNDLE, write_cohort
from made_predictions import made_predictions
from monai.bundle import ConfigWorkflow
from refusal import refused
from scipy.special import logit

from scripts.evaluation.predictions import at_level
from scripts.evaluation.unseen import check_unseen, trained_by
from scripts.files.writing import sha256
from scripts.maps.bids import labelled_scans, split
from scripts.maps.identity import known_as
from scripts.maps.scan import LabelledScan
from scripts.model.networks import QNet, load_weights, save_weights
from scripts.model.trust import Trust
from scripts.provenance import cohort_fingerprint
from scripts.training.calibrate import calibration_of, scores_of_table, source_of

TINY = {
    "device": "$torch.device('cpu')",
    "imagenet_weights": "none",
    "localise": "annotated",
    "cropped_size": [32, 32],
    "num_slices": 4,
    "hidden_size": 4,
    "image_epochs": 1,
    "scan_epochs": 1,
    "num_views": 1,
    "num_workers": 1,
    "swa": False,
    "image_batch_size": 32,
    "num_folds": 2,
}


def run(files: list[str], run_id: str, **settings) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in files], logging_file=False, run_id=run_id, **settings
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def people(healthy: int, ill: int) -> list[LabelledScan]:
    return [
        LabelledScan(participant_id=f"sub-{n}", scan_id=f"sub-{n}", label=int(n < ill)) for n in range(healthy + ill)
    ]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("forty") / "cohort", 40)


@pytest.fixture(scope="module")
def settings(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    """Keys of a run of its own."""

    def of(folder: Path, **changed) -> dict:
        places = {"dataset_dir": cohort, "ckpt_dir": folder / "models", "output_dir": folder / "output"}
        return {"bundle_root": str(BUNDLE), **{k: str(v) for k, v in places.items()}, **TINY, **changed}

    return of


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(["train.yaml"], "training", **settings(folder))
    return folder / "models"


def test_training_calibrates_on_the_held_out_fold(trained, cohort):
    found = json.loads((trained / "model_calibration.json").read_text())
    assert found["weights"] == {"model.pt": sha256(trained / "model.pt")}
    assert json.loads((trained / "model.json").read_text())["weights"] == {
        "model.pt": sha256(trained / "model.pt"),
        "model_calibration.json": sha256(trained / "model_calibration.json"),
    }
    assert {group: len(scores) for group, scores in found["scores"].items()} == {"HC": 10, "HH": 10}
    assert found["scores_from"] == "scans held out of training"
    _, held_out = split(labelled_scans(cohort), 2, 0, 0)
    network = load_weights(QNet(4, 4), trained / "model.pt")
    from scripts.training.preprocessing import preprocessing

    steps = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated")
    margins = []
    for scan in held_out:
        with torch.no_grad():
            healthy, ill = network(steps(scan.item())["image"].as_tensor()[None])[0].tolist()
        margins.append((ill - healthy, scan.label))
    for label, group in enumerate(("HC", "HH")):
        expected = sorted(margin for margin, of in margins if of == label)
        np.testing.assert_allclose(found["scores"][group], expected, atol=2e-4)
    assert found["familiarity"]["scans"] == 20
    assert found["familiarity"]["refuse_beyond"] == 2
    maps = cohort.glob("sub-*/anat/*_Chimap.nii.gz")
    assert found["seen"] == sorted(name for path in maps for name in known_as(path))
    assert found["calibrated_by"] == sorted(name for scan in held_out for name in known_as(scan.maps[0]))


def test_nothing_in_the_calibration_names_a_subject_or_a_place(trained, cohort):
    text = (trained / "model_calibration.json").read_text()
    assert "sub-" not in text and str(cohort) not in text and str(trained) not in text


def test_inner_folds_give_a_score_of_every_training_scan_and_of_no_other(settings, tmp_path):
    keys = settings(tmp_path, calibrate_on="inner_folds", inner_folds=2)
    run(["train.yaml"], "training", **keys)
    found = json.loads((tmp_path / "models" / "model_calibration.json").read_text())
    assert {group: len(scores) for group, scores in found["scores"].items()} == {"HC": 10, "HH": 10}
    seen = []
    for fold in ("fold-00", "fold-01"):
        inner = tmp_path / "output" / "inner_folds" / fold
        held_out, training = (
            {line.split("\t")[0] for line in (inner / name).read_text().splitlines()[1:]}
            for name in ("held_out.tsv", "training.tsv")
        )
        assert not held_out & training
        seen += held_out
    outer = (tmp_path / "output" / "training.tsv").read_text().splitlines()[1:]
    assert sorted(seen) == sorted(line.split("\t")[0] for line in outer)


def test_weights_that_are_there_are_calibrated_by_a_table(trained, settings, tmp_path, capsys):
    table = made_predictions(subjects=60, repeats=2)
    table.to_csv(tmp_path / "predictions.csv", index=False)
    torch.manual_seed(0)
    save_weights(QNet(4, 4), tmp_path / "models" / "model.pt", torch.float16)
    keys = settings(
        tmp_path,
        calibrate_on=str(tmp_path / "predictions.csv"),
        weights_record="config",
        calibration_method="temperature",
    )
    run(["train.yaml", "calibrate.yaml"], "run", **keys)
    assert "no healthy range of the evidence by nucleus: no healthy controls" in capsys.readouterr().out
    found = json.loads((tmp_path / "models" / "model_calibration.json").read_text())
    rows = at_level(table, "scan")
    rows = rows[(rows["model"] == "Q-Net") & (rows["region"] == "cropped") & (rows["repeat"] == 0)]
    expected = np.sort(logit(rows.loc[rows["label"] == 1, "probability_HH"].clip(1e-7, 1 - 1e-7)))
    np.testing.assert_allclose(found["scores"]["HH"], expected, rtol=1e-4)
    assert found["calibration"]["intercept"] == 0 and found["calibration"]["slope"] > 0
    assert Trust(tmp_path / "models" / "model.pt")(0.7)["answer"] in ("HH", "HC", "cannot say")


def test_weights_that_are_there_are_calibrated_on_labelled_scans_of_another_site(trained, settings, tmp_path):
    shutil.copytree(trained, tmp_path / "models")
    site = write_cohort(tmp_path / "site", 24, seed=1)
    keys = settings(tmp_path, dataset_dir=str(site), train_datalist="$@cohort", val_datalist="$@cohort")
    run(["train.yaml", "calibrate.yaml"], "run", **keys, calibrate_on="held_out")
    folders = (trained, tmp_path / "models")
    former, found = (json.loads((folder / "model_calibration.json").read_text()) for folder in folders)
    assert found["weights"] == former["weights"] == {"model.pt": sha256(trained / "model.pt")}
    assert found["input"]["sha256"] == cohort_fingerprint(site)["sha256"] != former["input"]["sha256"]
    assert {group: len(scores) for group, scores in found["scores"].items()} == {"HC": 12, "HH": 12}
    assert found["scores"] != former["scores"]
    assert {*former["seen"]} <= {*found["seen"]}  # who trained the weights is no test of them now either
    trained_by = {*former["seen"]} - {*former["calibrated_by"]}
    assert {*former["calibrated_by"]} <= {*found["calibrated_by"]} and trained_by.isdisjoint(found["calibrated_by"])
    noted = json.loads((tmp_path / "models" / "model.json").read_text())["weights"]
    assert noted["model_calibration.json"] == sha256(tmp_path / "models" / "model_calibration.json")


def test_a_small_held_out_fold_is_told_and_not_taken(capsys):
    assert source_of("auto", "cropped", people(30, 30), people(9, 8), 5) == "none"
    told = capsys.readouterr().out
    assert "17 subjects" in told and "inner_folds" in told
    assert source_of("auto", "cropped", people(30, 30), people(10, 10), 5) == "held_out"
    assert source_of("inner_folds", "cropped", people(30, 30), people(1, 1), 5) == "inner_folds"


def test_a_calibration_that_inferences_own_error_is_too_small_for_says_so_and_from_where_on(capsys):
    labels, scores = np.arange(20) % 2, np.random.default_rng(0).normal(size=20) + np.arange(20) % 2
    people = [f"sub-{n}" for n in range(20)]
    assert calibration_of(labels, scores, "platt", "scans", people) and not capsys.readouterr().out
    fewer = (np.arange(20) < 7).astype(int)
    assert calibration_of(fewer, scores + fewer, "platt", "scans", people)
    assert "13 HC and 7 HH" in (told := capsys.readouterr().out) and "conformal_error from 0.125 on" in told


@pytest.mark.parametrize(
    ("score", "said"), [(0, "all have one probability"), (-1, "higher probability did not mean more")]
)
def test_scores_that_tell_nothing_are_told_for_what_they_are(capsys, score, said):
    labels = np.arange(20) % 2
    scores = score * (labels + np.random.default_rng(0).normal(size=20) / 2)
    assert calibration_of(labels, scores, "platt", "scans", [f"sub-{n}" for n in range(20)]) is None
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "training", "held_out", "words"),
    [
        ("held_out", (30, 30), (9, 8), ("held-out fold", "17 subjects", "20")),
        ("held_out", (30, 30), (30, 0), ("no HH",)),
        ("held_out", (30, 30), (30, 1), ("one HH", "two of each")),
        ("inner_folds", (30, 4), (30, 30), ("inner_folds is 5", "4 subjects")),
        ("inner_folds", (0, 30), (30, 30), ("training scans", "no HC")),
        ("absent.csv", (30, 30), (30, 30), ("absent.csv", "calibrate_on")),
    ],
)
def test_what_cannot_calibrate_is_refused(asked, training, held_out, words):
    with refused(*words):
        source_of(asked, "cropped", people(*training), people(*held_out), 5)


def test_what_cannot_calibrate_is_refused_before_training(settings, tmp_path):
    with refused("calibrate_on held_out", "10 subjects", "are too few"):
        run(["train.yaml"], "training", **settings(tmp_path, calibrate_on="held_out", num_folds=4))
    assert not (tmp_path / "output" / "image_level.csv").exists()


def test_a_model_whose_scores_point_the_wrong_way_is_not_turned_round(settings, tmp_path, capsys):
    table = made_predictions(subjects=60, repeats=1)
    table.assign(probability_HH=1 - table["probability_HH"]).to_csv(tmp_path / "predictions.csv", index=False)
    save_weights(QNet(4, 4), tmp_path / "models" / "model.pt", torch.float16)
    keys = settings(tmp_path, calibrate_on=str(tmp_path / "predictions.csv"), weights_record="config")
    run(["train.yaml", "calibrate.yaml"], "run", **keys)
    assert "no calibration" in capsys.readouterr().out
    assert not (tmp_path / "models" / "model_calibration.json").exists()


def test_scans_that_trained_the_weights_are_known_in_any_cohort_and_by_any_name(cohort, tmp_path):
    scans = labelled_scans(cohort)
    training, held_out = split(scans, 4, 1, 0)
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    note = {"settings": {}, "weights": {"model.pt": sha256(weights)}, "trained_by": trained_by(training)}
    weights.with_suffix(".json").write_text(json.dumps(note))
    other = tmp_path / "other"
    shutil.copytree(cohort, other)
    (other / "participants.tsv").write_text((other / "participants.tsv").read_text() + "\n")  # another fingerprint
    found = [replace(scan, participant_id=f"sub-x{n}") for n, scan in enumerate(labelled_scans(other))]
    ours = {scan.scan_id for scan in held_out}
    check_unseen(weights, other, [scan for scan in found if scan.scan_id in ours], found)
    with refused("model.pt", "was trained on", f"{len(training)} of these"):
        check_unseen(weights, other, found, found)


def test_of_older_weights_the_split_tells_who_trained_the_weights_and_each_member_of_joined_ones(cohort, tmp_path):
    scans = labelled_scans(cohort)
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")

    def note(settings: dict, **more) -> None:
        about = {"weights": {"model.pt": sha256(weights)}, "input": cohort_fingerprint(cohort), **more}
        weights.with_suffix(".json").write_text(json.dumps({"settings": {"num_folds": 4, **settings}, **about}))

    def check(tested: list[LabelledScan]) -> None:
        check_unseen(weights, cohort, tested, scans)

    parts = {seed: split(scans, 4, 1, seed)[1] for seed in (0, 1)}
    assert {scan.scan_id for scan in parts[0]} != {scan.scan_id for scan in parts[1]}
    note({"seed": 0, "fold": 1})
    check(parts[0])
    with refused("was trained on", "--fold 1"):
        check(parts[1])
    note({}, members=[{"sha256": "a", "seed": seed, "fold": 1} for seed in (0, 1)])
    with refused("was trained on", "members of other seeds"):
        check(parts[0])
    check([scan for scan in parts[0] if scan in parts[1]])


@pytest.mark.parametrize(("key", "other"), [("image_model", "vit"), ("cropped_size", [64, 64])])
def test_a_table_of_models_of_another_recipe_does_not_calibrate(tmp_path, key, other):
    made_predictions(subjects=60, repeats=1).to_csv(tmp_path / "predictions.csv", index=False)
    ours = {"image_model": "resnet18", "cropped_size": [32, 32], "full_size": [64, 64]}
    (tmp_path / "predictions.json").write_text(json.dumps({"settings": {**ours, key: other}}))
    with refused("predictions.csv", key):
        scores_of_table(tmp_path / "predictions.csv", "cropped", ours)


def test_a_table_of_models_of_another_recipe_is_refused_before_training(settings, tmp_path):
    made_predictions(subjects=60, repeats=1).to_csv(tmp_path / "predictions.csv", index=False)
    (tmp_path / "predictions.json").write_text(json.dumps({"settings": {"cropped_size": [48, 48]}}))
    with refused("predictions.csv", "cropped_size [48, 48]", "[32, 32]"):
        run(["train.yaml"], "training", **settings(tmp_path, calibrate_on=str(tmp_path / "predictions.csv")))
    assert not (tmp_path / "output" / "image_level.csv").exists()


@pytest.mark.parametrize("image_model", ["vit", "densenet_3d"])
def test_weights_of_every_kind_of_network_can_be_calibrated(settings, tmp_path, image_model):
    networks = [
        ConfigWorkflow(
            config_file=[str(BUNDLE / "configs" / name) for name in files], logging_file=False,
            **settings(tmp_path, image_model=image_model),
        ).parser.get_parsed_content("network_def")
        for files in (["train.yaml"], ["train.yaml", "calibrate.yaml"])
    ]  # fmt: skip
    trained, calibrated = ({name: value.shape for name, value in n.state_dict().items()} for n in networks)
    assert trained == calibrated


def test_the_scans_that_trained_the_weights_do_not_calibrate_them(trained, settings):
    folder = trained.parent
    keys = settings(folder, train_datalist="$@cohort", val_datalist="$@cohort", calibrate_on="held_out")
    with refused("was trained on"):
        run(["train.yaml", "calibrate.yaml"], "run", **keys)
