"""How hard a cohort is: the AUC of three readers who know more than an image does, and the range it should lie in.

The oracle reads the true latents; no reader is better on average. The means reader has what a study of regions of
interest has: nucleus means and age. The pattern reader measures slopes inside perfectly segmented nuclei on the noisy
maps. Both of these learn from nine tenths of this cohort, so they are no bound: an image model that learns from more
subjects, or sees what they do not measure, may be better.

The ranges are where 95 of 100 cohorts of the paper's size lie: a cohort of so few subjects has its luck, which the
oracle on this very cohort shows beside the oracle over infinitely many subjects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scripts.anatomy.atlas import NUCLEI, SIDES
from scripts.simulation.iron import Latent, log_likelihood_ratio, population_auc

MAPS = ("Chimap", "R2starmap")
# What is measured for each reader, in words for the table.
READERS = {
    "oracle_population": "oracle, true latents, infinitely many subjects",
    "oracle_cohort": "oracle, true latents, this cohort",
    "nucleus_means": "logistic regression on nucleus means and age",
    "nucleus_patterns": "logistic regression on slopes and sides in true nuclei",
}
# Slopes along the axes on which HH acts, and sides: QSM and R2* averaged.
_PATTERNS = (
    *("putamen_posterior", "caudate_posterior", "pallidum_lateral", "thalamus_posterior"),
    *("putamen_head", "caudate_head", "pallidum_head"),
)
_FOLDS, _REPEATS = 10, 5


def cross_validated_auc(features: np.ndarray, is_hh: np.ndarray, repeats: int = _REPEATS) -> float:
    """AUC of logistic regression over pooled test folds, mean over repeats of 10-fold cross-validation.

    Args:
        features: ``[subjects, features]``; standardised in each fold.
        is_hh: bool ``[subjects]``.
        repeats: number of random splits.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    folds = min(_FOLDS, int(min(is_hh.sum(), (~is_hh).sum())))
    scores = []
    for repeat in range(repeats):
        split = StratifiedKFold(folds, shuffle=True, random_state=repeat)
        probability = cross_val_predict(model, features, is_hh, cv=split, method="predict_proba")[:, 1]
        scores.append(roc_auc_score(is_hh, probability))
    return float(np.mean(scores))


def nucleus_mean_features(rows: list[dict[str, float]], ages: np.ndarray) -> np.ndarray:
    """Mean QSM and R2* of each nucleus (both sides averaged) and age, ``[subjects, 9]``."""
    columns = [
        [np.mean([row[f"{suffix}_{side}_{nucleus}"] for side in SIDES]) for row in rows]
        for suffix in MAPS
        for nucleus in NUCLEI
    ]
    return np.column_stack([*columns, ages])


def nucleus_pattern_features(rows: list[dict[str, float]], ages: np.ndarray) -> np.ndarray:
    """Relative slopes inside the nuclei, mean asymmetry, nucleus means and age, ``[subjects, 17]``."""
    slopes = [[np.mean([row[f"{suffix}_{name}"] for suffix in MAPS]) for row in rows] for name in _PATTERNS]
    # Sides differ by the same factor in all nuclei; the best measured map and nuclei carry it.
    sides = [[np.mean([row[f"{suffix}_{n}_asymmetry"] for suffix in MAPS for n in NUCLEI[:3]]) for row in rows]]
    return np.column_stack([*slopes, *np.log(np.maximum(sides, 1e-3)), nucleus_mean_features(rows, ages)])


def measure(
    groups: list[str],
    ages: np.ndarray,
    values: np.ndarray,
    rows: list[dict[str, float]],
    latents: dict[str, Latent],
) -> dict[str, float]:
    """AUC of every entry of ``READERS``.

    Args:
        groups: ``HH`` or ``HC`` per subject.
        ages: years, ``[subjects]``.
        values: latents, ``[subjects, latents]``.
        rows: what ``subject.measure_nuclei`` measured on each subject's maps.
        latents: the distributions that ``values`` were drawn from.
    """
    is_hh = np.array(groups) == "HH"
    return {
        "oracle_population": population_auc(latents),
        "oracle_cohort": float(roc_auc_score(is_hh, log_likelihood_ratio(values, latents))),
        "nucleus_means": cross_validated_auc(nucleus_mean_features(rows, ages), is_hh),
        "nucleus_patterns": cross_validated_auc(nucleus_pattern_features(rows, ages), is_hh),
    }


def table(auc: dict[str, float], targets: Mapping[str, Sequence[float]]) -> str:
    """The AUC of every reader beside the range it was designed for, as plain text."""
    width = max(map(len, READERS.values()))
    lines = [f"{'Difficulty (area under the ROC curve)':<{width}}  here   expected"]
    for key, words in READERS.items():
        low, high = targets[key]
        note = "" if low <= auc[key] <= high else "  outside"
        lines.append(f"{words:<{width}}  {auc[key]:.3f}  {low:.2f}-{high:.2f}{note}")
    luck = auc["oracle_cohort"] - auc["oracle_population"]
    lines.append(
        f"The luck of this draw: the oracle is {abs(luck):.3f} {'better' if luck > 0 else 'worse'} than usual."
    )
    return "\n".join(lines)
