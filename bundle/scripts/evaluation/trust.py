"""Calibration and abstention of every model of a predictions table, each scan judged by other scans alone.

The scores of a repeat's other folds calibrate those of a fold, and are what its scans are compared with: no scan, and
no other scan of its fold, has a say in what is said of it. Where a table has one fold, its participants are dealt into
groups, which stand for folds.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scripts.evaluation.calibration import ece_of_perfect, fit_calibrator, reliability, slope_and_intercept
from scripts.evaluation.predictions import at_level, regions_of, scores
from scripts.model.calibration import LEAST_SUBJECTS, logits, vote_logits
from scripts.model.conformal import CANNOT_SAY, decisions, p_values
from scripts.model.familiarity import groups_of

#: Models whose scan-level probability is the share of slices that voted HH.
VOTERS = ("ResNet", "ResNetSWA")
#: Bins of the reliability of scans.
BINS = 10
#: How a row of a table of trust is named, and its numbers.
TRUST_WORDS = ("region", "model", "method")
TRUST_NUMBERS = (
    *("subjects", "ece_raw", "ece", "ece_perfect", "slope_raw", "slope", "intercept_raw", "intercept"),
    *("brier_raw", "brier", "error", "coverage", "coverage_HC", "coverage_HH", "cannot_say", "accuracy_where_said"),
)


class Trusted(NamedTuple):
    """Scans of one region and model, `[r, n]` repeats x participants but for the labels.

    Attributes:
        region, model: which.
        labels: `[n]`, 0 HC or 1 HH.
        raw: probability of HH as the model gave it.
        scores: its log odds.
        calibrated: the same, calibrated on other folds.
        p: `[r, n, 2]`, p of HC and of HH by the scores of other folds.
    """

    region: str
    model: str
    labels: np.ndarray
    raw: np.ndarray
    scores: np.ndarray
    calibrated: np.ndarray
    p: np.ndarray


def scan_scores(probabilities: np.ndarray, model: str, slices: int) -> np.ndarray:
    """Logits of scan-level probabilities; `slices` is how many a voter's shares are of."""
    return vote_logits(probabilities, slices) if model in VOTERS and slices else logits(probabilities)


def too_few(table: pd.DataFrame) -> str | None:
    """Why the scans of a table cannot be calibrated, in words; None where they can."""
    labels = at_level(table, "scan").groupby("participant_id")["label"].first()
    ill, healthy = int((labels == 1).sum()), int((labels == 0).sum())
    if len(labels) >= LEAST_SUBJECTS and min(ill, healthy) > 1:
        return None
    return (
        f"{len(labels)} subjects ({ill} HH, {healthy} HC) are too few to calibrate on, at least {LEAST_SUBJECTS} of"
        " both groups are due"
    )


def trusted(table: pd.DataFrame, method: str) -> Iterator[Trusted]:
    """Every region and model of a table at scan level, cross-fitted; nothing where `too_few`.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        method: of `scripts.model.calibration.METHODS`.
    """
    if too_few(table) is not None:
        return
    of_slices = at_level(table, "image")
    for region in regions_of(table, "scan"):
        chosen = scores(table, region, "scan")
        slices = of_slices[of_slices["region"] == region].groupby("model")["slice"].nunique()
        for model, raw in zip(chosen.models, chosen.probabilities, strict=True):
            score = scan_scores(raw, model, int(slices.get(model, 0)))
            fitted = [cross_fitted(chosen.labels, s, f, method) for s, f in zip(score, chosen.folds, strict=True)]
            yield Trusted(
                region,
                model,
                chosen.labels,
                raw,
                score,
                np.stack([calibrated for calibrated, _ in fitted]),
                np.stack([p for _, p in fitted]),
            )


def cross_fitted(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray, method: str, people: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities `[n]` and p of both groups `[n, 2]` of scans, each by the scans of other folds.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, logits.
        folds: `[n]`, the fold of each; where there is one, or one holds a whole class, people are dealt into groups.
        method: see `trusted`.
        people: `[n]`, whose scan each is, all of one fold; None: each of another person.
    """
    alone = len(np.unique(folds)) < 2 or any(len(np.unique(labels[folds != part])) < 2 for part in np.unique(folds))
    owners = np.arange(len(labels)) if people is None else np.asarray(people)
    parts = groups_of(labels, owners) if alone else folds
    calibrated, p = np.empty(len(labels)), np.empty((len(labels), 2))
    for part in np.unique(parts):
        here, there = parts == part, parts != part
        calibrated[here] = fit_calibrator(labels[there], scores[there], method, owners[there])(scores[here])
        p[here] = p_values(scores[here], known_scores(labels[there], scores[there], owners[there]))
    return calibrated, p


def known_scores(
    labels: np.ndarray, scores: np.ndarray, people: Sequence[Any] | np.ndarray | None = None
) -> dict[str, list[float]]:
    """Scores by group, rising: what new scans are compared with, one of each person.

    Of several scans of a person it is the one least like the person's group. So no person counts twice, and of new
    people at most the chosen share is denied the group in any of as many scans.

    Args:
        labels, scores: `[n]`, 0 or 1, logits.
        people: `[n]`, whose scan each is; None: each of another person.
    """
    owners = np.arange(len(labels)) if people is None else np.asarray(people)
    table = pd.DataFrame({"label": labels, "score": scores, "owner": owners}).groupby(["label", "owner"])["score"]
    ends = {"HC": (0, table.max()), "HH": (1, table.min())}
    return {group: np.sort(found.loc[label]).tolist() for group, (label, found) in ends.items()}


def coverage(found: Trusted, error: float) -> dict[str, float]:
    """What is said at an error, over all repeats: shares, 0..1.

    Returns:
        `coverage`: scans whose group was not ruled out, also `coverage_HC` and `coverage_HH`; `cannot_say`; and
        `accuracy_where_said`, NaN where nothing was said.
    """
    kept = np.take_along_axis(found.p, found.labels[None, :, None], axis=2)[..., 0] > error
    said = decisions(found.p, error)
    right = said == np.where(found.labels == 1, "HH", "HC")
    told = said != CANNOT_SAY
    return {
        "coverage": float(kept.mean()),
        "coverage_HC": float(kept[:, found.labels == 0].mean()),
        "coverage_HH": float(kept[:, found.labels == 1].mean()),
        "cannot_say": float(1 - told.mean()),
        "accuracy_where_said": float(right[told].mean()) if told.any() else float("nan"),
    }


def measured(found: Trusted) -> dict[str, float]:
    """ECE before and after calibration and of a perfect model, slope, intercept, Brier score; means over repeats."""
    rows = []
    for raw, score, calibrated in zip(found.raw, found.scores, found.calibrated, strict=True):
        before, after = (reliability(found.labels, values, BINS) for values in (raw, calibrated))
        slope_raw, intercept_raw = slope_and_intercept(found.labels, score)
        slope, intercept = slope_and_intercept(found.labels, logits(calibrated))
        rows.append(
            {
                "ece_raw": before.ece,
                "ece": after.ece,
                "ece_perfect": ece_of_perfect(calibrated, BINS),
                "slope_raw": slope_raw,
                "slope": slope,
                "intercept_raw": intercept_raw,
                "intercept": intercept,
                "brier_raw": before.brier,
                "brier": after.brier,
            }
        )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def trust_table(table: pd.DataFrame, method: str, error: float) -> pd.DataFrame:
    """A row a region and model: calibration before and after, coverage and abstention; no rows where `too_few`.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        method: of `scripts.model.calibration.METHODS`.
        error: see `scripts.model.conformal.decisions`.
    """
    rows: list[dict[str, Any]] = []
    for found in trusted(table, method):
        who = {"region": found.region, "model": found.model, "method": method, "subjects": len(found.labels)}
        rows.append({**who, **measured(found), "error": error, **coverage(found, error)})
    return pd.DataFrame(rows, columns=[*TRUST_WORDS, *TRUST_NUMBERS])
