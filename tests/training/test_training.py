"""Training end to end on a toy cohort: reproducible, resumable, on several processes."""

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from blobs import BOX, BUNDLE
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import Dataset, MetaTensor
from refusal import refused

from scripts.errors import InputError, input_error_in, report_in_one_line
from scripts.evaluation.predict import load_models, predict
from scripts.model.image_level import SliceResNet
from scripts.model.networks import load_weights, read_state_dict, save_weights
from scripts.provenance import read_record, trained_with
from scripts.reporting.training import check_of_one, report
from scripts.runs.outputs import LOCK, MARK
from scripts.training.data import Batches, Samples, check_batches, cosine_annealing, swa_start_epoch, used_precision
from scripts.training.handlers import Progress

TINY = {
    "num_folds": 3,
    "cropped_size": [32, 32],
    "num_slices": 4,
    "hidden_size": 8,
    "imagenet_weights": "none",
    "image_epochs": 4,
    "image_batch_size": 16,
    "scan_epochs": 4,
    "scan_batch_size": 4,
    "num_views": 2,
    "val_interval": 2,
    "swa_start": 0.5,
}


def arguments(cohort: Path, folder: Path, **changed) -> dict:
    paths = {
        "bundle_root": BUNDLE,
        "dataset_dir": cohort,
        "ckpt_dir": folder / "models",
        "output_dir": folder / "output",
    }
    return {**TINY, **{k: str(v) for k, v in paths.items()}, **changed}


def train(cohort: Path, folder: Path, run_id: str = "training", overlays: Sequence[str] = (), **changed) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / f"{name}.yaml") for name in ("train", *overlays)],
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id=run_id,
        **arguments(cohort, folder, **changed),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def command(cohort: Path, folder: Path, configs: str, **changed) -> list[str]:
    pairs = arguments(cohort, folder, **changed).items()
    return ["-m", "monai.bundle", "run", "training", "--config_file", configs, *(f"--{k}={v}" for k, v in pairs)]


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("resnet.pt", "resnet_swa.pt", "model.pt"):
        first, second = read_state_dict(one / "models" / name), read_state_dict(other / "models" / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.fixture(scope="module")
def trained(shared_cohort, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(shared_cohort, folder)
    return folder


def test_training_writes_all_three_models_and_their_records(trained):
    names = {path.name for path in (trained / "models").iterdir()}
    assert names - {LOCK, MARK} == {"resnet.pt", "resnet_swa.pt", "model.pt", "resnet.json", "model.json"}


def test_a_table_says_of_every_scan_where_its_box_is_from_and_what_is_unlikely(trained):
    with (trained / "output" / "scans.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["scan_id"] for row in rows] == [f"sub-{number:02d}" for number in range(1, 13)]
    assert {row["box_source"] for row in rows} == {"annotated"} and {row["t1w_registration"] for row in rows} == {"n/a"}
    assert {row["box"] for row in rows} == {json.dumps(BOX)}
    assert all(row["flags"] for row in rows)


def test_records_hold_no_path(trained, shared_cohort):
    for name in ("resnet.json", "model.json"):
        text = (trained / "models" / name).read_text()
        assert str(trained) not in text and str(shared_cohort) not in text


def contributions(cohort: Path, folder: Path, **changed) -> None:
    train(cohort, folder, "run", ["contributions"], draws=1, bootstrap_samples=100, **changed)


def test_what_each_map_contributes_is_told_of_the_held_out_fold(trained, shared_cohort):
    contributions(shared_cohort, trained)
    with (trained / "output" / "contributions" / "contributions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["map"] for row in rows] == ["Chimap", "R2starmap", "T1w"]
    assert all(float(row["drop"]) == pytest.approx(float(row["auc"]) - float(row["auc_without"])) for row in rows)
    for ending in ("md", "png", "json"):
        assert (trained / "output" / "contributions" / f"contributions.{ending}").stat().st_size > 0


def test_weights_without_stage_1_beside_them_are_evaluated_alone(trained, shared_cohort, tmp_path, caplog):
    shutil.copytree(trained / "output", tmp_path / "output")
    (tmp_path / "models").mkdir()
    for name in ("model.pt", "model.json"):
        shutil.copy(trained / "models" / name, tmp_path / "models" / name)
    train(shared_cohort, tmp_path, "run", ["evaluate"])
    with (tmp_path / "output" / "evaluation" / "predictions.csv").open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"Q-Net"}
    record = json.loads((tmp_path / "output" / "evaluation" / "evaluation.json").read_text())
    assert list(record["weights"]) == ["model.pt"]
    assert "resnet.pt and resnet_swa.pt: not there" in caplog.text


@pytest.mark.parametrize("overlay", ["contributions", "evaluate"])
def test_weights_are_not_tested_on_what_trained_them_or_on_other_input(trained, shared_cohort, overlay):
    with refused("was trained on", "no test of it", "--fold 0"):
        train(shared_cohort, trained, "run", [overlay], fold=1)
    with refused("trained with intensity 'stretch', not 'window'"):
        train(shared_cohort, trained, "run", [overlay], intensity="window")


def test_the_recipe_of_quantities_trains_and_its_record_says_so(shared_cohort, tmp_path):
    train(shared_cohort, tmp_path, overlays=["quantities"])
    said = json.loads((tmp_path / "models" / "model.json").read_text())["settings"]
    assert (said["intensity"], said["scan_model"], said["precision"]) == ("window", "attention", "auto")
    assert said["used_precision"] in ("float32", "bfloat16")
    assert (said["augment#vertical_flip_prob"], said["augment#rotate_limit"]) == (0.0, 15)
    assert "sequence.attention.0.weight" in read_state_dict(tmp_path / "models" / "model.pt")


@pytest.mark.parametrize(
    ("size", "batch", "scans", "said"),
    [
        ((32, 32), 1, 5, "every batch"),
        ((32, 16), 3, 4, "last batch of 16 slices"),
        ((33, 32), 1, 5, None),
        ((32, 32), 5, 5, None),
        ((32, 32), 64, 5, None),
    ],
)
def test_a_batch_that_nothing_can_be_normalised_by_is_refused_before_work(size, batch, scans, said):
    features = SliceResNet(1, False).train()
    if said is None:
        features(torch.rand(1 if batch == 1 else 2, 1, *size))
        return check_batches("resnet18", size, 4, batch, scans)
    with pytest.raises(ValueError, match="more than 1 value"):
        features(torch.rand(1, 1, *size))
    with refused(said, f"image_batch_size is {batch}"):
        check_batches("resnet18", size, 4, batch, scans)
    check_batches("vit", size, 4, batch, scans)
    check_batches("resnet18_3d", size, 4, batch, scans)


def test_same_seed_gives_the_same_weights(trained, shared_cohort, tmp_path):
    train(shared_cohort, tmp_path)
    assert_same_weights(trained, tmp_path)


def test_other_seed_gives_other_weights(trained, shared_cohort, tmp_path):
    train(shared_cohort, tmp_path, run_id="image_level", seed=1)
    first, second = (read_state_dict(f / "models" / "resnet.pt") for f in (trained, tmp_path))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])


def test_weights_of_an_earlier_training_are_kept_with_their_records(trained, shared_cohort, tmp_path, capfd):
    shutil.copytree(trained / "models", tmp_path / "models")
    before = {path.name: path.read_bytes() for path in (trained / "models").iterdir()}
    train(shared_cohort, tmp_path, image_epochs=1, scan_epochs=1, val_interval=1)
    assert "model.pt was there, of another training: it is kept in earlier/" in capfd.readouterr().out
    kept = {path.name: path for path in (tmp_path / "models" / "earlier").glob("*/*")}
    assert kept.keys() >= {"resnet.pt", "resnet_swa.pt", "resnet.json", "model.pt", "model.json"}
    assert all(path.read_bytes() == before[name] for name, path in kept.items())
    assert all((tmp_path / "models" / name).read_bytes() != before[name] for name in kept)
    assert trained_with(kept["model.pt"])["image_epochs"] == TINY["image_epochs"]


def test_the_same_weights_written_again_keep_nothing(trained, shared_cohort, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    shutil.copytree(trained / "output", tmp_path / "output")
    train(shared_cohort, tmp_path)
    assert_same_weights(trained, tmp_path)
    assert not (tmp_path / "models" / "earlier").exists()


def test_stage_2_embeds_with_the_averaged_model_unchanged(trained):
    averaged = read_state_dict(trained / "models" / "resnet_swa.pt")
    qnet = read_state_dict(trained / "models" / "model.pt")
    for name, value in averaged.items():
        if not name.startswith("fc."):
            torch.testing.assert_close(qnet[f"embedding.{name}"], value.half().to(value.dtype), rtol=0, atol=0)


def test_swa_model_is_the_mean_of_the_last_epochs_weights(shared_cohort, tmp_path):
    # the run is stopped after epochs 3 and 4, whose weights the average must hold in equal parts
    ends = []
    for epochs in (3, 4):
        train(shared_cohort, tmp_path / str(epochs), run_id="image_level", image_epochs=epochs, swa_start=2 / epochs)
        ends.append(read_state_dict(tmp_path / str(epochs) / "models" / "resnet.pt")["layer4.1.conv2.weight"])
    averaged = read_state_dict(tmp_path / "4" / "models" / "resnet_swa.pt")["layer4.1.conv2.weight"]
    torch.testing.assert_close(averaged, (ends[0] + ends[1]) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seen", ["image_level.csv", "scan_level.csv"])
def test_killed_run_continues_to_the_same_numbers(seen, trained, shared_cohort, tmp_path):
    process = subprocess.Popen(
        [sys.executable, *command(shared_cohort, tmp_path, str(BUNDLE / "configs" / "train.yaml"))],
        cwd=BUNDLE,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    watched = tmp_path / "output" / seen
    while process.poll() is None and not (watched.exists() and len(watched.read_text().splitlines()) > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(shared_cohort, tmp_path)
    assert_same_weights(trained, tmp_path)
    with (
        (tmp_path / "output" / "scan_level.csv").open() as file,
        (trained / "output" / "scan_level.csv").open() as whole,
    ):
        assert list(csv.DictReader(file)) == list(csv.DictReader(whole))


@pytest.mark.parametrize(
    ("run_id", "key", "value", "said"),
    [
        ("image_level", "augment#rotate_limit", 10, ["--augment#rotate_limit 45, not 10"]),
        ("training", "image_epochs", 5, ["image_level", "--image_epochs 4, not 5"]),
        ("training", "scan_epochs", 5, ["scan_level", "--scan_epochs 4, not 5"]),
        ("scan_level", "seed", 1, ["--seed 0, not 1"]),
        ("training", "localise", "annotated", ["--localise 'auto', not 'annotated'"]),  # not its template
    ],
)
def test_changed_setting_is_refused_instead_of_resumed(run_id, key, value, said, trained, shared_cohort):
    notes = trained / "output" / "scans.tsv"  # is written when the scans were read
    before = notes.stat().st_mtime_ns
    with refused("checkpoint.pt", *said, "give the first to go on"):
        train(shared_cohort, trained, run_id=run_id, **{key: value})
    assert notes.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("run_id", "key"), [("image_level", "image_learning_rate"), ("scan_level", "scan_learning_rate")]
)
def test_training_that_diverges_names_the_key_and_writes_no_weights(run_id, key, trained, shared_cohort, tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("resnet_swa.pt", "resnet.json") if run_id == "scan_level" else ():
        shutil.copy(trained / "models" / name, tmp_path / "models")
    before = set(tmp_path.rglob("*.pt"))
    with refused(key, "training diverged in epoch 1", f"lower --{key}"):
        train(shared_cohort, tmp_path, run_id, **{key: 1e3})
    assert set(tmp_path.rglob("*.pt")) == before


def test_weights_that_give_one_answer_are_not_written(trained, shared_cohort, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    before = (tmp_path / "models" / "model.pt").read_bytes()
    with refused("model.pt", "one answer to everything", "lower scan_learning_rate", "not written"):
        train(shared_cohort, tmp_path, "scan_level", scan_learning_rate=1.0, scan_epochs=2)  # its loss is finite
    assert (tmp_path / "models" / "model.pt").read_bytes() == before


def test_a_diverged_checkpoint_is_not_gone_on_with(trained, shared_cohort, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    checkpoint = torch.load(path := tmp_path / "run" / "output" / "image_level_checkpoint.pt", weights_only=True)
    checkpoint["network"]["conv1.weight"][0] = float("nan")
    torch.save(checkpoint, path)
    with refused("image_level_checkpoint.pt", "'conv1.weight'", "diverged", "begin again with a lower learning rate"):
        train(shared_cohort, tmp_path / "run", image_epochs=4)


def test_weights_too_large_for_their_type_are_not_written(tmp_path):
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, 1e5)
    with refused("model.pt", "'weight' is not finite as float16", "lower"):
        save_weights(network, tmp_path / "model.pt", torch.float16)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("weights", [(0, 0), (-1, 1)])
def test_a_loss_that_nothing_is_learned_by_is_refused_before_work(weights, shared_cohort, tmp_path):
    with refused("scan_loss_weight", "image_loss_weight", "at least one of them above"):
        train(shared_cohort, tmp_path, scan_loss_weight=weights[0], image_loss_weight=weights[1])
    assert not list(tmp_path.rglob("*.pt"))


def test_a_map_that_changed_since_is_named_before_scans_are_read(trained, shared_cohort, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(shared_cohort, tmp_path / "cohort")
    (notes := tmp_path / "run" / "output" / "scans.tsv").unlink()
    path = tmp_path / "cohort" / "sub-05" / "anat" / "sub-05_T1w.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 1, image.affine), path)
    with refused("image_level_checkpoint.pt", "sub-05 of the cohort", "changed since that run began"):
        train(tmp_path / "cohort", tmp_path / "run")
    assert not notes.exists()


def test_bad_input_within_an_engine_is_told_once():
    def step(engine, batch):
        raise batch

    said, hook, logger = StringIO(), sys.excepthook, logging.getLogger("ignite")
    logger.addHandler(handler := logging.StreamHandler(said))
    try:
        report_in_one_line()
        with refused("a map"):
            Engine(step).run([InputError("a map: is broken; mend it")])
        assert said.getvalue() == ""
        with pytest.raises(KeyError):
            Engine(step).run([KeyError("a key")])
        assert "a key" in said.getvalue()
    finally:
        sys.excepthook = hook
        logger.removeHandler(handler)


def test_a_long_epoch_has_a_bar_of_its_own_with_samples_and_loss(capsys, monkeypatch):
    monkeypatch.setattr("scripts.training.handlers.SHORT_EPOCH_S", 0)  # of which a test has none
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr("scripts.runs.bars.LOG_SECONDS", 0)
    loader = Batches(Samples(torch.zeros(10, 1), torch.zeros(10), torch.device("cpu")), 4)
    held_out = Engine(lambda engine, batch: {})
    trainer = Engine(lambda engine, batch: time.sleep(0.11) or {"loss": torch.tensor(0.25)})  # tqdm draws at 0.1 s
    Progress("stage 1", held_out).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: held_out.run(loader))
    trainer.run(loader, max_epochs=2)
    drawn = capsys.readouterr().err
    for words in ("epoch 1, training", "epoch 2, training", "8/10", "image", "loss=0.250", "held-out fold", "2/2"):
        assert words in drawn


def test_the_recipe_of_the_shipped_weights_trains_from_a_random_start(shared_cohort, tmp_path):
    own = ConfigParser.load_config_file(BUNDLE / "configs" / "reduced.yaml")
    train(shared_cohort, tmp_path, overlays=["reduced"], **own | {"image_epochs": 1, "scan_epochs": 1})
    said = json.loads((tmp_path / "models" / "model.json").read_text())["settings"]
    assert (said["imagenet_weights"], own["image_epochs"]) == ("none", 6)
    assert said["used_precision"] in ("bfloat16", "float32")
    shipped = json.loads((BUNDLE / "models" / "model.json").read_text())["settings"]
    assert {key: shipped[key] for key in own} == own
    assert all(value.isfinite().all() for value in read_state_dict(tmp_path / "models" / "model.pt").values())


def test_without_swa_q_net_embeds_with_the_plain_model(shared_cohort, tmp_path):
    train(shared_cohort, tmp_path, swa=False, image_epochs=2, scan_epochs=1)
    plain = read_state_dict(tmp_path / "models" / "resnet.pt")
    qnet = read_state_dict(tmp_path / "models" / "model.pt")
    assert not (tmp_path / "models" / "resnet_swa.pt").exists()
    torch.testing.assert_close(qnet["embedding.conv1.weight"], plain["conv1.weight"].half().float(), rtol=0, atol=0)


def test_full_size_region_trains(shared_cohort, tmp_path):
    train(shared_cohort, tmp_path, region="full", full_size=[40, 48], image_epochs=1, scan_epochs=1, swa=False)
    assert (tmp_path / "models" / "model.pt").exists()


def test_two_cpu_processes_train_with_torchrun(shared_cohort, tmp_path):
    configs = f"['{BUNDLE / 'configs' / 'train.yaml'}','{BUNDLE / 'configs' / 'multi_gpu_train.yaml'}']"
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         *command(shared_cohort, tmp_path, configs, image_epochs=2, scan_epochs=2)],
        cwd=BUNDLE, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "models" / "model.pt").exists()


@pytest.fixture(scope="module")
def reported(trained, shared_cohort, tmp_path_factory) -> Path:
    """The training, evaluated, with an inference and the page of all."""
    configs = BUNDLE / "configs"
    paths = {k: v for k, v in arguments(shared_cohort, trained).items() if isinstance(v, str) or k in TINY}

    def run(files: list[str], **settings) -> None:
        workflow = ConfigWorkflow(
            config_file=[str(configs / name) for name in files],
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            **settings,
        )
        workflow.initialize()
        workflow.run()

    run(["train.yaml", "evaluate.yaml"], **paths)
    held_out, learned = ((trained / "output" / f"{name}.tsv").read_text() for name in ("held_out", "training"))
    asked = tmp_path_factory.mktemp("asked") / "asked.tsv"
    asked.write_text(held_out + learned.splitlines()[1] + "\n")  # and one who trained
    run(
        ["inference.yaml"],
        bundle_root=str(BUNDLE),
        dataset_dir=str(shared_cohort),
        participants=str(asked),
        weights=str(trained / "models" / "model.pt"),
        output_dir=str(trained / "inference"),
        nuclei="known",
        spatial_size=TINY["cropped_size"],
        num_slices=TINY["num_slices"],
        hidden_size=TINY["hidden_size"],
    )
    run(
        ["train.yaml", "report.yaml"],
        **paths,
        inference_dir=str(trained / "inference"),
        report_dir=str(trained / "report"),
    )
    return trained


def test_evaluation_inference_and_report_follow_training(trained, reported, tmp_path):
    page = (reported / "report" / "index.html").read_text()
    assert page.count("<img ") == 5
    assert "simulated cohort" in page
    assert re.search(
        r"Of 4 held-out subjects.*\(sensitivity [\d.]+\).*\(specificity [\d.]+\).*AUC of scans: [\d.]+", page
    )
    links = re.findall(r'href="([^"#][^":]*)"', page)
    assert len(links) == 4 + 1  # each held-out scan's page, and the batch's
    moved = shutil.copytree(trained, tmp_path / "elsewhere", symlinks=True)
    assert all(not link.startswith("/") and (moved / "report" / unquote(link)).is_file() for link in links)
    with (trained / "output" / "evaluation" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # 4 held-out subjects, 3 models, 4 slices and the scan
    assert len(rows) == 4 * 3 * 5
    with (trained / "inference" / "predictions.csv").open(newline="") as file:
        inferred = {r["participant_id"]: float(r["probability_HH"]) for r in csv.DictReader(file) if not r["slice"]}
    assert len(inferred) == 5
    evaluated = {
        r["participant_id"]: float(r["probability_HH"]) for r in rows if r["model"] == "Q-Net" and not r["slice"]
    }
    assert {name: inferred[name] for name in evaluated} == pytest.approx(evaluated, abs=1e-5)
    record, tested = read_record(trained / "output" / "evaluation" / "evaluation.json"), pd.DataFrame(rows)
    groups = {name: ("HC", "HH")[int(label)] for name, label in tested[["participant_id", "label"]].to_numpy()}
    tested["label"] = tested["label"].astype(int)
    check_of_one(record, tested, trained / "inference" / "run.json", groups)
    with refused("participants.tsv", next(iter(groups)), "evaluate.yaml again"):
        check_of_one(record, tested, trained / "inference" / "run.json", groups | {next(iter(groups)): "?"})
    with refused("run.json", "other weights", "--weights"):
        check_of_one(record | {"weights": {"model.pt": "0"}}, tested, trained / "inference" / "run.json", groups)


def test_a_report_shows_the_boxes_that_inference_cut_by(reported, shared_cohort, tmp_path):
    bare = shutil.copytree(shared_cohort, tmp_path / "cohort")
    shutil.rmtree(bare / "derivatives" / "basalganglia")
    inference = shutil.copytree(reported / "inference", tmp_path / "inference")

    def drawn() -> str:
        output = reported / "output"
        calibration = reported / "models" / "model_calibration.json"
        report(tmp_path / "report", bare, output, output / "evaluation", inference, calibration, 3)
        return (tmp_path / "report" / "index.html").read_text()

    assert "with the box" in drawn()
    for name in ("example_maps.png", "evidence.png"):
        assert (tmp_path / "report" / name).read_bytes() == (reported / "report" / name).read_bytes()
    for path in inference.glob("sub-*/*_prediction.json"):  # as if every scan were cut already
        path.write_text(json.dumps({**json.loads(path.read_text()), "box": {"source": "whole"}}))
    page = drawn()
    assert "with the box" not in page and "The maps at the middle slice." in page


def test_missing_imagenet_weights_name_the_key_that_trains_without(shared_cohort, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        train(shared_cohort, tmp_path, run_id="image_level", imagenet_weights=str(tmp_path / "absent.pth"))
    assert "absent.pth" in str(input_error_in(caught.value))


def test_learning_rate_falls_by_cosine_and_then_stays():
    factor = cosine_annealing(3e-4, 1e-4, 75)
    rates = [3e-4 * factor(epoch) for epoch in (0, 37.5, 75, 99)]
    assert rates == pytest.approx([3e-4, 2e-4, 1e-4, 1e-4])


def test_swa_starts_after_three_quarters_of_the_epochs():
    assert swa_start_epoch(100, True, 0.75) == 75
    assert swa_start_epoch(100, False, 0.75) == 100


def test_auto_is_bfloat16_where_the_processor_computes_in_it(monkeypatch):
    cpu = torch.device("cpu")
    assert [used_precision(name, cpu) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" in flags:  # the system's own list, on Intel and AMD
        has = any(name in flags.split() for name in ("avx512_bf16", "amx_bf16"))
        assert used_precision("auto", cpu) == ("bfloat16" if has else "float32")
    for found, expected in (({"avx2": True}, "float32"), ({"avx512_bf16": True}, "bfloat16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert used_precision("auto", cpu) == expected


def test_a_network_of_whole_scans_trains_and_says_in_its_record_what_it_is(shared_cohort, tmp_path):
    recipe = {"image_model": "resnet18_3d", "scan_model": "attention", "intensity": "window"}
    short = {"image_epochs": 2, "scan_epochs": 1, "num_views": 1, "val_interval": 1, "image_batch_size": 12}
    train(shared_cohort, tmp_path, **recipe, **short)
    weights = tmp_path / "models" / "model.pt"
    known = trained_with(weights)
    assert {key: known[key] for key in recipe} == recipe
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "inference.yaml")))
    parser.update({"weights": str(weights), "num_slices": 4, "hidden_size": 8, "cropped_size": [32, 32]})
    network = load_weights(parser.get_parsed_content("network_def"), weights)
    models = load_models(tmp_path / "models", network, swa=True)
    assert list(models) == ["ResNet3D", "ResNet3DSWA", "Q-Net"]
    image = torch.rand(3, 32, 32, 4, generator=torch.Generator().manual_seed(0))
    items = [{"image": MetaTensor(image), "label": 0, "participant_id": "sub-01"}]
    rows = predict(Dataset(items), models, torch.device("cpu"), {"repeat": 0, "fold": 0, "region": "cropped"})
    assert len(rows) == 3 * (1 + 4)


def test_a_network_that_cannot_take_the_slices_is_refused_before_scans_are_read(shared_cohort, tmp_path):
    with pytest.raises(Exception) as caught:
        train(shared_cohort, tmp_path, image_model="vit", cropped_size=[36, 32])
    assert "multiples of 16, not 36 x 32" in str(input_error_in(caught.value))
    assert not (tmp_path / "output" / "scans.tsv").exists()
