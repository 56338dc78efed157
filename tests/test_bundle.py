"""The bundle's contracts with MONAI: properties, network check, and both working folders. Exports: test_release.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from blobs import BUNDLE, REPOSITORY
from monai.bundle import ConfigWorkflow

from scripts.model.networks import QNet, load_weights, save_weights

META = str(BUNDLE / "configs" / "metadata.json")
TRAIN = str(BUNDLE / "configs" / "train.yaml")
INFERENCE = str(BUNDLE / "configs" / "inference.yaml")


def monai_bundle(*arguments: str, folder: Path = BUNDLE) -> subprocess.CompletedProcess:
    """`python -m monai.bundle ...`, as a user types it."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of the network that inference.yaml defines, stored as halves like the shipped ones."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(QNet(), path, torch.float16)
    return str(path)


def test_train_workflow_has_every_property(shared_cohort, tmp_path):
    workflow = ConfigWorkflow(
        workflow_type="train",
        config_file=TRAIN,
        meta_file=META,
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(shared_cohort),
        ckpt_dir=str(tmp_path),
        output_dir=str(tmp_path),
        imagenet_weights="none",
        num_folds=3,
    )
    # the scan-level trainer hashes the embedding it starts from
    save_weights(QNet().embedding, tmp_path / "resnet_swa.pt", torch.float32)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == 50


def test_inference_workflow_has_every_property(shared_cohort, tmp_path, weights):
    workflow = ConfigWorkflow(
        workflow_type="infer",
        config_file=INFERENCE,
        meta_file=META,
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(shared_cohort),
        output_dir=str(tmp_path),
        weights=weights,
        weights_record="config",
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_gives_what_metadata_says():
    result = monai_bundle(
        "verify_net_in_out", "network_def", "--meta_file", META, "--config_file", INFERENCE, "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("folder", [BUNDLE, REPOSITORY], ids=["bundle", "repository"])
def test_inference_runs_from_the_bundle_and_from_the_repository(folder, shared_cohort, tmp_path, weights):
    root = os.path.relpath(BUNDLE, folder)
    one = tmp_path / "one.tsv"
    one.write_text(f"participant_id\n{min(shared_cohort.glob('sub-*')).name}\n")
    result = monai_bundle(
        "run", "--config_file", f"{root}/configs/inference.yaml", "--bundle_root", root, "--weights", weights,
        "--weights_record", "config", "--dataset_dir", str(shared_cohort), "--output_dir", str(tmp_path / "out"),
        "--participants", str(one), "--nuclei", "known", "--outputs", "json,evidence", folder=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list((tmp_path / "out").glob("*/*_evidence.nii.gz"))) == 1


def test_shipped_weights_are_what_their_record_says():
    model = BUNDLE / "models" / "model.pt"
    record = json.loads((BUNDLE / "models" / "model.json").read_text())
    from scripts.files.writing import sha256

    assert model.stat().st_size < 25e6
    assert record["weights"]["model.pt"] == sha256(model)
    assert record["input"]["simulated"] is True
    load_weights(QNet(), model)
