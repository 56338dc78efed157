"""Calibration and answers of held-out scans: as libraries have them, and no scan has a say in its own."""

from dataclasses import astuple

import numpy as np
import pytest
from crepes import ConformalClassifier
from made_predictions import made_predictions
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from scripts.evaluation.calibration import ece_of_perfect, fit_calibrator, reliability, slope_and_intercept
from scripts.evaluation.trust import coverage, cross_fitted, known_scores, scan_scores, trust_table, trusted
from scripts.model.calibration import logits
from scripts.model.conformal import CANNOT_SAY, decisions, p_values


def drawn(subjects: int, seed: int = 0, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and log odds that are right, of two groups that differ by a normal score."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(subjects) % 2
    return labels, distance * rng.normal(distance * (labels - 0.5), 1)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier of scikit-learn whose input is its own score."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return np.asarray(x)[:, 0]

    def predict(self, x):
        return (self.decision_function(x) > 0).astype(int)


@pytest.mark.parametrize("distance", [1.0, 12.0], ids=["overlapping groups", "groups apart"])
def test_platts_scaling_is_that_of_scikit_learn(distance):
    labels, scores = drawn(60, distance=distance)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given().fit(scores[:, None], labels)), method="sigmoid")
    expected = theirs.fit(scores[:, None], labels).predict_proba(scores[:, None])[:, 1]
    np.testing.assert_allclose(fit_calibrator(labels, scores, "platt")(scores), expected, atol=2e-4)


@pytest.mark.parametrize(("method", "shift"), [("platt", -1.5), ("temperature", 0.0)])
def test_probabilities_that_were_distorted_are_mended(method, shift):
    labels, right = drawn(4000)
    wrong = 3 * right + shift
    made = fit_calibrator(labels, wrong, method)
    assert np.abs(made(wrong) - expit(right)).mean() < 0.02
    slope, intercept = slope_and_intercept(labels, wrong - shift)
    assert slope == pytest.approx(1 / 3, abs=0.03) and intercept == pytest.approx(0, abs=0.3)
    assert slope_and_intercept(labels, logits(made(wrong))) == pytest.approx((1, 0), abs=0.06)


def test_another_share_of_hh_moves_the_odds_as_bayes_has_it():
    labels, scores = drawn(4000)
    made = fit_calibrator(labels, scores, "platt")
    rare = np.random.default_rng(1).choice(np.flatnonzero(labels), 100)  # one HH to twenty HC
    chosen = np.concatenate([np.flatnonzero(labels == 0), rare])
    share = labels[chosen].mean()
    assert abs(made(scores[chosen]).mean() - share) > 0.1
    assert made(scores[chosen], share).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
def test_answers_are_those_of_crepes(error):
    labels, scores = drawn(80, distance=1.2)
    new = drawn(200, seed=1, distance=1.2)[1]
    theirs = ConformalClassifier().fit(np.where(labels == 1, -scores, scores), bins=labels)
    expected = np.stack(
        [theirs.predict_p(s[:, None], bins=np.full(200, g), smoothing=False)[:, 0] for g, s in ((0, new), (1, -new))], 1
    )
    found = p_values(new, known_scores(labels, scores))
    np.testing.assert_allclose(found, expected)
    sets = expected > error
    answers = decisions(found, error)
    assert set(answers) <= {"HH", "HC", CANNOT_SAY}
    np.testing.assert_array_equal(answers == "HH", sets[:, 1] & ~sets[:, 0])
    np.testing.assert_array_equal(answers == "HC", sets[:, 0] & ~sets[:, 1])


def test_each_group_is_covered_as_often_as_was_asked():
    kept = []
    for seed in range(60):
        labels, scores = drawn(100, seed, distance=1.5)
        new, values = drawn(100, 1000 + seed, distance=1.5)
        p = p_values(values, known_scores(labels, scores))
        kept.append([(p[new == group, group] > 0.1).mean() for group in (0, 1)])
    assert np.mean(kept, axis=0) == pytest.approx([0.9, 0.9], abs=0.03)


def test_a_score_that_is_no_number_is_unlike_both_groups():
    assert p_values(np.nan, {"HC": [0.0] * 19, "HH": [1.0] * 19}).tolist() == [0.05, 0.05]


def test_the_ece_of_a_perfect_model_is_that_of_labels_drawn_from_its_probabilities():
    probabilities = expit(drawn(60)[1])
    rng = np.random.default_rng(5)
    errors = [reliability(rng.random(60) < probabilities, probabilities, 10).ece for _ in range(300)]
    assert ece_of_perfect(probabilities, 10) == pytest.approx(np.mean(errors), abs=0.005)


@pytest.mark.parametrize("scores", [[-3, -2, -1, 1, 2, 3], [-2, -1, 0, 0, 1, 2], [2, 1, 0, 0, -1, -2], [1] * 6])
def test_groups_that_do_not_overlap_or_just_touch_have_no_slope(scores):
    assert np.isnan(slope_and_intercept(np.array([0, 0, 0, 1, 1, 1]), np.array(scores, dtype=float))[0])


def test_no_scan_of_a_fold_has_a_say_in_what_is_said_of_the_fold():
    labels, scores = drawn(60)
    folds = np.arange(60) % 5
    before = cross_fitted(labels, scores, folds, "platt")
    turned = np.where(folds == 2, 1 - labels, labels)
    after = cross_fitted(turned, scores, folds, "platt")
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[folds == 2], other[folds == 2])
        assert np.abs(one - other).max() > 0


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_a_person_scanned_ten_times_counts_once_in_the_calibration(method):
    labels, scores = drawn(40)
    often = np.repeat(np.arange(40), np.where(labels == 1, 10, 1))
    once, again = fit_calibrator(labels, scores, method), fit_calibrator(labels[often], scores[often], method, often)
    assert astuple(again)[1:] == pytest.approx(astuple(once)[1:], rel=1e-6)
    assert fit_calibrator(labels[often], scores[often], method).prevalence > 0.9


def test_sessions_of_one_person_count_once_and_by_the_one_least_like_the_group():
    labels, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([-3.0, -1.0, -2.0, 4.0, 1.0, 3.0])
    people = ["a", "a", "b", "c", "c", "d"]
    assert known_scores(labels, scores, people) == {"HC": [-2.0, -1.0], "HH": [1.0, 3.0]}


def test_nobody_has_a_say_in_what_is_said_of_another_session_of_his():
    labels, scores = drawn(90)
    people = np.array([f"sub-{n // 3}" for n in range(90)])
    labels = np.repeat(labels[::3], 3)
    moved = np.where(np.arange(90) == 12, 50.0, scores)
    before, after = (cross_fitted(labels, given, np.zeros(90), "platt", people) for given in (scores, moved))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[13:15], new[13:15])


def test_few_people_with_many_sessions_do_not_make_a_small_error_look_kept():
    kept = []
    for seed in range(50):
        (labels, level), (new, values) = drawn(20, seed, 1.5), drawn(40, 1000 + seed, 1.5)
        sessions = np.repeat(level, 5) + np.random.default_rng(seed).normal(0, 0.1, 100)
        p = p_values(values, known_scores(np.repeat(labels, 5), sessions, np.arange(100) // 5))
        kept.append([(p[new == group, group] > 0.05).mean() for group in (0, 1)])
    assert (np.mean(kept, axis=0) >= 0.95).all()


def test_a_fold_that_holds_a_whole_group_calibrates_nobody_by_one_group_alone():
    labels, scores = drawn(40)
    calibrated, p = cross_fitted(labels, scores, labels, "platt")
    assert np.isfinite(calibrated).all() and (p > 0).all()


def test_no_and_all_votes_are_finite():
    assert scan_scores(np.array([0.0, 0.5, 1.0]), "ResNet", 4) == pytest.approx([logit(0.1), 0, logit(0.9)])


def test_the_table_says_what_each_model_is_worth():
    table = made_predictions(subjects=40, baselines=("ROI-LR",))
    found = trust_table(table, "platt", 0.2)
    assert set(zip(found["region"], found["model"], strict=True)) == {
        (region, model) for region in ("full", "cropped") for model in ("ResNet", "ResNetSWA", "Q-Net", "ROI-LR")
    }
    for one, (_, row) in zip(trusted(table, "platt"), found.iterrows(), strict=True):
        expected = coverage(one, 0.2)
        assert row["cannot_say"] == expected["cannot_say"]
        assert row["coverage"] == pytest.approx((expected["coverage_HC"] + expected["coverage_HH"]) / 2)
        assert row["ece"] == pytest.approx(np.mean([reliability(one.labels, v, 10).ece for v in one.calibrated]))


def test_too_few_subjects_have_no_row():
    assert trust_table(made_predictions(subjects=18), "platt", 0.1).empty
