r"""Do calibration and answers keep their word over many cohorts?

    # one cohort calibrates the weights (configs/calibrate.yaml), then as many as there is time for are judged
    cd bundle
    for seed in $(seq 41 60); do
        python -m monai.bundle run --config_file configs/simulate.yaml --output_dir COHORTS/$seed --size paper \
            --seed $seed
        python -m monai.bundle run --config_file "['configs/train.yaml','configs/evaluate.yaml']" \
            --dataset_dir COHORTS/$seed --val_datalist '$@cohort' --evaluation_dir TABLES/$seed
    done
    python ../benchmarks/coverage.py TABLES/*/predictions.csv --weights models/model.pt

Each table is of one cohort that neither trained nor calibrated the weights. Without `--weights`, tables of
cross-validations are judged each by itself, every fold by the scores of its other folds. Goals: ECE at most .05 after
calibration (beside it, what a perfect model shows at that size), coverage within 3 points of what was asked on average.
Writes `results/coverage.json` and `.md`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
sys.path[:0] = [str(BUNDLE)]

from scripts.evaluation.calibration import ece_of_perfect, reliability  # noqa: E402
from scripts.evaluation.predictions import read_predictions, scores  # noqa: E402
from scripts.evaluation.trust import BINS, Trusted, coverage, measured, scan_scores, trusted  # noqa: E402
from scripts.files.writing import sha256, write_json, write_text  # noqa: E402
from scripts.model.calibration import Calibrator  # noqa: E402
from scripts.model.conformal import p_values  # noqa: E402
from scripts.model.trust import read_calibration  # noqa: E402
from scripts.provenance import read_record, software  # noqa: E402

RESULTS = HERE / "results"
GOAL_ECE, GOAL_COVERAGE = 0.05, 0.03
#: Configs of the two recipes; the second is an overlay on the first.
RECIPES = ("train", "quantities")


def judged(path: Path, region: str, model: str, weights: Path | None, method: str) -> Trusted:
    """Scans of one table, calibrated by the weights' calibration, or each fold by its other folds."""
    table = read_predictions(path)
    if weights is None:
        return next(one for one in trusted(table, method) if (one.region, one.model) == (region, model))
    known, why = read_calibration(weights)
    if known is None:
        sys.exit(f"error: {weights}: {why}")
    chosen = scores(table, region, "scan", [model])
    score = scan_scores(chosen.probabilities[0], model, 0)
    fitted = known["calibration"]
    calibrator = Calibrator(fitted["method"], fitted["slope"], fitted["intercept"], fitted["prevalence"])
    p = p_values(score, known["scores"])
    return Trusted(region, model, chosen.labels, chosen.probabilities[0], score, calibrator(score), p)


def recipe_of(settings: dict[str, Any]) -> str | None:
    """Which of our recipes a record's settings are, by all keys in which the two differ; None: neither."""
    plain, ours = (ConfigParser.load_config_file(BUNDLE / "configs" / f"{name}.yaml") for name in RECIPES)
    changed = {key: value for key, value in ours.items() if not key.startswith(("+", "_"))}
    changed |= {f"augment#{key}": value for key, value in ours["+augment"].items()}
    changed.pop("precision")  # how it is computed, not what
    found = {
        "paper": {key: ConfigParser(plain)[key] for key in changed},
        "quantities": changed,
    }
    return next((name for name, own in found.items() if all(settings.get(k) == v for k, v in own.items())), None)


def about(weights: Path) -> dict[str, Any]:
    """The recipe of weights, on how many scans they were trained (what a strange scan is compared with), calibrated."""
    known, why = read_calibration(weights)
    if known is None:
        sys.exit(f"error: {weights}: {why}")
    return {
        "recipe": recipe_of(read_record(weights.with_suffix(".json")).get("settings", {})),
        "trained_on": (known["familiarity"] or {}).get("scans"),
        "calibrated_on": known["participants"],
        "scores_from": known["scores_from"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="predictions.csv of each cohort")
    parser.add_argument("--weights", type=Path, help="calibrated weights that made the tables; none: cross-validations")
    parser.add_argument("--region", default="cropped")
    parser.add_argument("--model", default="Q-Net")
    parser.add_argument("--method", default="platt", choices=("platt", "temperature"))
    parser.add_argument("--errors", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--output", type=Path, default=RESULTS / "coverage", help="path without ending")
    given = parser.parse_args()
    found = [judged(path, given.region, given.model, given.weights, given.method) for path in given.tables]
    rows = [measured(one) for one in found]
    together = np.concatenate([one.calibrated[0] for one in found]), np.concatenate([one.labels for one in found])
    content: dict[str, Any] = {
        "software": software(),
        "cohorts": len(found),
        "scans": [len(one.labels) for one in found],
        "weights_sha256": None if given.weights is None else sha256(given.weights),
        "weights": None if given.weights is None else about(given.weights),
        "mean": {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]},
        "all_scans": {
            "ece": reliability(together[1], together[0], BINS).ece,
            "ece_perfect": ece_of_perfect(together[0], BINS),
            "goal_ece": GOAL_ECE,
        },
        "answers": {},
    }
    for error in given.errors:
        shares = [coverage(one, error) for one in found]
        content["answers"][f"{error:g}"] = {
            key: {"mean": float(np.nanmean([s[key] for s in shares])), "sd": float(np.nanstd([s[key] for s in shares]))}
            for key in shares[0]
        }
    content["goal_coverage"] = GOAL_COVERAGE
    write_json(given.output.with_suffix(".json"), content)
    mean, pooled = content["mean"], content["all_scans"]
    lines = [
        f"# Calibration and coverage over {len(found)} simulated cohorts",
        "",
        f"ECE {mean['ece_raw']:.3f} before and {mean['ece']:.3f} after calibration, where a perfect model shows"
        f" {mean['ece_perfect']:.3f}; of all scans together {pooled['ece']:.3f}, a perfect model"
        f" {pooled['ece_perfect']:.3f}"
        f" (goal {GOAL_ECE}). Slope {mean['slope']:.2f}, intercept {mean['intercept']:+.2f}, Brier score"
        f" {mean['brier_raw']:.3f} before, {mean['brier']:.3f} after.",
        "",
        "| wanted error | coverage | HC | HH | cannot say | right where said |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for error, row in content["answers"].items():
        keys = ("coverage", "coverage_HC", "coverage_HH", "cannot_say", "accuracy_where_said")
        lines.append(f"| {error} | " + " | ".join(f"{row[k]['mean']:.3f} ± {row[k]['sd']:.3f}" for k in keys) + " |")
    text = "\n".join(lines) + "\n"
    write_text(given.output.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
