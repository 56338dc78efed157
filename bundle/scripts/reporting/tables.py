"""The paper's three tables from the predictions table alone, each value beside the paper's own; and ours."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scripts.errors import InputError
from scripts.evaluation.auc import Aucs, clustered_delong, compare, delong, holm, interval, significance, within_folds
from scripts.evaluation.predictions import NO_INPUT, Scores, at_level, ordered, regions_of, scores
from scripts.evaluation.statistics import THRESHOLD, metrics, rate_interval
from scripts.evaluation.trust import TRUST_NUMBERS, TRUST_WORDS, too_few, trust_table
from scripts.files.table import read_frame, table_text
from scripts.files.writing import write_json, write_text
from scripts.provenance import BUNDLE_ROOT, software
from scripts.reporting.markup import latex, markdown
from scripts.reporting.table_text import (
    TEST_COLUMNS,
    TESTED,
    TESTS,
    Section,
    cohort_text,
    measure_sections,
    test_sections,
    trust_sections,
)

#: What the paper prints, with its source (README.md there).
PAPER = BUNDLE_ROOT / "docs" / "paper"
#: Measures of Table 1 and of Table 3, in the paper's order; AUCs are ours to add where the paper has a figure only.
IMAGE_MEASURES = ("accuracy", "sensitivity", "specificity", "f1", "auc", "auc_within_folds")
SCAN_MEASURES = ("accuracy", "f1", "sensitivity", "specificity", "auc", "auc_within_folds")
#: What the files are.
TITLES = {
    "table1_image_level": "Image level (the paper's Table 1)",
    "table2_delong": "DeLong's tests (the paper's Table 2)",
    "table3_scan_level": "Scan level (the paper's Table 3; ResNet and ResNetSWA by vote of slices)",
    "calibration_and_abstention": "Scan level (not in the paper)",
}
#: Columns of Tables 1 and 3: text, and numbers.
MEASURE_WORDS = ("region", "measure", "model")
MEASURE_NUMBERS = ("mean", "paper", "std", "paper_std", "ci_low", "ci_high", "count", "total")
#: Columns of Table 2 before TEST_COLUMNS, and its columns of text and of numbers.
TEST_KEYS = ("test", "region", "model1", "model2")
TEST_WORDS = (*TEST_KEYS, "level", "level_paper")
TEST_NUMBERS = tuple(name for name in TEST_COLUMNS if name not in TEST_WORDS)
#: Columns of text and of numbers of tables that are not of measures.
COLUMNS = {
    "table2_delong": (TEST_WORDS, TEST_NUMBERS),
    "calibration_and_abstention": (TRUST_WORDS, TRUST_NUMBERS),
}
#: Columns of what the paper prints that hold numbers.
PAPER_NUMBERS = {*IMAGE_MEASURES, *(f"{measure}_std" for measure in IMAGE_MEASURES), *TESTED} - {"level"}
#: First line of a LaTeX file.
PREAMBLE = "% Needs \\usepackage{booktabs}\n"


def image_level(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1: measures of single slices. See `scan_level`.

    Intervals take the slices of a participant as a cluster.
    """
    paper = _paper("table1_image_level")
    tested = _paper("table2_delong_image_level")
    aucs = {(r["input"], r[f"model{i}"]): r[f"auc{i}"] for _, r in tested.iterrows() for i in (1, 2)}
    paper["auc"] = [aucs.get((r["input"], r["model"]), np.nan) for _, r in paper.iterrows()]
    return _measures(table, "image", IMAGE_MEASURES, paper)


def scan_level(table: pd.DataFrame) -> pd.DataFrame:
    """Table 3: measures of whole scans.

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.

    Returns:
        One row a region, measure and model: `mean` over repeats and `paper`, its value in the paper; `std` over repeats
        (missing with one repeat) and `paper_std`; `ci_low`, `ci_high` of 95 % (missing for F1); `count` of `total`
        cases that make the rate, pooled over repeats. AUCs are in 0..1, all else in %. `auc` pools the folds of a
        repeat, as the paper seems to; `auc_within_folds` compares cases of one fold only, and is left out where each
        repeat has one fold, since it is the same there. Models that see no image have the region `none`.
    """
    return _measures(table, "scan", SCAN_MEASURES, _paper("table3_scan_level"))


def _paper(name: str) -> pd.DataFrame:
    return read_frame(PAPER / f"{name}.csv", [], numbers=PAPER_NUMBERS)


def _measures(table: pd.DataFrame, level: str, measures: Sequence[str], paper: pd.DataFrame) -> pd.DataFrame:
    printed = paper.set_index(["input", "model"]).to_dict("index")
    rows = []
    for region in regions_of(table, level):
        chosen = scores(table, region, level)
        aucs = {"auc": clustered_delong(chosen.labels, chosen.probabilities, chosen.clusters)}
        measured = [[metrics(chosen.labels, p) for p in model] for model in chosen.probabilities]
        if chosen.cross_validated:
            within = partial(within_folds, chosen.labels, clusters=chosen.clusters)
            aucs["auc_within_folds"] = within(chosen.probabilities, folds=chosen.folds)
            for r, of_repeat in enumerate(chosen.folds):
                of_models = within(chosen.probabilities[:, [r]], folds=of_repeat[None]).values
                for repeats, value in zip(measured, of_models, strict=True):
                    repeats[r]["auc_within_folds"] = float(value)
        for measure in [name for name in measures if name in measured[0][0]]:
            for k, model in enumerate(chosen.models):
                values = np.array([repeat[measure] for repeat in measured[k]]) * (1 if measure in aucs else 100)
                known = printed.get((region, model), {})
                row = {
                    "region": region,
                    "measure": measure,
                    "model": model,
                    "mean": values.mean(),
                    "paper": known.get(measure, np.nan),
                    "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "paper_std": known.get(f"{measure}_std", np.nan),
                }
                if measure in aucs:
                    found = aucs[measure]
                    row["ci_low"], row["ci_high"] = interval(found.values[k], found.covariance[k, k])
                elif measure != "f1":
                    row |= _rate(measure, chosen, chosen.probabilities[k])
                rows.append(row)
    return pd.DataFrame(rows, columns=[*MEASURE_WORDS, *MEASURE_NUMBERS]).astype({"count": "Int64", "total": "Int64"})


def _rate(measure: str, chosen: Scores, probabilities: np.ndarray) -> dict[str, float | int]:
    """Count, total and interval (%) of a rate; counts are over all repeats."""
    of = {"accuracy": (0, 1), "sensitivity": (1,), "specificity": (0,)}[measure]
    asked = np.isin(chosen.labels, of)
    correct = ((probabilities >= THRESHOLD) == chosen.labels)[:, asked]
    low, high = rate_interval(correct.mean(axis=0), chosen.clusters[asked])
    return {"ci_low": 100 * low, "ci_high": 100 * high, "count": int(correct.sum()), "total": correct.size}


def delong_tests(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2: are the AUCs of two models different?

    Args:
        table: from `scripts.evaluation.predictions.read_predictions`.

    Returns:
        One row a test (TESTS), region and pair of models, pairs in the paper's order: `region`, `model1`, `model2`, and
        TEST_COLUMNS: the columns TESTED, each followed by the paper's (`auc1_paper`, ...), which is missing for all but
        `image`, and `p_holm`, which takes the pairs of a test (all regions) for one family. `level` is that of
        `p_holm`; `image` has none, see TESTS. Tests within folds are left out where each repeat has one fold.
    """
    printed = _paper("table2_delong_image_level").set_index(["input", "model1", "model2"])
    rows = []
    for test, method in TESTS.items():
        of_test = []
        for region in regions_of(table, method.level):
            chosen = scores(table, region, method.level, _compared(table, region, method.level))
            if method.within_folds and not chosen.cross_validated:
                continue
            aucs = _aucs(chosen, method.within_folds, method.clustered)
            for i, j in sorted(combinations(range(len(chosen.models)), 2), key=lambda pair: pair[::-1]):
                models = chosen.models[j], chosen.models[i]
                of_region = [m in set(table.loc[table["region"] == region, "model"]) for m in models]
                if not any(of_region):
                    continue  # two models that see no image are compared once, in their own region
                row: dict[str, Any] = {"test": test, "region": region, "model1": models[0], "model2": models[1]}
                found = compare(aucs, j, i)
                for column in TESTED:
                    row[column] = getattr(found, column)
                    known = test == "image" and (region, *models) in printed.index
                    row[f"{column}_paper"] = printed.loc[(region, *models), column] if known else None
                of_test.append(row)
        for row, p in zip(of_test, holm([row["p"] for row in of_test]), strict=True):
            row["p_holm"] = p
            if not method.clustered:
                row["level"] = None
            elif not np.isnan(p):
                row["level"] = significance(p)
        rows += of_test
    return pd.DataFrame(rows, columns=[*TEST_KEYS, *TEST_COLUMNS])


def _compared(table: pd.DataFrame, region: str, level: str) -> list[str]:
    """Models of a region, and after them those that see no image."""
    rows = at_level(table, level)
    return list(ordered(pd.concat([rows.loc[rows["region"] == name, "model"] for name in (region, NO_INPUT)])))


def _aucs(chosen: Scores, within: bool, clustered: bool) -> Aucs:
    if within:
        return within_folds(chosen.labels, chosen.probabilities, chosen.clusters, chosen.folds)
    if clustered:
        return clustered_delong(chosen.labels, chosen.probabilities, chosen.clusters)
    return delong(chosen.labels, chosen.probabilities)


def write_tables(
    folder: str | os.PathLike, table: pd.DataFrame, simulated: bool, method: str = "platt", error: float = 0.1
) -> list[Path]:
    """Write the tables as CSV (full precision), Markdown and LaTeX, and `tables.json`: what they were made from.

    Args:
        folder: gets `table1_image_level`, `table2_delong`, `table3_scan_level` and `calibration_and_abstention`. A
            table that would have no rows (1: the predictions are of scans only; 2: of one model only; the last: too few
            subjects, which is printed) is not written.
        table: from `scripts.evaluation.predictions.read_predictions`.
        simulated: whether the cohort is; every file says so.
        method, error: of calibration and abstention, see `scripts.evaluation.trust.trust_table`.

    Returns:
        The files written.

    Raises:
        InputError: fewer than two participants of a group.
    """
    folder = Path(folder)
    made = {
        "simulated": bool(simulated),
        "repeats": int(table["repeat"].nunique()),
        "folds": int(table["fold"].nunique()),
        "threshold": THRESHOLD,
    }
    paths = []
    for name, frame in (
        ("table1_image_level", image_level(table)),
        ("table2_delong", delong_tests(table)),
        ("table3_scan_level", scan_level(table)),
        ("calibration_and_abstention", trust_table(table, method, error)),
    ):
        if frame.empty:
            continue
        sections = shown(name, frame, table, simulated)
        tex = [latex(title, note, f"tab:{name}-{key}", cells) for key, title, note, cells in sections]
        for ending, text in (
            (".csv", table_text([*frame.columns, *made], frame.assign(**made).to_dict("records"), tabs=False)),
            (".md", "\n".join(markdown(title, note, cells) for _, title, note, cells in sections)),
            (".tex", PREAMBLE + "\n".join(tex)),
        ):
            paths.append(folder / f"{name}{ending}")
            write_text(paths[-1], text)
    if (reason := too_few(table)) is not None:
        print(f"calibration and abstention are left out: {reason}")
    digest = hashlib.sha256(table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
    paths.append(folder / "tables.json")
    write_json(paths[-1], {"software": software(), "predictions": {"rows": len(table), "sha256": digest}, **made})
    return paths


def shown(name: str, frame: pd.DataFrame, table: pd.DataFrame, simulated: bool) -> list[Section]:
    """A table as readers see it, in sections.

    Args:
        name: of the table, a key of TITLES.
        frame: the table.
        table: the predictions that it was made from.
        simulated: whether the cohort is.
    """
    sections = {"table2_delong": test_sections, "calibration_and_abstention": trust_sections}.get(
        name, measure_sections
    )
    made, cohort = sections(frame, cohort_text(table, simulated)), ", simulated cohort" if simulated else ""
    return [section._replace(title=f"{TITLES[name]}, {section.title}{cohort}") for section in made]


def read_tables(folder: str | os.PathLike) -> dict[str, pd.DataFrame]:
    """The tables that `write_tables` wrote, by name in the order of TITLES; of a table that is not there no entry.

    Raises:
        InputError: a table is damaged, or there is none.
    """
    cure = "run the analysis of the cross-validation again"
    found = {}
    for name in TITLES:
        path = Path(folder) / f"{name}.csv"
        if not path.exists():
            continue
        words, numbers = COLUMNS.get(name, (MEASURE_WORDS, MEASURE_NUMBERS))
        frame = read_frame(path, [*words, *numbers], numbers=numbers, cure=cure).replace({"": None})
        found[name] = frame.astype({"count": "Int64", "total": "Int64"}) if name not in COLUMNS else frame
    if not found:
        raise InputError(f"{folder}: holds no table; {cure.removesuffix(' again')} first")
    return found
