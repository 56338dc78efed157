"""Iron: published curves, the designed difficulty, and effects on patterns rather than means."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from scripts.anatomy import atlas
from scripts.simulation import iron, poses


@pytest.mark.parametrize(
    ("nucleus", "age", "expected"),
    [
        # By hand from Hallgren and Sourander 1958: 9.66 (1 - e^-1.5) + 0.33 = 9.66 * 0.776870 + 0.33, and so on.
        ("caudate", 30, 7.8346),
        ("caudate", 60, 9.5091),
        ("putamen", 30, 10.6766),
        ("putamen", 60, 13.7537),
        ("pallidum", 30, 20.3411),
        ("pallidum", 60, 21.6833),
        ("thalamus", 30, 4.76),
    ],
)
def test_iron_at_age_matches_published_curves(nucleus, age, expected):
    assert iron.iron_at_age(nucleus, age) == pytest.approx(expected, abs=2e-3)


def test_oracle_auc_lies_in_the_designed_range(latents, settings):
    groups = ["HH"] * 20000 + ["HC"] * 20000
    values = iron.draw_latents(np.random.default_rng(0), groups, latents)
    score = iron.log_likelihood_ratio(values, latents)
    auc = mannwhitneyu(score[:20000], score[20000:]).statistic / 20000**2
    low, high = settings["targets"]["oracle_population"]
    assert low <= auc <= high
    # Standard error of the AUC is below 0.002 here.
    assert auc == pytest.approx(iron.population_auc(latents), abs=0.005)


def test_matched_latents_have_the_wanted_moments(latents):
    groups = ["HH", "HC"] * 30
    values = iron.draw_latents(np.random.default_rng(1), groups, latents, "matched")
    is_hh = np.array(groups) == "HH"
    mean, sd, effect = (np.array([getattr(v, k) for v in latents.values()]) for k in ("mean", "sd", "effect"))
    np.testing.assert_allclose(values[~is_hh].mean(0), mean, atol=1e-9)
    np.testing.assert_allclose(values[is_hh].mean(0), mean + effect * sd, atol=1e-9)
    np.testing.assert_allclose(values[is_hh].std(0, ddof=1), sd)


def test_independent_draws_of_a_subject_do_not_depend_on_the_others(latents):
    few, many = (iron.draw_latents(np.random.default_rng(1), ["HH"] * n, latents) for n in (20, 40))
    np.testing.assert_array_equal(few, many[:20])


def test_hh_moves_the_pattern_and_hardly_the_mean(latents):
    """The mean subject of each group: slopes differ by a large factor, iron by its few per cent."""
    templates = atlas.load_templates()
    xyz = np.stack(np.meshgrid(*(np.arange(-40.0, 41.0, 2.0),) * 2, np.arange(-20.0, 31.0, 2.0), indexing="ij"))
    index = tuple(np.round(xyz - templates.origin[:, None, None, None]).astype(int))
    here = dict(zip(atlas.CHANNELS, (volume[index].ravel() for volume in templates.volumes), strict=True))
    xyz = xyz.reshape(3, -1)
    slopes, means = {}, {}
    for group in ("HH", "HC"):
        values = {k: v.mean + (group == "HH") * v.sd * v.effect for k, v in latents.items()}
        putamen = iron.iron_maps(50, values, True, np.zeros(xyz.shape[1]), here, xyz, templates)["putamen"]
        posterior = poses.nucleus_coordinates(xyz, templates.axes["putamen"])[0]
        weight = here["putamen"]
        means[group] = np.average(putamen, weights=weight)
        slopes[group] = np.polyfit(posterior, putamen / means[group], 1, w=np.sqrt(weight))[0]
    assert slopes["HH"] - slopes["HC"] > 0.15
    assert 1.0 < means["HH"] / means["HC"] < 1.2


def test_whoever_sees_sums_of_iron_knows_less_than_the_oracle_and_least_without_the_age(latents):
    rng = np.random.default_rng(0)
    groups = ["HH"] * 20000 + ["HC"] * 20000
    values = iron.draw_latents(rng, groups, latents)
    ages = rng.uniform(30, 75, 40000)

    def auc(score: np.ndarray) -> float:
        return mannwhitneyu(score[:20000], score[20000:]).statistic / 20000**2

    told, untold = (auc(iron.seen_log_likelihood_ratio(values, latents, ages, known)) for known in (True, False))
    assert untold + 0.005 < told < iron.population_auc(latents) - 0.005
    # scikit-learn's discriminant on what is seen, learned from the same subjects, finds as much
    levels = values[:, 1:5] + values[:, :1]
    assert list(latents)[:5] == ["level_all", *(f"level_{name}" for name in atlas.NUCLEI)]
    seen = np.column_stack([levels, values[:, 5:]])
    learned = LinearDiscriminantAnalysis().fit(seen, groups).decision_function(seen)
    assert told == pytest.approx(max(auc(learned), 1 - auc(learned)), abs=0.002)
    usual = np.log([[iron.iron_at_age(name, age) for name in atlas.NUCLEI] for age in ages])
    seen[:, :4] += usual
    learned = LinearDiscriminantAnalysis().fit(seen, groups).decision_function(seen)
    assert untold == pytest.approx(max(auc(learned), 1 - auc(learned)), abs=0.002)


def test_without_a_common_level_and_with_the_age_all_is_seen(latents):
    latents = {**latents, "level_all": iron.Latent(0.0, 0.0, 0.0)}
    values = iron.draw_latents(np.random.default_rng(0), ["HH", "HC"] * 20, latents)
    seen = iron.seen_log_likelihood_ratio(values, latents, np.full(40, 50.0), True)
    known = {name: latent for name, latent in latents.items() if name != "level_all"}
    np.testing.assert_allclose(seen, iron.log_likelihood_ratio(values[:, 1:], known), rtol=1e-9)
