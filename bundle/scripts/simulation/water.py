"""Water of the tissues: T1 and proton density of a brain, and the maps that a scanner makes of them.

Sources of the constants:

- T1 at 3 T, white matter 0.85 s and nuclei: Gelman et al., Magn Reson Med 2001, 45:71; cortex 1.33 s: Wansapura et
  al., J Magn Reson Imaging 1999, 9:531; CSF 4.16 s: Lin et al., J Comput Assist Tomogr 2001, 25:30; blood 1.6 s;
- T1 of tissue grows with the field to the power of 0.38: Rooney et al., Magn Reson Med 2007, 57:308;
- R1 per iron, 1.7 1/s per mg/g in the caudate, 1.0 in the putamen, which the others are given too: Ogg and Steen, Magn
  Reson Med 1998, 40:749;
- water content of tissue: Neeb et al., NeuroImage 2006, 31:1156.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from scripts.anatomy.atlas import NUCLEI
from scripts.simulation.acquisition import smooth_field
from scripts.simulation.iron import iron_at_age

# T1 (s) and proton density (1 = water).
T1_S = {
    "gm": 1.33, "wm": 0.85, "csf": 4.16, "vein": 1.6, "soft": 1.0, "bone": 0.4,
    "caudate": 1.48, "putamen": 1.34, "pallidum": 1.04, "thalamus": 1.22,
}  # fmt: skip
PROTON_DENSITY = {
    "gm": 0.82, "wm": 0.70, "csf": 1.0, "vein": 0.85, "soft": 0.80, "bone": 0.05,
    "caudate": 0.83, "putamen": 0.82, "pallidum": 0.75, "thalamus": 0.77,
}  # fmt: skip
# 1/s per mg of iron in 100 g.
R1_PER_IRON = {"caudate": 0.017, "putamen": 0.010, "pallidum": 0.010, "thalamus": 0.010}
# Age of those whose T1 the table has, years; power of the field that T1 of tissue grows with.
_USUAL_AGE, _FIELD_POWER = 40.0, 0.38
# Where the fit of T1 ends, s; knots of the smooth errors, mm; what a water of 1 is written as.
_LONGEST_T1_S, _SMOOTH_MM, _PERCENT = 5.0, 90.0, 100.0


def tissue_shares(sampled: Mapping[str, np.ndarray], veins: np.ndarray) -> dict[str, np.ndarray]:
    """Share of each tissue in each voxel, by the names of T1_S.

    Args:
        sampled: template values, each of one shape (``poses.sample``).
        veins: share of vein, the same.
    """
    nuclei = sum(sampled[name] for name in NUCLEI)
    rest = (1.0 - nuclei) * (1.0 - veins)
    gm, wm = sampled["gm"], sampled["wm"]
    csf = np.clip(1.0 - gm - wm, 0.0, 1.0)
    total = gm + wm + csf
    shares = {"gm": rest * gm / total, "wm": rest * wm / total, "csf": rest * csf / total, "vein": veins}
    return shares | {name: sampled[name] for name in NUCLEI}


def water_and_rate(shares: Mapping[str, np.ndarray], field_strength_t: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Proton density (1 = water), and the relaxation rate R1 (1/s), averaged over water, of such voxels."""
    scale = (field_strength_t / 3.0) ** _FIELD_POWER
    water = {name: PROTON_DENSITY[name] * share for name, share in shares.items()}
    density = sum(water.values())
    times = {name: T1_S[name] * (1.0 if name in ("csf", "vein") else scale) for name in water}
    return density, sum(w / times[name] for name, w in water.items()) / density  # type: ignore[return-value]


def quantities(
    sampled: Mapping[str, np.ndarray],
    veins: np.ndarray,
    where: tuple[np.ndarray, ...],
    iron: Mapping[str, np.ndarray],
    field_strength_t: float,
) -> dict[str, np.ndarray]:
    """Noise-free maps of a brain, by BIDS suffix: ``T1map`` (s) and ``PDmap`` (1 = water), ``[H, W, S]``.

    Args:
        sampled, veins: see `tissue_shares`.
        where: indices of the voxels that hold iron.
        iron: of each nucleus there, mg / 100 g, ``[N]``: what differs from the usual shortens or lengthens T1.
        field_strength_t: T.
    """
    density, rate = water_and_rate(tissue_shares(sampled, veins), field_strength_t)
    for name in NUCLEI:
        more = iron[name] - iron_at_age(name, _USUAL_AGE)
        water = PROTON_DENSITY[name] * sampled[name][where] / density[where]
        rate[where] += R1_PER_IRON[name] * more * water
    return {"T1map": 1.0 / np.maximum(rate, 1.0 / _LONGEST_T1_S), "PDmap": density}


def acquire_water(
    rng: np.random.Generator,
    maps: Mapping[str, np.ndarray],
    outside_mm: np.ndarray,
    spacing_mm: tuple[float, float, float],
    blur_mm: float,
    *,
    t1_noise: tuple[float, float],
    t1_bias: tuple[float, float],
    pd_noise: tuple[float, float],
    pd_bias: tuple[float, float],
) -> dict[str, np.ndarray]:
    """Scan the maps of `quantities`, as a fit over flip angles gives them: 0 outside the brain.

    Args:
        rng: source of random numbers; both maps are always drawn, so that one is the same without the other.
        maps: from `quantities`.
        outside_mm: distance from the brain, ``[H, W, S]``.
        spacing_mm: voxel size.
        blur_mm: full width at half maximum of the point spread.
        t1_noise: share of T1 at 1 s, and in proportion to T1; lowest and highest, as all that follow.
        t1_bias: smooth error that is left of the transmit field, share.
        pd_noise: share of water.
        pd_bias: smooth receive sensitivity, log units.

    Returns:
        float32 ``T1map`` (s) and ``PDmap`` (percent of water).
    """
    sigma = [blur_mm / 2.3548 / d for d in spacing_mm]
    t1, density = (ndimage.gaussian_filter(maps[name], sigma, truncate=3) for name in ("T1map", "PDmap"))
    matrix, brain = t1.shape, outside_mm < 0
    t1 = t1 * (1.0 + rng.uniform(*t1_bias) * smooth_field(rng, matrix, spacing_mm, _SMOOTH_MM))
    t1 = t1 * (1.0 + rng.uniform(*t1_noise) * t1 * rng.standard_normal(matrix, dtype=np.float32))
    density = density * np.exp(rng.uniform(*pd_bias) * smooth_field(rng, matrix, spacing_mm, _SMOOTH_MM))
    density = np.abs(density + rng.uniform(*pd_noise) * rng.standard_normal(matrix, dtype=np.float32))
    scanned = {"T1map": np.clip(t1, 0.0, _LONGEST_T1_S), "PDmap": _PERCENT * density}
    return {name: (volume * brain).astype(np.float32) for name, volume in scanned.items()}
