"""Parts of a cohort, decisions and sample sizes, against scikit-learn, hand-made numbers and dcurves."""

import math

import numpy as np
import pandas as pd
import pytest
from refusal import refused
from sklearn.metrics import roc_auc_score

from scripts.evaluation.subgroups import net_benefit, parts, read_subjects, sex_of, subgroup_rows, subjects_for_width
from scripts.reporting.subgroups import decision_curve, facts, section, write_subgroups


@pytest.fixture(scope="module")
def cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of 60 subjects in two repeats, and who they are."""
    rng = np.random.default_rng(0)
    names = [f"sub-{n:02d}" for n in range(60)]
    labels = np.arange(60) % 2
    sex, site = np.where(np.arange(60) < 40, "F", "M"), np.where(np.arange(60) % 3, "north", "south")
    people = pd.DataFrame(
        {"group": np.where(labels, "HH", "HC"), "age": np.linspace(20, 79, 60), "sex": sex, "site": site},
        index=pd.Index(names, name="participant_id"),
    )  # fmt: skip
    probabilities = np.clip(0.4 + 0.2 * labels + rng.normal(0, 0.2, (2, 60)), 0, 1)
    rows = [
        {"repeat": repeat, "fold": n % 5, "region": "cropped", "model": "Q-Net", "participant_id": name, "slice": pd.NA,
         "label": int(labels[n]), "probability_HH": probabilities[repeat, n]}
        for repeat in range(2) for n, name in enumerate(names)
    ]  # fmt: skip
    return pd.DataFrame(rows), people


def test_parts_are_sexes_sites_and_thirds_of_age_and_hold_everybody_once(cohort):
    _, people = cohort
    found = list(parts(people))
    assert [(kind, name) for kind, name, _ in found][:4] == [
        ("sex", "F"), ("sex", "M"), ("site", "north"), ("site", "south")
    ]  # fmt: skip
    assert [len(members) for kind, _, members in found if kind == "age"] == [20, 20, 20]
    assert [sex_of(word) for word in ("female", "M", "?", " f ")] == ["F", "M", "n/a", "F"]


def test_each_part_has_its_own_auc_and_interval(cohort):
    table, people = cohort
    rows = {(row["subgroup"], row["value"]): row for row in subgroup_rows(table, people)}
    of = people.index[people["site"] == "south"]
    own = table[table["participant_id"].isin(of)]
    expected = np.mean([roc_auc_score(part["label"], part["probability_HH"]) for _, part in own.groupby("repeat")])
    row = rows["site", "south"]
    assert row["auc"] == pytest.approx(expected) and row["auc_low"] < expected < row["auc_high"]
    assert (row["subjects"], row["hh"]) == (20, 10)
    assert rows["all", ""]["auc_high"] - rows["all", ""]["auc_low"] < row["auc_high"] - row["auc_low"]


def test_a_part_without_a_group_has_no_auc_and_says_nothing_of_it(cohort):
    table, people = cohort
    odd = people.assign(site=np.where(people["group"] == "HH", "one", "other"))
    row = next(row for row in subgroup_rows(table, odd) if row["value"] == "one")
    assert math.isnan(row["auc"]) and math.isnan(row["specificity"]) and 0 <= row["sensitivity"] <= 1


def test_net_benefit_is_what_its_paper_says():
    labels, probabilities = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.6, 0.1, 0.05])
    # at 0.5: one true, one false positive of five; at 0.2: two true, one false
    found = net_benefit(labels, probabilities, np.array([0.5, 0.2]))
    assert found == pytest.approx([1 / 5 - 1 / 5, 2 / 5 - 1 / 5 * 0.25])
    with refused("threshold"):
        net_benefit(labels, probabilities, np.array([1.0]))


@pytest.mark.other_programs
def test_net_benefit_is_that_of_dcurves(cohort):
    dcurves = pytest.importorskip("dcurves")
    table, _ = cohort
    data = table[table["repeat"] == 0][["label", "probability_HH"]].reset_index(drop=True)
    thresholds = np.arange(0.05, 0.9, 0.05)
    theirs = dcurves.dca(data=data, outcome="label", modelnames=["probability_HH"], thresholds=thresholds)
    theirs = theirs[theirs["model"] == "probability_HH"].set_index("threshold")["net_benefit"]
    ours = net_benefit(data["label"].to_numpy(), data["probability_HH"].to_numpy(), theirs.index.to_numpy())
    assert ours == pytest.approx(theirs.to_numpy(), abs=1e-9)


def test_an_interval_of_half_the_width_needs_four_times_the_subjects():
    assert subjects_for_width(100, 0.7, 0.9) == 400
    assert subjects_for_width(100, math.nan, 0.9) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("\tn/a", "\tOst\xe9").encode("latin-1"), "not text in UTF-8"),
        (lambda text: text.replace("60", "1975").encode(), "the age of 'sub-02' is '1975'"),
        (lambda text: text.replace("60", "-5").encode(), "the age of 'sub-02' is '-5'"),
        (lambda text: text.replace("sub-02", "sub-03").encode(), "no row 'sub-02'"),
    ],
)
def test_a_table_of_subjects_that_lacks_somebody_or_cannot_be_read_is_refused(tmp_path, change, said):
    path = tmp_path / "subjects.tsv"
    text = "participant_id\tgroup\tage\tsex\tsite\nsub-01\tHC\tn/a\tF\tn/a\nsub-02\tHH\t60\tM\tn/a\n"
    path.write_text(text)
    ages = read_subjects(path, ["sub-02", "sub-01"])["age"]
    assert math.isnan(ages["sub-01"]) and ages["sub-02"] == 60
    path.write_bytes(change(text))
    with refused(path, said):
        read_subjects(path, ["sub-02", "sub-01"])


def test_table_page_and_checklists_say_the_same(cohort, tmp_path):
    table, people = cohort
    written = write_subgroups(tmp_path, table, people, simulated=True)
    text = written[1].read_text()
    assert "simulated cohort" in text and "site south" in text and "like these are needed" in text
    ((title, note, content),) = section(tmp_path, simulated=True)
    assert "simulated" in title and "site south" in content and "needed" in note
    said = facts(tmp_path)
    assert "site north" in said["sites"] and "sex F" in said["subgroups"] and "0.1" in said["sample_size"]
    assert facts(tmp_path / "empty")["subgroup_note"].startswith("; no subgroups")
    assert read_subjects(tmp_path / "absent.tsv") is None
    axes = decision_curve(table, simulated=True).axes[0]
    assert {line.get_label() for line in axes.lines} == {"Q-Net", "everybody", "nobody"}
