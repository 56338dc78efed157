"""Measures of one classifier at the paper's threshold, and intervals of rates; AUCs are compared in `auc.py`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

#: Probability from which a case is classified HH (the paper's classes are those of the larger probability).
THRESHOLD = 0.5


def vote(slice_probabilities: np.ndarray) -> float:
    """Share of a scan's slices that are classified HH (paper, Scan-Level Classification); 0.5, a tie, counts as HH."""
    return float(np.mean(np.asarray(slice_probabilities) >= THRESHOLD))


def metrics(labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray) -> dict[str, float | int]:
    """The paper's measures of one classifier, HH being positive and 0.5 the threshold.

    Args:
        labels: 0 (HC) or 1 (HH), both present.
        probabilities: of HH, 0..1.

    Returns:
        Counts `tp, fn, tn, fp`; `accuracy`, `sensitivity`, `specificity`, `f1` (mean by class size), `auc`; all 0..1.

    Raises:
        ValueError: one class only, or a probability that is not a finite number in 0..1.
    """
    label, probability = np.asarray(labels), np.asarray(probabilities, dtype=float)
    if set(np.unique(label)) != {0, 1}:
        raise ValueError("both classes must be present to measure a classifier")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must be finite numbers in 0..1")
    predicted = (probability >= THRESHOLD).astype(int)
    tn, fp, fn, tp = (int(v) for v in confusion_matrix(label, predicted, labels=[0, 1]).ravel())
    return {
        "tp": tp,
        "fn": fn,
        "tn": tn,
        "fp": fp,
        "accuracy": (tp + tn) / len(label),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "f1": float(f1_score(label, predicted, average="weighted")),
        "auc": float(roc_auc_score(label, probability)),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measures of every model at image and at scan level.

    Args:
        rows: of the predictions table (`scripts.evaluation.predictions`) of one repeat and region.

    Returns:
        One dictionary a level and model: `level` (image or scan), `model`, and what `metrics` gives; models in the
        order of the rows.
    """
    summary = []
    for level in ("image", "scan"):
        for model in dict.fromkeys(r["model"] for r in rows):
            chosen = [r for r in rows if r["model"] == model and (r["slice"] == "") == (level == "scan")]
            if chosen:
                values = metrics([int(r["label"]) for r in chosen], [float(r["probability_HH"]) for r in chosen])
                summary.append({"level": level, "model": model, **values})
    return summary


def wilson(rate: float, size: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927).

    Args:
        rate: share of successes, 0..1.
        size: number of independent trials; any positive number, so that it may be an `effective_size`.
        confidence: of the interval.

    Raises:
        ValueError: a rate outside 0..1 or a size that is not positive.
    """
    if not 0 <= rate <= 1 or not size > 0:
        raise ValueError("a rate lies in 0..1, and needs at least one trial")
    # scipy's binomtest takes whole sizes only; statsmodels' proportion_confint is this too, at 12 MB for three lines
    z = norm.ppf((1 + confidence) / 2)
    centre = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    margin = z * np.sqrt(rate * (1 - rate) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return float(max(0.0, centre - margin)), float(min(1.0, centre + margin))


def effective_size(correct: np.ndarray, clusters: np.ndarray) -> float:
    """How many independent cases tell as much about a rate as these cases of clusters (Rao and Scott 1992).

    The number of cases divided by the design effect: the ratio estimator's variance over clusters, against that of
    independent cases; both without small-sample factor, so that clusters of one give their number, and copies of a case
    within its cluster add nothing. Never above the number of cases. A rate of 0 or 1 does not show how alike the cases
    of a cluster are; they then count as copies.

    Args:
        correct: `[n]`, 0..1: whether each case is right, averaged over repeats of the cross-validation. These test the
            same cases again, so they add none.
        clusters: `[n]`, which participant each case belongs to.
    """
    correct, clusters = np.asarray(correct, dtype=float), np.unique(np.asarray(clusters), return_inverse=True)[1]
    rate, sizes = correct.mean(), np.bincount(clusters)
    if rate in (0, 1):
        return float(len(sizes))
    spread = np.sum((np.bincount(clusters, correct) - sizes * rate) ** 2) / len(correct) ** 2
    return float(min(len(correct), rate * (1 - rate) / spread) if spread > 0 else len(correct))


def rate_interval(correct: np.ndarray, clusters: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the share of correct cases: Wilson's with the effective size of the clustered cases.

    One case a participant gives Wilson's interval itself. See `effective_size` for the arguments.
    """
    return wilson(float(np.mean(correct)), effective_size(correct, clusters), confidence)
