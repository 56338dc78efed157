"""How a model does in parts of a cohort, what deciding by it is worth, and how many subjects an interval needs."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scripts.errors import InputError
from scripts.evaluation.auc import clustered_delong, interval
from scripts.evaluation.predictions import at_level
from scripts.evaluation.statistics import THRESHOLD, wilson
from scripts.files.table import read_frame
from scripts.maps.bids import ages_of

#: Who the subjects are, in a table beside the predictions.
SUBJECTS = "subjects.tsv"
SUBJECT_COLUMNS = ("participant_id", "group", "age", "sex", "site")
#: Columns of the table of subgroups.
COLUMNS = ("region", "model", "subgroup", "value", "subjects", "hh", "auc", "auc_low", "auc_high", "sensitivity",
           "sensitivity_low", "sensitivity_high", "specificity", "specificity_low", "specificity_high")  # fmt: skip
#: Width of an AUC's 95 % interval that the sample size is told for.
WANTED_WIDTH = 0.1
_SEXES = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}


def sex_of(said: str) -> str:
    """`F`, `M`, or `n/a` for anything else that a table may say."""
    return _SEXES.get(said.strip().lower(), "n/a")


def read_subjects(path: str | os.PathLike, participants: Iterable[str] = ()) -> pd.DataFrame | None:
    """SUBJECT_COLUMNS of everybody, by `participant_id`; `age` in years, NaN where none is told. None without a table.

    Args:
        path: the table.
        participants: who must be in it.

    Raises:
        InputError: the table is damaged, lacks somebody, or has an age that cannot be.
    """
    if not os.path.lexists(path):
        return None
    cure = "run the evaluation again"
    rows = read_frame(path, SUBJECT_COLUMNS, unique=["participant_id"], cure=cure).set_index("participant_id")
    for name in participants:
        if name not in rows.index:
            raise InputError(f"{path}: has no row {name!r}, who has predictions; {cure}")
    ages = ages_of(path, rows.to_dict("index"))
    return rows.assign(age=[ages.get(name, math.nan) for name in rows.index])


def by_participant(table: pd.DataFrame, region: str, model: str) -> tuple[pd.Series, pd.DataFrame]:
    """Labels of the participants, and their probabilities of HH of whole scans, a column a repeat."""
    rows = at_level(table, "scan")
    rows = rows[(rows["region"] == region) & (rows["model"] == model)]
    wide = rows.pivot_table(index="participant_id", columns="repeat", values="probability_HH")
    return rows.groupby("participant_id")["label"].first().loc[wide.index], wide


def parts(people: pd.DataFrame) -> Iterator[tuple[str, str, pd.Index]]:
    """Subgroups: kind, name and whom they hold. Sex; thirds by age; sites. A kind with one part is left out."""
    for kind, names in {"sex": ("F", "M"), "site": sorted(set(people["site"]) - {"n/a"})}.items():
        found = [(kind, name, people.index[people[kind] == name]) for name in names]
        found = [part for part in found if len(part[2])]
        if len(found) > 1:
            yield from found
    ages = people["age"].dropna()
    if ages.nunique() >= 3:
        low, high = np.quantile(ages, [1 / 3, 2 / 3])
        for name, chosen in (
            (f"up to {low:.0f}", ages <= low),
            (f"{low:.0f} to {high:.0f}", (ages > low) & (ages <= high)),
            (f"above {high:.0f}", ages > high),
        ):
            if chosen.any():
                yield "age", name, ages.index[chosen]


def subgroup_rows(table: pd.DataFrame, people: pd.DataFrame) -> list[dict[str, Any]]:
    """Measures of whole scans in each part of a cohort, for every region and model, everybody first.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.
        people: from `read_subjects`.

    Returns:
        Rows with COLUMNS. AUCs (0 to 1) with DeLong's 95 % intervals, averaged over repeats; sensitivity and
        specificity (0 to 1, at the threshold) with Wilson's. NaN where a part lacks a group, and no interval of an AUC
        where one has fewer than two subjects of a group.
    """
    scans = at_level(table, "scan")
    rows = []
    for region, model in dict.fromkeys(zip(scans["region"], scans["model"], strict=True)):
        labels, wide = by_participant(table, region, model)
        for kind, name, members in [("all", "", people.index), *parts(people)]:
            own = labels.index.intersection(members)
            if len(own):
                measured = _measured(labels.loc[own].to_numpy(), wide.loc[own].to_numpy().T)
                rows.append({"region": region, "model": model, "subgroup": kind, "value": name, **measured})
    return rows


def _measured(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Measures of some cases `[n]` with their probabilities `[r, n]`."""
    found: dict[str, float] = {"subjects": len(labels), "hh": int(labels.sum())}
    counts = np.bincount(labels, minlength=2)
    auc = low = high = math.nan
    if counts.min() >= 2:
        aucs = clustered_delong(labels, probabilities[None], np.arange(len(labels)))
        auc = float(aucs.values[0])
        low, high = interval(auc, float(aucs.covariance[0, 0]))
    found |= {"auc": auc, "auc_low": low, "auc_high": high}
    right = ((probabilities >= THRESHOLD) == labels).mean(0)
    for name, group in (("sensitivity", 1), ("specificity", 0)):
        of_group = right[labels == group]
        rate = float(of_group.mean()) if len(of_group) else math.nan
        ends = wilson(rate, len(of_group)) if len(of_group) else (math.nan, math.nan)
        found |= {name: rate, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return found


def net_benefit(labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Net benefit of acting from a probability on (Vickers and Elkin, Med Decis Making 2006, 26:565).

    True positives less false positives, these weighed by the odds of the threshold, as a share of all.

    Args:
        labels: `[n]`, 0 or 1.
        probabilities: `[n]`, 0 to 1.
        thresholds: `[t]`, from 0 to below 1.

    Returns:
        `[t]`; acting on everybody is probabilities of 1, on nobody is 0.

    Raises:
        InputError: a threshold of 1 or more.
    """
    thresholds = np.asarray(thresholds, float)
    if (thresholds >= 1).any() or (thresholds < 0).any():
        raise InputError("thresholds: a decision's threshold is from 0 to below 1; correct them")
    acted = probabilities[None] >= thresholds[:, None]
    true, false = (acted & (labels == 1)).mean(1), (acted & (labels == 0)).mean(1)
    return true - false * thresholds / (1 - thresholds)


def subjects_for_width(subjects: int, low: float, high: float, wanted: float = WANTED_WIDTH) -> int | None:
    """How many subjects like these an AUC's interval of a width needs: its width falls with the root of their number.

    Args:
        subjects: that the interval is of.
        low, high: its ends.
        wanted: width.

    Returns:
        the number, or None where there is no interval.
    """
    if not math.isfinite(high - low) or high <= low:
        return None
    return math.ceil(round(subjects * ((high - low) / wanted) ** 2, 6))


def main_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of everybody for the model that a study is about: Q-Net's, or the first."""
    whole = [row for row in rows if row["subgroup"] == "all"]
    return next((row for row in whole if row["model"] == "Q-Net"), whole[0] if whole else None)
