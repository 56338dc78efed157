"""MONAI Label 0.8.5 serves the bundle with its unmodified `monaibundle` app: the real server, asked over HTTP."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import requests
from blobs import stacked, write_labelled_studies
from conftest import NAME, copy_bundle, infer
from environments import environment
from heads import TEMPLATE, head, write_scan

SHIM = Path(__file__).parent / "torchvision_on_cpu"
START_LIMIT = 900  # seconds; half a minute where nobody else computes


class Server(NamedTuple):
    """A running server: its address, its log, and the folder of its studies."""

    url: str
    log: Path
    studies: Path

    def infer(self, output: str, image: str = "", files: dict | None = None, **params) -> requests.Response:
        return requests.post(
            f"{self.url}/infer/{NAME}", params={"image": image, "output": output}, files=files,
            data={"params": json.dumps({"device": "cpu", **params})}, timeout=START_LIMIT,
        )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, inferred) -> Iterator[Server]:
    python = environment("QNET_LABEL_ENV", ".venv-label", "monailabel/main.py")
    root = tmp_path_factory.mktemp("label")
    variables = os.environ | {
        "PYTHONPATH": str(SHIM),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(root),
    }
    shutil.copytree(python.parents[1] / "monailabel" / "sample-apps" / "monaibundle", root / "monaibundle")
    copy_bundle(root / "monaibundle" / "model" / NAME)
    studies = root / "studies"
    studies.mkdir()
    nib.save(stacked(inferred.cohort, inferred.participant_id), studies / f"{inferred.participant_id}.nii.gz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = root / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(python), "-m", "monailabel.main", "start_server",
             "--app", str(root / "monaibundle"), "--studies", str(studies),
             "--conf", "models", NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false",
             "--host", "127.0.0.1", "--port", str(port)],
            env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=root,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(process, url, log)
        yield Server(url, log, studies)
    finally:
        process.terminate()
        process.wait(30)


def wait_until_it_answers(process: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        try:
            requests.get(f"{url}/info/", timeout=30).raise_for_status()
            return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.5)
    pytest.fail(f"the server does not answer:\n{log.read_text()[-3000:]}")


def test_the_server_offers_the_bundle_under_its_name(server):
    model = requests.get(f"{server.url}/info/", timeout=30).json()["models"][NAME]
    assert model["labels"] == {"hc": 0, "hh": 1}
    assert model["version"]


def test_probabilities_over_http_are_those_of_the_bundles_own_inference(server, inferred):
    answer = server.infer("json", inferred.participant_id, box=inferred.box)
    assert answer.status_code == 200, server.log.read_text()[-3000:]
    got = answer.json()
    assert got["class"] == inferred.result["class"]
    assert got["probability_HH"] == pytest.approx(inferred.result["probability_HH"], abs=1e-4)
    assert len(got["slices"]) == len(inferred.result["slices"])
    for ours, theirs in zip(inferred.result["slices"], got["slices"], strict=True):
        assert theirs["input_slice"] == ours["input_slice"]
        assert theirs["probability_HH"] == pytest.approx(ours["probability_HH"], abs=1e-4)


def test_evidence_over_http_is_that_of_the_bundles_own_inference(server, inferred, tmp_path):
    """A study that is uploaded with the request, instead of one that the server holds."""
    study = server.studies / f"{inferred.participant_id}.nii.gz"
    answer = server.infer("image", files={"file": (study.name, study.read_bytes())}, box=inferred.box)
    assert answer.status_code == 200, server.log.read_text()[-3000:]
    (tmp_path / "evidence.nii.gz").write_bytes(answer.content)
    got = nib.load(tmp_path / "evidence.nii.gz")
    assert got.shape == inferred.evidence.shape
    np.testing.assert_allclose(got.affine, inferred.evidence.affine, atol=1e-4)
    np.testing.assert_allclose(got.get_fdata(), inferred.evidence.get_fdata(), atol=1e-4)


def test_one_answer_holds_both(server, inferred):
    answer = server.infer("all", inferred.participant_id, box=inferred.box)
    assert answer.headers["content-type"].startswith("multipart/form-data")
    assert b'"probability_HH"' in answer.content
    assert b".nii.gz" in answer.content


def test_a_study_without_a_box_is_localised_as_the_bundle_does(server, tmp_path):
    write_scan(tmp_path / "cohort", "sub-01", head(70_010))
    expected = infer(tmp_path / "cohort", tmp_path / "out", template=TEMPLATE).result
    study = tmp_path / "study.nii.gz"
    nib.save(stacked(tmp_path / "cohort", "sub-01"), study)
    answer = server.infer("json", files={"file": (study.name, study.read_bytes())})
    assert answer.status_code == 200, server.log.read_text()[-3000:]
    got = answer.json()
    assert got["box"]["source"] == expected["box"]["source"] == "found"
    assert got["probability_HH"] == pytest.approx(expected["probability_HH"], abs=1e-4)


def test_a_huge_upload_fails_and_the_server_goes_on(server, inferred, tmp_path):
    """A header that claims 40 GB of maps over a body of 200 MB: nothing of that size is ever taken into memory."""
    study = tmp_path / "study.nii"
    header = nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)).header
    header.set_data_shape((1500, 1500, 1500, 3))
    with study.open("wb") as file:
        header.write_to(file)
        file.truncate(200_000_000)
    with study.open("rb") as file:
        answer = server.infer("json", files={"file": (study.name, file)}, box=inferred.box)
    assert answer.status_code == 422  # with the reason
    assert server.infer("json", inferred.participant_id, box=inferred.box).status_code == 200


@pytest.mark.parametrize("path", ["{secret}", "../secret.txt", "{studies}/../secret.txt"])
def test_a_file_that_is_no_study_is_not_read_out(server, path):
    secret = server.studies.parent / "secret.txt"
    secret.write_text("nobody may read this")
    named = path.format(secret=secret, studies=server.studies)
    for output in ("json", "image", "all"):
        answer = server.infer(output, image=named)
        assert answer.status_code >= 400
        assert b"nobody may read this" not in answer.content
    assert secret.read_text() not in server.log.read_text()


@pytest.mark.parametrize("damage", ["two maps", "not a NIfTI"])
def test_bad_study_fails_with_its_reason_for_client_and_log_and_the_server_goes_on(server, inferred, damage, tmp_path):
    study = tmp_path / "study.nii.gz"
    if damage == "two maps":
        image = stacked(inferred.cohort, inferred.participant_id)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[..., :2], image.affine), study)
        reason = "three 3D maps are due"
    else:
        study.write_bytes(b"\0" * 1000)
        reason = "cannot be read"
    answer = server.infer("json", files={"file": (study.name, study.read_bytes())}, box=inferred.box)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert str(server.log.parent) not in answer.text
    end = time.monotonic() + START_LIMIT
    while not re.search(f"InputError: .*{reason}", server.log.read_text()):  # the server answers first, then logs
        assert time.monotonic() < end, server.log.read_text()[-3000:]
        time.sleep(0.2)
    assert server.infer("json", inferred.participant_id, box=inferred.box).status_code == 200


def test_training_over_http_fine_tunes_stage_2(server, inferred, tmp_path):
    """Comes last: the server's bundle has other weights afterwards."""
    for item in write_labelled_studies(tmp_path, 4):
        image, label = Path(item["image"]), Path(item["label"])
        name = f"labelled-{image.name}"
        sent = requests.put(f"{server.url}/datastore/image", files={"file": (name, image.read_bytes())}, timeout=60)
        study = sent.json()["image"]
        requests.put(
            f"{server.url}/datastore/label", params={"image": study, "tag": "final"},
            files={"label": (label.name, label.read_bytes())}, timeout=60,
        ).raise_for_status()  # fmt: skip
    before = server.infer("json", inferred.participant_id, box=inferred.box).json()["probability_HH"]
    requests.post(
        f"{server.url}/train/{NAME}", timeout=60,
        json={"run_id": "fine_tune", "max_epochs": 2, "val_split": 0, "device": "cpu"},
    ).raise_for_status()  # fmt: skip
    end = time.monotonic() + START_LIMIT
    while (task := requests.get(f"{server.url}/train/", timeout=60).json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < end
        time.sleep(1)
    assert task["status"] == "DONE", task["details"]
    after = server.infer("json", inferred.participant_id, box=inferred.box).json()["probability_HH"]
    assert after != before
