"""The scanner: from tissue and iron to the maps that a reader would see, with the faults of a real scan.

Sources of the constants:

- susceptibility of iron, 8.9 ppb per mg/100 g: Langkammer et al., NeuroImage 2012, 62:1593 (0.89 ppb per mg/kg);
- R2* of iron, 2.7 1/s per mg/100 g, and 14.3 1/s without iron, 3 T: Langkammer et al., Radiology 2010, 257:455;
- white matter, cortex and CSF in QSM: Lim et al., NeuroImage 2013, 82:449; Straub et al., MRM 2017, 78:204;
- R2* of white matter and cortex at 3 T: Peters et al., Magn Reson Imaging 2007, 25:748;
- veins: about 0.45 ppm at an oxygen saturation of 55 %: Haacke et al., J Magn Reson Imaging 2010, 32:663.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy import ndimage

from scripts.anatomy.atlas import NUCLEI

PPM_PER_IRON = 0.0089
R2STAR_PER_IRON = 2.7
R2STAR_WITHOUT_IRON = 14.3
# Deep grey matter holds some myelin, and values are relative to the whole brain: the line does not start at 0.
PPM_WITHOUT_IRON = -0.02
# Susceptibility (ppm) and R2* (1/s) of tissue at 3 T.
TISSUE_PPM = {"gm": 0.015, "wm": -0.030, "csf": 0.0}
TISSUE_R2STAR = {"gm": 17.0, "wm": 22.0, "csf": 2.0}
VEIN_PPM, VEIN_R2STAR = 0.40, 80.0
# T1-weighted signal; the template's white matter is about 0.85.
CSF_T1W, SKULL_T1W, SCALP_T1W = 0.28, 0.06, 0.80
# Echo time of the T1-weighted image, s (paper, Dataset): iron darkens it a little.
ECHO_TIME_S = 0.005
# Dipole inversion loses what lies close to the magic angle; TKD threshold of the paper.
_TKD_THRESHOLD = 0.1
# BET masks are cut back at the cortex before background fields are removed, mm.
_QSM_EROSION_MM = 2.0


@dataclass(frozen=True)
class Scanner:
    """Faults of one scan.

    Attributes:
        blur_mm: full width at half maximum of the point spread, mm.
        qsm_gain, r2star_gain, t1w_gain: multiply the whole map.
        qsm_noise: standard deviation, ppm.
        r2star_noise: standard deviation, 1/s.
        t1w_noise: standard deviation of each quadrature channel, share of the brightest T1.
        cone_loss: share of the signal that dipole inversion loses at the magic angle, 0..1.
        streaks: standard deviation of streaks along the magic angle, ppm.
        field_residual: standard deviation of the smooth background left in QSM, ppm.
        bias: standard deviation of the smooth receive bias in T1W, log units.
        veins: number of small veins.
    """

    blur_mm: float
    qsm_gain: float
    r2star_gain: float
    t1w_gain: float
    qsm_noise: float
    r2star_noise: float
    t1w_noise: float
    cone_loss: float
    streaks: float
    field_residual: float
    bias: float
    veins: int


def draw_scanner(
    rng: np.random.Generator,
    *,
    blur_mm: tuple[float, float],
    qsm_gain_sd: float,
    r2star_gain_sd: float,
    t1w_gain_sd: float,
    qsm_noise: tuple[float, float],
    r2star_noise: tuple[float, float],
    t1w_noise: tuple[float, float],
    cone_loss: tuple[float, float],
    streaks: tuple[float, float],
    field_residual: tuple[float, float],
    bias: tuple[float, float],
    veins: tuple[int, int],
) -> Scanner:
    """Draw the faults of one scan, the same way for both groups.

    Pairs are the lowest and highest value of a uniform draw, ``*_gain_sd`` the standard deviation of the logarithm
    of a gain around 1; units as in :class:`Scanner`.
    """
    gains = np.exp(np.array([qsm_gain_sd, r2star_gain_sd, t1w_gain_sd]) * np.clip(rng.standard_normal(3), -2.5, 2.5))

    def drawn(pair: tuple[float, float]) -> float:
        return float(rng.uniform(*pair))

    return Scanner(  # drawn in this order: another one is another cohort
        blur_mm=drawn(blur_mm),
        qsm_gain=float(gains[0]),
        r2star_gain=float(gains[1]),
        t1w_gain=float(gains[2]),
        qsm_noise=drawn(qsm_noise),
        r2star_noise=drawn(r2star_noise),
        t1w_noise=drawn(t1w_noise),
        cone_loss=drawn(cone_loss),
        streaks=drawn(streaks),
        field_residual=drawn(field_residual),
        bias=drawn(bias),
        veins=int(rng.integers(veins[0], veins[1] + 1)),
    )


def smooth_field(
    rng: np.random.Generator, matrix: tuple[int, ...], spacing_mm: tuple[float, ...], length_mm: float
) -> np.ndarray:
    """A random smooth field, mean 0 and standard deviation about 1: float32 ``[H, W, S]``.

    Args:
        length_mm: distance (mm) of the knots between which it is interpolated.
    """
    knots = [max(2, int(np.ceil(n * d / length_mm)) + 1) for n, d in zip(matrix, spacing_mm, strict=True)]
    coarse = ndimage.gaussian_filter(rng.standard_normal(knots), 0.5, mode="nearest")
    coarse = torch.from_numpy(((coarse - coarse.mean()) / coarse.std()).astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(coarse, size=matrix, mode="trilinear", align_corners=True)[0, 0].numpy()


def draw_veins(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Courses of veins in MNI space.

    The two internal cerebral veins and the sagittal and straight sinuses always, and ``count`` small ones anywhere
    in the brain.

    Returns:
        points ``[N, 3]`` (mm, half a millimetre apart) and the cross-section (mm^2) at each, ``[N]``.
    """
    courses = []
    for side in (-1, 1):
        y = np.arange(-38.0, 2.0, 0.5)
        courses.append((np.stack([np.full_like(y, 2.5 * side), y, 14.0 - 0.004 * (y + 18) ** 2], 1), 2.5))
    z = np.arange(-20.0, 70.0, 0.5)
    courses.append((np.stack([np.zeros_like(z), -104.0 + 0.012 * (z - 5) ** 2, z], 1), 12.0))
    t = np.arange(0.0, 1.0, 0.01)
    courses.append((np.stack([0 * t, -40.0 - 50.0 * t, 8.0 - 14.0 * t], 1), 6.0))
    for _ in range(count):
        start = rng.uniform((-60, -90, -30), (60, 50, 50))
        turns = np.cumsum(rng.normal(0, 0.06, (int(rng.integers(30, 90)), 3)), 0) + rng.standard_normal(3)
        steps = 0.5 * turns / np.linalg.norm(turns, axis=1, keepdims=True)
        courses.append((start + np.cumsum(steps, 0), float(rng.uniform(0.5, 2.5))))
    return np.concatenate([c for c, _ in courses]), np.concatenate([np.full(len(c), a) for c, a in courses])


def vein_fraction(
    points_mm: np.ndarray, area_mm2: np.ndarray, matrix: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Share of each voxel that is vein, 0..1: float32 ``[H, W, S]``.

    Args:
        points_mm: course of the veins in the scanner, ``[N, 3]`` mm from the middle of the scan, 0.5 mm apart.
        area_mm2: cross-section at each point.
    """
    spacing = np.array(spacing_mm)
    index = np.round(points_mm / spacing + (np.array(matrix) - 1) / 2.0).astype(int)
    inside = ((index >= 0) & (index < matrix)).all(1)
    volume = np.zeros(matrix, np.float32)
    np.add.at(volume, tuple(index[inside].T), 0.5 * area_mm2[inside] / spacing.prod())
    # Points mark a line; a vein has a width.
    volume = ndimage.gaussian_filter(volume, [0.8 / d for d in spacing_mm], truncate=3)
    return np.minimum(volume, 1.0)


def tissue_maps(
    sampled: dict[str, np.ndarray], nuclei_iron: np.ndarray, veins: np.ndarray, shell_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise-free maps.

    Args:
        sampled: template values, each ``[H, W, S]`` (``poses.sample``).
        nuclei_iron: iron summed over the nuclei, each weighted with its membership, mg / 100 g, ``[H, W, S]``.
        veins: share of vein, ``[H, W, S]``.
        shell_mm: thickness of the fluid, the skull and the scalp around the brain, mm.

    Returns:
        QSM (ppm) and R2* (1/s), both 0 outside the brain, and T1-weighted signal (white matter about 0.85).
    """
    gm, wm, outside = sampled["gm"], sampled["wm"], sampled["outside_mm"]
    csf = np.clip(1.0 - gm - wm, 0.0, 1.0)
    nuclei = sum(sampled[name] for name in NUCLEI)
    rest = (1.0 - nuclei) * (1.0 - veins)
    fractions = {"gm": gm, "wm": wm, "csf": csf}
    total = gm + wm + csf
    qsm = rest * sum(TISSUE_PPM[k] * v for k, v in fractions.items()) / total
    r2star = rest * sum(TISSUE_R2STAR[k] * v for k, v in fractions.items()) / total
    qsm += PPM_PER_IRON * nuclei_iron + PPM_WITHOUT_IRON * nuclei
    r2star += R2STAR_PER_IRON * nuclei_iron + R2STAR_WITHOUT_IRON * nuclei
    qsm += VEIN_PPM * veins
    r2star += VEIN_R2STAR * veins

    t1w = np.maximum(sampled["t1"], CSF_T1W) * np.exp(-ECHO_TIME_S * (r2star - TISSUE_R2STAR["wm"]))
    fluid, skull, scalp = np.cumsum(shell_mm)
    shells = np.where(outside < skull, SKULL_T1W, np.where(outside < scalp, SCALP_T1W, 0.0))
    t1w = np.where(outside < fluid, np.where(outside < 0, t1w, CSF_T1W), shells)
    brain = outside < 0
    return (qsm * brain).astype(np.float32), (r2star * brain).astype(np.float32), t1w.astype(np.float32)


def at_field(
    maps: tuple[np.ndarray, np.ndarray, np.ndarray], field_strength_t: float, echo_time_s: float, qsm_gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise-free maps as another scanner would give them; as they are at 3 T, at the echo time of `ECHO_TIME_S`.

    Args:
        maps: from `tissue_maps`.
        field_strength_t: T; R2* is in proportion to it.
        echo_time_s: of the T1-weighted image, s: later, iron darkens it more.
        qsm_gain: multiplies QSM.
    """
    qsm, r2star, t1w = maps
    scale = field_strength_t / 3.0
    if (scale, echo_time_s, qsm_gain) == (1.0, ECHO_TIME_S, 1.0):
        return maps
    darker = echo_time_s * scale * (r2star - TISSUE_R2STAR["wm"]) - ECHO_TIME_S * (r2star - TISSUE_R2STAR["wm"])
    t1w = np.where(r2star > 0, t1w * np.exp(-darker), t1w)
    return qsm * np.float32(qsm_gain), r2star * np.float32(scale), t1w.astype(np.float32)


def dipole_kernel(matrix: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Unit dipole in k-space with the main field along the slice axis, float32, in ``scipy.fft.rfftn`` layout."""
    frequencies = [np.fft.fftfreq(n, d) for n, d in zip(matrix[:2], spacing_mm[:2], strict=True)]
    frequencies.append(np.fft.rfftfreq(matrix[2], spacing_mm[2]))
    x, y, z = (f.astype(np.float32) ** 2 for f in frequencies)
    squared = x[:, None, None] + y[:, None] + z
    squared[0, 0, 0] = 1.0
    return 1.0 / 3.0 - z / squared


def invert_imperfectly(
    rng: np.random.Generator, qsm: np.ndarray, spacing_mm: tuple[float, float, float], cone_loss: float, streaks: float
) -> np.ndarray:
    """What dipole inversion does to a susceptibility map: signal lost, and noise amplified, at the magic angle.

    Args:
        rng: source of random numbers.
        qsm: true map, ppm, ``[H, W, S]``.
        spacing_mm: voxel size.
        cone_loss: share of the signal lost where the dipole is 0; less up to a dipole of 0.1.
        streaks: standard deviation of the streaks, ppm.
    """
    near = np.clip(1.0 - np.abs(dipole_kernel(qsm.shape, spacing_mm)) / _TKD_THRESHOLD, 0.0, 1.0)
    noise = rng.standard_normal(qsm.shape, dtype=np.float32)
    # Noise of unit variance through the filter has this standard deviation; the corner at 0 is negligible.
    noise *= streaks / np.sqrt(np.mean(near**2))
    # One transform for both: the map keeps (1 - loss) near the cone, the noise keeps only what is near it.
    spectrum = scipy.fft.rfftn(qsm) * (1.0 - cone_loss * near) + scipy.fft.rfftn(noise) * near
    return scipy.fft.irfftn(spectrum, qsm.shape)


def acquire(
    rng: np.random.Generator,
    maps: tuple[np.ndarray, np.ndarray, np.ndarray],
    outside_mm: np.ndarray,
    spacing_mm: tuple[float, float, float],
    scanner: Scanner,
) -> dict[str, np.ndarray]:
    """Scan the noise-free maps of :func:`tissue_maps`.

    Returns:
        float32 ``[H, W, S]``: ``Chimap`` (ppm) and ``R2starmap`` (1/s), both 0 outside the brain as masked maps are,
        and ``T1w`` (arbitrary, Rician noise everywhere).
    """
    sigma = [scanner.blur_mm / 2.3548 / d for d in spacing_mm]
    qsm, r2star, t1w = (ndimage.gaussian_filter(volume, sigma, truncate=3) for volume in maps)
    matrix = qsm.shape

    qsm = invert_imperfectly(rng, qsm, spacing_mm, scanner.cone_loss, scanner.streaks)
    qsm += scanner.field_residual * smooth_field(rng, matrix, spacing_mm, 60.0)
    qsm *= scanner.qsm_gain
    qsm += scanner.qsm_noise * rng.standard_normal(matrix, dtype=np.float32)

    r2star *= scanner.r2star_gain
    # A fit to noisy echoes is never below 0.
    r2star = np.abs(r2star + scanner.r2star_noise * rng.standard_normal(matrix, dtype=np.float32))

    t1w *= np.exp(scanner.bias * smooth_field(rng, matrix, spacing_mm, 90.0))
    real = t1w + scanner.t1w_noise * rng.standard_normal(matrix, dtype=np.float32)
    t1w = scanner.t1w_gain * np.hypot(real, scanner.t1w_noise * rng.standard_normal(matrix, dtype=np.float32))
    return {"Chimap": qsm * (outside_mm < -_QSM_EROSION_MM), "R2starmap": r2star * (outside_mm < 0), "T1w": t1w}
