"""A batch shared among processes or tasks of a Ray cluster is the batch that one process makes, failures too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from blobs import REPOSITORY, write_cohort

from scripts.files.table import read_table
from scripts.model.networks import QNet, save_weights

pytestmark = pytest.mark.other_programs  # each run starts several Pythons, and a cluster


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five scans, of which one lacks a map and another is damaged; and weights."""
    root = tmp_path_factory.mktemp("batch")
    cohort = write_cohort(root / "cohort", 5)
    (cohort / "sub-02" / "anat" / "sub-02_T1w.nii.gz").unlink()
    (cohort / "sub-04" / "anat" / "sub-04_Chimap.nii.gz").write_bytes(b"\x1f\x8bno")
    torch.manual_seed(0)
    save_weights(QNet(num_slices=4, hidden_size=8), root / "model.pt", torch.float32)
    return cohort, root / "model.pt"


def infer(batch: tuple[Path, Path], output: Path, *more: str) -> list[dict[str, str]]:
    """The table of a run, which must end with the failed scans told in one line."""
    cohort, weights = batch
    keys = ["--input", cohort, "--weights", weights, "--output_dir", output, "--device", "cpu", "--nuclei", "known",
            "--spatial_size", "[32,32]", "--num_slices", "4", "--hidden_size", "8", "--outputs", "[json,evidence]",
            "--localise", "annotated", "--weights_record", "config"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundle/configs/inference.yaml",
         "--bundle_root", "bundle", *map(str, keys), *more],
        cwd=REPOSITORY, env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "2 of 5 scans failed" in done.stderr.splitlines()[-1], done.stderr
    assert list(output.glob("progress-*.csv")) == []
    return read_table(output / "predictions.csv", ["scan_id", "slice", "status"])


def test_shares_on_every_engine_make_the_same_batch(batch, tmp_path):
    alone = infer(batch, tmp_path / "alone")
    pytest.importorskip("ray")
    for name, engine in (("two", ["--num_workers", "2"]), ("ray", ["--engine", "ray"])):
        table = infer(batch, tmp_path / name, *engine)
        assert [row["scan_id"] for row in table] == [row["scan_id"] for row in alone]
        for row, other in zip(table, alone, strict=True):
            assert row["message"] == other["message"]
            if row["probability_HH"]:
                assert float(row["probability_HH"]) == pytest.approx(float(other["probability_HH"]), abs=1e-6)
    # the same command on another engine goes on with what is there
    kept = tmp_path / "alone" / "sub-01" / "sub-01_prediction.json"
    before = kept.stat().st_mtime_ns
    infer(batch, tmp_path / "alone", "--num_workers", "2")
    assert kept.stat().st_mtime_ns == before
    assert json.loads(kept.read_text())["scan_id"] == "sub-01"
