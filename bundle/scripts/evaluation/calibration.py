"""How far probabilities can be taken at their word: reliability, Brier score, calibration error; their mending."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from scripts.evaluation.statistics import rate_interval
from scripts.model.calibration import Calibrator

#: Made-up cohorts behind the ECE that a perfect model would show.
PERFECT_COHORTS = 500


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


def ece_of_perfect(probabilities: np.ndarray, bins: int, seed: int = 0) -> float:
    """The ECE that these very probabilities show on average where they are perfectly calibrated: its bias at this size.

    A bin's share of HH differs from its mean by chance, and ECE takes the absolute difference, so it is never 0
    (Roelofs et al., AISTATS 2022). Labels are drawn from the probabilities, PERFECT_COHORTS times.

    Args:
        probabilities: `[n]`, 0..1, each of another participant.
        bins: see `reliability`.
        seed: of the draws.
    """
    probability = np.asarray(probabilities, dtype=float)
    drawn = np.random.default_rng(seed).random((PERFECT_COHORTS, len(probability))) < probability
    inside = np.eye(bins)[bin_of(probability, bins)]  # [n, bins]
    return float(np.abs((drawn - probability) @ inside).sum(1).mean() / len(probability))


def slope_and_intercept(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of calibration (Cox 1958; Van Calster et al., J Clin Epidemiol 2016, 74:167).

    Slope: of the logistic regression of the labels on the logits; below 1, probabilities are too far apart. Intercept:
    what must be added to all logits so that as many cases as observed are expected; above 0, they are too low. Both are
    1 and 0 where calibration is perfect; the slope is NaN where the groups do not overlap, or meet in one score alone
    (Albert and Anderson, Biometrika 1984, 71:1), so that it has no end.

    Args:
        labels: `[n]`, 0 or 1, both present.
        scores: `[n]`, log odds of the probabilities.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=float)
    ill, healthy = score[label == 1], score[label == 0]
    slope = float("nan")
    if ill.min() < healthy.max() and ill.max() > healthy.min():
        slope = _logistic(score, label, np.ones(len(score)), True)[0]
    intercept = brentq(lambda shift: float(np.sum(expit(score + shift) - label)), -50, 50)
    return slope, float(intercept)


def fit_calibrator(
    labels: np.ndarray, scores: np.ndarray, method: str, people: Sequence[Any] | np.ndarray | None = None
) -> Calibrator:
    """Fit a calibrator to scans that the model was not trained on; each person counts once, whatever their scans.

    Both methods aim at Platt's softened targets, (n1 + 1) / (n1 + 2) for HH and 1 / (n0 + 2) for HC, so that they end
    where the groups do not overlap too.

    Args:
        labels: `[n]`, 0 or 1, both present.
        scores: `[n]`, logits.
        method: `platt` (slope and intercept) or `temperature` (slope alone).
        people: `[n]`, whose scan each is; None: each of another person.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=float)
    share = share_of_person(label, people)
    ill, healthy = (round(float(share[label == group].sum())) for group in (1, 0))
    target = np.where(label == 1, (ill + 1) / (ill + 2), 1 / (healthy + 2))
    # each scan stands twice, as HH and as HC, with its target as weight
    weights = np.concatenate([share * target, share * (1 - target)])
    slope, intercept = _logistic(np.tile(score, 2), np.repeat([1, 0], len(score)), weights, method == "platt")
    return Calibrator(method, slope, intercept, ill / (ill + healthy))


def share_of_person(labels: np.ndarray, people: Sequence[Any] | np.ndarray | None) -> np.ndarray:
    """What each scan counts, `[n]`: one by the number of its person's scans of the same group."""
    if people is None:
        return np.ones(len(labels))
    table = pd.DataFrame({"label": np.asarray(labels), "owner": np.asarray(people)})
    return 1 / table.groupby(["label", "owner"])["label"].transform("size").to_numpy(dtype=float)


def _logistic(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, with_intercept: bool) -> tuple[float, float]:
    """Slope and intercept (0 without) of a logistic regression without penalty."""
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, fit_intercept=with_intercept)
    model.fit(scores[:, None], labels, weights)
    return float(model.coef_[0, 0]), float(model.intercept_[0]) if with_intercept else 0.0
