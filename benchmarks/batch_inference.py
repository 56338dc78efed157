"""Inference over 1, 100 and 1000 scans: peak memory must not grow with the batch; scans a second.

Run from the repository root: `python benchmarks/batch_inference.py [--counts 1 100 1000] [--output FILE.json]`. Each
batch is a process of its own, `python -m monai.bundle run --config_file configs/inference.yaml` with small noise scans
(every one a link to the same files) and weights at random. Goal: the peak of the largest batch at most 1.1 times that
of 100 scans.
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

import torch
from toy import BUNDLE, device_name, write_cohort

from scripts.model.networks import QNet, save_weights

GOAL = 1.1
SIZE, SLICES, HIDDEN = 32, 8, 16


def archive(root: Path, scan: Path, count: int) -> Path:
    """A BIDS folder of `count` subjects that are all one scan, by links."""
    for number in range(count):
        name = f"sub-{number:05d}"
        for part in (Path("anat"), Path("derivatives")):
            folder = root / name / "anat" if part.name == "anat" else root / part / "basalganglia" / name / "anat"
            folder.mkdir(parents=True)
            source = scan / ("sub-000/anat" if part.name == "anat" else "derivatives/basalganglia/sub-000/anat")
            for file in source.iterdir():
                os.link(file, folder / file.name.replace("sub-000", name))
    return root


def run(weights: Path, dataset_dir: Path, output_dir: Path, outputs: str) -> dict[str, float]:
    """Wall time, s, and peak resident memory, MB, of one inference run."""
    settings = {
        "weights": weights, "dataset_dir": dataset_dir, "output_dir": output_dir, "outputs": outputs,
        "spatial_size": [SIZE, SIZE], "num_slices": SLICES, "hidden_size": HIDDEN, "nuclei": "known",
        "weights_record": "config",
    }  # fmt: skip
    words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    words += [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    start = time.perf_counter()
    process = subprocess.Popen(words, cwd=BUNDLE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(errors[-2000:])
    return {"seconds": time.perf_counter() - start, "peak_mb": usage.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--outputs", default="['json','evidence']", help="as the key of inference.yaml")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    result: dict = {"device": device_name(torch.device("cpu")), "outputs": arguments.outputs, "goal": GOAL}
    result["batches"] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        torch.manual_seed(0)
        save_weights(QNet(num_slices=SLICES, hidden_size=HIDDEN), root / "model.pt", torch.float16)
        scan = write_cohort(root / "scan", 1)
        for count in arguments.counts:
            cohort = archive(root / f"cohort-{count}", scan, count)
            measured = run(root / "model.pt", cohort, root / f"output-{count}", arguments.outputs)
            result["batches"][str(count)] = measured
            first = result["batches"][str(arguments.counts[0])]["seconds"]
            rate = (
                (count - arguments.counts[0]) / (measured["seconds"] - first) if count > arguments.counts[0] else None
            )
            measured["scans_per_second_after_start"] = rate
            shown = f"{rate:6.1f} scans/s after the start" if rate else ""
            print(
                f"{count:6} scans: {measured['seconds']:7.1f} s, peak {measured['peak_mb']:6.0f} MB {shown}", flush=True
            )
    base, largest = (result["batches"][str(count)]["peak_mb"] for count in (arguments.counts[-2:] * 2)[:2])
    result["growth"] = largest / base
    result["met"] = result["growth"] <= GOAL
    print(f"peak memory grows {result['growth']:.3f} times; goal <= {GOAL}: {'met' if result['met'] else 'NOT met'}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
