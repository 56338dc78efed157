"""Kill every long command at random moments, give it again until it is done, and compare with a run nobody killed.

Run from the repository root: `python benchmarks/kills.py [--kills 7] [--commands training ...] [--output FILE.json]`.
Each command gets tiny data. It runs once undisturbed; then it starts anew in the same place and its process group
is killed (SIGKILL) at a random moment, `--kills` times, each time going on where the last one died; then it runs to its
end. Same: every file of the result that holds numbers equals that of the undisturbed run. Clean: no half-made file and
no lock is left. Goal: all the same, all clean.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "reconstruction"), str(REPOSITORY / "bundle")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from blobs import BUNDLE, write_cohort  # noqa: E402
from made_predictions import made_predictions  # noqa: E402
from raw_head import write_raw  # noqa: E402

from scripts.files.parts import PREFIX  # noqa: E402
from scripts.model.networks import QNet, save_weights  # noqa: E402
from scripts.runs.outputs import LOCK  # noqa: E402

NETWORK = {"num_slices": 4, "hidden_size": 8, "cropped_size": [32, 32]}
TRAINING = NETWORK | {
    "num_folds": 3,
    "imagenet_weights": "none",
    "image_epochs": 6,
    "image_batch_size": 16,
    "scan_epochs": 6,
    "num_views": 2,
    "val_interval": 2,
}
RAW_HEAD = {"matrix": [48, 56, 40], "spacing_mm": [4.0, 4.0, 4.0], "supersampling": [1, 1, 1]}
#: Files that say when or in which order something was done: only that they are there is compared.
TOLD = (".html", ".pdf", ".svg", ".txt", ".png", ".log", ".dcm", ".tfm")


@dataclass(frozen=True)
class Command:
    """A command and its input.

    Attributes:
        words: after `python -m monai.bundle run`; `OUT` stands for the output folder.
        prepare: makes the output folder's surroundings, where the command writes into its input.
    """

    words: list[str]
    prepare: Callable[[Path], Any] = lambda out: None


def keys(**given: Any) -> list[str]:
    return [f"--{key.replace('__', '#')}={value}" for key, value in given.items()]


def config(*names: str) -> list[str]:
    files = [str(BUNDLE / "configs" / name) for name in names]
    return [f"--config_file={files if names[1:] else files[0]}", f"--bundle_root={BUNDLE}"]


def commands(root: Path) -> dict[str, Command]:
    """All long commands, on data made below `root`."""
    blobs = write_cohort(root / "blobs", 12)
    many = write_cohort(root / "many", 30, seed=1)  # others than those who trained what is calibrated on them
    raw = write_raw(root / "raw")
    first = raw / "sub-01"
    for number in (2, 3):
        shutil.copytree(first, raw / f"sub-{number:02d}")
        for path in (raw / f"sub-{number:02d}").rglob("sub-01*"):
            path.rename(path.with_name(path.name.replace("sub-01", f"sub-{number:02d}")))
    weights = root / "model.pt"
    torch.manual_seed(0)
    save_weights(QNet(num_slices=4, hidden_size=8), weights, torch.float16)
    sizes = yaml.safe_load((BUNDLE / "configs" / "simulate.yaml").read_text())["sizes"]
    sizes["small"] |= {"hh": 4, "hc": 4, "men": 4, "matrix": [72, 72, 18], "spacing_mm": [3.0, 3.0, 4.0]}
    simulate = [*config("simulate.yaml"), *keys(sizes=sizes, num_workers=2)]
    heads, studies = root / "heads", root / "studies"
    run([*simulate, f"--output_dir={heads}"], check=True)
    run([*config("simulate_dicom.yaml"), *keys(dataset_dir=many, output_dir=studies)], check=True)
    slices = [*config("simulate_raw.yaml"), *keys(num_workers=2, size="small", sizes={"small": RAW_HEAD})]
    echoes = root / "echoes"
    run([*slices, *keys(dicom="siemens", ages=[40.0], output_dir=echoes)], check=True)
    trained = keys(**TRAINING, device="cpu", dataset_dir=blobs)
    models = keys(ckpt_dir=root / "trained" / "models", output_dir=root / "trained" / "output")
    run(["training", *config("train.yaml"), *trained, *models], check=True)
    table = made_predictions(regions=["cropped"])
    for place, share in (("one", 0.0), ("two", 0.1)):
        (root / place).mkdir()
        better = np.clip(table["probability_HH"] + share * (table["label"] - 0.5), 0, 1)
        table.assign(probability_HH=better).to_csv(root / place / "predictions.csv", index=False)
        record = {"input": {"sha256": "same", "simulated": True}}
        (root / place / "predictions.json").write_text(json.dumps(record))
    network = keys(weights=weights, weights_record="config", **NETWORK, nuclei="known", num_threads=1, device="cpu")
    toy = {"mask__island_size": 200, "mask__erosion_mm": 2.0, "inversion__radii_mm": [8, 4]}
    training = {f"training__{key}": value for key, value in TRAINING.items() if key != "num_folds"}
    return {
        "simulate": Command([*simulate, "--output_dir=OUT"]),
        "training": Command(
            [
                "training",
                *config("train.yaml"),
                *keys(dataset_dir=blobs, ckpt_dir="OUT/models", output_dir="OUT/output"),
            ]
            + keys(**TRAINING, device="cpu")
        ),
        "training_inner_folds": Command(
            ["training", *config("train.yaml")]
            + keys(**TRAINING, device="cpu", dataset_dir=many, ckpt_dir="OUT/models", output_dir="OUT/output")
            + keys(calibrate_on="inner_folds", inner_folds=2)
        ),
        "evaluate": Command([*config("train.yaml", "evaluate.yaml"), *trained, *models, "--evaluation_dir=OUT"]),
        "contributions": Command(
            [*config("train.yaml", "contributions.yaml"), *trained, *models, "--contributions_dir=OUT"]
        ),
        "calibrate": Command(
            [*config("train.yaml", "calibrate.yaml"), *keys(**TRAINING, device="cpu", dataset_dir=many)]
            + keys(train_datalist="$@cohort", val_datalist="$@cohort", ckpt_dir="OUT/models", output_dir="OUT/output"),
            lambda out: shutil.copytree(root / "trained", out),
        ),
        "compare": Command(
            [*config("compare.yaml"), *keys(runs={"a": str(root / "one"), "b": str(root / "two")}, output_dir="OUT")]
            + keys(bootstrap_samples=100)
        ),
        "cross_validation": Command(
            ["cross_validation", *config("cross_validation.yaml")]
            + keys(dataset_dir=blobs, output_dir="OUT", regions=["cropped"], num_repeats=1, folds_on_cpu=2)
            + keys(viewer_subjects=0, analysis__bootstrap_samples=100, training__num_folds=3, **training)
        ),
        "inference": Command([*config("inference.yaml"), *keys(input=many, output_dir="OUT"), *network]),
        "inference_dicom": Command(
            [*config("inference.yaml"), *keys(input=studies, output_dir="OUT", localise="whole"), *network]
        ),
        "reconstruct": Command(
            ["reconstruct", *config("reconstruct.yaml"), *keys(input=raw, output_dir="OUT", device="cpu", **toy)]
        ),
        "reconstruct_dicom": Command(
            ["reconstruct", *config("reconstruct.yaml")]
            + keys(input=echoes / "sourcedata" / "sub-01" / "dicom", output_dir="OUT", device="cpu", **toy)
        ),
        "simulate_raw": Command([*slices, *keys(ages=[30.0, 60.0], output_dir="OUT")]),
        "simulate_sites": Command(
            [*config("simulate.yaml", "simulate_sites.yaml"), *keys(sizes=sizes, num_workers=2, output_dir="OUT")]
        ),
        "simulate_dicom": Command([*config("simulate_dicom.yaml"), *keys(dataset_dir=many, output_dir="OUT")]),
        "localise": Command(
            [*config("localise.yaml"), *keys(dataset_dir="OUT")], lambda out: shutil.copytree(heads, out)
        ),
        "nuclei": Command([*config("nuclei.yaml"), *keys(dataset_dir="OUT")], lambda out: shutil.copytree(heads, out)),
    }


def start(words: list[str]) -> subprocess.Popen:
    """A command in a process group of its own."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        cwd=REPOSITORY,
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run(words: list[str], check: bool = False) -> tuple[int, str, float]:
    """Status, last line of the errors, and seconds of a command that nobody disturbs."""
    begun = time.monotonic()
    process = start(words)
    said = process.communicate()[1].decode(errors="replace").strip().splitlines()
    last = said[-1] if said else ""
    if check and process.returncode:
        raise SystemExit(f"{words}: {last}")
    return process.returncode, last, time.monotonic() - begun


def killed(words: list[str], after: float) -> bool:
    """Start a command and kill its group after some seconds; False where it had ended before."""
    process = start(words)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def content(path: Path) -> Any:
    """What a file of a result says, whatever was written around it."""
    name = path.name
    if name.endswith(".pt"):
        loaded = torch.load(path, weights_only=True)
        return {key: np.asarray(value).tobytes() for key, value in loaded.items() if torch.is_tensor(value)}
    if name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    if name.endswith(TOLD):
        return True
    if name.endswith("_stats.json"):  # the input is copied anew for each run, so its times differ
        said = json.loads(path.read_text())
        del said["Basis"]["sizes_and_times"]
        return said
    if name.endswith("_prediction.json"):  # hashes of files that are compared themselves; DICOM's hold the time of day
        said = json.loads(path.read_text())
        del said["run"]["files"], said["run"]["content_sha256"]
        return said
    return path.read_bytes()


def result(out: Path) -> dict[str, Any]:
    """Relative path -> content of all that lies in an output folder."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK]
    names = {str(path.relative_to(out)): path for path in files}
    return {
        name: content(path)
        for name, path in names.items()
        if not name.startswith(("cache/", "folds/")) and not name.endswith("_checkpoint.pt")
    }


def attack(name: str, command: Command, root: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill a command, let it end, and say whether its result is that of an undisturbed run."""
    out = root / "runs" / name  # the same place each time, for paths are part of what some files say
    words = [word.replace("OUT", str(out)) for word in command.words]

    def fresh() -> None:
        for path in (out, out.with_name(out.name + ".part")):
            shutil.rmtree(path, ignore_errors=True)
        out.parent.mkdir(exist_ok=True)
        command.prepare(out)

    fresh()
    expected, last, seconds = run(words)
    wanted = result(out)
    if expected or not wanted:
        return {"kills": 0, "same": False, "first_difference": f"the undisturbed run failed: {last}"}
    fresh()
    done, share = 0, 1.0
    for _ in range(3 * kills):
        if done == kills:
            break
        if killed(words, chance.uniform(0.1, 1.0) * share * seconds):
            done += 1
        else:  # it had ended: begin again, and kill earlier
            fresh()
            share *= 0.7
    status, last, _ = run(words)
    found = result(out)
    differing = sorted(key for key in {**wanted, **found} if wanted.get(key) != found.get(key))
    left = [str(path.relative_to(root)) for path in (root / "runs").rglob("*") if path.name.startswith(PREFIX)]
    left += [str(path.relative_to(root)) for path in (root / "runs").rglob(LOCK)]
    left += [path.name for path in (root / "runs").glob("*.part")]
    return {
        "kills": done,
        "seconds": round(seconds, 1),
        "status": status,
        "files": len(wanted),
        "same": status == 0 and not differing,
        "clean": not left,
        "first_difference": last if status else (differing or [""])[0],
        "left": left[:3],
    }


def two_at_once(command: Command, root: Path) -> dict[str, Any]:
    """Two trainings in one folder at a time: one of them is refused in one line, and the other's result stands."""
    out = root / "runs" / "training"
    words = [word.replace("OUT", str(out)) for word in command.words]
    shutil.rmtree(out, ignore_errors=True)
    first = start(words)
    while not (out / "output" / LOCK).exists():
        time.sleep(0.05)
        if first.poll() is not None:
            return {"refused": False, "says": "the first ended too early"}
    status, last, _ = run(words)
    first.communicate()
    return {"refused": status == 1 and "another run" in last, "first_status": first.returncode, "says": last[:60]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=7, help="of each command")
    parser.add_argument("--commands", nargs="*", help="which; all if none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures; goes on with what it holds")
    given = parser.parse_args()
    figures = json.loads(given.output.read_text()) if given.output and given.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        everything = commands(root)
        for name in given.commands or everything:
            chance = random.Random(f"{given.seed} {name}")
            figures[name] = attack(name, everything[name], root, given.kills, chance)
            print(name, figures[name], flush=True)
            if name == "training":
                figures["two_trainings_in_one_folder"] = two_at_once(everything[name], root)
                print("two trainings in one folder", figures["two_trainings_in_one_folder"], flush=True)
            if given.output:
                given.output.write_text(json.dumps(figures, indent=2) + "\n")
    counted = [value for value in figures.values() if "kills" in value]
    print(
        f"{sum(v['kills'] for v in counted)} kills of {len(counted)} commands:"
        f" {sum(v['same'] for v in counted)} the same, {sum(v.get('clean', False) for v in counted)} clean"
    )


if __name__ == "__main__":
    main()
