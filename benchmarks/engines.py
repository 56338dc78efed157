"""What an engine gains and costs: simulated scans reconstructed and localised one by one, by two processes, by Ray.

    python benchmarks/engines.py --output benchmarks/results/engines.json

Goals: two processes 1.8 times as fast as one; Ray at most 5 % slower than two processes. The start of processes, of
Python and of the cluster is part of the time; how long two processes take to start and do nothing stands beside it.
Rounds take turns, so that a slow moment of the machine falls on all.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
sys.path[:0] = [str(BUNDLE), str(HERE)]

from monai.bundle import ConfigWorkflow  # noqa: E402
from timing import seconds  # noqa: E402

from scripts.provenance import software  # noqa: E402
from scripts.runs.engines import LocalEngine, run_jobs  # noqa: E402

ENGINES = {
    "one after the other": {"engine": "local", "num_workers": 1},
    "two processes": {"engine": "local", "num_workers": 2},
    "ray": {"engine": "ray"},
}
#: A whole head in each size of voxel: seconds and minutes a scan.
SIZES = {
    "usual": {"matrix": [144, 168, 120], "spacing_mm": [1.3, 1.3, 1.3], "supersampling": [1, 1, 1]},
    "small": {"matrix": [96, 112, 80], "spacing_mm": [2.0, 2.0, 2.0], "supersampling": [1, 1, 1]},
    "tiny": {"matrix": [48, 56, 40], "spacing_mm": [4.0, 4.0, 4.0], "supersampling": [1, 1, 1]},
}


def run(config: str, run_id: str, **keys: object) -> None:
    """One of the bundle's configs, in this process."""
    given = {"bundle_root": str(BUNDLE), **keys}
    workflow = ConfigWorkflow(str(BUNDLE / "configs" / f"{config}.yaml"), logging_file=False, run_id=run_id, **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def timed(command: Callable[[Path, dict], None], rounds: int, root: Path, name: str) -> dict[str, list[float]]:
    """Seconds of a command on each engine, by turns, each time into a fresh folder."""
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for turn in range(rounds):
        for engine, keys in ENGINES.items():
            folder = root / f"{name}-{turn}-{engine.replace(' ', '_')}"
            times[engine].append(seconds(lambda folder=folder, keys=keys: command(folder, keys)))
    return times


def nothing(shared: object, job: object, device: str) -> None:
    """The work of a process that only starts."""


def start_seconds(rounds: int) -> list[float]:
    """Seconds until two processes have started and done nothing."""
    engine = LocalEngine(["cpu", "cpu"])
    jobs = {"one": None, "two": None}
    return [
        seconds(lambda: list(run_jobs(engine, nothing, None, jobs, title="start", unit="job"))) for _ in range(rounds)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="usual")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ages = [30 + 5 * n for n in range(given.scans)]
        run("simulate_raw", "run", output_dir=str(root / "raw"), size=given.size, sizes=SIZES, ages=ages, num_workers=2)
        preset = {"hh": given.scans // 2, "hc": given.scans - given.scans // 2, "men": given.scans // 2,
                  "matrix": [288, 288, 48], "spacing_mm": [0.75, 0.75, 2.0]}  # fmt: skip
        run("simulate", "run", output_dir=str(root / "cohort"), size="small", sizes={"small": preset}, num_workers=2)

        def reconstruct(output: Path, keys: dict) -> None:
            run("reconstruct", "reconstruct", input=str(root / "raw"), output_dir=str(output), **keys)

        def localise(output: Path, keys: dict) -> None:
            run("localise", "run", dataset_dir=str(root / "cohort"), output_dir=str(output), **keys)

        found = {
            "reconstruct": timed(reconstruct, given.rounds, root, "maps"),
            "localise": timed(localise, given.rounds, root, "boxes"),
        }
        start = start_seconds(given.rounds)
    result: dict[str, object] = {
        "scans": given.scans, "size": given.size, "software": software(), "seconds": found, "start_of_two": start,
    }  # fmt: skip
    for name, times in found.items():
        one, two, ray = (median(times[engine]) for engine in ENGINES)
        gain, beyond = one / two, one / (two - median(start))
        result[name] = {
            "two_processes_gain": round(gain, 3), "gain_without_start": round(beyond, 3),
            "ray_over_local": round(ray / two, 3),
        }  # fmt: skip
        print(f"{name}: two processes {gain:.2f} times as fast as one (goal 1.8), {beyond:.2f} times without their"
              f" start; Ray takes {ray / two:.3f} of the time of two processes (goal 1.05)")  # fmt: skip
    if given.output:
        given.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
