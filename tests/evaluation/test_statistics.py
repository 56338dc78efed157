"""Measures against hand counts, scikit-learn and the paper's table."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from scripts.evaluation.statistics import effective_size, metrics, rate_interval, summarise, vote, wilson


def predictions(tp: int, fn: int, tn: int, fp: int) -> tuple[list[int], list[float]]:
    """Labels and certain probabilities with these counts."""
    return [1] * (tp + fn) + [0] * (tn + fp), [1.0] * tp + [0.0] * fn + [0.0] * tn + [1.0] * fp


def test_measures_of_a_case_worked_by_hand():
    # HH at 0.9 0.6 0.5 0.2, HC at 0.7 0.4 0.1: three of four HH found (0.5 counts as HH), two of three HC
    values = metrics([1, 1, 1, 1, 0, 0, 0], [0.9, 0.6, 0.5, 0.2, 0.7, 0.4, 0.1])
    assert {k: values[k] for k in ("tp", "fn", "tn", "fp")} == {"tp": 3, "fn": 1, "tn": 2, "fp": 1}
    assert values["accuracy"] == pytest.approx(5 / 7)
    assert values["sensitivity"] == pytest.approx(3 / 4)
    assert values["specificity"] == pytest.approx(2 / 3)
    assert values["f1"] == pytest.approx((4 * 6 / 8 + 3 * 4 / 6) / 7)  # 2 tp / (2 tp + fp + fn), by class size
    # HH lies above HC in 9 of 12 pairs: 0.9 thrice, 0.6 and 0.5 twice, 0.2 once, less none for ties
    pairs = [(h > c) + 0.5 * (h == c) for h in (0.9, 0.6, 0.5, 0.2) for c in (0.7, 0.4, 0.1)]
    assert values["auc"] == pytest.approx(np.mean(pairs))


def test_measures_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 200)
    probability = np.clip(rng.normal(0.35 + 0.3 * label, 0.25), 0, 1).round(2)  # rounded, so that there are ties
    values, predicted = metrics(label, probability), probability >= 0.5
    assert values["accuracy"] == pytest.approx(accuracy_score(label, predicted))
    assert values["sensitivity"] == pytest.approx(recall_score(label, predicted))
    assert values["specificity"] == pytest.approx(recall_score(label, predicted, pos_label=0))
    assert values["f1"] == pytest.approx(f1_score(label, predicted, average="weighted"))
    assert values["auc"] == pytest.approx(roc_auc_score(label, probability))


# Paper, Table 3: 95 scans, 49 of HH. Only these counts give the published shares; its F1 is that of scikit-learn with
# average="weighted" (the macro average would be 75.75, 79.96 and 83.11).
@pytest.mark.parametrize(
    ("tp", "tn", "published"),
    [
        (38, 34, (75.79, 77.55, 73.91, 75.78)),  # full, ResNet
        (40, 36, (80.00, 81.63, 78.26, 79.99)),  # full, Q-Net
        (42, 37, (83.16, 85.71, 80.43, 83.14)),  # cropped, Q-Net
    ],
)
def test_counts_give_the_papers_table_3(tp, tn, published):
    values = metrics(*predictions(tp, 49 - tp, tn, 46 - tn))
    for name, share in zip(("accuracy", "sensitivity", "specificity", "f1"), published, strict=True):
        assert round(100 * values[name], 2) == pytest.approx(share, abs=0.011), name


def test_vote_is_the_share_of_slices_and_half_counts_as_hh():
    assert vote(np.array([0.9, 0.5, 0.49, 0.1])) == 0.5
    assert vote([0.9, 0.8, 0.1]) == pytest.approx(2 / 3)
    assert vote([0.4, 0.1]) == 0
    assert metrics([1, 0], [vote([0.9, 0.1]), vote([0.1, 0.2])])["tp"] == 1  # a tie is HH at scan level too


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label):
    with pytest.raises(ValueError, match="both classes"):
        metrics([label] * 3, [0.1, 0.6, 0.9])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_a_number_that_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match="probabilities"):
        metrics([0, 1], [0.5, bad])


def test_the_summary_parts_image_and_scan_level():
    def row(model: str, index: int | str, label: int, probability: float) -> dict:
        return {"model": model, "slice": index, "label": label, "probability_HH": str(probability)}

    rows = [row("Q-Net", "", 0, 0.1), row("Q-Net", "", 1, 0.9)]
    rows += [row("Q-Net", s, label, 0.7) for label in (0, 1) for s in (0, 1)]
    rows += [row("ResNet", "", 0, 0.2), row("ResNet", "", 1, 0.3)]
    found = {(r["level"], r["model"]): (r["tp"], r["fn"], r["tn"], r["fp"]) for r in summarise(rows)}
    assert found == {
        ("image", "Q-Net"): (2, 0, 0, 2),
        ("scan", "Q-Net"): (1, 0, 1, 0),
        ("scan", "ResNet"): (0, 1, 1, 0),
    }


def test_wilson_agrees_with_scipy_and_a_published_example():
    for successes, size in ((0, 7), (1, 7), (79, 95), (95, 95), (1273, 1584)):
        for confidence in (0.9, 0.95):
            expected = binomtest(successes, size).proportion_ci(confidence, method="wilson")
            assert wilson(successes / size, size, confidence) == pytest.approx((expected.low, expected.high))
    # Newcombe 1998 (Statistics in Medicine 17:857-872), Table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, size), bounds in published.items():
        assert wilson(successes / size, size) == pytest.approx(bounds, abs=5e-5)


@pytest.mark.parametrize(("rate", "size"), [(1.2, 10), (-0.1, 10), (0.5, 0), (math.nan, 10)])
def test_what_is_no_rate_has_no_interval(rate, size):
    with pytest.raises(ValueError, match="rate"):
        wilson(rate, size)


def test_one_case_a_participant_counts_in_full():
    correct = np.array([1, 0, 1, 1, 0, 1, 1])
    assert effective_size(correct, np.arange(7)) == pytest.approx(7)
    assert rate_interval(correct, np.arange(7)) == pytest.approx(wilson(5 / 7, 7))


def test_copies_of_a_participants_case_count_once():
    correct, clusters = np.array([1, 0, 1, 1, 0, 1, 1]), np.arange(7)
    assert effective_size(np.tile(correct, 9), np.tile(clusters, 9)) == pytest.approx(7)
    assert effective_size(np.ones(28), np.repeat(np.arange(7), 4)) == 7  # all right: nothing shows how alike they are


def test_effective_size_of_a_case_worked_by_hand():
    # three participants of 2, 2 and 4 slices with 2, 1 and 1 right: rate 1/2, residuals 1, 0 and -1,
    # variance (1 + 0 + 1) / 8^2 = 1/32 against 1/4 of one slice: 8 independent slices
    correct = np.array([1, 1, 1, 0, 1, 0, 0, 0])
    clusters = np.array([5, 5, 7, 7, 9, 9, 9, 9])
    assert effective_size(correct, clusters) == pytest.approx(8)
    # 2, 2 and 0 right: residuals 1, 1 and -2, variance 6/64: 2.67 slices
    assert effective_size(np.array([1, 1, 1, 1, 0, 0, 0, 0]), clusters) == pytest.approx(8 / 3)
    assert effective_size(np.array([1, 0, 1, 0, 1, 0, 1, 0]), clusters) == 8  # never more than there are


def test_rate_intervals_of_clustered_slices_cover_the_true_rate():
    rng = np.random.default_rng(0)
    runs, subjects, slices = 600, 50, 16
    clusters = np.repeat(np.arange(subjects), slices)
    covered = {"clustered": 0, "independent": 0}
    for _ in range(runs):
        correct = rng.random(subjects * slices) < rng.beta(3, 1, subjects)[clusters]  # subjects differ; on average 3/4
        for name, (low, high) in (
            ("clustered", rate_interval(correct, clusters)),
            ("independent", wilson(correct.mean(), len(correct))),
        ):
            covered[name] += low <= 0.75 <= high
    assert 0.925 <= covered["clustered"] / runs <= 0.975  # 95 % promised
    assert covered["independent"] / runs < 0.75
