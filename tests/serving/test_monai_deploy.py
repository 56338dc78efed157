"""MONAI Deploy 4.0.0 runs the bundle on a DICOM study: the real application under Holoscan, on a CPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import yaml
from blobs import REPOSITORY
from conftest import Inferred, copy_bundle, infer
from environments import environment
from heads import TEMPLATE, head, write_scan

from scripts.simulation.dicom import stored_maps, write_study

APPLICATION = REPOSITORY / "apps" / "deploy"
sys.path.insert(0, str(APPLICATION))

from bundle_folder import find_bundle  # noqa: E402

MAPS = ("Chimap", "R2starmap", "T1w")
NUMBER = 70_010  # of the simulated head
LIMIT = 900  # seconds; half a minute where nobody else computes


@pytest.fixture(scope="module")
def python() -> Path:
    return environment("QNET_DEPLOY_ENV", ".venv-deploy", "monai/deploy/core")


def run(python: Path, study: Path, out: Path, model: Path) -> subprocess.CompletedProcess:
    out.mkdir()
    return subprocess.run(
        [str(python), str(APPLICATION), "-i", str(study), "-o", str(out), "-m", str(model)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the bundle as it is released, as in a packaged application."""
    folder = tmp_path_factory.mktemp("models")
    copy_bundle(folder / "qnet_hemochromatosis")
    return folder


@pytest.fixture(scope="module")
def scan_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The maps of a simulated head of which nobody has said where its basal ganglia are."""
    root = tmp_path_factory.mktemp("head")
    write_scan(root, "sub-01", head(NUMBER))
    return [root / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz" for suffix in MAPS]


@pytest.fixture(scope="module")
def study(scan_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scan as a simulated vendor's study with other series in it."""
    return write_study(tmp_path_factory.mktemp("study") / "study", scan_paths, "sub-01", age=50)


@pytest.fixture(scope="module")
def expected(scan_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Inferred:
    """What the bundle says of the numbers that the study stores, written as NIfTI by nibabel."""
    root = tmp_path_factory.mktemp("expected")
    maps, affine = stored_maps(scan_paths)
    for stored, suffix in zip(maps, MAPS, strict=True):
        path = root / "cohort" / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(stored.maps_unit, affine), path)
    return infer(root / "cohort", root / "out", template=TEMPLATE)


@pytest.fixture(scope="module")
def out(python: Path, study: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "out"
    result = run(python, study, folder, model)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return folder


def test_the_application_gives_the_bundles_own_probabilities(out, expected):
    (path,) = out.rglob("*_prediction.json")
    got = json.loads(path.read_text())
    assert got["probability_HH"] == pytest.approx(expected.result["probability_HH"], abs=1e-4)
    assert got["class"] == expected.result["class"]
    assert [row["probability_HH"] for row in got["slices"]] == pytest.approx(
        [row["probability_HH"] for row in expected.result["slices"]], abs=1e-4
    )


def test_the_application_finds_the_basal_ganglia_where_the_bundle_does(out, expected):
    (path,) = out.rglob("*_prediction.json")
    got = json.loads(path.read_text())
    assert got["box"]["source"] == expected.result["box"]["source"] == "found"
    assert [row["input_slice"] for row in got["slices"]] == [row["input_slice"] for row in expected.result["slices"]]
    assert got["age"] == 50


def test_the_application_gives_the_bundles_own_evidence(out, expected):
    (path,) = out.rglob("*_evidence.nii.gz")
    got = nib.load(path)
    np.testing.assert_allclose(got.affine, expected.evidence.affine, atol=1e-3)
    np.testing.assert_allclose(got.get_fdata(), expected.evidence.get_fdata(), atol=1e-4)


def test_nobody_is_named(out, study):
    patient = str(pydicom.dcmread(next(study.rglob("*.dcm"), None) or first_file(study)).PatientName)
    assert patient
    for path in out.rglob("*"):
        assert patient not in path.name
        if path.suffix == ".json":
            assert patient not in path.read_text()


def first_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_study_without_one_of_the_maps_ends_in_one_line(python, study, model, tmp_path):
    damaged = tmp_path / "study"
    shutil.copytree(study, damaged)
    for path in [path for path in damaged.rglob("*") if path.is_file()]:
        if "T1" in pydicom.dcmread(path, stop_before_pixels=True).SeriesDescription.upper():
            path.unlink()
    result = run(python, damaged, tmp_path / "out", model)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "no series is the T1w" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_folder_without_the_bundle_ends_in_one_line(model, tmp_path):
    assert find_bundle(model) == find_bundle(model / "qnet_hemochromatosis") == model / "qnet_hemochromatosis"
    with pytest.raises(SystemExit, match="holds 0 Q-Net bundles where one is due; give -m the bundle's folder"):
        find_bundle(tmp_path)


def test_what_the_packager_reads_agrees_with_the_bundle():
    application = yaml.safe_load((APPLICATION / "app.yaml").read_text().partition("---\n")[2])
    metadata = json.loads((REPOSITORY / "bundle" / "configs" / "metadata.json").read_text())
    assert application["application"]["version"] == metadata["version"]
    pinned = dict(
        line.split("==") for line in (APPLICATION / "requirements.txt").read_text().splitlines() if "==" in line
    )
    assert pinned["torch"] == metadata["pytorch_version"] and pinned["monai"] == metadata["monai_version"]
    needed = metadata["required_packages_version"]
    assert {name: pinned.get(name) for name in needed} == needed
