"""Figures of merit from the predictions table, and from nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

#: The predictions table: one row a slice, and one row a scan with `slice` empty.
PREDICTION_COLUMNS = ("repeat", "fold", "region", "model", "participant_id", "slice", "label", "probability_HH")
#: The paper's models, in the order of its tables.
MODELS = ("ResNet", "ResNetSWA", "Q-Net")


def vote(slice_probabilities: np.ndarray) -> float:
    """Share of a scan's slices that are classified HH (paper, Scan-Level Classification); 0.5, a tie, counts as HH."""
    return float(np.mean(np.asarray(slice_probabilities) >= 0.5))


def metrics(labels: Sequence[int], probabilities: Sequence[float]) -> dict[str, float | int]:
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
    predicted = (probability >= 0.5).astype(int)
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
        rows: of the predictions table (PREDICTION_COLUMNS) of one repeat and region.

    Returns:
        One dictionary a level and model: `level` (image or scan), `model`, and what `metrics` gives.
    """
    summary = []
    for level in ("image", "scan"):
        for model in MODELS:
            chosen = [r for r in rows if r["model"] == model and (r["slice"] == "") == (level == "scan")]
            if chosen:
                values = metrics([int(r["label"]) for r in chosen], [float(r["probability_HH"]) for r in chosen])
                summary.append({"level": level, "model": model, **values})
    return summary
