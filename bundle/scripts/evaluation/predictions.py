"""The predictions table: what every measure, table, figure and report is computed from, and nothing else.

One row a slice, and one row a scan with `slice` empty.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.table import read_frame

#: Columns of the table. label: 0 HC, 1 HH.
PREDICTION_COLUMNS = ("repeat", "fold", "region", "model", "participant_id", "slice", "label", "probability_HH")
#: The paper's models, in the order of its tables.
MODELS = ("ResNet", "ResNetSWA", "Q-Net")
#: The paper's inputs, in the order of its tables.
REGIONS = ("full", "cropped")
#: Region of models that see no image: their rows do not depend on an input, and stand once.
NO_INPUT = "none"
#: Models on nucleus means and age, the last on patterns within nuclei too: `scripts.crossvalidation.roi_baseline`. They
#: see no image.
ROI_MODELS = ("ROI-LR", "ROI-SVM", "ROI-patterns")
#: Logistic regression on age and sex alone: what a model must beat to have seen anything.
DEMOGRAPHICS = "Age-sex-LR"
#: What a row is about: one slice, or a whole scan.
LEVELS = ("image", "scan")


@dataclass(frozen=True)
class Scores:
    """Probabilities of several models on the same n cases, aligned.

    Attributes:
        models: k names.
        labels: `[n]`, 0 HC or 1 HH.
        clusters: `[n]`, number 0.. of the participant a case belongs to.
        probabilities: `[k, r, n]` of HH, 0..1: models x repeats x cases.
        folds: `[r, n]`, in which fold of each repeat a case was held out.
    """

    models: tuple[str, ...]
    labels: np.ndarray
    clusters: np.ndarray
    probabilities: np.ndarray
    folds: np.ndarray

    @property
    def cross_validated(self) -> bool:
        """Whether models of several folds made these, so that pooling them mixes levels of probability."""
        return any(len(np.unique(of_repeat)) > 1 for of_repeat in self.folds)


def ordered(models: Iterable[str]) -> tuple[str, ...]:
    """Names without repetition: the paper's models first, in its order, then others as they come."""
    names = list(dict.fromkeys(models))
    return (*(m for m in MODELS if m in names), *(m for m in names if m not in MODELS))


def regions_of(table: pd.DataFrame, level: str) -> list[str]:
    """The regions that the table has at a level, in the paper's order; NO_INPUT last."""
    present = set(at_level(table, level)["region"])
    return [region for region in (*REGIONS, NO_INPUT) if region in present]


def at_level(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """The rows of slices (`image`) or of scans (`scan`)."""
    if level not in LEVELS:
        raise ValueError(f"level must be one of {LEVELS}, not {level!r}")
    return table[table["slice"].isna() if level == "scan" else table["slice"].notna()]


def read_predictions(path: str | os.PathLike) -> pd.DataFrame:
    """Read a predictions table and check it.

    Args:
        path: CSV with the columns PREDICTION_COLUMNS; others are ignored.

    Returns:
        Those columns: `repeat`, `fold`, `label` int64, `slice` Int64 (missing for a scan), `probability_HH` float64,
        the rest text; rows in the file's order. Rows of a model that sees no image stand once, in region NO_INPUT
        (see `without_input_once`).

    Raises:
        InputError: no such file, missing columns, no rows, fewer than the record beside it says, or rows that
            contradict each other; see `check_predictions`.
    """
    path = Path(path)
    cure = "give the predictions.csv that an evaluation wrote"
    table = read_frame(path, PREDICTION_COLUMNS, cure=cure)[list(PREDICTION_COLUMNS)].astype(str)
    if table.empty:
        raise InputError(f"{path}: no rows; run the evaluation again")
    due = recorded_rows(path)
    if due is not None and len(table) < due:
        raise InputError(
            f"{path}: has {len(table)} rows of {due} (its record's): it was cut off; copy or make it again"
        )
    for column in ("region", "model", "participant_id"):
        _refuse(table[column] == "", table, path, column, "is empty; every row needs one")
    for column in ("repeat", "fold", "label", "slice"):
        table[column] = _whole_numbers(table, column, path)
    number = pd.to_numeric(table["probability_HH"], errors="coerce")
    _refuse(~number.between(0, 1), table, path, "probability_HH", "is not a number in 0..1; predict that scan again")
    table["probability_HH"] = number.astype("float64")
    check_predictions(table, path)
    return without_input_once(table)


def recorded_rows(path: str | os.PathLike) -> int | None:
    """How many rows the record beside a table (`predictions.json`) says that it has; None where nothing says it.

    Raises:
        InputError: a damaged record.
    """
    record = Path(path).with_suffix(".json")
    return read_json(record, "record").get("rows") if record.is_file() else None


def without_input_once(table: pd.DataFrame) -> pd.DataFrame:
    """The table with rows of models that see no image once instead of once a region, in region NO_INPUT.

    These are ROI_MODELS, DEMOGRAPHICS, and models whose rows are the same in several regions.
    """
    case = ["repeat", "fold", "participant_id", "slice", "label", "probability_HH"]
    kept = []
    for model, rows in table.groupby("model", sort=False):
        of_region = [part for _, part in rows.groupby("region", sort=False)]
        contents = [part[case].sort_values(case[:4]).reset_index(drop=True) for part in of_region]
        same = all(content.equals(contents[0]) for content in contents[1:])
        once = same and (len(of_region) > 1 or model in (*ROI_MODELS, DEMOGRAPHICS))
        kept.append(of_region[0].assign(region=NO_INPUT) if once else rows)
    return pd.concat(kept).sort_index().reset_index(drop=True)


def _whole_numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column of text as whole numbers; only `slice` may be empty."""
    number = pd.to_numeric(table[column], errors="coerce")
    wrong = number.isna() | (number % 1 != 0) | (number < 0)
    if column == "slice":
        wrong &= table[column] != ""
    _refuse(wrong, table, path, column, "is not a whole number from 0 on; correct or remove that row")
    return number.astype("Int64" if column == "slice" else "int64")


def _refuse(wrong: pd.Series, table: pd.DataFrame, path: str | os.PathLike, column: str, rest: str) -> None:
    """Raise InputError about the first wrong row, if any."""
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise InputError(f"{path}, line {row + 2}: {column} '{table[column].iloc[row]}' {rest}")


def check_predictions(table: pd.DataFrame, source: str | os.PathLike = "predictions") -> None:
    """Refuse a predictions table whose rows contradict each other or lack a participant.

    A fold may hold one class only: measures pool the folds of a repeat. Models need not be the paper's, and need not
    have both levels; but a model that is in a region at a level must be there in every repeat with the same cases.

    Args:
        table: columns and types as `read_predictions` gives them.
        source: named in messages.

    Raises:
        InputError: an unknown region or label; a participant with two labels, or in two folds of one repeat; two rows
            for one case; a model without some of the participants or slices; one class only in a region.
    """
    known = (*REGIONS, NO_INPUT)
    _refuse(~table["region"].isin(known), table, source, "region", f"is not one of {', '.join(known)}; correct it")
    _refuse(~table["label"].isin((0, 1)), table, source, "label", "is neither 0 (HC) nor 1 (HH); correct it")
    for keys, column, meaning in (
        (["participant_id"], "label", "both HC and HH; correct its labels"),
        (["repeat", "participant_id"], "fold", "in two folds of one repeat; do not mix results of different runs"),
    ):
        several = table.groupby(keys)[column].nunique() > 1
        if several.any():
            first = several.index[several][0]
            who = first if isinstance(first, str) else f"{first[1]} (repeat {first[0]})"
            raise InputError(f"{source}: participant {who} is {meaning}")
    case = ["repeat", "region", "model", "participant_id", "slice"]
    twice = table.duplicated(case)
    if twice.any():
        row = table[twice].iloc[0]
        where = "scan" if pd.isna(row["slice"]) else f"slice {row['slice']}"
        raise InputError(
            f"{source}: repeat {row['repeat']}, {row['region']}, {row['model']} has two rows for the {where} of"
            f" {row['participant_id']}; keep one"
        )
    for region, of_region in table.groupby("region", sort=False):
        if of_region["label"].nunique() < 2:
            present = "HH" if of_region["label"].iloc[0] else "HC"
            raise InputError(f"{source}: all participants of region {region} are {present}; both groups are needed")
        _check_complete(of_region, region, source)


def _check_complete(table: pd.DataFrame, region: str, source: str | os.PathLike) -> None:
    """Every model of the region has all of its participants, and all slices that other models have, in each repeat."""
    participants = set(table["participant_id"])
    repeats = sorted(table["repeat"].unique())
    for level in LEVELS:
        rows = at_level(table, level)
        cases = rows[["participant_id", "slice"]].drop_duplicates()
        groups = {key: group for key, group in rows.groupby(["model", "repeat"])}
        for model in ordered(rows["model"]):
            for repeat in repeats:
                group = groups.get((model, repeat), rows.iloc[:0])
                lacking = sorted(participants - set(group["participant_id"]))
                if lacking:
                    raise InputError(
                        f"{source}: repeat {repeat}, {region}, {model}, {level} level has no row for {lacking[0]}"
                        f" ({len(lacking)} of {len(participants)} participants lacking); finish that evaluation"
                    )
                if len(group) < len(cases):
                    raise InputError(
                        f"{source}: repeat {repeat}, {region}, {model} has {len(group)} slices where other models or"
                        f" repeats have {len(cases)}; evaluate all with the same num_slices"
                    )


def scores(table: pd.DataFrame, region: str, level: str, models: Sequence[str] | None = None) -> Scores:
    """Aligned probabilities of several models.

    Args:
        table: from `read_predictions`.
        region: `full`, `cropped` or NO_INPUT.
        level: `image` (cases are slices) or `scan`.
        models: which, in the order wanted, of this region or of NO_INPUT; all of this region by default, the paper's
            first.

    Raises:
        InputError: the table has no such rows.
    """
    regions = [region] if models is None else [region, NO_INPUT]
    rows = at_level(table[table["region"].isin(regions)], level)
    names = ordered(rows["model"]) if models is None else tuple(models)
    absent = [m for m in names if m not in set(rows["model"])]
    if absent or not names:
        raise InputError(
            f"predictions: no {level} level rows of {', '.join(absent) or 'any model'} in region {region}; evaluate it"
        )
    # a scan's slice is missing, which cannot be an index
    rows = rows[rows["model"].isin(names)].assign(slice=rows["slice"].fillna(-1).astype("int64"))
    wide = rows.pivot(index=["participant_id", "slice"], columns=["model", "repeat"], values="probability_HH")
    repeats = sorted(rows["repeat"].unique())
    probabilities = np.stack([[wide[model, repeat].to_numpy() for repeat in repeats] for model in names])
    if np.isnan(probabilities).any():
        raise InputError(f"predictions: models or repeats of region {region} differ in their cases; check the table")
    participants = wide.index.get_level_values("participant_id")
    label_of = rows.groupby("participant_id")["label"].first()
    fold_of = rows.pivot_table(index="participant_id", columns="repeat", values="fold", aggfunc="first")
    return Scores(
        models=names,
        labels=label_of.loc[participants].to_numpy(),
        clusters=pd.factorize(participants)[0],
        probabilities=probabilities,
        folds=fold_of.loc[participants, repeats].to_numpy().T,
    )
