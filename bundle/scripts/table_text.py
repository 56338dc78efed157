"""Titles, notes and cells of the tables for a reader: rounded, counts beside rates, the paper's value beside ours."""

from collections.abc import Iterator

import pandas as pd

from scripts.predictions import at_level
from scripts.provenance import bundle_version
from scripts.statistics import THRESHOLD

#: A section: key, title, note, column heads, rows of cells; an empty row parts groups.
Section = tuple[str, str, str, list[str], list[list[str]]]

#: Measures as they are headed.
MEASURES = {
    "accuracy": "Accuracy (%)",
    "sensitivity": "Sensitivity (%)",
    "specificity": "Specificity (%)",
    "f1": "F1-score (%)",
    "auc": "AUC",
}
#: Columns of Table 2 that the paper has too.
TESTED = ("auc1", "auc2", "difference_std_error", "z", "p", "level")
#: Tests of Table 2: title, and what the variance is over.
TESTS = {
    "image": ("image level, slices taken for independent as in the paper", "DeLong, variance over slices"),
    "image_clustered": (
        "image level, slices clustered in scans",
        "Clustered DeLong (Obuchowski 1997), variance over scans",
    ),
    "scan": ("scan level", "DeLong, variance over scans"),
}
#: The head above each value of the paper.
PAPER = "Paper"


def cohort_text(table: pd.DataFrame, simulated: bool) -> str:
    """What every caption says of the cohort, the cross-validation and the version."""
    label = table.groupby("participant_id")["label"].first()
    repeats, folds = table["repeat"].nunique(), table["fold"].nunique()
    slices = len(at_level(table, "image")[["participant_id", "slice"]].drop_duplicates())
    return (
        f"{'Simulated cohort, no patients' if simulated else 'Cohort not simulated'}: {len(label)} participants"
        f" ({int(label.sum())} HH, {int((label == 0).sum())} HC), {slices} slices;"
        f" {_number(repeats, 'repeat')} of {_number(folds, 'fold')}. HH is positive, threshold {THRESHOLD}."
        f" The paper's values are of real patients. Bundle version {bundle_version()}."
    )


def measure_sections(frame: pd.DataFrame, about: str) -> Iterator[Section]:
    """Tables 1 and 3, a section a region.

    Args:
        frame: from `scripts.tables.image_level` or `scan_level`.
        about: from `cohort_text`.
    """
    spread = "Mean ± SD over repeats" if frame["std"].notna().any() else "One repeat, hence no SD"
    note = (
        f"{about} {spread}; counts over all repeats. 95 % intervals over participants, whose slices are a cluster:"
        " Wilson for rates, DeLong on the logit scale for AUCs. F1 weighted by class size."
    )
    heads = ["Measure", "Model", "Ours", PAPER, "95 % CI", "Count"]
    for region, part in frame.groupby("region", sort=False):
        rows: list[list[str]] = []
        for measure, lines in part.groupby("measure", sort=False):
            rows += [[]] if rows else []
            for place, (_, line) in enumerate(lines.iterrows()):
                digits = 3 if measure == "auc" else 2
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
        yield region, f"{region} input", note, heads, rows


def test_sections(frame: pd.DataFrame, about: str) -> Iterator[Section]:
    """Table 2, a section a test; the paper's columns where it has that test.

    Args:
        frame: from `scripts.tables.delong_tests`.
        about: from `cohort_text`.
    """
    heads = dict(zip(TESTED, ("AUC 1", "AUC 2", "SE", "z", "p", "Level"), strict=True))
    levels = "Levels: ns p > 0.05, * p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001, **** p ≤ 0.0001."
    for test, part in frame.groupby("test", sort=False):
        both = [name for column in TESTED for name in (column, f"{column}_paper")]
        shown = [name for name in both if name in TESTED or part[name].notna().any()]
        rows: list[list[str]] = []
        for region, lines in part.groupby("region", sort=False):
            rows += [[]] if rows else []
            for place, (_, line) in enumerate(lines.iterrows()):
                cells = [_tested(name.removesuffix("_paper"), line[name]) for name in shown]
                rows.append(["" if place else region, line["model1"], line["model2"], *cells])
        columns = ["Input", "Model 1", "Model 2", *(heads.get(name, PAPER) for name in shown)]
        title, method = TESTS[test]
        yield (
            test,
            title,
            f"{about} {method}; AUCs are means over repeats; SE of the difference. {levels}",
            columns,
            rows,
        )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _spread(mean: float, std: float, digits: int) -> str:
    """A mean with its SD where there is one; empty where there is no mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")


def _range(low: float, high: float, digits: int, measure: str) -> str:
    """An interval; an AUC of 0 or 1 has none."""
    if pd.isna(low):
        return "not estimable" if measure == "auc" else ""
    return f"{low:.{digits}f}–{high:.{digits}f}"


def _tested(column: str, value: float | str | None) -> str:
    """A cell of Table 2."""
    if value is None or pd.isna(value):
        return ""
    if column == "p":
        return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}" if value > 0 else "< 1e-300"
    return str(value) if column == "level" else f"{value:.{4 if column == 'difference_std_error' else 3}f}"
