"""ComBat: differences between sites taken out of measured features, learned from training participants alone.

Johnson et al., Biostatistics 2007, 8:118; for imaging, with age and sex preserved: Fortin et al., NeuroImage 2018,
167:104. Written here because the packages that have it (neuroCombat, neuroHarmonize) do not run beside numpy 2, or
apply it to new participants without their age and sex.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.errors import InputError

#: The estimates of a site's shift and scale have settled when they change less than this, relatively.
TOLERANCE = 1e-4
_MOST_ROUNDS = 1000


@dataclass(frozen=True)
class Combat:
    """What was learned of the sites.

    Attributes:
        sites: by name.
        mean: of each feature over the training participants, `[F]`.
        slopes: of each feature on each covariate, `[C, F]`.
        centre: of the covariates, `[C]`.
        spread: standard deviation of each feature's residual, `[F]`.
        shift, scale: of each site, in units of `spread`, `[sites, F]`.
    """

    sites: tuple[str, ...]
    mean: np.ndarray
    slopes: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray, sites: Sequence[str], covariates: np.ndarray) -> np.ndarray:
        """Features without their sites' shift and scale.

        Args:
            features: `[N, F]`.
            sites: of each participant.
            covariates: `[N, C]`, whose effect stays.

        Raises:
            InputError: a site that no training participant was from.
        """
        unseen = sorted(set(sites) - set(self.sites))
        if unseen:
            raise InputError(
                f"roi_harmonise combat: no training participant is from site {unseen[0]!r}, so nothing is known of it;"
                " leave it out with folds that leave a site out (--roi_harmonise none)"
            )
        index = [self.sites.index(site) for site in sites]
        usual = self.mean + (covariates - self.centre) @ self.slopes
        standard = (features - usual) / self.spread
        return (standard - self.shift[index]) / np.sqrt(self.scale[index]) * self.spread + usual


def fit_combat(features: np.ndarray, sites: Sequence[str], covariates: np.ndarray) -> Combat:
    """Learn what sites do to features, with empirical Bayes: few participants are drawn towards all features' mean.

    Args:
        features: `[N, F]` of the training participants, at least 2 features.
        sites: of each of them.
        covariates: `[N, C]` whose effect is not the sites' (age, sex).

    Raises:
        InputError: fewer than 2 participants of a site, or too few in all.
    """
    names = tuple(sorted(set(sites)))
    member = np.array([[site == name for name in names] for site in sites], float)
    counts = member.sum(0)
    if counts.min() < 2:
        raise InputError(
            f"roi_harmonise combat: site {names[int(counts.argmin())]!r} has {int(counts.min())} training participant;"
            " at least 2 are due; merge sites, or use --roi_harmonise none"
        )
    centre = covariates.mean(0)
    design = np.hstack([member, covariates - centre])
    if len(features) <= design.shape[1]:
        raise InputError(
            f"roi_harmonise combat: {len(features)} training participants for {len(names)} sites are too few; take"
            " fewer folds, or use --roi_harmonise none"
        )
    effects = np.linalg.lstsq(design, features, rcond=None)[0]
    mean = counts / counts.sum() @ effects[: len(names)]
    slopes = effects[len(names) :]
    spread = np.sqrt(((features - design @ effects) ** 2).mean(0))
    spread[spread == 0] = 1.0
    standard = (features - mean - (covariates - centre) @ slopes) / spread
    shifts, scales = [], []
    for column in member.T.astype(bool):
        shift, scale = _empirical_bayes(standard[column])
        shifts.append(shift)
        scales.append(scale)
    return Combat(names, mean, slopes, centre, spread, np.array(shifts), np.array(scales))


def _empirical_bayes(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of a site by feature, `[F]`, from its standardised features `[n, F]` (Johnson 2007, 2.3)."""
    n, shift, scale = len(own), own.mean(0), own.var(0, ddof=1)
    if own.shape[1] < 2 or not scale.var(ddof=1):
        return shift, np.maximum(scale, np.finfo(float).eps)
    mean, spread = shift.mean(), shift.var(ddof=1)
    average, variance = scale.mean(), scale.var(ddof=1)
    alpha = (2 * variance + average**2) / variance
    beta = (average * variance + average**3) / variance
    found, width = shift, scale
    for _ in range(_MOST_ROUNDS):
        new = (n * spread * shift + width * mean) / (n * spread + width)
        new_width = (0.5 * ((own - new) ** 2).sum(0) + beta) / (n / 2 + alpha - 1)
        change = max(
            np.abs((new - found) / np.where(found == 0, 1, found)).max(), np.abs((new_width - width) / width).max()
        )
        found, width = new, new_width
        if change < TOLERANCE:
            break
    return found, width
