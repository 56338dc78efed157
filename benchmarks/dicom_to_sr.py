"""One scan from a DICOM study to a structured report, against the same scan from NIfTI to JSON and evidence.

Run from the repository root: `python benchmarks/dicom_to_sr.py --dataset_dir COHORT [--output FILE.json]`. The first
scan of the cohort is written as a (simulated) study; then both are inferred by `python -m monai.bundle run
--config_file configs/inference.yaml`, each in a process of its own, in turns. Everything that a process pays is
counted, the start of Python and its packages too. Goal: DICOM to SR at most 10 s more. The scan keeps its annotated
box on both sides, and nuclei are not measured: the goal is about DICOM.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import torch
from toy import BUNDLE, device_name

from scripts.anatomy.axes import oriented_box
from scripts.dicom.rules import read_rules
from scripts.dicom.study import find_studies
from scripts.files.writing import sha256
from scripts.maps.bids import find_scans
from scripts.simulation.dicom import write_study

GOAL = 10.0


def run(output_dir: Path, **settings: object) -> dict[str, float]:
    """Wall and CPU seconds of one inference run."""
    settings |= {"output_dir": output_dir, "nuclei": "known"}
    words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    words += [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    start = time.perf_counter()
    process = subprocess.Popen(words, cwd=BUNDLE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(errors[-2000:])
    return {"wall": time.perf_counter() - start, "cpu": usage.ru_utime + usage.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="a BIDS cohort whose first scan is taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    item = find_scans(arguments.dataset_dir)[0]
    taken: dict[str, list[dict[str, float]]] = {"nifti to json and evidence": [], "dicom to sr": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = write_study(root / "study", item.maps, item.participant_id)
        box = study_box(study, item)
        files = ",".join(str(path) for path in item.maps)
        for turn in range(arguments.rounds):
            sides = {
                "nifti to json and evidence": {"input": files, "box": item.box, "outputs": "['json','evidence']"},
                "dicom to sr": {"input": study, "box": box, "outputs": "['json','evidence','sr']"},
            }
            for number, (name, settings) in enumerate(sides.items()):
                taken[name].append(run(root / f"out-{turn}-{number}", **settings))
        assert len(list(root.rglob("*_sr.dcm"))) == arguments.rounds
    result: dict = {
        name: {clock: median(times[clock] for times in rows) for clock in ("wall", "cpu")}
        for name, rows in taken.items()
    }
    first, second = (result[name]["wall"] for name in taken)
    result |= {"more_seconds": second - first, "goal": GOAL, "met": second - first <= GOAL}
    result |= {"device": device_name(torch.device("cpu")), "weights": sha256(BUNDLE / "models" / "model.pt")}
    for name in taken:
        print(f"{name:28}{result[name]['wall']:7.1f} s by the clock, {result[name]['cpu']:6.1f} of the CPUs")
    print(f"{second - first:.1f} s more; goal <= {GOAL:g}: {'met' if result['met'] else 'NOT met'}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def study_box(study: Path, item: dict) -> list[list[int]]:
    """The scan's box along the study's columns, rows and slices."""
    (found,) = find_studies(study, read_rules(BUNDLE / "configs" / "dicom_series.yaml"))
    affine = found.load().affine.numpy()
    return oriented_box(item.box, np.asarray(nib.load(item.maps[0]).affine), affine)


if __name__ == "__main__":
    main()
