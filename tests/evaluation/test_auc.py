"""AUCs, their variance and comparisons: against published examples, plain counting, scikit-learn and simulation."""

import numpy as np
import pytest
from refusal import refused
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from scripts.evaluation.auc import (
    Aucs,
    bootstrap_aucs,
    bootstrap_weights,
    bootstrap_within_folds,
    clustered_delong,
    compare,
    delong,
    holm,
    interval,
    significance,
    within_folds,
)

# 49 ovarian cancer patients (43 with all three tests) of DeLong, DeLong and Clarke-Pearson 1988, as listed in the
# SAS/STAT User's Guide, "Comparing Receiver Operating Characteristic Curves": albumin, total protein, K-G score (low
# is good), outcome.
PATIENTS = """
    3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
    1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
    4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
    3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
    3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
    3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
    3.6 6.6  5 1
"""
OVARIAN = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4)


def cohort(
    seed: int, subjects: int = 40, slices: int = 6, models: int = 3, repeats: int = 2, within: float = 0.6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities `[k, r, n]` with ties, and clusters of subjects whose slices correlate by `within`."""
    rng = np.random.default_rng(seed)
    label = np.arange(subjects) % 2
    clusters = np.repeat(np.arange(subjects), slices)
    shape = (models, repeats, subjects)
    subject = rng.normal(size=subjects) + 0.7 * rng.normal(size=shape)
    score = np.sqrt(within) * subject[..., clusters] + np.sqrt(1 - within) * rng.normal(
        size=(*shape[:2], len(clusters))
    )
    score += np.linspace(0.4, 1.2, models)[:, None, None] * label[clusters]
    return label[clusters], norm.cdf(score).round(2), clusters


def plain(labels: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC and Obuchowski's covariance by comparing every pair, written from her formulas without midranks."""
    k = len(probabilities)
    hh, hc = labels == 1, labels == 0
    better = [
        np.mean([(p[hh][:, None] > p[hc]) + 0.5 * (p[hh][:, None] == p[hc]) for p in model], axis=0)
        for model in probabilities
    ]
    auc = np.array([b.mean() for b in better])
    names = set(clusters)
    hh_names, hc_names = set(clusters[hh]), set(clusters[hc])
    m, n = hh.sum(), hc.sum()
    covariance = np.zeros((k, k))
    for i in range(k):
        for j in range(k):

            def rest(model: int, cluster: int) -> tuple[float, float]:
                rows, columns = better[model][clusters[hh] == cluster], better[model][:, clusters[hc] == cluster]
                return (
                    rows.mean(axis=1).sum() - len(rows) * auc[model],
                    columns.mean(axis=0).sum() - columns.shape[1] * auc[model],
                )

            s10 = len(hh_names) / (len(hh_names) - 1) / m * sum(rest(i, c)[0] * rest(j, c)[0] for c in hh_names)
            s01 = len(hc_names) / (len(hc_names) - 1) / n * sum(rest(i, c)[1] * rest(j, c)[1] for c in hc_names)
            s11 = len(names) / (len(names) - 1) * sum(rest(i, c)[0] * rest(j, c)[1] for c in names)
            s11 += len(names) / (len(names) - 1) * sum(rest(j, c)[0] * rest(i, c)[1] for c in names)
            covariance[i, j] = s10 / m + s01 / n + s11 / (m * n)
    return auc, covariance


def test_delong_gives_the_published_ovarian_cancer_results():
    # areas, standard errors and tests of the SAS/STAT output; albumin and total protein against K-G score
    albumin, protein, kg, outcome = OVARIAN.T
    aucs = delong(outcome.astype(int), np.stack([albumin, -kg, protein])[:, None])
    assert aucs.values.round(4).tolist() == [0.7366, 0.7258, 0.6478]
    assert np.sqrt(np.diag(aucs.covariance)).round(4).tolist() == [0.0927, 0.1028, 0.1000]
    against_kg = compare(aucs, 0, 1), compare(aucs, 2, 1)
    assert [round(c.auc1 - c.auc2, 4) for c in against_kg] == [0.0108, -0.0780]
    assert [round(c.difference_std_error, 4) for c in against_kg] == [0.0953, 0.1046]
    assert [round(c.z**2, 4) for c in against_kg] == [0.0127, 0.5554]
    assert [round(c.p, 4) for c in against_kg] == [0.9102, 0.4561]
    # the joint test of both contrasts has chi-square 2.5340 with two degrees of freedom
    contrast = np.array([[1, -1, 0], [0, -1, 1]])
    difference = contrast @ aucs.values
    chi_square = difference @ np.linalg.solve(contrast @ aucs.covariance @ contrast.T, difference)
    assert chi_square == pytest.approx(2.5340, abs=5e-5)


@pytest.mark.parametrize("repeats", [1, 3])
def test_delong_agrees_with_counting_every_pair(repeats):
    labels, probabilities, _ = cohort(1, repeats=repeats)
    auc, covariance = plain(labels, probabilities, np.arange(len(labels)))
    found = delong(labels, probabilities)
    np.testing.assert_allclose(found.values, auc, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10)
    each = [np.mean([roc_auc_score(labels, p) for p in model]) for model in probabilities]
    np.testing.assert_allclose(found.values, each, rtol=1e-12)


@pytest.mark.parametrize("mixed", [False, True])
def test_clustered_delong_agrees_with_counting_every_pair(mixed):
    labels, probabilities, clusters = cohort(2)
    if mixed:  # clusters of both classes and of unequal size, as where each side of a body has its own label
        clusters = np.random.default_rng(0).integers(0, 25, len(labels))
    auc, covariance = plain(labels, probabilities, clusters)
    found = clustered_delong(labels, probabilities, clusters)
    np.testing.assert_allclose(found.values, auc, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10)


def test_clusters_of_one_case_give_delong():
    labels, probabilities, _ = cohort(3)
    one, plain_delong = clustered_delong(labels, probabilities, np.arange(len(labels))), delong(labels, probabilities)
    np.testing.assert_allclose(one.covariance, plain_delong.covariance, rtol=1e-12)


def test_copies_of_slices_add_nothing_to_the_clustered_test_but_deceive_delong():
    labels, probabilities, clusters = cohort(4)
    copies = 5
    many = (np.tile(labels, copies), np.tile(probabilities, copies), np.tile(clusters, copies))
    once, more = clustered_delong(labels, probabilities, clusters), clustered_delong(*many)
    np.testing.assert_allclose(more.covariance, once.covariance, rtol=1e-10)
    ratio = delong(labels, probabilities).covariance / delong(*many[:2]).covariance
    np.testing.assert_allclose(ratio, copies, rtol=0.01)  # but for the n - 1 of a covariance


def test_repeats_that_say_the_same_change_nothing():
    labels, probabilities, clusters = cohort(5, repeats=1)
    thrice = np.repeat(probabilities, 3, axis=1)
    np.testing.assert_allclose(delong(labels, thrice).covariance, delong(labels, probabilities).covariance)
    np.testing.assert_allclose(
        bootstrap_aucs(labels, thrice, clusters, 50, 0), bootstrap_aucs(labels, probabilities, clusters, 50, 0)
    )


def folds_of(seed: int, clusters: np.ndarray, repeats: int, folds: int) -> np.ndarray:
    """`[repeats, cases]`: participants in random folds of about equal size."""
    rng, subjects = np.random.default_rng(seed), clusters.max() + 1
    return np.stack([(rng.permutation(subjects) % folds)[clusters] for _ in range(repeats)])


def test_auc_within_folds_agrees_with_counting_the_pairs_of_each_fold():
    labels, probabilities, clusters = cohort(1, repeats=2)
    folds = folds_of(0, clusters, 2, 7)
    expected = []
    for model in probabilities:
        each = []
        for score, fold in zip(model, folds, strict=True):
            pairs = [
                (score[i] > score[j]) + 0.5 * (score[i] == score[j])
                for i in np.flatnonzero(labels == 1)
                for j in np.flatnonzero(labels == 0)
                if fold[i] == fold[j]
            ]
            each.append(np.mean(pairs))
        expected.append(np.mean(each))
    np.testing.assert_allclose(within_folds(labels, probabilities, clusters, folds).values, expected, rtol=1e-12)


def test_another_level_of_probabilities_in_a_fold_changes_nothing_within_folds():
    labels, probabilities, clusters = cohort(2, repeats=1)
    folds = folds_of(0, clusters, 1, 5)
    moved = probabilities + 10.0 * folds
    here, there = (within_folds(labels, p, clusters, folds) for p in (probabilities, moved))
    np.testing.assert_allclose(there.values, here.values)
    np.testing.assert_allclose(there.covariance, here.covariance)
    assert delong(labels, moved).values[0] < delong(labels, probabilities).values[0] - 0.05


def test_one_fold_gives_the_pooled_auc_and_nearly_its_variance():
    labels, probabilities, clusters = cohort(3, subjects=80)
    one = within_folds(labels, probabilities, clusters, np.zeros((2, len(labels)), int))
    pooled = clustered_delong(labels, probabilities, clusters)
    np.testing.assert_allclose(one.values, pooled.values, rtol=1e-12)
    np.testing.assert_allclose(one.covariance, pooled.covariance, rtol=0.05)
    assert (np.diag(one.covariance) < np.diag(pooled.covariance)).all()


def test_variance_within_folds_is_that_of_new_cohorts():
    # ten folds of five and five, three repeats with other folds, models of other levels in each fold
    rng, subjects, found = np.random.default_rng(0), 100, []
    labels = np.arange(subjects) % 2
    for _ in range(200):
        hh, hc = (np.stack([rng.permutation(subjects // 2) % 10 for _ in "abc"]) for _ in "ab")
        folds = np.empty((3, subjects), int)
        folds[:, labels == 1], folds[:, labels == 0] = hh, hc
        latent = rng.normal(size=subjects) + 1.2 * labels
        score = latent + 0.5 * rng.normal(size=(2, 3, subjects)) + 2 * folds
        aucs = within_folds(labels, score, np.arange(subjects), folds)
        difference = compare(aucs, 0, 1)
        found.append([aucs.values[0], aucs.covariance[0, 0], difference.auc1 - difference.auc2,
                      difference.difference_std_error**2])  # fmt: skip
    found = np.array(found)
    assert np.sqrt(found[:, 1].mean()) == pytest.approx(found[:, 0].std(), rel=0.1)
    assert np.sqrt(found[:, 3].mean()) == pytest.approx(found[:, 2].std(), rel=0.1)


def test_folds_of_one_group_only_have_no_auc_within_folds():
    labels, probabilities, clusters = cohort(4, repeats=1, slices=1)
    aucs = within_folds(labels, probabilities, clusters, labels[None])
    assert np.isnan(aucs.values).all()
    assert np.isnan(interval(aucs.values[0], aucs.covariance[0, 0])).all()
    assert compare(aucs, 0, 1).level == "undefined"
    with pytest.raises(ValueError, match="folds must be"):
        within_folds(labels, probabilities, clusters, labels)


def test_bootstrap_within_folds_gives_what_counting_gives_on_the_same_samples():
    labels, probabilities, clusters = cohort(7, subjects=16, slices=3)
    folds = folds_of(1, clusters, 2, 3)
    drawn = bootstrap_within_folds(labels, probabilities, clusters, folds, 20, seed=3)
    for weights, found in zip(bootstrap_weights(labels, clusters, 20, seed=3), drawn, strict=True):
        w, each = weights[clusters], []
        for score, fold in zip(probabilities[1], folds, strict=True):
            pair = np.outer(w * (labels == 1), w * (labels == 0)) * (fold[:, None] == fold)
            each.append(np.sum(pair * ((score[:, None] > score) + 0.5 * (score[:, None] == score))) / pair.sum())
        assert found[1] == pytest.approx(np.mean(each))


def test_holm_gives_the_published_example_and_leaves_out_what_was_not_tested():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, np.nan, 0.9]) == pytest.approx([0.02, np.nan, 0.9], nan_ok=True)
    assert holm([0.6, 0.7]).tolist() == [1, 1]


def test_comparison_follows_the_papers_table_2():
    # cropped, Q-Net against ResNet: standard error .0094 and z 12.447; equal variances stand in for those not printed
    variance = 0.01**2
    covariance = variance - 0.0094**2 / 2
    found = compare(Aucs(np.array([0.866, 0.749]), np.array([[variance, covariance], [covariance, variance]])), 0, 1)
    assert found.difference_std_error == pytest.approx(0.0094)
    assert found.z == pytest.approx(0.117 / 0.0094)
    assert found.p == pytest.approx(1.5e-35, rel=0.1)
    assert found.level == "****"


@pytest.mark.parametrize(
    ("p", "level"),
    [(1, "ns"), (0.0501, "ns"), (0.05, "*"), (0.0101, "*"), (0.01, "**"), (0.001, "***"), (1e-4, "****"), (0, "****")],
)
def test_levels_are_the_papers(p, level):
    assert significance(p) == level


def test_identical_models_have_p_1_and_no_error():
    labels, probabilities, clusters = cohort(6, models=1)
    same = np.repeat(probabilities, 2, axis=0)
    for aucs in (delong(labels, same), clustered_delong(labels, same, clusters)):
        found = compare(aucs, 0, 1)
        assert (found.z, found.p, found.level, found.difference_std_error) == (0, 1, "ns", 0)


def test_a_ranking_that_differs_in_one_pair_is_still_compared():
    score = np.arange(200.0)
    labels = (score >= 100).astype(int)
    other = score.copy()
    other[[99, 100]] = other[[100, 99]]
    found = compare(delong(labels, np.stack([score, other])[:, None]), 0, 1)
    assert found.auc1 - found.auc2 == pytest.approx(1e-4)
    assert found.difference_std_error == pytest.approx(np.sqrt(2) * 1e-4, rel=0.01)


def test_perfect_separation_is_not_passed_off_as_certainty():
    labels = np.array([0, 0, 0, 1, 1, 1])
    perfect, nothing = labels.astype(float), np.full(6, 0.5)
    aucs = delong(labels, np.stack([perfect, nothing])[:, None])
    assert aucs.values.tolist() == [1, 0.5]
    found = compare(aucs, 0, 1)
    assert found.level == "undefined"
    assert np.isnan([found.z, found.p]).all()
    assert np.isnan(interval(aucs.values[0], aucs.covariance[0, 0])).all()
    assert np.isnan(interval(aucs.values[1], aucs.covariance[1, 1])).all()  # all tied: certain of nothing
    assert compare(aucs, 0, 0).p == 1


def test_interval_is_symmetric_on_the_logit_scale():
    low, high = interval(0.8, 0.04**2)
    logit = [np.log(p / (1 - p)) for p in (low, 0.8, high)]
    assert np.diff(logit) == pytest.approx(1.959964 * 0.04 / (0.8 * 0.2), rel=1e-6)
    assert interval(0.99, 0.02**2)[1] < 1
    assert interval(0.8, 0.04**2, 0.5)[0] > low


def test_bootstrap_gives_what_scikit_learn_gives_on_the_same_samples():
    labels, probabilities, clusters = cohort(7, subjects=14, slices=5)
    weights = bootstrap_weights(labels, clusters, 30, seed=3)
    expected = [
        [np.mean([roc_auc_score(labels, p, sample_weight=w[clusters]) for p in model]) for model in probabilities]
        for w in weights
    ]
    np.testing.assert_allclose(bootstrap_aucs(labels, probabilities, clusters, 30, seed=3), expected, rtol=1e-10)


def test_bootstrap_in_pieces_gives_the_same(monkeypatch):
    labels, probabilities, clusters = cohort(7)
    whole = bootstrap_aucs(labels, probabilities, clusters, 20, seed=3)
    monkeypatch.setattr("scripts.evaluation.auc.CELLS", 3 * (len(labels) + 20))
    np.testing.assert_allclose(bootstrap_aucs(labels, probabilities, clusters, 20, seed=3), whole, rtol=1e-12)


def test_bootstrap_draws_whole_subjects_of_each_class_in_full_number():
    labels, _, clusters = cohort(8, subjects=21)
    weights = bootstrap_weights(labels, clusters, 200, seed=0)
    hh = np.array([labels[clusters == c][0] == 1 for c in range(21)])
    assert weights.shape == (200, 21)
    assert (weights[:, hh].sum(axis=1) == hh.sum()).all()
    assert (weights[:, ~hh].sum(axis=1) == (~hh).sum()).all()
    assert (weights == bootstrap_weights(labels, clusters, 200, seed=0)).all()
    assert (weights != bootstrap_weights(labels, clusters, 200, seed=1)).any()


def test_bootstrap_spreads_as_clustered_delong_says():
    labels, probabilities, clusters = cohort(9, subjects=120, slices=8)
    drawn = bootstrap_aucs(labels, probabilities, clusters, 4000, seed=0)
    expected = clustered_delong(labels, probabilities, clusters)
    np.testing.assert_allclose(drawn.mean(axis=0), expected.values, atol=0.003)
    np.testing.assert_allclose(drawn.std(axis=0), np.sqrt(np.diag(expected.covariance)), rtol=0.06)
    difference = drawn[:, 2] - drawn[:, 0]
    assert difference.std() == pytest.approx(compare(expected, 2, 0).difference_std_error, rel=0.06)


def test_intervals_cover_the_true_auc_only_where_clusters_are_respected():
    within, shift = 0.6, 1.2
    truth = norm.cdf(shift / np.sqrt(2))
    rng = np.random.default_rng(0)
    runs, subjects, slices = 400, 60, 8
    label = np.arange(subjects) % 2
    clusters = np.repeat(np.arange(subjects), slices)
    covered = {"clustered": 0, "independent": 0}
    for _ in range(runs):
        noise = rng.normal(size=subjects)[clusters], rng.normal(size=len(clusters))
        score = np.sqrt(within) * noise[0] + np.sqrt(1 - within) * noise[1] + shift * label[clusters]
        for name, aucs in (
            ("clustered", clustered_delong(label[clusters], score[None, None], clusters)),
            ("independent", delong(label[clusters], score[None, None])),
        ):
            low, high = interval(aucs.values[0], aucs.covariance[0, 0])
            covered[name] += low <= truth <= high
    assert 0.92 <= covered["clustered"] / runs <= 0.98  # 95 % promised
    assert covered["independent"] / runs < 0.85


def test_p_values_of_equal_models_are_uniform():
    # two noisy readings of the same latent score: p below 0.05 in one of twenty runs
    rng = np.random.default_rng(1)
    label = np.arange(80) % 2
    latent = rng.normal(size=(600, 1, 80)) + 1.0 * label
    pairs = latent[:, None] + rng.normal(size=(600, 2, 1, 80))
    p = np.array([compare(delong(label, pair), 0, 1).p for pair in pairs])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.027)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("positives", [0, 1, 9, 10])
def test_too_few_of_a_class_are_refused(positives):
    labels = (np.arange(10) < positives).astype(int)
    with refused("two of each" if 0 < positives < 10 else "HC (label 0) and of HH (1)"):
        delong(labels, np.random.default_rng(0).random((1, 1, 10)))


def test_one_subject_of_a_class_is_refused_however_many_slices_it_has():
    labels = np.repeat([1, 0, 0, 0], 5)
    with refused("1 participants with HH", "two of each"):
        clustered_delong(labels, np.random.default_rng(0).random((1, 1, 20)), np.repeat(np.arange(4), 5))


def test_scores_of_another_shape_or_without_a_number_are_a_bug_that_shows():
    with pytest.raises(ValueError, match="models, repeats, 4"):
        delong(np.array([0, 0, 1, 1]), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        bootstrap_aucs(np.array([0, 0, 1, 1]), np.full((1, 1, 4), np.nan), np.arange(4), 5, 0)
