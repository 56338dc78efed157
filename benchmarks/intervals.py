"""Do the tests and intervals of the tables hold what they promise? Type I error and coverage, by simulation.

Run from anywhere: `python benchmarks/intervals.py [--runs 1000] [--output FILE]`; some minutes on one core. Each run
draws a cross-validation of the paper's size: 100 subjects in ten folds, 16 slices each that resemble each other, and
four models that are equally good, so that every null hypothesis is true. It is then judged by the code that makes the
tables. A test at 0.05 should reject in 5 % of the runs, and a 95 % interval should hold the truth in 95 %.

Two settings: the models of all folds give probabilities of the same level; or each fold's model has its own level, in
three of the models, as short trainings have. FILE.json gets the figures, FILE.md the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
from scripts.evaluation.auc import Aucs, clustered_delong, compare, delong, holm, interval, within_folds  # noqa: E402
from scripts.evaluation.statistics import rate_interval, wilson  # noqa: E402

SUBJECTS, FOLDS, SLICES, MODELS = 100, 10, 16, 4
#: Distance of the groups, and the shares of a slice's variance: what all models see of a subject, what only one sees
#: of it, and what is the slice's own.
DISTANCE, COMMON, OWN, SLICE = 1.3, 0.3, 0.3, 0.4
#: Standard deviation of the folds' levels, in units of a slice's.
LEVELS = {"same level in all folds": 0.0, "another level in each fold": 0.8}
ALPHA = 0.05
NAMES = {
    "image": "image level, DeLong on slices (as in the paper)",
    "image_clustered": "image level, clustered DeLong, folds pooled",
    "image_within_folds": "image level, within folds",
    "scan": "scan level, DeLong, folds pooled",
    "scan_within_folds": "scan level, within folds",
}


def cross_validation(rng: np.random.Generator, level_sd: float) -> tuple[np.ndarray, ...]:
    """Labels and folds of subjects, scores of slices `[models, subjects, slices]`, all models equally good."""
    label = np.arange(SUBJECTS) % 2
    fold = np.empty(SUBJECTS, int)
    for group in (0, 1):
        fold[label == group] = rng.permutation(SUBJECTS // 2) % FOLDS
    score = np.sqrt(COMMON) * rng.normal(size=(1, SUBJECTS, 1)) + np.sqrt(OWN) * rng.normal(size=(MODELS, SUBJECTS, 1))
    score = score + np.sqrt(SLICE) * rng.normal(size=(MODELS, SUBJECTS, SLICES)) + DISTANCE * (label - 0.5)[:, None]
    levels = level_sd * rng.normal(size=(MODELS, FOLDS))
    levels[0] = 0
    return label, fold, score + levels[:, fold][:, :, None]


def aucs_of(label: np.ndarray, fold: np.ndarray, score: np.ndarray) -> dict[str, Aucs]:
    """AUCs by each test of NAMES, as `scripts.reporting.tables` makes them."""
    clusters = np.repeat(np.arange(SUBJECTS), SLICES)
    slices = score.reshape(MODELS, 1, -1)
    scans, subjects = score.mean(axis=2)[:, None], np.arange(SUBJECTS)
    return {
        "image": delong(label[clusters], slices),
        "image_clustered": clustered_delong(label[clusters], slices, clusters),
        "image_within_folds": within_folds(label[clusters], slices, clusters, fold[clusters][None]),
        "scan": delong(label, scans),
        "scan_within_folds": within_folds(label, scans, subjects, fold[None]),
    }


def truth(test: str) -> float:
    """The AUC of a model on new subjects: of all four the same."""
    variance = COMMON + OWN + (SLICE if test.startswith("image") else SLICE / SLICES)
    return float(norm.cdf(DISTANCE / np.sqrt(2 * variance)))


def measure(runs: int) -> dict[str, object]:
    """Shares of rejections and of intervals that hold the truth, by setting and test."""
    settings = {}
    for name, level_sd in LEVELS.items():
        rng = np.random.default_rng(14)
        tests = {test: {"rejected": [], "family": [], "family_holm": [], "covered": [], "auc": []} for test in NAMES}
        accuracy: dict[str, list[bool]] = {"clustered": [], "slices": [], "scans": []}
        for _ in range(runs):
            label, fold, score = cross_validation(rng, level_sd)
            for test, aucs in aucs_of(label, fold, score).items():
                p = np.array([compare(aucs, *pair).p for pair in combinations(range(MODELS), 2)])
                low, high = interval(aucs.values[1], aucs.covariance[1, 1])
                found = tests[test]
                found["rejected"].append(p[0] <= ALPHA)
                found["family"].append(p.min() <= ALPHA)
                found["family_holm"].append(holm(p).min() <= ALPHA)
                found["covered"].append(low <= truth(test) <= high)
                found["auc"].append(aucs.values[1])
            accuracy_covered(label, score[0], accuracy)
        settings[name] = {
            "tests": {
                test: {key: float(np.mean(v)) for key, v in found.items()} | {"truth": truth(test)}
                for test, found in tests.items()
            },
            "accuracy_covered": {key: float(np.mean(values)) for key, values in accuracy.items()},
        }
    return {
        "simulated": True,
        "runs": runs,
        "subjects": SUBJECTS,
        "folds": FOLDS,
        "slices": SLICES,
        "models": MODELS,
        "standard_error_at_0.05": float(np.sqrt(0.05 * 0.95 / runs)),
        "settings": settings,
    }


def accuracy_covered(label: np.ndarray, score: np.ndarray, found: dict[str, list[bool]]) -> None:
    """Whether intervals of the accuracy hold the truth: of slices with and without their clusters, and of scans."""
    right = (expit(score) >= 0.5) == (label == 1)[:, None]
    of_slices = norm.cdf(DISTANCE / 2 / np.sqrt(COMMON + OWN + SLICE))
    clusters = np.repeat(np.arange(SUBJECTS), SLICES)
    scans = (score.mean(axis=1) >= 0) == (label == 1)
    of_scans = norm.cdf(DISTANCE / 2 / np.sqrt(COMMON + OWN + SLICE / SLICES))
    for name, (low, high), true in (
        ("clustered", rate_interval(right.ravel(), clusters), of_slices),
        ("slices", wilson(float(right.mean()), right.size), of_slices),
        ("scans", rate_interval(scans, np.arange(SUBJECTS)), of_scans),
    ):
        found[name].append(bool(low <= true <= high))


def markdown(result: dict[str, object]) -> str:
    """The figures as tables."""
    lines = [
        "# Do tests and intervals hold what they promise?",
        "",
        f"Simulated, {result['runs']} runs of `benchmarks/intervals.py`: {result['subjects']} subjects in"
        f" {result['folds']} folds, {result['slices']} slices each, {result['models']} equally good models. A test at"
        f" 0.05 should reject in 0.05 of the runs (standard error {result['standard_error_at_0.05']:.3f}), a 95 %"
        " interval hold the truth, the AUC on new subjects, in 0.95. One pair: a test of two models, p as it is. Any"
        " pair: one of the six pairs is called different, p as it is and after Holm's correction.",
    ]
    for name, setting in result["settings"].items():
        lines += [
            "",
            f"## {name.capitalize()}",
            "",
            "| test | rejected, one pair | rejected, any pair | any pair, Holm | interval covers | mean AUC | truth |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for test, found in setting["tests"].items():
            shares = [f"{found[key]:.3f}" for key in ("rejected", "family", "family_holm", "covered", "auc", "truth")]
            lines.append(f"| {' | '.join([NAMES[test], *shares])} |")
        covered = setting["accuracy_covered"]
        lines += [
            "",
            f"Intervals of the accuracy of the first model cover in {covered['clustered']:.3f} of the runs (slices"
            f" clustered, as in the tables), {covered['slices']:.3f} (slices taken for independent) and"
            f" {covered['scans']:.3f} (scans).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="cross-validations a setting")
    parser.add_argument("--output", type=Path, help="also write the figures to FILE.json and FILE.md")
    arguments = parser.parse_args()
    result = measure(arguments.runs)
    print(markdown(result))
    if arguments.output:
        arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        arguments.output.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
