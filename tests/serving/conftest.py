"""What the clients' tests share: the bundle as it is published, and one study with what the bundle says about it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import pytest
from blobs import BOX, BUNDLE, write_cohort
from monai.bundle import ConfigWorkflow

sys.path.insert(0, str(Path(__file__).parent))

NAME = "qnet_hemochromatosis"


class Inferred(NamedTuple):
    """One scan and the bundle's own result."""

    cohort: Path
    participant_id: str
    box: list[list[int]]
    result: dict
    evidence: nib.Nifti1Image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a client's own Python needs an environment that `make test` does not make."""
    for item in items:
        if {"python", "server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("other_programs")


def copy_bundle(target: Path) -> Path:
    """The bundle as it is published: files under version control, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."],
        cwd=BUNDLE, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BUNDLE / name, target / name)
    return target


def infer(cohort: Path, output_dir: Path, **settings: str) -> Inferred:
    """A cohort's only scan, classified by `configs/inference.yaml` with the shipped weights."""
    workflow = ConfigWorkflow(
        workflow_type="infer",
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(cohort),
        output_dir=str(output_dir),
        nuclei="known",
        **settings,
    )
    workflow.initialize()
    workflow.run()
    (prediction,), (evidence,) = output_dir.rglob("*_prediction.json"), output_dir.rglob("*_evidence.nii.gz")
    result = json.loads(prediction.read_text())
    return Inferred(cohort, result["participant_id"], BOX, result, nib.load(evidence))


@pytest.fixture(scope="session")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Inferred:
    """A toy scan with a box, classified."""
    root = tmp_path_factory.mktemp("inferred")
    return infer(write_cohort(root / "cohort", 1), root / "out")
