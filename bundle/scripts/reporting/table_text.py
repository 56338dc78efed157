"""Titles, notes and cells of the tables for a reader: rounded, counts beside rates, the paper's value beside ours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from scripts.evaluation.predictions import NO_INPUT, at_level
from scripts.evaluation.statistics import THRESHOLD
from scripts.model.calibration import METHODS
from scripts.provenance import bundle_version
from scripts.reporting.markup import fixed


class Section(NamedTuple):
    """A table as it is shown: `key` in labels, title, note, and cells that are text.

    Rows of a group follow each other; the first column of all but the first of them is empty.
    """

    key: str
    title: str
    note: str
    cells: pd.DataFrame


#: Measures as they are headed.
MEASURES = {
    "accuracy": "Accuracy (%)",
    "sensitivity": "Sensitivity (%)",
    "specificity": "Specificity (%)",
    "f1": "F1-score (%)",
    "auc": "AUC, folds pooled",
    "auc_within_folds": "AUC, within folds",
}
#: Columns of Table 2 that the paper has too.
TESTED = ("auc1", "auc2", "difference_std_error", "z", "p", "level")
#: Columns of Table 2 after the models: ours, the paper's, and ours that the paper lacks.
TEST_COLUMNS = tuple(
    name for column in TESTED for name in (column, f"{column}_paper", *(("p_holm",) if column == "p" else ()))
)


#: Measures of calibration before and after, and shares of what is said, as `trust_sections` shows them.
PAIRED = ("ece", "slope", "intercept", "brier")
SAID = ("coverage", "coverage_HC", "coverage_HH", "cannot_say", "accuracy_where_said")


class Test(NamedTuple):
    """A test of Table 2: what its section is called, what the variance is over, and which AUCs it compares."""

    title: str
    method: str
    level: str
    clustered: bool = True
    within_folds: bool = False


_WITHIN = "Pairs of cases of one fold only; variance over participants (two-way clustered DeLong)"
#: Tests of Table 2, in the order shown.
TESTS = {
    "image_clustered": Test(
        "image level, folds pooled, slices clustered in participants",
        "Clustered DeLong (Obuchowski 1997), variance over participants",
        "image",
    ),
    "image_within_folds": Test(
        "image level, within folds, slices clustered in participants", _WITHIN, "image", True, True
    ),
    "image": Test(
        "image level, folds pooled, slices taken for independent as in the paper",
        "DeLong, variance over slices, because the paper has it. Slices of a participant resemble each other, so its p"
        " is far too small: with 16 slices a participant it rejects about half of all true null hypotheses at 0.05"
        " (benchmarks/results/intervals.md). It therefore gets no level",
        "image",
        clustered=False,
    ),
    "scan": Test("scan level, folds pooled", "DeLong, variance over participants", "scan"),
    "scan_within_folds": Test("scan level, within folds", _WITHIN, "scan", True, True),
}
#: What the head of each column of the paper begins with.
PAPER = "Paper"
#: Region -> how a section of it is called.
SECTIONS = {"full": "full input", "cropped": "cropped input", NO_INPUT: "no input region"}


def cohort_text(table: pd.DataFrame, simulated: bool) -> str:
    """What every caption says of the cohort, the cross-validation and the version."""
    label = table.groupby("participant_id")["label"].first()
    slices = len(at_level(table, "image")[["participant_id", "slice"]].drop_duplicates())
    return (
        f"{'Simulated cohort, no patients' if simulated else 'Cohort not simulated'}: {len(label)} participants"
        f" ({int(label.sum())} HH, {int((label == 0).sum())} HC), {slices} slices;"
        f" {design_text(table)}. HH is positive, threshold {THRESHOLD}."
        f" The paper's values are of real patients. Bundle version {bundle_version()}."
    )


def design_text(table: pd.DataFrame) -> str:
    """How the predictions came about: repeats and folds of a cross-validation, or models tested once."""
    repeats, folds = table["repeat"].nunique(), table.groupby("repeat")["fold"].nunique().max()
    if folds > 1:
        return f"{_number(repeats, 'repeat')} of {_number(folds, 'fold')}"
    return "one training run, tested once" if repeats == 1 else f"{repeats} training runs, each tested once"


def measure_sections(frame: pd.DataFrame, about: str) -> Iterator[Section]:
    """Tables 1 and 3, a section a region.

    Args:
        frame: from `scripts.reporting.tables.image_level` or `scan_level`.
        about: from `cohort_text`.
    """
    spread = "Mean ± SD over repeats" if frame["std"].notna().any() else "One repeat, hence no SD"
    within = (
        " AUC, folds pooled: all pairs of cases, though the models of the folds differ in the level of their"
        " probabilities; the paper's value stands here, which does not say how it was made. AUC, within folds: pairs of"
        " one fold only."
    )
    trained = (
        " ResNet is the last state of the run that is averaged to ResNetSWA: its learning rate reaches its last value"
        " when averaging starts and stays there; the paper's ResNet may have had its own schedule."
    )
    note = (
        f"{about} {spread}; counts over all repeats. 95 % intervals over participants, whose slices are a cluster:"
        " Wilson for rates, DeLong on the logit scale for AUCs. F1 weighted by class size."
        + (within if (frame["measure"] == "auc_within_folds").any() else "")
        + (trained if {"ResNet", "ResNetSWA"} <= set(frame["model"]) else "")
    )
    heads = ["Measure", "Model", "Ours", PAPER, "95 % CI", "Count"]
    for region, part in frame.groupby("region", sort=False):
        rows: list[list[str]] = []
        for measure, lines in part.groupby("measure", sort=False):
            for place, (_, line) in enumerate(lines.iterrows()):
                digits = 3 if measure.startswith("auc") else 2
                rows.append(
                    [
                        "" if place else MEASURES[measure],
                        line["model"],
                        _spread(line["mean"], line["std"], digits),
                        _spread(line["paper"], line["paper_std"], digits),
                        _range(line["ci_low"], line["ci_high"], digits, measure),
                        "" if pd.isna(line["count"]) else f"{line['count']}/{line['total']}",
                    ]
                )
        yield Section(region, SECTIONS[region], note, pd.DataFrame(rows, columns=heads))


def test_sections(frame: pd.DataFrame, about: str) -> Iterator[Section]:
    """Table 2, a section a test; the paper's columns where it has that test.

    Args:
        frame: from `scripts.reporting.tables.delong_tests`.
        about: from `cohort_text`.
    """
    heads = dict(zip(TESTED, ("AUC 1", "AUC 2", "SE", "z", "p", "Level"), strict=True)) | {"p_holm": "p, Holm"}
    heads |= {f"{name}_paper": f"{PAPER}, {head}" for name, head in heads.items()}
    corrected = "p, Holm: corrected for all pairs of this test."
    levels = (
        "Levels of the corrected p: ns p > 0.05 (no difference was detected, which is no proof that there is none),"
        " * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001, **** p ≤ 0.0001."
    )
    for test, part in frame.groupby("test", sort=False):
        shown = [name for name in TEST_COLUMNS if part[name].notna().any()]
        rows: list[list[str]] = []
        for region, lines in part.groupby("region", sort=False):
            for place, (_, line) in enumerate(lines.iterrows()):
                cells = [_tested(name.removesuffix("_paper"), line[name]) for name in shown]
                rows.append(
                    ["" if place else SECTIONS[region].removesuffix(" input"), line["model1"], line["model2"], *cells]
                )
        columns = ["Input", "Model 1", "Model 2", *(heads[name] for name in shown)]
        tested = TESTS[test]
        note = f"{about} {tested.method}. AUCs are means over repeats; SE of the difference. {corrected}"
        note = f"{note} {levels}" if tested.clustered else note
        yield Section(test, tested.title, note, pd.DataFrame(rows, columns=columns))


def trust_sections(frame: pd.DataFrame, about: str) -> Iterator[Section]:
    """Calibration, and what is said and not said, a section each.

    Args:
        frame: from `scripts.evaluation.trust.trust_table`.
        about: from `cohort_text`.
    """
    fitted = (
        f"{about} Each scan is calibrated {METHODS[frame['method'].iloc[0]]} and judged by the scores of other folds"
        " alone, or of other tenths of the scans where there is one fold. Means over repeats."
    )
    rows: list[list[str]] = []
    for region, lines in frame.groupby("region", sort=False):
        for place, (_, line) in enumerate(lines.iterrows()):
            start = ["" if place else SECTIONS[region].removesuffix(" input"), line["model"]]
            pairs = [f"{_or_none(line[f'{key}_raw'])} → {_or_none(line[key])}" for key in PAIRED]
            rows.append([*start, *pairs[:1], _or_none(line["ece_perfect"]), *pairs[1:]])
    heads = ["Input", "Model", "ECE", "ECE of a perfect model", "Slope", "Intercept", "Brier score"]
    note = (
        f"{fitted} Before → after calibration. ECE (10 bins) is never 0 in so few scans: beside it, what a perfectly"
        " calibrated model with these probabilities shows on average. Slope 1 and intercept 0 are perfect; a slope"
        " below 1: probabilities too far apart; n/a: the groups do not overlap."
    )
    worse = frame[frame["ece"] > frame["ece_raw"]]
    if len(worse):
        note += (
            f" After calibration the ECE is larger for {_named(worse)}: do not take its calibrated probabilities at"
            " their word."
        )
    yield Section("calibration", "calibration", note, pd.DataFrame(rows, columns=heads))
    rows = []
    for region, lines in frame.groupby("region", sort=False):
        for place, (_, line) in enumerate(lines.iterrows()):
            start = ["" if place else SECTIONS[region].removesuffix(" input"), line["model"]]
            rows.append([*start, *(_percent(line[key]) for key in SAID)])
    error = frame["error"].iloc[0]
    note = (
        f'{fitted} Class-conditional conformal prediction at an error of {error:g}: HH, HC or "cannot say"; in at least'
        f" {100 * (1 - error):g} % of each group's scans that group is not ruled out. Shares over all repeats, %."
    )
    by_chance = 2 * np.sqrt(error * (1 - error) / (frame["subjects"] / 2))  # two standard errors of a group's share
    missed = frame[frame[["coverage_HC", "coverage_HH"]].min(axis="columns") < 1 - error - by_chance]
    if len(missed):
        note += (
            f" It was not so for {_named(missed)}, by more than chance explains: its answers are less sure than they"
            " say."
        )
    heads = ["Input", "Model", "Coverage", "Coverage HC", "Coverage HH", "Cannot say", "Right where said"]
    yield Section("abstention", "abstention", note, pd.DataFrame(rows, columns=heads))


def _named(lines: pd.DataFrame) -> str:
    """The models of some rows, each with its input."""
    return ", ".join(f"{row.model} ({SECTIONS[row.region]})" for row in lines.itertuples())


def _or_none(value: float) -> str:
    return "n/a" if pd.isna(value) else fixed(value, 3)


def _percent(share: float) -> str:
    return "n/a" if pd.isna(share) else fixed(100 * share, 1)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _spread(mean: float, std: float, digits: int) -> str:
    """A mean with its SD where there is one; empty where there is no mean."""
    if pd.isna(mean):
        return ""
    return fixed(mean, digits) + ("" if pd.isna(std) else f" ± {fixed(std, digits)}")


def _range(low: float, high: float, digits: int, measure: str) -> str:
    """An interval; an AUC of 0 or 1 has none."""
    if pd.isna(low):
        return "not estimable" if measure.startswith("auc") else ""
    return f"{fixed(low, digits)}–{fixed(high, digits)}"


def _tested(column: str, value: float | str | None) -> str:
    """A cell of Table 2."""
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, str):
        return value
    if column in ("p", "p_holm"):
        return fixed(value, 4) if value >= 1e-3 else f"{value:.1e}" if value > 0 else "< 1e-300"
    return fixed(value, 4 if column == "difference_std_error" else 3)
