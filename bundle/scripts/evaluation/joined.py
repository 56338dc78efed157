"""Cross-validations of one cohort in one predictions table: what another recipe, input or backbone is worth."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scripts.errors import InputError
from scripts.evaluation.predictions import NO_INPUT, PREDICTION_COLUMNS, at_level, read_predictions
from scripts.files.json_file import read_json
from scripts.files.writing import check_output_dir, write_json, write_table


def join_runs(
    output_dir: str | os.PathLike, runs: Mapping[str, str | os.PathLike | None], models: Sequence[str]
) -> dict[str, int]:
    """Write `predictions.csv` and its record of several cross-validations; a model is called `Q-Net, NAME` of its run.

    Slices are kept where all runs have the same; scans always. Models that see no image stand once.

    Args:
        output_dir: gets both files.
        runs: name -> output folder of a cross-validation, or predictions.csv in it; None is passed over.
        models: which models of each run, e.g. `Q-Net`.

    Returns:
        rows of each run in the table.

    Raises:
        InputError: fewer than two runs, a run twice or its copy, or without such a model, runs of other subjects or
            folds, or a folder with a cross-validation in it.
    """
    given = {name: Path(folder) for name, folder in runs.items() if folder is not None}
    folders = {n: p.parent if p.name == "predictions.csv" and p.is_file() else p for n, p in given.items()}
    if len(folders) < 2:
        raise InputError("runs: names fewer than two cross-validations; give --runs#NAME OUT for each")
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise InputError("runs: one folder is named twice; give each run its own")
    for name, folder in folders.items():
        if not name.strip():
            raise InputError(f"runs: {folder} has no name; write --runs#NAME OUT")
        if not name.isprintable():
            raise InputError(f"runs: the name {name!r} has line breaks or control characters; give it another")
        if not folder.is_dir():
            raise InputError(f"runs: {folder} ({name}) is no folder; give the output_dir of a cross_validation")
    there = Path(output_dir) / "predictions.json"
    if there.exists() and "runs" not in read_json(there, "predictions record"):
        raise InputError(
            f"{output_dir}: holds a cross-validation, which would be replaced; choose another --output_dir"
        )
    for folder in folders.values():
        if (folder / "predictions.csv").is_file() and not os.path.lexists(record := folder / "predictions.json"):
            raise InputError(
                f"{record}: the record of predictions.csv is not beside it, so nothing says what it was made of; copy"
                " it there from where cross_validation wrote both"
            )
    tables = {name: read_predictions(Path(folder) / "predictions.csv") for name, folder in folders.items()}
    records = {
        name: read_json(Path(folder) / "predictions.json", "predictions record") for name, folder in folders.items()
    }
    check_comparable(tables, records)
    alike = len({frozenset(map(tuple, slices_of(table).itertuples(index=False))) for table in tables.values()}) == 1
    if not alike:
        print("the runs have other slices, so only whole scans are compared")
    parts, counts = [], {}
    digests: dict[str, pd.Series] = {}  # of the rows, in an order of their own
    for name, table in tables.items():
        lacking = [model for model in models if model not in set(table["model"])]
        if lacking:
            raise InputError(
                f"models: run {name!r} has no {lacking[0]}; it has {', '.join(sorted(set(table['model'])))}"
            )
        own = table[table["model"].isin(models) & (table["region"] != NO_INPUT)]
        own = own if alike else at_level(own, "scan")
        digest = pd.util.hash_pandas_object(own[list(PREDICTION_COLUMNS)].astype(str), index=False).sort_values()
        if twin := next((n for n, other in digests.items() if np.array_equal(other, digest)), None):
            raise InputError(
                f"runs: {twin!r} and {name!r} hold the same predictions of {', '.join(models)}, as of a run and"
                " its copy; give two runs"
            )
        digests[name] = digest
        parts.append(own.assign(model=own["model"] + ", " + name))
        counts[name] = len(own)
    blind = next((t[t["region"] == NO_INPUT] for t in tables.values() if (t["region"] == NO_INPUT).any()), None)
    joined = pd.concat(parts if blind is None else [*parts, blind])
    folder = check_output_dir(output_dir, 10e6)
    rows = joined.astype(object).where(joined.notna(), "").to_dict("records")
    write_table(folder / "predictions.csv", PREDICTION_COLUMNS, rows)
    first = next(iter(records.values()))
    write_json(folder / "predictions.json", {"input": first["input"], "rows": len(rows), "runs": records})
    return counts


def slices_of(table: pd.DataFrame) -> pd.DataFrame:
    """Which slices of whom a table has."""
    return at_level(table, "image")[["participant_id", "slice"]].drop_duplicates()


def check_comparable(tables: Mapping[str, pd.DataFrame], records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse runs whose models were not tested on the same subjects by the same folds: their AUCs are not paired.

    Raises:
        InputError: names the first such run, and what differs.
    """
    columns = ["repeat", "fold", "participant_id", "label"]
    (first, table), *others = tables.items()
    held_out = set(at_level(table, "scan")[columns].itertuples(index=False, name=None))
    regions = set(table["region"]) - {NO_INPUT}
    for name, other in others:
        cure = "run both with the same cohort, regions, num_folds, num_repeats and seed"
        if records[name]["input"].get("sha256") != records[first]["input"].get("sha256"):
            raise InputError(f"runs: {name!r} and {first!r} are of other cohorts; {cure}")
        if set(at_level(other, "scan")[columns].itertuples(index=False, name=None)) != held_out:
            raise InputError(f"runs: {name!r} and {first!r} held out other subjects in their folds; {cure}")
        if records[name]["input"].get("simulated") != records[first]["input"].get("simulated"):
            raise InputError(f"runs: {name!r} and {first!r} differ in whether their cohort is simulated; {cure}")
        if set(other["region"]) - {NO_INPUT} != regions:
            raise InputError(f"runs: {name!r} and {first!r} have other input regions; {cure}")
