"""One scan from NIfTI to JSON and evidence, against the bare network on data in place plus reading the files.

Run from the repository root: `python benchmarks/inference.py [--dataset_dir COHORT] [--output FILE.json]`. Both sides
take turns in one run, so read the ratio. Without a cohort, noise of the paper's matrix (366 x 366 x 64, int16 as the
simulated cohort stores it) is read. Goal: at most 1.5 times. The start of Python and its packages is not counted: it is
paid once a run, not once a scan, and is printed beside. On a machine that others use, trust the ratio of CPU seconds
with `--threads 1`: the clock counts their work too, and threads that wait for each other burn CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from toy import BUNDLE, device_name

from scripts.files.writing import sha256
from scripts.inference.batch import RunFolder
from scripts.inference.results import model_info, write_scan
from scripts.maps.bids import find_scans
from scripts.model.evidence import Evidence
from scripts.model.networks import QNet, load_weights
from scripts.model.outputs import QNetInferer, Resultd, ToInputGridd
from scripts.provenance import software
from scripts.training.preprocessing import preprocessing

SHAPE, SPACING, BOX = (366, 366, 64), (0.60109, 0.60109, 2.0), [[110, 256], [130, 250], [18, 46]]
GOAL = 1.5
STEPS = ("preprocessing", "network", "evidence to the input's grid", "writing")


def noise(root: Path) -> Path:
    """One scan of the paper's matrix as a BIDS folder."""
    rng, anat = np.random.default_rng(0), root / "sub-1" / "anat"
    anat.mkdir(parents=True)
    for name, scale, least in (("Chimap", 1e-4, -450), ("R2starmap", 0.1, 1), ("T1w", 1.0, 1)):  # as a head may have
        values = rng.integers(least, least + 899, SHAPE).astype(np.float32) * scale
        image = nib.Nifti1Image(values, np.diag([*SPACING, 1.0]))
        image.set_data_dtype(np.int16)
        nib.save(image, anat / f"sub-1_{name}.nii.gz")
    boxes = root / "derivatives" / "basalganglia" / "sub-1" / "anat"
    boxes.mkdir(parents=True)
    (boxes / "sub-1_desc-basalganglia_box.json").write_text(json.dumps({"Box": BOX}))
    return root


def default_evidence(method: str | None) -> Evidence:
    """The evidence that `inference.yaml` makes, or another method of it."""
    config = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs" / "inference.yaml"))
    if method:
        config["evidence_method"] = method
    return config.get_parsed_content("evidence")


def measure(dataset_dir: Path, output: Path, rounds: int, method: str | None) -> dict:
    """Median times, s, of the whole and of the bare way by two clocks, their ratios, and the parts of the whole."""
    weights = BUNDLE / "models" / "model.pt"
    scan, network = find_scans(dataset_dir)[0], load_weights(QNet(), weights)
    steps = preprocessing("cropped", [128, 128], 16, [0.5, 99.5], "annotated")
    evidence = default_evidence(method)
    result, back, infer = Resultd("pred", evidence=evidence), ToInputGridd("pred", "evidence"), QNetInferer(evidence)
    run = RunFolder(output, {}, {"software": software(), "input": {}}, ("json", "evidence"))
    model = model_info(weights)
    stage: dict[str, list[float]] = {name: [] for name in STEPS}

    def clocked(name: str, call: Callable, *values: object):
        start = time.perf_counter()
        made = call(*values)
        stage[name].append(time.perf_counter() - start)
        return made

    @torch.no_grad()
    def whole() -> None:
        image = clocked("preprocessing", steps, scan.item())["image"]
        made = {key: value[0] for key, value in clocked("network", infer, image[None], network).items()}
        done = clocked("evidence to the input's grid", back, result({"image": image, "pred": made}))
        clocked("writing", write_scan, scan, done, run, model, False, 0.5)

    image = steps(scan.item())["image"].as_tensor()[None]

    def read() -> None:
        for path in scan.maps:
            nib.load(path).get_fdata(dtype=np.float32)

    @torch.no_grad()
    def forward() -> None:
        network(image)

    sides = {"whole": whole, "reading": read, "forward": forward}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, call in sides.items():
            before = time.perf_counter(), time.process_time()
            call()
            wall[name].append(time.perf_counter() - before[0])
            cpu[name].append(time.process_time() - before[1])
    found: dict = {"evidence_method": evidence.method, "matrix": list(nib.load(scan.maps[0]).shape)}
    for clock, taken in (("wall", wall), ("cpu", cpu)):
        times = {name: float(np.median(values[1:])) for name, values in taken.items()}  # the first round warms up
        bare = times["reading"] + times["forward"]
        found[clock] = {**times, "bare": bare, "ratio": times["whole"] / bare}
    found["parts"] = {name: float(np.median(taken[1:])) for name, taken in stage.items()}
    return found


def start_up() -> float:
    """Seconds until Python has imported what inference needs."""
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "import scripts.inference.batch, scripts.inference.results, monai.bundle",
    ]
    start = time.perf_counter()
    subprocess.run(words, cwd=BUNDLE, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, help="a BIDS cohort whose first scan is read; default: noise")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the network; default: cores")
    parser.add_argument("--evidence_method", help="another than inference.yaml's")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        cohort = arguments.dataset_dir or noise(Path(folder) / "cohort")
        result = measure(cohort, Path(folder) / "output", arguments.rounds, arguments.evidence_method)
    result |= {"device": device_name(torch.device("cpu")), "start_up": start_up(), "goal": GOAL}
    result |= {"met": result["wall"]["ratio"] <= GOAL, "weights": sha256(BUNDLE / "models" / "model.pt")}
    print(f"\n{result['evidence_method']}, {result['matrix']}, {result['device']}")
    print(f"median of {arguments.rounds}, ms: by the clock, of the CPUs")
    for name in ("reading", "forward", "bare", "whole"):
        print(f"  {name:32}{result['wall'][name] * 1e3:8.0f}{result['cpu'][name] * 1e3:8.0f}")
    for name, taken in result["parts"].items():
        print(f"    of it {name:26}{taken * 1e3:8.0f}")
    print(f"start of Python and packages: {result['start_up']:.1f} s, once a run")
    ratio = result["wall"]["ratio"]
    print(f"ratio {ratio:.2f} by the clock, {result['cpu']['ratio']:.2f} in CPU seconds")
    print(f"goal <= {GOAL}: {'met' if result['met'] else 'NOT met'}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
