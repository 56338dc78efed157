"""Losses and AUCs reach MLflow's default store and TensorBoard, from training, cross-validation and inference."""

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from blobs import BUNDLE, write_cohort
from commands import TINY

sys.path.insert(0, str(Path(__file__).parent / "serving"))

from environments import environment  # noqa: E402

pytestmark = pytest.mark.other_programs


@pytest.fixture(scope="module")
def python() -> Path:
    """Of an environment that has MLflow and TensorBoard besides ours."""
    return environment("QNET_TRACKING_ENV", ".venv-tracking", "mlflow")


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("six") / "cohort", 6)


def run(python: Path, *words: str) -> None:
    done = subprocess.run(
        [str(python), "-W", "ignore", "-m", "monai.bundle", "run", *words],
        cwd=BUNDLE, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def logged(store: Path) -> tuple[list[tuple[str, str]], Counter]:
    """Runs of an MLflow store (name, status), and how many values of each metric it holds."""
    with sqlite3.connect(store) as database:
        runs = database.execute("select name, status from runs").fetchall()
        return runs, Counter(key for (key,) in database.execute("select key from metrics"))


def train(python: Path, cohort: Path, folder: Path, tracking: str) -> None:
    run(
        python, "training", "--config_file", "configs/train.yaml", "--dataset_dir", str(cohort), "--ckpt_dir",
        str(folder / "models"), "--output_dir", str(folder / "out"), "--tracking", tracking, *TINY["train"],
    )  # fmt: skip


def test_monais_own_word_follows_stage_2(python, six, tmp_path):
    train(python, six, tmp_path, "mlflow")
    runs, values = logged(tmp_path / "out" / "mlruns.db")
    assert {status for _, status in runs} == {"FINISHED"}
    assert values["train_loss"] == 1  # one epoch of one batch of scans
    assert values["train_auc"] == values["val_auc"] == 1


def test_our_settings_follow_both_stages(python, six, tmp_path):
    train(python, six, tmp_path, "configs/track_mlflow.yaml")
    runs, values = logged(tmp_path / "out" / "mlruns.db")
    assert {status for _, status in runs} == {"FINISHED"}
    assert values["train_loss"] == 2  # 3 scans of 4 slices in a batch of 16, and the scans in one of 64
    assert values["train_auc"] == values["val_auc"] == 2


def test_mlflow_holds_settings_and_learning_curves_of_a_training(python, six, tmp_path):
    train(python, six, tmp_path, "configs/track_mlflow.yaml")
    with sqlite3.connect(tmp_path / "out" / "mlruns.db") as database:
        settings = dict(database.execute("select key, value from params"))
    assert settings["scan_model"] == "bilstm" and settings["augment.rotate_limit"] == "45"
    assert not any(str(tmp_path) in value for value in settings.values())
    kept = [path.name for path in (tmp_path / "out" / "mlruns").rglob("*.csv")]
    assert {"image_level.csv", "scan_level.csv"} <= set(kept)


def test_tensorboard_follows_both_stages(python, six, tmp_path):
    train(python, six, tmp_path, "configs/track_tensorboard.yaml")
    read = (
        "import sys\nfrom tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "for folder in sys.argv[1:]:\n    events = EventAccumulator(folder).Reload()\n"
        "    print(*sorted(events.Tags()['scalars']))"
    )
    folders = [tmp_path / "out" / "tensorboard" / name for name in ("stage_1", "stage_2", "stage_2_held_out")]
    done = subprocess.run([str(python), "-c", read, *map(str, folders)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["train_auc train_loss", "train_auc train_loss", "val_auc"]


def cross_validate(python: Path, cohort: Path, folder: Path, tracking: str) -> None:
    run(
        python, "cross_validation", "--config_file", "configs/cross_validation.yaml", "--dataset_dir", str(cohort),
        "--output_dir", str(folder), "--regions", "cropped", "--viewer_subjects", "0", "--tracking", tracking,
        *TINY["cross_validation"],
    )  # fmt: skip


def test_each_fold_of_a_cross_validation_is_a_run_and_one_holds_what_came_out(python, six, tmp_path):
    out = tmp_path / "out"
    cross_validate(python, six, out, "mlflow")
    runs, values = logged(out / "mlruns.db")
    folds = [(f"cropped/repeat-0/fold-0{fold}", "FINISHED") for fold in (0, 1)]
    assert sorted(runs) == [*folds, ("results", "FINISHED")]
    assert values["train_loss"] == 2
    table = pd.read_csv(out / "tables" / "table3_scan_level.csv").set_index(["model", "measure"])["mean"]
    with sqlite3.connect(out / "mlruns.db") as database:
        ((auc,),) = database.execute("select value from metrics where key = 'scan/cropped/Q-Net/auc'")
    assert auc == pytest.approx(table["Q-Net", "auc"])
    kept = {path.name for path in (out / "mlruns").rglob("*") if path.is_file()}
    assert {"cross_validation.json", "predictions.csv", "table1_image_level.csv", "index.html"} <= kept


def test_tensorboard_gets_what_came_out_of_a_cross_validation(python, six, tmp_path):
    cross_validate(python, six, tmp_path / "out", "configs/track_tensorboard.yaml")
    read = (
        "import sys\nfrom tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]).Reload()\n"
        "print(events.Scalars('scan/cropped/Q-Net/auc')[0].value)"
    )
    done = subprocess.run(
        [str(python), "-c", read, str(tmp_path / "out" / "tensorboard" / "results")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "tables" / "table3_scan_level.csv").set_index(["model", "measure"])["mean"]
    assert float(done.stdout) == pytest.approx(table["Q-Net", "auc"])
    folds = {path.parent.name for path in (tmp_path / "out" / "folds").rglob("events.out.*")}
    assert {"stage_1", "stage_2"} <= folds


@pytest.mark.parametrize("tracking", ["mlflow", "configs/track_mlflow.yaml"])
def test_inference_is_a_run(tracking, python, six, tmp_path):
    run(
        python, "--config_file", "configs/inference.yaml", "--input", str(six), "--output_dir", str(tmp_path / "out"),
        "--outputs", "json", "--nuclei", "known", "--tracking", tracking,
    )  # fmt: skip
    runs, _ = logged(tmp_path / "out" / "mlruns.db")
    assert [status for _, status in runs] == ["FINISHED"]
    assert len(list((tmp_path / "out").glob("*/*_prediction.json"))) == 6
