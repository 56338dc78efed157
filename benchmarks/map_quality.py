"""How close a susceptibility map is to the true one.

XSIM: Milovic et al., Magn Reson Med 2025, 93:411: SSIM in ppm, dynamic range 1 ppm, K1 0.01, K2 0.001, Gaussian
window of 7 voxels and standard deviation 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage


def demeaned(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A map without its mean in the mask; 0 outside."""
    return np.where(mask, volume - volume[mask].mean(), 0.0).astype(np.float64)


def nrmse(chi: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square error over the root mean square of the truth, %, both without their means in the mask."""
    a, b = demeaned(chi, mask), demeaned(truth, mask)
    return float(100 * np.linalg.norm(a - b) / np.linalg.norm(b))


def xsim(chi: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean XSIM in the mask, 1 for the truth; maps in ppm."""
    a, b = demeaned(chi, mask), demeaned(truth, mask)
    window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(volume: np.ndarray) -> np.ndarray:
        for axis in range(3):
            volume = ndimage.correlate1d(volume, window, axis=axis, mode="constant")
        return volume

    c1, c2 = 0.01**2, 0.001**2
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(similarity[mask].mean())


def nucleus_means(
    volume: np.ndarray, labels: np.ndarray, values: Mapping[str, int], mask: np.ndarray
) -> dict[str, float]:
    """Mean over both sides of each nucleus inside the mask.

    Args:
        labels: nuclei, `[X, Y, Z]`.
        values: `left_caudate` and the like -> value in `labels`.
    """
    names = dict.fromkeys(name.split("_", 1)[1] for name in values)
    return {
        nucleus: float(volume[mask & np.isin(labels, [v for k, v in values.items() if k.endswith(nucleus)])].mean())
        for nucleus in names
    }


def susceptibility_measures(
    chi: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    brain: np.ndarray,
    labels: np.ndarray,
    values: Mapping[str, int],
) -> dict[str, float | dict[str, float]]:
    """All measures of one map.

    Args:
        chi, truth: ppm.
        mask: where `chi` is known, inside the brain.
        brain: the true brain.
        labels, values: see `nucleus_means`.

    Returns:
        Coverage of the brain (%), NRMSE (%), XSIM, slope over the deep gray nuclei, and each nucleus' bias (ppb).
    """
    found = nucleus_means(demeaned(chi, mask), labels, values, mask)
    true = nucleus_means(demeaned(truth, mask), labels, values, mask)
    slope = np.polyfit([true[n] for n in true], [found[n] for n in true], 1)[0]
    return {
        "coverage_percent": round(float(100 * mask.sum() / brain.sum()), 1),
        "nrmse_percent": round(nrmse(chi, truth, mask), 1),
        "xsim": round(xsim(chi, truth, mask), 3),
        "deep_gray_slope": round(float(slope), 3),
        "bias_ppb": {n: round(1000 * (found[n] - true[n]), 1) for n in true},
    }
