"""Cross-validations beside each other."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blobs import BUNDLE
from made_predictions import made_predictions
from monai.bundle import ConfigWorkflow
from refusal import refused
from sklearn.metrics import roc_auc_score

from scripts.evaluation.joined import join_runs
from scripts.evaluation.predictions import read_predictions
from scripts.reporting.analysis import recorded_as_simulated
from scripts.reporting.tables import scan_level


def write_run(folder: Path, table: pd.DataFrame, cohort: str = "a") -> Path:
    folder.mkdir()
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "predictions.json").write_text(json.dumps({"input": {"sha256": cohort, "simulated": True}}))
    return folder


@pytest.fixture
def one() -> pd.DataFrame:
    return made_predictions(regions=["cropped"], baselines=["ROI-LR"])


def better(table: pd.DataFrame) -> pd.DataFrame:
    """The same run with probabilities nearer to the truth."""
    return table.assign(probability_HH=np.clip(table["probability_HH"] + 0.1 * (table["label"] - 0.5), 0, 1))


def test_a_model_of_each_run_stands_beside_the_other_and_baselines_once(tmp_path, one):
    runs = {"paper": write_run(tmp_path / "one", one), "ours": write_run(tmp_path / "two", better(one))}
    runs["ours"] /= "predictions.csv"  # the table stands for its folder
    join_runs(tmp_path / "out", runs, ["Q-Net"])
    table = read_predictions(tmp_path / "out" / "predictions.csv")
    assert set(table["model"]) == {"Q-Net, paper", "Q-Net, ours", "ROI-LR"}
    assert (table["model"] == "ROI-LR").sum() == (one["model"] == "ROI-LR").sum()
    measured = scan_level(table).set_index(["measure", "model"])["mean"]
    for name, source in (("paper", one), ("ours", better(one))):
        scans = source[(source["model"] == "Q-Net") & source["slice"].isna()]
        expected = [roc_auc_score(r["label"], r["probability_HH"]) for _, r in scans.groupby("repeat")]
        assert measured["auc", f"Q-Net, {name}"] == pytest.approx(np.mean(expected))


def test_a_table_whose_record_was_left_behind_says_where_to_get_it(tmp_path, one):
    runs = {name: write_run(tmp_path / name, one) for name in ("a", "b")}
    (record := tmp_path / "b" / "predictions.json").unlink()
    with refused(record, "not beside it", "copy it there"):
        join_runs(tmp_path / "out", runs, ["Q-Net"])
    with refused(record, "not beside it", "--simulated true or false"):
        recorded_as_simulated(record)
    runs["a"].joinpath("predictions.json").rename(record.with_name("evaluation.json"))  # as evaluate.yaml leaves it
    assert recorded_as_simulated(record)


def test_the_config_writes_tables_and_figures_of_both(tmp_path, one):
    runs = {"paper": str(write_run(tmp_path / "one", one)), "ours": str(write_run(tmp_path / "two", better(one)))}
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "compare.yaml"),
        logging_file=False,
        workflow_type="inference",
        run_id="run",
        runs=runs,
        output_dir=str(tmp_path / "out"),
        bootstrap_samples=100,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    words = (tmp_path / "out" / "tables" / "table2_delong.md").read_text()
    assert "Q-Net, ours" in words and "Q-Net, paper" in words
    assert (tmp_path / "out" / "figures" / "calibration_scan.png").stat().st_size > 0


def test_runs_of_other_slices_are_compared_by_scans(tmp_path, one, capsys):
    fewer = better(one[one["slice"].isna() | (one["slice"] < 2)])
    runs = {"paper": write_run(tmp_path / "one", one), "thin": write_run(tmp_path / "two", fewer)}
    join_runs(tmp_path / "out", runs, ["Q-Net"])
    assert read_predictions(tmp_path / "out" / "predictions.csv")["slice"].isna().all()
    assert "only whole scans" in capsys.readouterr().out


def test_runs_that_are_not_paired_are_refused(tmp_path, one):
    first = write_run(tmp_path / "one", one)
    other_folds = write_run(tmp_path / "two", one.assign(fold=(one["fold"] + 1) % 5))
    other_cohort = write_run(tmp_path / "three", one, "b")
    with refused("'ours' and 'paper' held out other subjects", "seed"):
        join_runs(tmp_path / "out", {"paper": first, "ours": other_folds}, ["Q-Net"])
    with refused("other cohorts"):
        join_runs(tmp_path / "out", {"paper": first, "ours": other_cohort}, ["Q-Net"])
    with refused("run 'paper' has no ViT", "Q-Net"):
        join_runs(tmp_path / "out", {"paper": first, "ours": write_run(tmp_path / "four", one)}, ["ViT"])
    with refused("fewer than two"):
        join_runs(tmp_path / "out", {"paper": first}, ["Q-Net"])
    copied = write_run(tmp_path / "copied", one.sample(frac=1, random_state=0))
    with refused("'paper' and 'ours' hold the same predictions of Q-Net"):
        join_runs(tmp_path / "out", {"paper": first, "ours": copied}, ["Q-Net"])
    with refused("line breaks"):
        join_runs(tmp_path / "out", {"paper": first, "ours\n": copied}, ["Q-Net"])
    with refused("one folder is named twice"):
        join_runs(tmp_path / "out", {"paper": first, "ours": first}, ["Q-Net"])
    assert not (tmp_path / "out").exists()


def test_a_cross_validation_is_not_replaced(tmp_path, one):
    first, second = write_run(tmp_path / "one", one), write_run(tmp_path / "two", better(one))
    third = write_run(tmp_path / "three", one)
    before = (third / "predictions.csv").read_bytes()
    with refused("holds a cross-validation", "--output_dir"):
        join_runs(third, {"paper": first, "ours": second, "none": None}, ["Q-Net"])
    assert (third / "predictions.csv").read_bytes() == before
