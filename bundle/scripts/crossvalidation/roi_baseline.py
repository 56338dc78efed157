"""The hand-crafted approach that the paper argues against: nucleus means and age into logistic regression or an SVM.

And a rival that reads patterns as the network may: slopes within the nuclei and the difference of the sides as well.

(Paper, Discussion.) Nothing is learned from held-out participants: scaling, the SVM's regularisation-free calibration
(Platt, 1999) and the fit all happen inside the training fold.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from scripts.crossvalidation.harmonise import fit_combat
from scripts.errors import InputError
from scripts.evaluation.predictions import DEMOGRAPHICS, ROI_MODELS
from scripts.evaluation.subgroups import sex_of
from scripts.maps.bids import GROUPS, read_participants
from scripts.nuclei.table import age_of, nucleus_means, nucleus_patterns, read_tsv

#: How the two sides of a nucleus become features: one mean, or both.
SIDE_CHOICES = ("mean", "both")
#: Folds of the calibration inside the training fold.
CALIBRATION_FOLDS = 5


def roi_features(
    nuclei_table: str | os.PathLike, participants_table: str | os.PathLike, sides: str = "mean"
) -> list[dict[str, Any]]:
    """Features of every scan: mean QSM (ppm) and R2* (1/s) of each nucleus, and age (years).

    Args:
        nuclei_table: `nuclei.tsv` of configs/nuclei.yaml.
        participants_table: `participants.tsv` with `age` and `group`.
        sides: `mean` averages left and right (as the paper's ROI studies do, 9 features), `both` keeps them apart (17).

    Returns:
        One dictionary a scan: `participant_id`, `scan_id`, `label` (0 HC, 1 HH), `features` (float64 `[F]`), `names`,
        and `patterns` (float64 `[P]`, these and `scripts.nuclei.table.nucleus_patterns`; None where not measured).

    Raises:
        InputError: a table is missing or damaged; a participant without a row, a usable age or a known group; a scan
            whose nuclei could not be measured.
    """
    if sides not in SIDE_CHOICES:
        raise InputError(f"roi_sides {sides!r} is unknown; use {' or '.join(SIDE_CHOICES)}")
    people = read_participants(participants_table, ["participant_id", "age", "group"])
    scans = []
    for row in read_tsv(nuclei_table):
        who = row["participant_id"]
        if who not in people:
            raise InputError(f"{participants_table}: no row for {who!r}, who is in {nuclei_table}; add it")
        group = people[who]["group"]
        if group not in GROUPS:
            raise InputError(f"{participants_table}: group {group!r} of {who!r} is unknown; use HH or HC")
        features = nucleus_means(row, sides, nuclei_table) | {"age": age_of(people[who], participants_table)}
        missing = [name for name, value in features.items() if not np.isfinite(value)]
        if missing:
            raise InputError(
                f"{nuclei_table}: {row['scan_id']} has no {missing[0]}, it was not localised; annotate or leave it out"
            )
        scans.append(
            {
                "participant_id": who,
                "scan_id": row["scan_id"],
                "label": GROUPS[group],
                "features": np.array(list(features.values())),
                "names": list(features),
                "patterns": with_patterns(features, nucleus_patterns(row)),
                "site": people[who].get("site") or "n/a",
                "sex": sex_of(people[who].get("sex") or "n/a"),
            }
        )
    return scans


def with_patterns(features: Mapping[str, float], patterns: Mapping[str, float] | None) -> np.ndarray | None:
    """Features with those of patterns behind them; None where one of these is not known."""
    if patterns is None or not all(map(np.isfinite, patterns.values())):
        return None
    return np.array([*features.values(), *patterns.values()])


def roi_models(seed: int) -> dict[str, Pipeline | CalibratedClassifierCV]:
    """Untrained models by their names in the predictions table.

    Logistic regression (also of ROI-patterns) and SVM (radial basis functions) with scikit-learn's defaults, features
    standardised on what the model is fitted with. The SVM's distances become probabilities by Platt's sigmoid, fitted
    by cross-validation within the training fold.
    """
    svm = make_pipeline(StandardScaler(), SVC())
    inner = StratifiedKFold(CALIBRATION_FOLDS, shuffle=True, random_state=seed)
    models = (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        CalibratedClassifierCV(svm, method="sigmoid", cv=inner, ensemble=False),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    )
    return dict(zip(ROI_MODELS, models, strict=True))


def without_sites(
    fitted: Sequence[Mapping[str, Any]], known: np.ndarray, tested: Sequence[Mapping[str, Any]], unknown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides' features after ComBat, learned from `fitted`; age and sex are preserved.

    Raises:
        InputError: somebody's site or sex is not told, or see `scripts.crossvalidation.harmonise`.
    """
    for scan in (*fitted, *tested):
        if "n/a" in (scan["site"], scan["sex"]):
            raise InputError(
                f"roi_harmonise combat: needs site and sex of {scan['participant_id']!r}; fill them in in"
                " participants.tsv, or use --roi_harmonise none"
            )

    place = fitted[0]["names"].index("age")

    def covariates(scans: Sequence[Mapping[str, Any]], values: np.ndarray) -> np.ndarray:
        return np.column_stack([values[:, place], [scan["sex"] == "M" for scan in scans]]).astype(float)

    def nuclei(values: np.ndarray) -> np.ndarray:
        return np.delete(values, place, axis=1)

    combat = fit_combat(nuclei(known), [scan["site"] for scan in fitted], covariates(fitted, known))
    both = []
    for scans, values in ((fitted, known), (tested, unknown)):
        cleaned = combat(nuclei(values), [scan["site"] for scan in scans], covariates(scans, values))
        both.append(np.insert(cleaned, place, values[:, place], axis=1))
    return both[0], both[1]


def age_and_sex(people: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Features of every participant as of `roi_features`: age (years) and sex (1: man), nothing of an image.

    Raises:
        InputError: an age that is none.
    """
    return [
        {
            "participant_id": person["participant_id"],
            "label": GROUPS[person["group"]],
            "features": np.array([age_of(person, "participants.tsv"), float(person["sex"] == "M")]),
        }
        for person in people
    ]


def age_and_sex_rows(
    features: Sequence[Mapping[str, Any]], train: Collection[str], test: Collection[str], where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of the predictions table of logistic regression on age and sex: what a model must beat to see anything."""
    fitted = [person for person in features if person["participant_id"] in train]
    tested = [person for person in features if person["participant_id"] in test]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.stack([p["features"] for p in fitted]), [p["label"] for p in fitted])
    found = model.predict_proba(np.stack([p["features"] for p in tested]))[:, 1]
    return [
        {**where, "model": DEMOGRAPHICS, "participant_id": p["participant_id"], "slice": "", "label": p["label"],
         "probability_HH": float(probability)}
        for p, probability in zip(tested, found, strict=True)
    ]  # fmt: skip


def roi_baseline_rows(
    features: Sequence[Mapping[str, Any]],
    train: Collection[str],
    test: Collection[str],
    where: Mapping[str, Any],
    seed: int = 0,
    harmonise: str = "none",
) -> list[dict[str, Any]]:
    """Train on one fold's training participants, predict its held-out ones.

    Args:
        features: from `roi_features`.
        train, test: participant ids on either side of the split.
        where: `repeat`, `fold` and `region` of the rows (the features know no region: give each region its rows).
        seed: of the calibration's inner folds.
        harmonise: `combat` takes sites out of the nuclei before, learned from the training participants.

    Returns:
        Rows of the predictions table, scan level (`slice` empty), models ROI_MODELS, in the order of `features`;
        ROI-patterns only where every scan of the table has patterns.

    Raises:
        InputError: a participant on both sides or without features; too few training participants of a class.
    """
    both = sorted(set(train) & set(test))
    if both:
        raise InputError(f"ROI baseline: {both[0]!r} is in training and in test; split by participant")
    missing = sorted({*train, *test} - {scan["participant_id"] for scan in features})
    if missing:
        raise InputError(
            f"ROI baseline: no nuclei of {missing[0]!r}; run configs/nuclei.yaml on the whole cohort, or give"
            " --nuclei_table null for no such baseline"
        )
    fitted = [scan for scan in features if scan["participant_id"] in train]
    tested = [scan for scan in features if scan["participant_id"] in test]
    labels = np.array([scan["label"] for scan in fitted])
    fewest = int(np.bincount(labels, minlength=2).min()) if len(labels) else 0
    if fewest < CALIBRATION_FOLDS:
        raise InputError(
            f"ROI baseline: {fewest} training scans in the smaller class, at least {CALIBRATION_FOLDS} are due;"
            " take fewer folds or a larger cohort"
        )
    rows = []
    for name, model in roi_models(seed).items():
        kind = "patterns" if name == "ROI-patterns" else "features"
        if any(scan.get(kind) is None for scan in features):
            continue
        known = np.stack([scan[kind] for scan in fitted])
        unknown = np.stack([scan[kind] for scan in tested]) if tested else np.empty((0, known.shape[1]))
        if harmonise == "combat":
            known, unknown = without_sites(fitted, known, tested, unknown)
        model.fit(known, labels)
        probabilities = model.predict_proba(unknown)[:, 1] if len(unknown) else []
        for scan, probability in zip(tested, probabilities, strict=True):
            rows.append(
                {
                    **where,
                    "model": name,
                    "participant_id": scan["participant_id"],
                    "slice": "",
                    "label": scan["label"],
                    "probability_HH": float(probability),
                }
            )
    return rows
