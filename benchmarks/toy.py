"""What the training benchmarks share: a cohort of noise in BIDS form, and the bundle's training workflow on it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))
from scripts.files.writing import write_table  # noqa: E402

SHAPE = (40, 44, 14)
BOX = [[4, 36], [6, 38], [2, 12]]
#: Mean and standard deviation of each map's noise: values that a head may have (ppm, 1/s, any).
NOISE = {"Chimap": (0.0, 0.05), "R2starmap": (25.0, 4.0), "T1w": (400.0, 40.0)}
FOLDS = 9  # 8 of 9 subjects train


def write_cohort(root: Path, subjects: int) -> Path:
    """Noise scans with boxes and groups by turns; times do not depend on what the scans show."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(subjects):
        name = f"sub-{number:03d}"
        anat, boxes = root / name / "anat", root / "derivatives" / "basalganglia" / name / "anat"
        anat.mkdir(parents=True)
        boxes.mkdir(parents=True)
        for suffix, (middle, spread) in NOISE.items():
            noise = rng.normal(middle, spread, SHAPE).astype(np.float32)
            image = nib.Nifti1Image(noise, np.diag([3.0, 3.0, 4.0, 1.0]))
            nib.save(image, anat / f"{name}_{suffix}.nii.gz")
        (boxes / f"{name}_desc-basalganglia_box.json").write_text(json.dumps({"Box": BOX}))
        rows.append({"participant_id": name, "age": 50, "sex": "FM"[number % 2], "group": ("HH", "HC")[number % 2]})
    write_table(root / "participants.tsv", list(rows[0]), rows)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Noise", "BIDSVersion": "1.10.0"}))
    return root


def workflow(folder: Path, scans: int, run_id: str, **settings: object) -> ConfigWorkflow:
    """`train.yaml` on a cohort of which `scans` (a multiple of 16) train, on the crop of the default size.

    Held-out scans are never looked at, because the interval is longer than a benchmark.
    """
    cohort = write_cohort(folder / "cohort", scans * FOLDS // (FOLDS - 1))
    made = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.yaml"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id=run_id,
        bundle_root=str(BUNDLE),
        dataset_dir=str(cohort),
        ckpt_dir=str(folder / "models"),
        output_dir=str(folder / "output"),
        num_folds=FOLDS,
        imagenet_weights="none",
        val_interval=1_000_000,
        **settings,
    )
    made.initialize()
    return made


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} cores"


def now(device: torch.device) -> float:
    """The clock in s, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
