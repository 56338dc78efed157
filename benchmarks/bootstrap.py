"""Bootstrap of AUCs against a loop over scikit-learn, and DeLong by midranks against counting every pair.

Run from anywhere: `python benchmarks/bootstrap.py [--output FILE.json]`; under a minute on one core. Both sides get the
same simulated slices (99 participants, 16 slices, 3 models), and the bootstraps the same samples; their largest
difference is printed. The two take turns, and CPU seconds are counted, so that other work on the machine does not
matter. Goals: bootstrap at least 50 times, DeLong at least 5 times faster.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
from scripts.evaluation.auc import bootstrap_aucs, bootstrap_weights, delong  # noqa: E402

PARTICIPANTS, SLICES, MODELS, SAMPLES, SEED = 99, 16, 3, 200, 0
ROUNDS = 3
GOALS = {"bootstrap": 50.0, "delong": 5.0}


def simulated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities `[k, 1, n]` and clusters."""
    rng = np.random.default_rng(SEED)
    label = np.arange(PARTICIPANTS) % 2
    clusters = np.repeat(np.arange(PARTICIPANTS), SLICES)
    score = rng.normal(size=(MODELS, 1, PARTICIPANTS))[..., clusters] + rng.normal(size=(MODELS, 1, len(clusters)))
    return label[clusters], 1 / (1 + np.exp(-score - label[clusters])), clusters


def loop(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The same bootstrap, written plainly: gather the drawn participants' slices and ask scikit-learn."""
    cases = [np.flatnonzero(clusters == c) for c in range(clusters.max() + 1)]
    aucs = []
    for weights in bootstrap_weights(labels, clusters, samples, seed).astype(int):
        drawn = np.concatenate([np.tile(cases[c], times) for c, times in enumerate(weights)])
        aucs.append([roc_auc_score(labels[drawn], p[0, drawn]) for p in probabilities])
    return np.array(aucs)


def counted(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """DeLong's covariance from every pair of a HH and a HC case."""
    hh, hc = probabilities[:, 0, labels == 1], probabilities[:, 0, labels == 0]
    better = (hh[:, :, None] > hc[:, None]) + 0.5 * (hh[:, :, None] == hc[:, None])
    return np.cov(better.mean(axis=2)) / hh.shape[1] + np.cov(better.mean(axis=1)) / hc.shape[1]


def cpu_seconds(ours: Callable[[], object], plain: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds of a call of each, all threads together, after a call of each to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for function, taken in zip((ours, plain), seconds, strict=True):
            start = time.process_time()
            function()
            if turn:
                taken.append(time.process_time() - start)
    return median(seconds[0]), median(seconds[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    output = parser.parse_args().output

    labels, probabilities, clusters = simulated()
    resampling = (labels, probabilities, clusters, SAMPLES, SEED)
    difference = {
        "bootstrap": float(np.abs(bootstrap_aucs(*resampling) - loop(*resampling)).max()),
        "delong": float(np.abs(delong(labels, probabilities).covariance - counted(labels, probabilities)).max()),
    }
    pairs = {
        "bootstrap": (lambda: bootstrap_aucs(*resampling), lambda: loop(*resampling)),
        "delong": (lambda: delong(labels, probabilities), lambda: counted(labels, probabilities)),
    }
    result = {
        "device": f"CPU, {os.cpu_count()} cores",
        "cases": len(labels),
        "participants": PARTICIPANTS,
        "models": MODELS,
        "samples": SAMPLES,
    }
    print(f"\n{len(labels)} slices of {PARTICIPANTS} participants, {MODELS} models, {SAMPLES} bootstrap samples\n")
    print(f"{'':12}{'ours, CPU s':>14}{'plain, CPU s':>14}{'ratio':>10}{'goal':>8}{'largest difference':>22}")
    for name, (ours, plain) in pairs.items():
        ours_s, plain_s = cpu_seconds(ours, plain)
        ratio = plain_s / ours_s
        result[name] = {
            "ours_cpu_s": ours_s,
            "plain_cpu_s": plain_s,
            "ratio": ratio,
            "largest_difference": difference[name],
            "met": ratio >= GOALS[name],
        }
        numbers = f"{ours_s:14.4f}{plain_s:14.4f}{ratio:10.0f}{GOALS[name]:8.0f}"
        print(f"{name:12}{numbers}{difference[name]:22.1e}  {'met' if ratio >= GOALS[name] else 'NOT met'}")
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
