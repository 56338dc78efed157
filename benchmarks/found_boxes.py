"""The same scans with annotated boxes and with found ones, tight and as roomy as those that trained the weights.

    python benchmarks/found_boxes.py COHORT WORK --output benchmarks/results/found_boxes.json

COHORT has annotated boxes; WORK, a new folder, gets the inferences. By how much the network's probability of HH moves,
and how many answers stay. Goal: no mean shift above 0.03.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))
from scripts.files.json_file import read_json  # noqa: E402
from scripts.files.writing import write_json  # noqa: E402
from scripts.localisation.margin import as_trained  # noqa: E402
from scripts.provenance import cohort_fingerprint, software, trained_with  # noqa: E402

TIGHT_MM = 5.0
GOAL = 0.03


def infer(cohort: Path, output: Path, *keys: str) -> dict[str, dict]:
    """Results of all scans, by name."""
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"),
        *("--input", str(cohort), "--output_dir", str(output), "--outputs", "[json]", "--nuclei", "known", *keys),
    ]
    subprocess.run(command, cwd=BUNDLE, check=True)
    paths = sorted(output.glob("*/*_prediction.json"))
    return {path.parent.name: read_json(path, "prediction") for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    cohort, work = arguments.cohort.resolve(), arguments.work.resolve()
    bare = work / "bare"
    if not bare.exists():
        shutil.copytree(cohort, bare, ignore=shutil.ignore_patterns("derivatives"))
    wanted = as_trained(trained_with(BUNDLE / "models" / "model.pt"), TIGHT_MM)
    annotated = infer(cohort, work / "annotated")
    rows = {}
    for margin in (TIGHT_MM, wanted):
        boxes = ("--localise_margin_mm", str(margin), "--localise_dir", str(work / f"boxes_{margin:g}"))
        found = infer(bare, work / f"found_{margin:g}", *boxes)
        shift = np.array([found[name]["probability_HH"] - annotated[name]["probability_HH"] for name in annotated])
        rows[f"{margin:g}"] = {
            "mean_shift": float(shift.mean()),
            "mean_absolute": float(np.abs(shift).mean()),
            "largest": float(np.abs(shift).max()),
            "answers_kept": sum(found[name]["answer"] == annotated[name]["answer"] for name in annotated),
            "classes_kept": sum(found[name]["class"] == annotated[name]["class"] for name in annotated),
        }
    result = {
        **{"software": software(), "input": cohort_fingerprint(cohort), "scans": len(annotated)},
        **{"trained_mm": wanted, "margins_mm": rows, "goal": GOAL},
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
