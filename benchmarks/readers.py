"""What readers other than the networks reach on the measured simulated cohorts: an oracle, and nucleus means.

    python benchmarks/readers.py oracle
    python benchmarks/readers.py means --training COHORT --test COHORT
    python benchmarks/readers.py spread --training COHORT --test COHORT

`oracle` draws the subjects of every cohort that `results/*/cohort.json` names (seconds, no images) and gives the scan
AUC of whoever reads their true latent parameters: the luck of that very cohort. `means` trains logistic regression on
the true nuclei's mean QSM and R2* and age, on nine tenths of a simulated cohort (those that train with fold 0), and
tests it on all subjects of another: as Q-Net's shipped weights were tested. `spread` fits normal distributions to what
the readers of `scripts.simulation.difficulty` measured on both cohorts, draws 200 cohorts of the first one's size from
them, and says where 95 % of the cross-validated AUCs lie: the `targets` of `configs/simulate.yaml`. All write into
`results/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "bundle"))
from scripts.evaluation.auc import delong, interval  # noqa: E402
from scripts.files.table import read_table  # noqa: E402
from scripts.maps.bids import labelled_scans, split  # noqa: E402
from scripts.provenance import cohort_fingerprint  # noqa: E402
from scripts.simulation.cohort import draw_participants  # noqa: E402
from scripts.simulation.difficulty import cross_validated_auc, nucleus_mean_features, nucleus_pattern_features  # noqa: E402
from scripts.simulation.iron import Latent, log_likelihood_ratio, population_auc  # noqa: E402


def with_interval(is_hh: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """AUC with its 95 % interval over subjects."""
    aucs = delong(is_hh.astype(int), score[None, None])
    low, high = interval(aucs.values[0], aucs.covariance[0, 0])
    return {"auc": float(aucs.values[0]), "ci_low": low, "ci_high": high}


def oracle(size: str, seed: int, draws: str) -> dict[str, float]:
    """AUC of the oracle on the cohort that `configs/simulate.yaml` makes with these keys, and on all subjects ever."""
    config = yaml.safe_load((ROOT / "bundle" / "configs" / "simulate.yaml").read_text())
    latents = {name: Latent(**latent) for name, latent in config["latents"].items()}
    people = draw_participants(
        np.random.default_rng(np.random.SeedSequence([seed, 0])),
        **{key: config["sizes"][size][key] for key in ("hh", "hc", "men")},
        **config["ages"],
        latents=latents,
        draws=draws,
    )
    is_hh = np.array([person.group == "HH" for person in people])
    values = np.array([[person.latents[name] for name in latents] for person in people])
    return with_interval(is_hh, log_likelihood_ratio(values, latents)) | {"population": population_auc(latents)}


def features(cohort: Path, measured_by: Callable = nucleus_mean_features) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Participants of a simulated cohort, what a reader measures in their true nuclei and age, and who has HH."""

    def rows(path: Path) -> dict[str, dict[str, str]]:
        return {row["participant_id"]: row for row in read_table(path, ["participant_id"], unique=["participant_id"])}

    people, nuclei = rows(cohort / "participants.tsv"), rows(cohort / "derivatives" / "groundtruth" / "nuclei.tsv")
    measured = [{k: float(v) for k, v in nuclei[name].items() if k != "participant_id"} for name in people]
    ages = np.array([float(person["age"]) for person in people.values()])
    return list(people), measured_by(measured, ages), np.array([p["group"] == "HH" for p in people.values()])


def means(training: Path, test: Path) -> dict[str, object]:
    """The reader of nucleus means and age, trained on fold 0's training subjects of one cohort, tested on another."""
    train, _ = split(labelled_scans(training), 10, 0, 0)
    chosen = {scan.participant_id for scan in train}
    names, known, known_hh = features(training)
    among = np.array([name in chosen for name in names])
    _, unknown, unknown_hh = features(test)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(known[among], known_hh[among])

    def about(cohort: Path) -> dict[str, object]:
        made = json.loads((cohort / "dataset_description.json").read_text())["GeneratedBy"][0]
        settings = made.get("Settings", made)
        return {"sha256": cohort_fingerprint(cohort)["sha256"]} | {
            key: settings[key] for key in ("size", "seed", "draws") if key in settings
        }

    return {
        "simulated": True,
        "reader": "logistic regression on mean QSM and R2* of the true nuclei, and age",
        "training": about(training) | {"subjects": int(among.sum())},
        "test": about(test) | {"subjects": len(unknown_hh)},
        **with_interval(unknown_hh, model.decision_function(unknown)),
    }


def spread(training: Path, test: Path, cohorts: int = 200) -> dict[str, object]:
    """Where the cross-validated AUCs of the readers lie in 95 % of cohorts like the first."""
    found: dict[str, object] = {"simulated": True, "cohorts": cohorts}
    for name, measured_by in (("nucleus_means", nucleus_mean_features), ("nucleus_patterns", nucleus_pattern_features)):
        (_, first, is_hh), (_, second, other_hh) = (features(cohort, measured_by) for cohort in (training, test))
        values, of_hh = np.concatenate([first, second]), np.concatenate([is_hh, other_hh])
        rng, aucs = np.random.default_rng(14), []
        groups = [
            (values[of_hh == g].mean(0), np.cov(values[of_hh == g].T), int((is_hh == g).sum())) for g in (True, False)
        ]
        for _ in range(cohorts):
            drawn = np.concatenate([rng.multivariate_normal(mean, covariance, n) for mean, covariance, n in groups])
            aucs.append(cross_validated_auc(drawn, np.repeat([True, False], [groups[0][2], groups[1][2]]), 1))
        found[name] = {
            "mean": float(np.mean(aucs)),
            "95_percent": [float(v) for v in np.quantile(aucs, (0.025, 0.975))],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=("oracle", "means", "spread"))
    parser.add_argument("--training", type=Path, help="means: a simulated cohort")
    parser.add_argument("--test", type=Path, help="means: another")
    arguments = parser.parse_args()
    if arguments.reader == "means":
        found = means(arguments.training, arguments.test)
        path = RESULTS / "paper_size_seed2" / "nucleus_means.json"
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{path.relative_to(ROOT)}: AUC {found['auc']:.3f} ({found['ci_low']:.2f} to {found['ci_high']:.2f})")
        return
    if arguments.reader == "spread":
        found = spread(arguments.training, arguments.test)
        (RESULTS / "readers_spread.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2))
        return
    for path in sorted(RESULTS.glob("*/cohort.json")):
        cohort = {key: value for key, value in json.loads(path.read_text()).items() if key in ("size", "seed", "draws")}
        found = oracle(**cohort)
        path.write_text(json.dumps({"simulated": True, **cohort, "oracle": found}, indent=2) + "\n")
        print(f"{path.relative_to(ROOT)}: AUC {found['auc']:.3f}, population {found['population']:.3f}")


if __name__ == "__main__":
    main()
