"""What the learning curves of a cross-validation at the paper's length say, and how long its folds took.

    python benchmarks/paper_length.py OUT --output FOLDER     # OUT: output_dir of configs/cross_validation.yaml

Writes `curves.json` and `curves.md`: means over folds of the AUC on the held-out fold, which decided nothing. Seconds
of a fold are from its first file to its last, where the fold was trained in one go, and are those of a fold that shares
the machine with as many others as the run had at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: The first state of stage 1's progress bar: epochs that were there already.
STARTS = re.compile(r"stage 1[^\r\n]*?\| *(\d+)/\d+ \[00:00<")
#: Learning curve -> what a row of it is called, and the epochs that are compared with the last one.
STAGES = {"image_level.csv": ("stage 1, slices", (10, 25, 50, 75)), "scan_level.csv": ("stage 2, scans", (5, 10, 25))}


def curve(paths: list[Path], compared: tuple[int, ...]) -> dict[str, Any]:
    """Means over folds of a stage's AUCs, and what the epochs after some earlier one gained."""
    found = [pd.read_csv(path).set_index("epoch") for path in paths]
    held = pd.DataFrame({number: table["val_auc"].dropna() for number, table in enumerate(found)}).dropna()
    train = pd.DataFrame({number: table["train_auc"] for number, table in enumerate(found)}).loc[held.index]
    last = held.index[-1]
    gains = {}
    for epoch in compared:
        gain = held.loc[last] - held.loc[epoch]
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else None
        gains[str(epoch)] = {"gain": float(gain.mean()), "standard_error": error}
    return {
        "folds": len(found),
        "epochs": [int(epoch) for epoch in held.index],
        "held_out_auc": held.mean(axis=1).tolist(),
        "training_auc": train.mean(axis=1).tolist(),
        "best_epoch": int(held.mean(axis=1).idxmax()),
        "gain_to_the_last": gains,
    }


def seconds(fold: Path) -> float | None:
    """From a fold's first file to its last; None where a killed run's fold was gone on with."""
    begun, done, log = (fold / name for name in ("held_out.tsv", "evaluation.json", "log.txt"))
    starts = STARTS.findall(log.read_text(errors="replace")) if log.exists() else []
    return done.stat().st_mtime - begun.stat().st_mtime if starts == ["0"] else None


def processor() -> str:
    """Name of the processor, as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def in_words(found: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = ["# Learning curves at the paper's length (simulated cohort)", ""]
    for title, stage in found["stages"].items():
        chosen = [n for n, epoch in enumerate(stage["epochs"]) if epoch % 10 == 0 or epoch == stage["epochs"][0]]
        lines += [f"**{title}**: mean AUC over {stage['folds']} folds", ""]
        lines += ["| epoch | " + " | ".join(str(stage["epochs"][n]) for n in chosen) + " |"]
        lines += ["| --- " * (len(chosen) + 1) + "|"]
        for name, key in (("held-out fold", "held_out_auc"), ("training", "training_auc")):
            lines += [f"| {name} | " + " | ".join(f"{stage[key][n]:.3f}" for n in chosen) + " |"]
        gains = (
            f"{gain['gain']:+.3f} (standard error {gain['standard_error']:.3f}) after epoch {epoch}"
            for epoch, gain in stage["gain_to_the_last"].items()
            if gain["standard_error"] is not None
        )
        lines += ["", f"Gained on the held-out fold up to epoch {stage['epochs'][-1]}: {'; '.join(gains)}."]
        lines += [f"The mean is highest at epoch {stage['best_epoch']}.", ""]
    took = [value for value in found["seconds_of_folds"] if value is not None]
    if took:
        lines += [
            f"A fold took {np.median(took):.0f} s (median of {len(took)}; {found['folds_at_a_time']} at a time on"
            f" {found['cores']} cores, {found['processor']}, shared with other work). The held-out fold decided"
            " nothing: no epoch was chosen by it.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output_dir of a cross-validation, with its folds")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets curves.json and curves.md")
    parser.add_argument("--folds-at-a-time", type=int, default=2)
    given = parser.parse_args()
    folds = sorted(path.parent for path in given.run.glob("folds/*/repeat-*/fold-*/evaluation.json"))
    stages = {title: curve([f / name for f in folds], compared) for name, (title, compared) in STAGES.items()}
    found = {
        "stages": stages,
        "seconds_of_folds": [seconds(fold) for fold in folds],
        "folds_at_a_time": given.folds_at_a_time,
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "settings": json.loads((folds[0] / "evaluation.json").read_text())["settings"],
        "software": json.loads((folds[0] / "evaluation.json").read_text())["software"],
    }
    (given.output / "curves.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.output / "curves.md").write_text(in_words(found), encoding="utf-8")
    print(in_words(found))


if __name__ == "__main__":
    main()
