"""The table of nuclei: a row a scan, a column a measure."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.anatomy.atlas import LABELS, NUCLEI, SIDES
from scripts.errors import InputError
from scripts.files.table import read_frame

#: Where configs/nuclei.yaml writes its table, below a BIDS folder.
NUCLEI_TABLE = Path("derivatives") / "nuclei" / "nuclei.tsv"

PERCENTILES = (5, 25, 50, 75, 95)
#: What is measured, by the map's BIDS suffix: channel and unit.
MEASURED = {"Chimap": (0, "ppm"), "R2starmap": (1, "1/s")}
#: Along what slopes are measured, see `scripts.nuclei.slopes`.
AXES = ("lateral", "posterior", "superior")


def data_dictionary() -> dict[str, Mapping[str, Any]]:
    """What the columns of `nuclei.tsv` mean, as BIDS has it."""
    words = {"mean": "Mean", "sd": "Standard deviation"} | {f"p{p:02d}": f"{p}th percentile" for p in PERCENTILES}
    columns: dict[str, Mapping[str, Any]] = {
        "participant_id": {"Description": "Participant"},
        "scan_id": {"Description": "Scan: the BIDS entities of its maps"},
        "confidence": {"Description": "Confidence of the localisation, 0 to 1; n/a where it was refused"},
    }
    for name in LABELS:
        columns[f"{name}_volume"] = {"Description": f"Volume of the {name.replace('_', ' ')}", "Units": "mL"}
    for suffix, (_, unit) in MEASURED.items():
        for name in LABELS:
            for key, word in words.items():
                text = f"{word} of {suffix} in the {name.replace('_', ' ')}"
                columns[f"{suffix}_{name}_{key}"] = {"Description": text, "Units": unit}
            for axis in AXES:
                text = (
                    f"Change of {suffix} in the {name.replace('_', ' ')} over one SD of its extent, {axis} end higher"
                )
                columns[f"{suffix}_{name}_{axis}"] = {"Description": text, "Units": unit}
    return columns


def read_tsv(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of `nuclei.tsv`: text in `participant_id` and `scan_id`, numbers elsewhere (NaN for `n/a`).

    Raises:
        InputError: no such file, not a table of `configs/nuclei.yaml`, or a cell that is no number or cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; run configs/nuclei.yaml on the cohort first")
    texts, cure = ("participant_id", "scan_id"), "run configs/nuclei.yaml again"
    numbers = data_dictionary().keys() - texts
    table = read_frame(path, texts, numbers=numbers, unique=["scan_id"], cure=cure)
    if table.empty:
        raise InputError(f"{path}: has no rows; run configs/nuclei.yaml again")
    for column in (name for name in table.columns if name in numbers):  # a user's own columns are text
        least, most = limits_of(column)
        for scan, value in zip(table["scan_id"], table[column] if most < math.inf else (), strict=False):
            if not (math.isnan(value) or least <= value <= most):
                raise InputError(f"{path}: {column} of {scan} is {value:g}, which cannot be; {cure}")
    return table.to_dict("records")


def limits_of(column: str) -> tuple[float, float]:
    """Between what a column's numbers can lie, generously: ppm, 1/s, mL; infinite for text and columns of others."""
    if column == "confidence":
        return 0.0, 1.0
    if column.endswith("_volume"):
        return 0.0, 1000.0
    most = {"Chimap": 10.0, "R2starmap": 1e4}.get(column.split("_")[0], math.inf)
    positive = column.endswith("_sd") or column.startswith("R2starmap") and column.endswith(("_mean", "_p50"))
    return (0.0 if positive else -most), most


def nucleus_means(row: Mapping[str, Any], sides: str, where: str | os.PathLike) -> dict[str, float]:
    """Mean of each map in each nucleus of one scan, by feature name.

    Raises:
        InputError: a column is missing.
    """
    means = {}
    for suffix in MEASURED:
        for nucleus in NUCLEI:
            try:
                values = {side: float(row[f"{suffix}_{side}_{nucleus}_mean"]) for side in SIDES}
            except KeyError as error:
                raise InputError(f"{where}: no column {error}; run configs/nuclei.yaml again") from error
            if sides == "mean":
                means[f"{suffix}_{nucleus}"] = (values["left"] + values["right"]) / 2
            else:
                means |= {f"{suffix}_{side}_{nucleus}": value for side, value in values.items()}
    return means


def nucleus_patterns(row: Mapping[str, Any]) -> dict[str, float] | None:
    """What a study of patterns measures in one scan: slopes within the nuclei (mean of the sides), and how unlike the
    sides are, by feature name. Slopes of R2* are relative to its mean, those of QSM, whose zero is arbitrary, in ppm.

    Returns:
        None where the table has no slopes: version 0.5 and before did not measure them.
    """
    if any(f"{s}_{side}_{n}_{axis}" not in row for s in MEASURED for side in SIDES for n in NUCLEI for axis in AXES):
        return None
    patterns = {}
    for suffix in MEASURED:
        means = {(side, n): float(row[f"{suffix}_{side}_{n}_mean"]) for side in SIDES for n in NUCLEI}
        for n in NUCLEI:
            for axis in AXES:
                values = [
                    float(row[f"{suffix}_{side}_{n}_{axis}"]) / (means[side, n] if suffix == "R2starmap" else 1.0)
                    for side in SIDES
                ]
                patterns[f"{suffix}_{n}_{axis}"] = sum(values) / len(values)
        apart = [abs(means["left", n] - means["right", n]) for n in NUCLEI]
        level = [means["left", n] + means["right", n] if suffix == "R2starmap" else 1.0 for n in NUCLEI]
        patterns[f"{suffix}_asymmetry"] = sum(a / b for a, b in zip(apart, level, strict=True)) / len(apart)
    return patterns


def age_of(person: Mapping[str, str], table: str | os.PathLike) -> float:
    """Age in years of a row of participants.tsv.

    Raises:
        InputError: it is no number of years.
    """
    try:
        age = float(person["age"])
    except (TypeError, ValueError):
        age = float("nan")
    if not 0 <= age <= 120:
        raise InputError(
            f"{table}: age {person['age']!r} of {person['participant_id']!r} is no number of years; correct it"
        )
    return age


def rows_of(row: Mapping[str, Any], where: str | os.PathLike = "nuclei") -> list[dict[str, Any]]:
    """A row of `nuclei.tsv` as one row a nucleus and side, without what was not measured (NaN).

    Args:
        row: columns and values.
        where: the table, for the message.

    Raises:
        InputError: a column of a mean or a volume is missing.

    Returns:
        rows with `nucleus`, `side`, and as far as measured `volume_mm3` and the means `Chimap` (ppm) and `R2starmap`
        (1/s).
    """
    rows = []
    for nucleus in NUCLEI:
        for side in SIDES:
            try:
                values = {suffix: row[f"{suffix}_{side}_{nucleus}_mean"] for suffix in MEASURED}
                values["volume_mm3"] = 1000 * row[f"{side}_{nucleus}_volume"]
            except KeyError as error:
                raise InputError(f"{where}: no column {error}; run configs/nuclei.yaml again") from error
            rows.append({"nucleus": nucleus, "side": side} | {k: v for k, v in values.items() if math.isfinite(v)})
    return [values for values in rows if len(values) > 2]
