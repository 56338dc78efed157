"""The bundle's contracts with MONAI: properties, network check, exports, download, and both working folders."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import BUNDLE, REPOSITORY
from monai.bundle import ConfigWorkflow

from scripts.networks import QNet, load_weights, save_weights

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
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_gives_what_metadata_says():
    result = monai_bundle(
        "verify_net_in_out", "network_def", "--meta_file", META, "--config_file", INFERENCE, "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_torchscript_export_gives_the_same_numbers(tmp_path, weights):
    path = tmp_path / "model.ts"
    result = monai_bundle(
        "ckpt_export", "network_def", "--filepath", str(path), "--ckpt_file", weights,
        "--meta_file", META, "--config_file", INFERENCE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    exported = torch.jit.load(str(path))
    network = load_weights(QNet(), weights)
    image = torch.rand(1, 3, 64, 64, 16)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image))
        for ours, theirs in zip(network.explain(image), exported.explain(image), strict=True):
            torch.testing.assert_close(theirs, ours)


def test_onnx_export_gives_the_same_numbers(tmp_path, weights):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    result = monai_bundle(
        "onnx_export", "network_def", "--filepath", str(path), "--ckpt_file", weights,
        "--meta_file", META, "--config_file", INFERENCE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    image = torch.rand(1, 3, 128, 128, 16)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    exported = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(exported, load_weights(QNet(), weights)(image).numpy(), atol=1e-4)


def test_zipped_bundle_downloads_from_a_server_and_loads(tmp_path, weights):
    name = "qnet_hemochromatosis"
    staged = tmp_path / "staged" / name
    shutil.copytree(BUNDLE, staged, ignore=shutil.ignore_patterns("__pycache__", "models", "output", "cohort", "eval"))
    (staged / "models").mkdir()
    shutil.copy(weights, staged / "models" / "model.pt")
    shutil.make_archive(str(tmp_path / "served" / f"{name}_v0.1.0"), "zip", staged.parent, name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/{name}_v0.1.0.zip"
        result = monai_bundle("download", "--name", name, "--url", url, "--bundle_dir", str(tmp_path / "got"))
        assert result.returncode == 0, result.stderr[-2000:]
    finally:
        server.shutdown()
    got = tmp_path / "got" / name
    for needed in ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "models/model.pt"):
        assert (got / needed).is_file()
    metadata = json.loads((got / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    state = torch.load(got / "models" / "model.pt", weights_only=True)
    assert state.keys() == QNet().state_dict().keys()


@pytest.mark.parametrize("folder", [BUNDLE, REPOSITORY], ids=["bundle", "repository"])
def test_inference_runs_from_the_bundle_and_from_the_repository(folder, shared_cohort, tmp_path, weights):
    root = os.path.relpath(BUNDLE, folder)
    result = monai_bundle(
        "run", "--config_file", f"{root}/configs/inference.yaml", "--bundle_root", root, "--weights", weights,
        "--dataset_dir", str(shared_cohort), "--output_dir", str(tmp_path / "out"),
        folder=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list((tmp_path / "out").glob("*/*_evidence.nii.gz"))) == 12


def test_shipped_weights_are_what_their_record_says():
    model = BUNDLE / "models" / "model.pt"
    record = json.loads((BUNDLE / "models" / "model.json").read_text())
    from scripts.provenance import sha256

    assert model.stat().st_size < 25e6
    assert record["weights"]["model.pt"] == sha256(model)
    assert record["input"]["simulated"] is True
    load_weights(QNet(), model)
