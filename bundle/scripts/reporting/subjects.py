"""Who the subjects of a cohort are: their groups, ages and sexes, as a table and as a figure."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts.errors import InputError
from scripts.maps.bids import read_participants
from scripts.reporting.style import GROUP_STYLE, titled

#: Values of the BIDS column `sex`, in lower case.
SEXES = {"f": "women", "female": "women", "m": "men", "male": "men"}


def demographics(dataset_dir: str | os.PathLike, participants: Sequence[str]) -> pd.DataFrame:
    """Group, age and sex of some participants, from participants.tsv.

    Args:
        dataset_dir: the cohort.
        participants: whose rows are wanted.

    Returns:
        Index `participant_id`; columns `group`, `age` (years, NaN if no number) and `sex` (women, men, not given).

    Raises:
        InputError: no such table, no column `group`, `age` or `sex`, no row for a participant, or no age at all.
    """
    path = Path(dataset_dir) / "participants.tsv"
    rows = read_participants(path, ["participant_id", "group", "age", "sex"])
    missing = [name for name in participants if name not in rows]
    if missing:
        raise InputError(f"{path}: no row for {missing[0]!r}, which was predicted; give the cohort that was evaluated")
    chosen = pd.DataFrame([rows[name] for name in participants], index=pd.Index(participants, name="participant_id"))
    age = pd.to_numeric(chosen["age"], errors="coerce")
    if age.isna().all():
        raise InputError(f"{path}: column 'age' holds no number; give ages in years")
    sex = chosen["sex"].str.lower().map(SEXES).fillna("not given")
    return pd.DataFrame({"group": chosen["group"], "age": age, "sex": sex})


def summary(subjects: pd.DataFrame) -> pd.DataFrame:
    """A row a group and one for all: number, women and men, age as mean ± SD and range."""
    rows = []
    for name, chosen in [(g, subjects[subjects["group"] == g]) for g in GROUP_STYLE] + [("all", subjects)]:
        age, sex = chosen["age"], chosen["sex"]
        row = {"group": name, "subjects": len(chosen), "women": (sex == "women").sum(), "men": (sex == "men").sum()}
        if (subjects["sex"] == "not given").any():
            row["sex not given"] = (sex == "not given").sum()
        row["age, mean ± SD (years)"] = f"{age.mean():.1f} ± {age.std():.1f}"
        row["age range (years)"] = f"{age.min():.0f}–{age.max():.0f}"
        if subjects["age"].isna().any():
            row["age not given"] = age.isna().sum()
        rows.append(row)
    return pd.DataFrame(rows)


def cohort_figure(subjects: pd.DataFrame, simulated: bool) -> Figure:
    """Age and sex of the cohort, stacked by group (the paper's Figure 2).

    Args:
        subjects: from `demographics`: columns `group`, `age` (years, may be NaN) and `sex`.
        simulated: whether the title must say so.
    """
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    ages, sexes = figure.subplots(1, 2, width_ratios=(2, 1))
    known = subjects["age"].dropna()
    edges = np.arange(5 * np.floor(known.min() / 5), known.max() + 5.01, 5)
    looks = {group: {"color": s.colour, "hatch": s.hatch, "edgecolor": "white"} for group, s in GROUP_STYLE.items()}
    below = np.zeros(len(edges) - 1)
    levels = [sex for sex in ("women", "men", "not given") if (subjects["sex"] == sex).any()]
    floor = np.zeros(len(levels))
    for group, look in looks.items():
        chosen = subjects[subjects["group"] == group]
        counts, _ = np.histogram(chosen["age"].dropna(), edges)
        ages.bar(edges[:-1], counts, width=5, align="edge", bottom=below, label=group, **look)
        below += counts
        numbers = np.array([(chosen["sex"] == sex).sum() for sex in levels])
        bars = sexes.bar(levels, numbers, width=0.6, bottom=floor, label=group, **look)
        sexes.bar_label(bars, [f"{group} {n}" if n else "" for n in numbers], label_type="center", backgroundcolor="w")
        floor += numbers
    ages.set(xlabel="age (years)", ylabel="subjects", title="age")
    ages.yaxis.get_major_locator().set_params(integer=True)
    ages.legend(frameon=False)
    sexes.set(ylabel="subjects", title="sex")
    women, men = ((subjects["sex"] == sex).sum() for sex in ("women", "men"))
    groups = ", ".join(f"{(subjects['group'] == group).sum()} {group}" for group in GROUP_STYLE)
    figure.suptitle(titled(f"{len(subjects)} subjects: {groups}; {women} women, {men} men", simulated))
    return figure
