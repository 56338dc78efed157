"""The release: what is in it, its bytes repeat, it downloads and runs, and what the model zoo checks of it."""

import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from blobs import BUNDLE, REPOSITORY, write_cohort
from jsonschema import Draft202012Validator
from monai.bundle import ConfigWorkflow, load
from refusal import refused

from scripts.files.writing import sha256
from scripts.model.evidence import input_x_gradient
from scripts.model.networks import QNet, load_weights, save_weights

sys.path.insert(0, str(REPOSITORY))

from release import NAME  # noqa: E402
from release.__main__ import build  # noqa: E402
from release.archive import copy_files, write_zip  # noqa: E402
from release.exports import RECORD, differences, export_torchscript  # noqa: E402

VERSION = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
STEM = f"{NAME}_v{VERSION}"
URL = "https://example.org/zoo"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout


def checkout(folder: Path) -> Path:
    """A clean git checkout of the bundle as it is now. Returns the bundle's folder in it."""
    listed = git(BUNDLE, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".").split("\0")
    names = [name for name in listed if name and (BUNDLE / name).is_file()]
    copy_files(BUNDLE, names, folder / "bundle")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "release")
    return folder / "bundle"


def monai_bundle(*arguments: str, folder: Path) -> None:
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release, made as a maintainer makes it."""
    root = tmp_path_factory.mktemp("release")
    build(str(root / "dist"), URL, str(checkout(root / "repository")))
    return root / "dist"


@pytest.fixture(scope="module")
def downloaded(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, downloaded from a local server by MONAI's own command."""
    folder = tmp_path_factory.mktemp("downloaded")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(dist))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/{STEM}.zip"
        monai_bundle("download", "--name", NAME, "--url", url, "--bundle_dir", str(folder), folder=folder)
    finally:
        server.shutdown()
    return folder / NAME


def test_one_command_makes_every_part_of_the_release(dist):
    assert {path.name for path in dist.iterdir()} == {
        f"{STEM}.zip", f"{STEM}.zip.sha256", f"{STEM}.onnx", "model_info.json", "release.json", "huggingface",
    }  # fmt: skip
    archive = (dist / f"{STEM}.zip").read_bytes()
    assert (dist / f"{STEM}.zip.sha256").read_text() == f"{hashlib.sha256(archive).hexdigest()}  {STEM}.zip\n"
    assert json.loads((dist / "model_info.json").read_text()) == {
        STEM: {"checksum": hashlib.sha1(archive).hexdigest(), "source": f"{URL}/{STEM}.zip"}
    }
    record = json.loads((dist / "release.json").read_text())
    assert record["version"] == VERSION
    assert record["commit"] == git(dist.parent / "repository", "rev-parse", "HEAD").strip()
    assert record["sha256"] == {name: sha256(dist / name) for name in record["sha256"]}


def test_the_zip_has_one_top_folder_and_every_tracked_file(dist):
    with zipfile.ZipFile(dist / f"{STEM}.zip") as archive:
        names = archive.namelist()
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {name.split("/")[0] for name in names} == {NAME}
    tracked = git(dist.parent / "repository" / "bundle", "ls-files").splitlines()
    assert names == sorted(f"{NAME}/{name}" for name in [*tracked, "models/model.ts"])


def test_the_same_files_give_the_same_bytes(dist, tmp_path):
    staged = tmp_path / NAME
    with zipfile.ZipFile(dist / f"{STEM}.zip") as archive:
        archive.extractall(tmp_path)
    write_zip(staged, NAME, tmp_path / "again.zip")
    assert sha256(tmp_path / "again.zip") == sha256(dist / f"{STEM}.zip")
    export_torchscript(staged, tmp_path / "model.ts")
    assert sha256(tmp_path / "model.ts") == sha256(staged / "models" / "model.ts")


def test_exports_hold_no_path_of_the_machine_that_made_them(dist):
    for path in (dist / "huggingface" / "models" / "model.ts", dist / f"{STEM}.onnx"):
        content = path.read_bytes()
        for folder in (str(REPOSITORY), sys.prefix, str(dist.parent)):
            assert folder.encode() not in content, f"{path.name} names {folder}"


def test_exports_carry_the_record_of_their_weights(dist):
    record = (dist / "huggingface" / "models" / "model.json").read_text()
    carried = {RECORD: ""}
    torch.jit.load(dist / "huggingface" / "models" / "model.ts", _extra_files=carried)
    assert carried[RECORD] in (record, record.encode())
    session = onnxruntime.InferenceSession(str(dist / f"{STEM}.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {RECORD: record}


def test_exports_give_the_networks_numbers(dist):
    network = load_weights(QNet(), dist / "huggingface" / "models" / "model.pt")
    scripted = torch.jit.load(dist / "huggingface" / "models" / "model.ts")
    session = onnxruntime.InferenceSession(str(dist / f"{STEM}.onnx"), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 128, 128, 16, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        logits = network(image)
        torch.testing.assert_close(scripted(image), logits)
        torch.testing.assert_close(scripted.image_logits(image), network.image_logits(image))
        torch.testing.assert_close(scripted.class_activation(image), network.class_activation(image))
    ours, theirs = (input_x_gradient(model, image) for model in (network, scripted))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(found, logits.numpy(), atol=1e-4)


def test_an_export_of_other_weights_is_noticed(dist, tmp_path):
    copy_files(dist / "huggingface", ["configs/inference.yaml", "configs/metadata.json"], tmp_path)
    other = load_weights(QNet(), dist / "huggingface" / "models" / "model.pt")
    with torch.no_grad():
        other.sequence.scan_head.bias[0] += 0.01
    save_weights(other, tmp_path / "models" / "model.pt", torch.float32)
    with refused("torchscript_logits"):
        differences(tmp_path, dist / "huggingface" / "models" / "model.ts", dist / f"{STEM}.onnx")


def test_uncommitted_changes_are_not_released(tmp_path):
    bundle = checkout(tmp_path / "repository")
    (bundle / "configs" / "small.yaml").write_text("seed: 1\n")
    with refused("configs/small.yaml", "not committed"):
        build(str(tmp_path / "dist"), URL, str(bundle))
    git(bundle, "checkout", "--", ".")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata | {"version": "9.9.9"}))
    git(bundle, "commit", "--quiet", "--all", "--message", "version")
    with refused("9.9.9", "changelog"):
        build(str(tmp_path / "dist"), URL, str(bundle))
    assert not (tmp_path / "dist").exists()


def test_a_folder_in_use_is_not_overwritten(dist):
    with refused(dist, "not empty"):
        build(str(dist), URL, str(dist.parent / "repository" / "bundle"))


# --- from a hub -------------------------------------------------------------------------------------------------------


class Hub(http.server.SimpleHTTPRequestHandler):
    """Speaks as much of Hugging Face's HTTP API as its client asks for a snapshot of one repository.

    Attributes:
        folder: what the repository holds.
        asked: paths of the requests, of all handlers.
    """

    folder: Path
    asked: list[str]
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_: object) -> None:
        pass

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def say(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        api = f"/api/models/owner/{NAME}"
        if path == f"{api}/refs":
            refs = [{"name": name, "ref": ref, "targetCommit": self.commit} for name, ref in
                    ((VERSION, f"refs/tags/{VERSION}"), ("main", "refs/heads/main"))]  # fmt: skip
            self.say({"tags": refs[:1], "branches": refs[1:], "converts": []})
        elif path.startswith(f"{api}/tree/"):
            sizes = {name: (self.folder / name).stat().st_size for name in self.names()}
            self.say([{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()])
        elif path == api or path.startswith(f"{api}/revision/"):
            files = [{"rfilename": name} for name in self.names()]
            self.say({"id": f"owner/{NAME}", "modelId": f"owner/{NAME}", "sha": self.commit, "siblings": files,
                      "private": False, "downloads": 0, "likes": 0, "tags": []})  # fmt: skip
        elif path.startswith(f"/owner/{NAME}/resolve/"):
            file = self.folder / path.split("/", 5)[5]
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{sha256(file)}"')
            self.send_header("X-Repo-Commit", self.commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
        else:
            self.send_error(404)


@pytest.mark.other_programs
def test_monai_downloads_the_bundle_from_a_hub_as_from_hugging_face(dist, tmp_path):
    """Against a server on this machine that speaks the Hub's API, since the Hub itself is out of reach here."""
    pytest.importorskip("huggingface_hub")
    handler = type("OurHub", (Hub,), {"folder": dist / "huggingface", "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "monai.bundle", "download", "--name", NAME, "--source", "huggingface_hub",
             "--repo", f"owner/{NAME}", "--bundle_dir", str(tmp_path / "bundles")],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    finally:
        server.shutdown()
        server.server_close()
    assert any(f"/resolve/{Hub.commit}/" in path or f"/resolve/{VERSION}/" in path for path in handler.asked)
    there = tmp_path / "bundles" / NAME
    names = [path.relative_to(dist / "huggingface") for path in (dist / "huggingface").rglob("*") if path.is_file()]
    assert [name for name in names if sha256(there / name) != sha256(dist / "huggingface" / name)] == []
    state = load(name=NAME, bundle_dir=str(tmp_path / "bundles"), device="cpu", source="huggingface_hub")
    assert state.keys() == QNet().state_dict().keys()


# --- the downloaded bundle at work ----------------------------------------------------------------------------------


def test_monai_loads_the_downloaded_bundle(downloaded):
    """With YAML configs, `load` gives the weights; it gives a network that it is handed, or the TorchScript module."""
    where = {"name": NAME, "bundle_dir": str(downloaded.parent), "device": "cpu"}
    shipped = load_weights(QNet(), BUNDLE / "models" / "model.pt")
    state = load(**where)
    assert state.keys() == shipped.state_dict().keys()
    network = load(**where, model=QNet()).eval()
    scripted, metadata, _ = load(**where, load_ts_module=True)
    image = torch.rand(1, 3, 64, 64, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(image), shipped(image))
        torch.testing.assert_close(scripted(image), shipped(image))
    assert metadata["version"] == VERSION


def test_the_downloaded_bundle_infers(downloaded, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", 1)
    arguments = ("run", "--config_file", "configs/inference.yaml", "--dataset_dir", str(cohort))
    arguments += ("--nuclei", "known", "--output_dir")
    results = []
    for name, folder in (("ours", BUNDLE), ("theirs", downloaded)):
        monai_bundle(*arguments, str(tmp_path / name), folder=folder)
        (path,) = (tmp_path / name).glob("*/*_prediction.json")
        results.append(json.loads(path.read_text())["probability_HH"])
    assert results[0] == results[1]


# --- what the model zoo checks of a bundle before it takes it ---------------------------------------------------------


def test_the_zoo_finds_the_files_that_it_wants(downloaded):
    for needed in ("LICENSE", "configs/metadata.json", "models/model.pt", "docs/README.md", "docs/data_license.txt"):
        assert (downloaded / needed).is_file()
    assert len(list((downloaded / "configs").glob("inference.*"))) == 1
    assert len(list((downloaded / "configs").glob("train.*"))) == 1


def test_the_zoo_finds_no_large_file_in_the_repository_and_knows_where_those_left_out_are(downloaded):
    for path in BUNDLE.rglob("*"):
        if path.is_file() and "output" not in path.parts:
            assert path.stat().st_size < 25e6, path
    listed = yaml.safe_load((downloaded / "large_files.yml").read_text())["large_files"]
    lengths = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
    for entry in listed:
        assert not (downloaded / entry["path"]).exists()
        assert entry["path"].startswith("models/") and entry["url"].startswith("https://")
        assert re.fullmatch(rf"[0-9a-f]{{{lengths[entry['hash_type']]}}}", entry["hash_val"])


def test_the_zoo_finds_version_and_changelog_and_valid_metadata(downloaded):
    metadata = json.loads((downloaded / "configs" / "metadata.json").read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["version"] in metadata["changelog"]
    schema = json.loads((REPOSITORY / "tests" / "data" / "metadata_schema.json").read_text())
    assert list(Draft202012Validator(schema).iter_errors(metadata)) == []
    assert metadata["name"] and "supported_apps" in metadata


def test_the_zoo_finds_the_keys_that_it_wants(downloaded):
    inference = yaml.safe_load((downloaded / "configs" / "inference.yaml").read_text())
    train = yaml.safe_load((downloaded / "configs" / "train.yaml").read_text())
    assert {"bundle_root", "device", "network_def", "inferer", "output_dir"} <= inference.keys()
    assert {"bundle_root", "device", "dataset_dir", "output_dir", "val_interval"} <= train.keys()
    assert {"trainer", "dataset", "handlers", "preprocessing", "postprocessing", "inferer"} <= train["train"].keys()
    assert "max_epochs" in train["train"]["trainer"] and "data" in train["train"]["dataset"]
    assert {"evaluator", "handlers", "dataset", "key_metric"} <= train["validate"].keys()


def test_the_zoo_runs_the_network_on_what_the_metadata_declares(downloaded, tmp_path):
    """From another folder, with the bundle's root as an argument, as the zoo calls it."""
    monai_bundle(
        "verify_net_in_out", "network_def", "--meta_file", str(downloaded / "configs" / "metadata.json"),
        "--config_file", str(downloaded / "configs" / "inference.yaml"), "--bundle_root", str(downloaded),
        folder=downloaded,
    )  # fmt: skip


def test_the_zoo_finds_every_property_of_inference(downloaded, tmp_path):
    workflow = ConfigWorkflow(
        workflow_type="inference",
        config_file=str(downloaded / "configs" / "inference.yaml"),
        meta_file=str(downloaded / "configs" / "metadata.json"),
        logging_file=str(downloaded / "configs" / "logging.conf"),
        bundle_root=str(downloaded),
        dataset_dir=str(write_cohort(tmp_path / "cohort", 1)),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize(
    "section",
    ["Model overview", "Data", "Training configuration", "Input", "Output", "Performance", "MONAI bundle commands",
     "References", "Licence"],
)  # fmt: skip
def test_the_readme_has_the_zoos_sections(downloaded, section):
    assert re.search(rf"^#+ {section}$", (downloaded / "docs" / "README.md").read_text(), re.MULTILINE)


def test_the_model_card_is_the_readme_under_a_front_matter(dist):
    card = (dist / "huggingface" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "apache-2.0" and head["library_name"] == "monai"
    metrics = head["model-index"][0]["results"][0]["metrics"]
    declared = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert {metric["type"]: metric["value"] for metric in metrics} == declared
    assert "simulated" in front
    assert re.findall(r"^#.*", body, re.MULTILINE) == re.findall(
        r"^#.*", (BUNDLE / "docs" / "README.md").read_text(), re.MULTILINE
    )
    for link in re.findall(r"\]\((?!\w+:|#)([^)#]+)", body):
        assert (dist / "huggingface" / link).exists(), link
