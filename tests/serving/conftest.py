"""What the clients' tests share: the bundle as it is published, and one study with what the bundle says about it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from blobs import BOX, BUNDLE, write_cohort
from monai.bundle import ConfigWorkflow

sys.path.insert(0, str(Path(__file__).parent))

NAME = "qnet_hemochromatosis"
MAPS = ("Chimap", "R2starmap", "T1w")


class Inferred(NamedTuple):
    """One scan and the bundle's own result."""

    cohort: Path
    participant_id: str
    box: list[list[int]]
    result: dict
    evidence: nib.Nifti1Image


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


def stacked(cohort: Path, participant_id: str) -> nib.Nifti1Image:
    """A scan's three maps as one 4D NIfTI, the form in which a study travels to MONAI Label."""
    stem = cohort / participant_id / "anat" / participant_id
    maps = [nib.load(f"{stem}_{suffix}.nii.gz") for suffix in MAPS]
    return nib.Nifti1Image(np.stack([image.get_fdata(dtype=np.float32) for image in maps], -1), maps[0].affine)


@pytest.fixture(scope="session")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Inferred:
    """A toy scan with a box, classified by `configs/inference.yaml` with the shipped weights."""
    root = tmp_path_factory.mktemp("inferred")
    cohort, participant_id = write_cohort(root / "cohort", 1), "sub-01"
    workflow = ConfigWorkflow(
        workflow_type="infer",
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(cohort),
        output_dir=str(root / "out"),
    )
    workflow.initialize()
    workflow.run()
    stem = root / "out" / participant_id / participant_id
    return Inferred(
        cohort,
        participant_id,
        BOX,
        json.loads(Path(f"{stem}_prediction.json").read_text()),
        nib.load(f"{stem}_evidence.nii.gz"),
    )
