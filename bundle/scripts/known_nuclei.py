"""What is known of a scan beside its maps: nuclei that configs/nuclei.yaml measured, and what is usual at its age."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.age import age_z_scores, iron_curve, read_reference_curves
from scripts.cohort import read_participants
from scripts.nuclei import MEASURED, NUCLEI, SIDES
from scripts.nuclei_cohort import read_tsv

#: Where configs/nuclei.yaml writes its table, below a BIDS folder.
NUCLEI_TABLE = Path("derivatives") / "nuclei" / "nuclei.tsv"


def with_nuclei(
    scans: Sequence[Mapping[str, Any]],
    source: Any,
    nuclei_table: str | os.PathLike | None,
    reference_curves: str | os.PathLike,
) -> list[Mapping[str, Any]]:
    """The scans, those with measured nuclei with more entries.

    Args:
        scans: from `scripts.inputs.find_input`.
        source: what they were found in; a BIDS folder may hold `nuclei.tsv`, and `participants.tsv` with ages.
        nuclei_table: another `nuclei.tsv`; None takes the BIDS folder's, if there is one.
        reference_curves: of healthy controls, written by configs/nuclei.yaml; may be missing.

    Returns:
        For scans in the table also `nuclei`: one row a nucleus and side (`nucleus`, `side`, `volume_mm3`, mean `Chimap`
        in ppm and `R2starmap` in 1/s, as far as measured); where the age is known `age` (years); and where there are
        curves too `age_z_scores` (see `scripts.age`) and `curves`: nucleus -> `age`, `mean`, `sd` of QSM (ppm).

    Raises:
        InputError: the table that was asked for is missing, or a table or the curves are damaged.
    """
    root = Path(source) if isinstance(source, (str, os.PathLike)) and os.path.isdir(source) else None
    if nuclei_table is None:
        if root is None or not (root / NUCLEI_TABLE).exists():
            return list(scans)
        nuclei_table = root / NUCLEI_TABLE
    measured = {row["scan_id"]: row for row in read_tsv(nuclei_table)}
    ages = known_ages(root / "participants.tsv") if root is not None else {}
    curves = read_reference_curves(reference_curves)
    found: list[Mapping[str, Any]] = []
    for scan in scans:
        row = measured.get(scan["scan_id"])
        if row is None:
            found.append(scan)
            continue
        more: dict[str, Any] = {"nuclei": rows_of(row)}
        if (age := ages.get(scan["participant_id"])) is not None:
            more["age"] = age
            if curves is not None:
                more |= {"age_z_scores": age_z_scores(row, age, curves), "curves": bands(curves)}
        found.append({**scan, **more})
    return found


def rows_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of `nuclei.tsv` as one row a nucleus and side, without what was not measured."""
    rows = []
    for nucleus in NUCLEI:
        for side in SIDES:
            values = {suffix: row.get(f"{suffix}_{side}_{nucleus}_mean", math.nan) for suffix in MEASURED}
            values["volume_mm3"] = 1000 * row.get(f"{side}_{nucleus}_volume", math.nan)
            rows.append({"nucleus": nucleus, "side": side} | {k: v for k, v in values.items() if math.isfinite(v)})
    return [values for values in rows if len(values) > 2]


def known_ages(table: Path) -> dict[str, float]:
    """Participant -> age in years, of those whose age is a number; none without a table or a column `age`."""
    if not table.exists():
        return {}
    ages = {}
    for name, person in read_participants(table, ["participant_id"]).items():
        try:
            age = float(person.get("age") or "nan")
        except ValueError:
            continue
        if 0 <= age <= 120:
            ages[name] = age
    return ages


def bands(curves: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Nucleus -> `age`, and `mean` and `sd` of QSM in healthy controls at it."""
    ages = np.linspace(*curves["AgeRange"], 50)
    return {
        nucleus: {
            "age": ages.tolist(),
            "mean": np.asarray(iron_curve(ages, curve["rise"], curve["rate"], curve["start"])).tolist(),
            "sd": [curve["sd"]] * len(ages),
        }
        for nucleus, curve in curves["Curves"]["Chimap"].items()
    }
