"""Iron in the deep nuclei: how much at which age, and where hemochromatosis (HH) puts it.

Amounts follow Hallgren and Sourander, J Neurochem 1958, 3:41 (mg iron per 100 g fresh tissue). HH is modelled as a
shift of *where* iron sits far more than of how much there is. Every spatial effect is a latent number that healthy
controls (HC) have too; the two groups' distributions overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from scripts.anatomy.atlas import NUCLEI, Templates
from scripts.errors import InputError
from scripts.simulation.poses import nucleus_coordinates

# (limit, rate per year, iron at birth): iron = limit * (1 - exp(-rate * age)) + birth, mg / 100 g.
# Hallgren and Sourander 1958. They give no curve for the thalamus: 4.76 is their adult mean.
AGE_CURVES = {
    "caudate": (9.66, 0.05, 0.33),
    "putamen": (14.62, 0.04, 0.46),
    "pallidum": (21.41, 0.09, 0.37),
    "thalamus": (4.76, np.inf, 0.0),
}
# Centre (MNI mm, |x| y z) and width (mm) of the focal deposit in the back of the thalamus, the pulvinar.
_PULVINAR_MM, _PULVINAR_WIDTH_MM = (14.0, -28.0, 7.0), 5.0
# How the latents of a cohort's subjects hang together, see ``draw_latents``.
DRAWS = ("independent", "matched")
# The least share of a nucleus' mean iron that a pattern may leave anywhere.
_LEAST_SHARE = 0.15


@dataclass(frozen=True)
class Latent:
    """One number per subject, normally distributed in each group with one standard deviation.

    Attributes:
        mean: mean of HC.
        sd: standard deviation within HC and within HH.
        effect: HH mean minus HC mean, in units of ``sd``.
    """

    mean: float
    sd: float
    effect: float


def iron_at_age(nucleus: str, age: float) -> float:
    """Mean iron of a nucleus, mg / 100 g fresh tissue, at ``age`` in years (Hallgren and Sourander 1958).

    Raises:
        KeyError: the nucleus is none of ``atlas.NUCLEI``.
    """
    limit, rate, birth = AGE_CURVES[nucleus]
    return float(limit * (1.0 - np.exp(-rate * age)) + birth)


def draw_latents(
    rng: np.random.Generator, groups: list[str], latents: dict[str, Latent], draws: str = "independent"
) -> np.ndarray:
    """Latents of a cohort, ``[subjects, latents]``, in the order of ``latents``.

    Args:
        rng: source of random numbers.
        groups: ``HH`` or ``HC`` for each subject.
        latents: the distributions.
        draws: ``independent``: every subject on its own, so that a cohort, its folds and new subjects are exchangeable.
            ``matched``: within a group with more subjects than latents the draws are made uncorrelated, with exactly
            the wanted mean and standard deviation. The oracle's AUC then hardly depends on the seed, but a training
            fold and its test fold are negatively dependent, and cross-validated AUCs come out too low.

    Raises:
        InputError: ``draws`` is neither.
    """
    if draws not in DRAWS:
        raise InputError(f"simulate: draws={draws} is unknown; choose one of {', '.join(DRAWS)}")
    z = rng.standard_normal((len(groups), len(latents)))
    is_hh = np.array(groups) == "HH"
    for member in (is_hh, ~is_hh) if draws == "matched" else ():
        n = int(member.sum())
        if n > len(latents) + 1:
            q, r = np.linalg.qr(z[member] - z[member].mean(0))
            z[member] = q * np.sign(np.diag(r)) * np.sqrt(n - 1)
    mean, sd, effect = (np.array([getattr(v, key) for v in latents.values()]) for key in ("mean", "sd", "effect"))
    return mean + sd * (z + np.outer(is_hh, effect))


def healthy_latents(rng: np.random.Generator, latents: Mapping[str, Latent]) -> dict[str, float]:
    """Latents of one healthy subject, by name."""
    return dict(zip(latents, map(float, draw_latents(rng, ["HC"], dict(latents))[0]), strict=True))


def log_likelihood_ratio(values: np.ndarray, latents: dict[str, Latent]) -> np.ndarray:
    """log p(values | HH) / p(values | HC) of ``[subjects, latents]``: the best score there is, ``[subjects]``."""
    mean, sd, effect = (np.array([getattr(v, key) for v in latents.values()]) for key in ("mean", "sd", "effect"))
    z = (values - mean) / sd
    return z @ effect - 0.5 * float(effect @ effect)


def seen_log_likelihood_ratio(
    values: np.ndarray, latents: dict[str, Latent], ages: np.ndarray, age_known: bool
) -> np.ndarray:
    """The best score for whoever reads all patterns and the iron of each nucleus without error, `[subjects]`.

    The oracle also knows what no image shows: which part of a nucleus' iron is the person's own level (`level_all`),
    which the nucleus'; and the age. Here only sums are seen: log iron relative to the age curve where the age is known,
    else log iron, which ages spread further (their covariance in these subjects, as if normal).

    Args:
        values: `[subjects, latents]`.
        latents: the distributions.
        ages: years, `[subjects]`.
        age_known: whether the reader is told them.
    """
    names = list(latents)
    column = {name: values[:, place] for place, name in enumerate(names)}
    levels = [f"level_{nucleus}" for nucleus in NUCLEI]
    others = {name: latent for name, latent in latents.items() if name not in (*levels, "level_all")}
    patterns = log_likelihood_ratio(np.column_stack([column[name] for name in others]), others)
    sums = np.column_stack([column[name] + column["level_all"] for name in levels])
    common = latents["level_all"]
    mean = np.array([latents[name].mean for name in levels]) + common.mean
    shift = np.array([latents[name].effect * latents[name].sd for name in levels]) + common.effect * common.sd
    spread = np.diag([latents[name].sd ** 2 for name in levels]) + common.sd**2
    if not age_known:
        usual = np.array([[np.log(iron_at_age(nucleus, age)) for nucleus in NUCLEI] for age in ages])
        sums, mean, spread = sums + usual, mean + usual.mean(0), spread + np.cov(usual.T)
    weights = np.linalg.solve(spread, shift)
    return patterns + (sums - mean) @ weights - 0.5 * float(shift @ weights)


def population_auc(latents: dict[str, Latent]) -> float:
    """AUC of the log-likelihood ratio over infinitely many subjects (exact for normal latents of equal spread)."""
    distance = np.sqrt(sum(v.effect**2 for v in latents.values()))
    return float(norm.cdf(distance / np.sqrt(2.0)))


def iron_maps(
    age: float,
    values: dict[str, float],
    more_on_left: bool,
    texture: np.ndarray,
    sampled: dict[str, np.ndarray],
    xyz_mm: np.ndarray,
    templates: Templates,
) -> dict[str, np.ndarray]:
    """Iron of each nucleus (mg / 100 g), as if the nucleus filled all voxels given.

    Patterns are relative, along the nucleus' own axes, and leave the nucleus' mean as it is.

    Args:
        age: years.
        values: the subject's latents by name: ``level_*`` (log of iron relative to the age curve; ``level_all`` is
            common to all nuclei), ``*_posterior``, ``*_lateral``, ``*_front``, ``head`` (relative change of iron per
            standard deviation along that axis), ``pulvinar`` (relative height of the focus), ``asymmetry`` (log of
            the relative difference between the sides).
        more_on_left: which side holds more.
        texture: relative fluctuation of iron, ``[N]``.
        sampled: template values of the voxels, each ``[N]``.
        xyz_mm: MNI coordinates of the voxels, ``[3, N]``.
        templates: for the nuclei's axes.
    """
    side = np.where((xyz_mm[0] < 0) == more_on_left, 0.5, -0.5) * np.exp(values["asymmetry"])
    maps = {}
    for name in NUCLEI:
        posterior, lateral, head = nucleus_coordinates(xyz_mm, templates.axes[name])
        pattern = texture + side
        if name == "putamen":
            pattern = pattern + values["putamen_posterior"] * posterior + values["head"] * head
        elif name == "caudate":
            pattern = pattern - values["caudate_front"] * posterior + values["head"] * head
        elif name == "pallidum":
            pattern = pattern + values["pallidum_lateral"] * lateral + values["head"] * head
        else:
            where = np.abs(xyz_mm[0]), xyz_mm[1], xyz_mm[2]
            squared = sum((a - b) ** 2 for a, b in zip(where, _PULVINAR_MM, strict=True))
            pattern = pattern + values["pulvinar"] * np.exp(-0.5 * squared / _PULVINAR_WIDTH_MM**2)
        share = np.maximum(1.0 + pattern, _LEAST_SHARE)
        weight = sampled[name]
        share = share * (weight.sum() / max(float((share * weight).sum()), 1e-6))
        level = iron_at_age(name, age) * np.exp(values["level_all"] + values[f"level_{name}"])
        maps[name] = (level * share).astype(np.float32)
    return maps
