"""Iron rises with age: curves of healthy controls for each nucleus, percentile bands, and a subject's z-scores.

The form is that of Hallgren and Sourander (J Neurochem 1958, 3:41): value = rise * (1 - exp(-rate * age)) + start.
Curves are fitted to the healthy controls of the training participants only, so that a z-score of a held-out subject
knows nothing about them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import norm

from scripts.anatomy.atlas import NUCLEI, SIDES
from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.writing import as_json, sha256, write_text
from scripts.maps.bids import anat_folders, find_scans, read_participants
from scripts.nuclei.current import check_current
from scripts.nuclei.table import MEASURED, age_of, nucleus_means, read_tsv
from scripts.provenance import bundle_version, cohort_fingerprint
from scripts.runs.earlier import keep_file

#: Rates of the fit, 1/year: a curve that still rises at 100 years, and one that is done in childhood.
SLOWEST, FASTEST = 0.005, 0.3
#: A z-score needs a curve from at least so many healthy controls.
LEAST_CONTROLS = 12
BANDS = (5, 25, 75, 95)


def iron_curve(age: np.ndarray | float, rise: float, rate: float, start: float) -> np.ndarray | float:
    """Hallgren and Sourander's form at an age in years."""
    return rise * (1 - np.exp(-rate * np.asarray(age, float))) + start


def fit_curve(ages: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Fit one nucleus; outliers pull less (soft L1 loss).

    Args:
        ages: years, `[N]`.
        values: mean QSM (ppm) or R2* (1/s), `[N]`.

    Returns:
        `rise`, `rate` (1/year), `start`, and `sd`, the robust standard deviation of what remains.

    Raises:
        InputError: fewer than LEAST_CONTROLS values, or all of one age.
    """
    ages, values = np.asarray(ages, float), np.asarray(values, float)
    if len(ages) < LEAST_CONTROLS or np.ptp(ages) < 5:
        raise InputError(
            f"reference curves: {len(ages)} healthy controls of ages {np.ptp(ages) if len(ages) else 0:.0f} years"
            f" apart; at least {LEAST_CONTROLS} of different ages are due"
        )
    unit = max(float(np.median(np.abs(values - np.median(values)))), 1e-9)

    def left(parameters: np.ndarray) -> np.ndarray:
        return (iron_curve(ages, parameters[0] * unit, np.exp(parameters[1]), parameters[2] * unit) - values) / unit

    fits = []
    for rate in (0.02, 0.05, 0.1):  # the cost has more than one valley
        shape = np.column_stack([1 - np.exp(-rate * ages), np.ones_like(ages)])
        rise, start = np.linalg.lstsq(shape, values / unit, rcond=None)[0]
        # Iron does not fall with age, and adults alone cannot tell a steep rise in childhood from none.
        most = 2 * float(np.ptp(values)) / unit + 1e-9
        bounds = ([0.0, np.log(SLOWEST), -np.inf], [most, np.log(FASTEST), np.inf])
        first = [float(np.clip(rise, 1e-3 * most, 0.99 * most)), np.log(rate), start]
        fits.append(least_squares(left, first, bounds=bounds, loss="soft_l1"))
    best = fits[0]
    for fit in fits[1:]:
        if fit.cost < best.cost - 1e-12:
            best = fit
    remains = left(best.x) * unit
    sd = 1.4826 * float(np.median(np.abs(remains - np.median(remains))))
    # Three parameters were fitted.
    sd = max(sd, 0.2 * float(remains.std())) * np.sqrt(len(ages) / (len(ages) - 3))
    return {
        "rise": float(best.x[0] * unit),
        "rate": float(np.exp(best.x[1])),
        "start": float(best.x[2] * unit),
        "sd": float(sd),
    }


def fit_reference_curves(
    nuclei_table: str | os.PathLike, dataset_dir: str | os.PathLike, training: str | os.PathLike | None
) -> dict[str, Any]:
    """Curves of every nucleus and map, both sides averaged, from healthy controls.

    Args:
        nuclei_table: `nuclei.tsv`.
        dataset_dir: the cohort, for `participants.tsv`.
        training: a table with the training participants' `participant_id`; None takes everybody.

    Returns:
        What `reference_curves.json` holds: `Curves` (map -> nucleus -> parameters), and what made them.

    Raises:
        InputError: as `fit_curve`, `read_tsv` and `cohort.read_participants`.
    """
    rows = healthy_rows(nuclei_table, dataset_dir, training)
    ages = np.array([row["age"] for row in rows])
    curves: dict[str, dict[str, Any]] = {}
    for suffix, (_, unit) in MEASURED.items():
        curves[suffix] = {}
        for nucleus in NUCLEI:
            values = np.array([row["means"][f"{suffix}_{nucleus}"] for row in rows])
            good = np.isfinite(values)
            curves[suffix][nucleus] = {**fit_curve(ages[good], values[good]), "controls": int(good.sum()), "unit": unit}
    return {
        "Description": "Mean QSM and R2* of nuclei (left and right averaged) against age in healthy controls:"
        " rise * (1 - exp(-rate * age)) + start, and the standard deviation around it",
        "AgeRange": [float(ages.min()), float(ages.max())],
        "Curves": curves,
        "GeneratedBy": {"Name": "Q-Net bundle, configs/nuclei.yaml, reference_curves", "Version": bundle_version()},
        "Input": cohort_fingerprint(dataset_dir),
        "NucleiTableSha256": sha256(nuclei_table),
        "TrainingParticipants": None if training is None else sha256(training),
    }


def healthy_rows(
    nuclei_table: str | os.PathLike, dataset_dir: str | os.PathLike, training: str | os.PathLike | None
) -> list[dict[str, Any]]:
    """`participant_id`, `age` and `means` of the healthy controls among the training participants."""
    chosen = None if training is None else read_participants(training, ["participant_id"]).keys()
    return [
        row
        for row in cohort_rows(nuclei_table, dataset_dir)
        if row["group"] == "HC" and (chosen is None or row["participant_id"] in chosen)
    ]


def cohort_rows(nuclei_table: str | os.PathLike, dataset_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """`participant_id`, `group`, `age` (years) and `means` of every scan of `nuclei.tsv`."""
    table = Path(dataset_dir) / "participants.tsv"
    people = read_participants(table, ["participant_id", "age", "group"])
    rows = []
    for row in read_tsv(nuclei_table):
        person = people.get(row["participant_id"])
        if person is None:
            raise InputError(f"{table}: no row for {row['participant_id']!r}, who is in {nuclei_table}; add it")
        means = nucleus_means(row, "mean", nuclei_table)
        rows.append(
            {
                "participant_id": row["participant_id"],
                "group": person["group"],
                "age": age_of(person, table),
                "means": means,
            }
        )
    return rows


def write_reference_curves(
    path: str | os.PathLike,
    nuclei_table: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    training: str | os.PathLike | None,
) -> None:
    """Fit the curves and write them as JSON beside the model; others that were there are kept (`keep_file`).

    Raises:
        InputError: a file is there that is none of ours, or as `check_current` and `fit_reference_curves`.
    """
    if os.path.lexists(path):
        try:
            ours = "Curves" in read_json(path, "reference curves")
        except InputError:
            ours = False
        if not ours:
            raise InputError(f"{path}: is there and holds no reference curves; give --curves another file")
    if anat_folders(Path(dataset_dir)):
        check_current(nuclei_table, find_scans(dataset_dir, incomplete_too=True))
    fitted = fit_reference_curves(nuclei_table, dataset_dir, training)
    text = as_json(fitted)
    keep_file(path, text.encode())
    write_text(path, text)
    print(f"{path}: reference curves of {controls_of(fitted)}")


def controls_of(curves: Mapping[str, Any]) -> str:
    """Whom curves are of, in words."""
    counts = [
        int(curve["controls"]) for of in curves["Curves"].values() for curve in of.values() if "controls" in curve
    ]
    youngest, oldest = curves["AgeRange"]
    number = f"{max(counts)} " if counts else ""
    made = "simulated " if curves.get("Input", {}).get("simulated") else ""
    return f"{number}{made}healthy controls of {youngest:.0f} to {oldest:.0f} years"


def read_reference_curves(path: str | os.PathLike) -> dict[str, Any] | None:
    """The curves beside a model; None where there are none.

    Raises:
        InputError: the file is damaged, or its numbers cannot be.
    """
    if not os.path.lexists(path):
        return None
    cure = "delete the file, or make it again with reference_curves of configs/nuclei.yaml"
    content = read_json(path, "reference curves", cure)
    youngest, oldest = content["AgeRange"]
    if youngest >= oldest:
        raise InputError(f"{path}: AgeRange is {youngest:g} to {oldest:g} years, which does not rise; {cure}")
    for suffix in MEASURED:
        for nucleus in NUCLEI:
            if nucleus not in content["Curves"].get(suffix, {}):
                raise InputError(f"{path}: Curves has no {nucleus} of {suffix}; {cure}")
    return content


def curves_sha256(path: str | os.PathLike) -> str | None:
    """SHA-256 of the curves beside a model; None where there are none."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; give --reference_curves a file of nuclei.yaml, or leave it out")
    return sha256(path) if Path(path).exists() else None


def age_z_scores(nuclei_row: Mapping[str, Any], age: float, curves: Mapping[str, Any]) -> dict[str, Any]:
    """How far each nucleus of one subject lies from healthy controls of the same age.

    Args:
        nuclei_row: a row of `nuclei.tsv`, or of `NucleiReader.measure`.
        age: years.
        curves: from `read_reference_curves`.

    Returns:
        `age`, `extrapolated` (the age lies outside of the controls') and `nuclei`: a list of one dictionary a map and
        nucleus: `map`, `nucleus`, `value`, `unit`, `expected`, `z`, `percentile` (0..100). Nuclei without a value are
        left out.

    Raises:
        InputError: an age that cannot be, or a row without the columns.
    """
    if not (np.isfinite(age) and 0 <= age <= 120):
        raise InputError(f"age is {age}; give years, 0 to 120")
    low, high = curves["AgeRange"]
    means = nucleus_means(nuclei_row, "mean", "nuclei")
    scores = []
    for suffix in MEASURED:
        for nucleus in NUCLEI:
            value, curve = means[f"{suffix}_{nucleus}"], curves["Curves"][suffix][nucleus]
            if not np.isfinite(value):
                continue
            expected = float(iron_curve(age, curve["rise"], curve["rate"], curve["start"]))
            z = (value - expected) / curve["sd"]
            scores.append(
                {
                    "map": suffix,
                    "nucleus": nucleus,
                    "value": value,
                    "unit": curve["unit"],
                    "expected": expected,
                    "z": float(z),
                    "percentile": float(100 * norm.cdf(z)),
                }
            )
    return {"age": float(age), "extrapolated": not low <= age <= high, "nuclei": scores}


def usual_for_age(
    nuclei: Sequence[Mapping[str, Any]] | None, age: float | None, curves: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """How far nuclei lie from those of healthy controls of the same age; None where something for it is not known.

    Args:
        nuclei: from `rows_of`.
        age: years.
        curves: from `scripts.nuclei.curves.read_reference_curves`.

    Returns:
        see `scripts.nuclei.curves.age_z_scores`; also `simulated`: whether those controls are, and `controls`: who they
        are, in words.
    """
    if not nuclei or age is None or curves is None:
        return None
    means = {
        f"{suffix}_{row['side']}_{row['nucleus']}_mean": row[suffix]
        for row in nuclei
        for suffix in MEASURED
        if suffix in row
    }
    names = [f"{suffix}_{side}_{nucleus}_mean" for suffix in MEASURED for side in SIDES for nucleus in NUCLEI]
    scores = age_z_scores({name: means.get(name, math.nan) for name in names}, age, curves)
    return {**scores, "simulated": bool(curves.get("Input", {}).get("simulated")), "controls": controls_of(curves)}


def bands(curves: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Nucleus -> `age`, and `mean` and `sd` of QSM in healthy controls at it."""
    youngest, oldest = curves["AgeRange"]
    ages = np.linspace(youngest, oldest, 50)
    return {
        nucleus: {
            "age": ages.tolist(),
            "mean": np.asarray(iron_curve(ages, curve["rise"], curve["rate"], curve["start"])).tolist(),
            "sd": [curve["sd"]] * len(ages),
        }
        for nucleus, curve in curves["Curves"]["Chimap"].items()
    }
