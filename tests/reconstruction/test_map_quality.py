"""The measures by which the benchmark judges maps."""

import sys

import numpy as np
import pytest
from blobs import REPOSITORY
from skimage.metrics import structural_similarity

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from map_quality import nrmse, nucleus_means, susceptibility_measures, xsim  # noqa: E402

LABELS = {"left_caudate": 1, "right_caudate": 2, "left_putamen": 3, "right_putamen": 4, "left_pallidum": 5}


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A map (ppm), the brain, and nuclei of 0.04, 0.08 and 0.16 ppm."""
    labels = np.zeros((24, 26, 20), int)
    for value in LABELS.values():
        labels[3 + 3 * value : 6 + 3 * value, 8:14, 6:12] = value
    chi = np.random.default_rng(0).normal(0, 0.01, labels.shape)
    for value, ppm in ((1, 0.04), (2, 0.04), (3, 0.08), (4, 0.08), (5, 0.16)):
        chi[labels == value] += ppm
    brain = np.zeros(labels.shape, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    return chi, brain, labels


def test_the_truth_has_no_error_and_a_constant_does_not_count(truth):
    chi, brain, labels = truth
    found = susceptibility_measures(chi + 0.3, chi, brain, brain, labels, LABELS)
    assert found["coverage_percent"] == 100.0
    assert found["nrmse_percent"] == 0.0
    assert (found["xsim"], found["deep_gray_slope"]) == (1.0, 1.0)
    assert set(found["bias_ppb"].values()) == {0.0}


def test_a_map_of_half_the_contrast_has_half_the_error_and_half_the_slope(truth):
    chi, brain, labels = truth
    found = susceptibility_measures(0.5 * chi, chi, brain, brain, labels, LABELS)
    assert found["nrmse_percent"] == pytest.approx(50.0, abs=0.05)
    assert found["deep_gray_slope"] == pytest.approx(0.5, abs=1e-3)
    assert nrmse(np.zeros_like(chi), chi, brain) == pytest.approx(100.0)


def test_both_sides_of_a_nucleus_count_together_inside_the_mask(truth):
    _, brain, labels = truth
    volume = np.where(labels == 1, 1.0, np.where(labels == 2, 3.0, 0.0))
    assert nucleus_means(volume, labels, LABELS, brain)["caudate"] == pytest.approx(2.0)
    assert nucleus_means(volume, labels, LABELS, brain & (labels != 2))["caudate"] == pytest.approx(1.0)


def test_xsim_is_the_structural_similarity_of_another_library(truth):
    chi, brain, _ = truth
    other = chi + np.random.default_rng(1).normal(0, 0.01, chi.shape)
    # The same window, constants and range; Gaussian weights cut at three voxels, no correction of the variance.
    a, b = (np.where(brain, v - v[brain].mean(), 0.0) for v in (other, chi))
    settings = {"gaussian_weights": True, "sigma": 1.5, "truncate": 2.0, "use_sample_covariance": False}
    _, similar = structural_similarity(a, b, data_range=1.0, K1=0.01, K2=0.001, full=True, **settings)
    inside = np.zeros_like(brain)
    inside[5:-5, 5:-5, 5:-5] = True
    assert xsim(other, chi, brain) < 0.95
    whole = similar[brain].mean()
    assert xsim(other, chi, brain) == pytest.approx(whole, abs=0.01)
