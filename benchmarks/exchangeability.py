"""Is the simulated cohort exchangeable? A cross-validated reader against the same reader on new subjects.

Run from anywhere: `python benchmarks/exchangeability.py [--output FILE.json]`; two minutes on one core. The reader is
logistic regression on the latent parameters that each subject of `configs/simulate.yaml` is drawn from, so no image is
made. On each of 100 cohorts of the paper's size it is cross-validated in ten folds, and trained on nine tenths and
tested on many new subjects. The two AUCs agree on average where folds tell as little about each other as about new
subjects. It also prints how far the luck of the draw moves the oracle, who reads the truth, from cohort to cohort.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))
from scripts.evaluation.auc import delong, interval, within_folds  # noqa: E402
from scripts.simulation.iron import DRAWS, Latent, draw_latents, log_likelihood_ratio, population_auc  # noqa: E402

COHORTS, NEW_SUBJECTS, FOLDS = 100, 4000, 10


def auc(is_hh: np.ndarray, score: np.ndarray) -> float:
    """AUC from ranks."""
    positives = int(is_hh.sum())
    won = rankdata(score)[is_hh].sum() - positives * (positives + 1) / 2
    return float(won / (positives * (len(is_hh) - positives)))


def reader():
    """Logistic regression, as in `scripts.simulation.difficulty`."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))


def one_cohort(rng: np.random.Generator, groups: list[str], latents: dict[str, Latent], draws: str) -> dict[str, float]:
    """AUCs of one cohort: pooled and within folds with their intervals, on new subjects, and of the oracle."""
    is_hh = np.array(groups) == "HH"
    values = draw_latents(rng, groups, latents, draws)
    new_groups = ["HH", "HC"] * (NEW_SUBJECTS // 2)
    new_values, new_hh = draw_latents(rng, new_groups, latents), np.array(new_groups) == "HH"
    probability, fold_of, external = np.zeros(len(groups)), np.zeros(len(groups), int), []
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    for fold, (train, test) in enumerate(split.split(values, is_hh)):
        model = reader().fit(values[train], is_hh[train])
        probability[test], fold_of[test] = model.predict_proba(values[test])[:, 1], fold
        external.append(auc(new_hh, model.decision_function(new_values)))
    found = {"external": float(np.mean(external)), "oracle": auc(is_hh, log_likelihood_ratio(values, latents))}
    labels, probabilities = is_hh.astype(int), probability[None, None]
    for name, aucs in (
        ("pooled", delong(labels, probabilities)),
        ("within_folds", within_folds(labels, probabilities, np.arange(len(labels)), fold_of[None])),
    ):
        low, high = interval(aucs.values[0], aucs.covariance[0, 0])
        found |= {name: float(aucs.values[0]), f"{name}_covered": float(low <= found["external"] <= high)}
    return found


def measure() -> dict[str, object]:
    """For each way to draw: means over the cohorts, and standard errors and spread where they matter."""
    config = yaml.safe_load((BUNDLE / "configs" / "simulate.yaml").read_text())
    latents = {name: Latent(**latent) for name, latent in config["latents"].items()}
    size = config["sizes"]["paper"]
    groups = ["HH"] * size["hh"] + ["HC"] * size["hc"]
    result: dict[str, object] = {
        "simulated": True,
        "cohorts": COHORTS,
        "subjects": len(groups),
        "folds": FOLDS,
        "population_oracle": population_auc(latents),
    }
    for draws in DRAWS:
        found = [one_cohort(np.random.default_rng([seed, 14]), groups, latents, draws) for seed in range(COHORTS)]
        columns = {key: np.array([one[key] for one in found]) for key in found[0]}
        gap = columns["within_folds"] - columns["external"]
        result[draws] = {key: float(values.mean()) for key, values in columns.items()} | {
            "gap_within_folds": float(gap.mean()),
            "gap_within_folds_se": float(gap.std(ddof=1) / np.sqrt(COHORTS)),
            "gap_pooled": float((columns["pooled"] - columns["external"]).mean()),
            "gap_pooled_se": float((columns["pooled"] - columns["external"]).std(ddof=1) / np.sqrt(COHORTS)),
            "oracle_sd": float(columns["oracle"].std(ddof=1)),
            "oracle_95_percent": [float(v) for v in np.quantile(columns["oracle"], (0.025, 0.975))],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    output = parser.parse_args().output

    result = measure()
    print(f"\n{COHORTS} simulated cohorts of {result['subjects']} subjects; AUC of a reader of the latents\n")
    heads = ("draws", "pooled", "within folds", "new subjects", "within - new", "oracle", "its 95 %")
    print("".join(f"{head:>16}" for head in heads))
    for draws in DRAWS:
        row = result[draws]
        low, high = row["oracle_95_percent"]
        cells = [
            draws,
            f"{row['pooled']:.4f}",
            f"{row['within_folds']:.4f}",
            f"{row['external']:.4f}",
            f"{row['gap_within_folds']:+.4f} +- {row['gap_within_folds_se']:.4f}",
            f"{row['oracle']:.4f}",
            f"{low:.3f}-{high:.3f}",
        ]
        print("".join(f"{cell:>16}" for cell in cells))
    print("\nintervals that held the AUC on new subjects (95 % promised):")
    for draws in DRAWS:
        row = result[draws]
        print(f"{draws:>16}: pooled {row['pooled_covered']:.2f}, within folds {row['within_folds_covered']:.2f}")
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
