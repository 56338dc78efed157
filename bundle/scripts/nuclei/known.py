"""What is known of a scan beside its maps: nuclei that configs/nuclei.yaml measured, and what is usual at its age."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.maps.bids import known_ages
from scripts.nuclei.cohort import read_tsv
from scripts.nuclei.curves import age_z_scores, iron_curve
from scripts.nuclei.reader import MEASURED, NUCLEI, SIDES

#: Where configs/nuclei.yaml writes its table, below a BIDS folder.
NUCLEI_TABLE = Path("derivatives") / "nuclei" / "nuclei.tsv"


def with_nuclei(
    scans: Sequence[Mapping[str, Any]], source: Any, nuclei_table: str | os.PathLike | None
) -> list[Mapping[str, Any]]:
    """The scans of a BIDS folder, with more entries where more is known; others as they are.

    Args:
        scans: from `scripts.inference.inputs.find_input`.
        source: what they were found in; a BIDS folder may hold `nuclei.tsv`, and `participants.tsv` with ages.
        nuclei_table: another `nuclei.tsv`; None takes the BIDS folder's, if there is one.

    Returns:
        With `age` (years) where it is known, and for scans in the table `nuclei`, see `rows_of`.

    Raises:
        InputError: the table that was asked for is missing, or a table is damaged.
    """
    root = Path(source) if isinstance(source, (str, os.PathLike)) and os.path.isdir(source) else None
    if nuclei_table is None and root is not None and os.path.lexists(root / NUCLEI_TABLE):
        nuclei_table = root / NUCLEI_TABLE
    measured = {row["scan_id"]: row for row in read_tsv(nuclei_table)} if nuclei_table is not None else {}
    ages = known_ages(root / "participants.tsv") if root is not None else {}
    found: list[Mapping[str, Any]] = []
    for scan in scans:
        more: dict[str, Any] = {}
        if (row := measured.get(scan["scan_id"])) is not None:
            more["nuclei"] = rows_of(row)
        if (age := ages.get(scan["participant_id"])) is not None:
            more["age"] = age
        found.append({**scan, **more} if more else scan)
    return found


def rows_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of `nuclei.tsv` as one row a nucleus and side, without what was not measured.

    Returns:
        rows with `nucleus`, `side`, and as far as measured `volume_mm3` and the means `Chimap` (ppm) and `R2starmap`
        (1/s).
    """
    rows = []
    for nucleus in NUCLEI:
        for side in SIDES:
            values = {suffix: row.get(f"{suffix}_{side}_{nucleus}_mean", math.nan) for suffix in MEASURED}
            values["volume_mm3"] = 1000 * row.get(f"{side}_{nucleus}_volume", math.nan)
            rows.append({"nucleus": nucleus, "side": side} | {k: v for k, v in values.items() if math.isfinite(v)})
    return [values for values in rows if len(values) > 2]


def usual_for_age(
    nuclei: Sequence[Mapping[str, Any]] | None, age: float | None, curves: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """How far nuclei lie from those of healthy controls of the same age; None where something for it is not known.

    Args:
        nuclei: from `rows_of`.
        age: years.
        curves: from `scripts.nuclei.curves.read_reference_curves`.

    Returns:
        see `scripts.nuclei.curves.age_z_scores`; also `simulated`: whether those controls are.
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
    return {**scores, "simulated": bool(curves.get("Input", {}).get("simulated"))}


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
