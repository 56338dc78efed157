"""How far probabilities can be taken at their word: reliability, Brier score, calibration error."""

from typing import NamedTuple

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from scripts.evaluation.statistics import rate_interval


def bin_of(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Which of equally wide bins over 0..1 each probability is in; an edge is of the bin below, as in scikit-learn."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities)


def bin_intervals(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, bins: int) -> np.ndarray:
    """95 % intervals of the share of HH in each non-empty bin, `[bins, 2]`, over participants (Wilson).

    Args:
        labels, probabilities, bins: see `reliability`.
        clusters: `[n]`, the participant of each case; repeats of a case are of the same participant.
    """
    place = bin_of(probabilities, bins)
    return np.array([rate_interval(labels[place == b], clusters[place == b]) for b in np.unique(place)])


class Calibration(NamedTuple):
    """Reliability: per non-empty bin its place (0..), mean probability, share of HH and number of cases."""

    place: np.ndarray
    mean_probability: np.ndarray
    share_positive: np.ndarray
    cases: np.ndarray
    brier: float
    ece: float


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> Calibration:
    """Brier score, expected calibration error (Naeini et al., AAAI 2015) and the points of a calibration curve.

    Args:
        labels: `[n]`, 0 or 1.
        probabilities: `[n]`, 0..1.
        bins: equally wide bins over 0..1.
    """
    share, mean = calibration_curve(labels, probabilities, pos_label=1, n_bins=bins)
    place, count = np.unique(bin_of(probabilities, bins), return_counts=True)
    ece = float(np.average(np.abs(mean - share), weights=count))
    brier = float(brier_score_loss(labels, probabilities, pos_label=1))
    return Calibration(place, mean, share, count, brier, ece)
