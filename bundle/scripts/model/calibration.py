"""From a model's probability to one that can be taken at its word, at the share of HH that a clinic has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from scripts.errors import InputError

#: A probability is at least so far from 0 and 1: float32's softmax cannot tell more.
NEAREST = 1e-7
#: How a probability is calibrated: its logit times a slope, plus an intercept (Platt 1999), or the slope alone, one
#: over the temperature (Guo et al., ICML 2017). How pages say it.
METHODS = {"platt": "by a logistic curve (Platt's method)", "temperature": "by one factor (temperature scaling)"}
#: Methods whose probabilities hold for the share of HH among the calibrating scans: an intercept fits it.
WITH_PREVALENCE = ("platt",)
#: Fewer scans do not calibrate.
LEAST_SUBJECTS = 20


def logits(probabilities: np.ndarray | Sequence[float] | float) -> np.ndarray:
    """Log odds of probabilities, 0..1, kept NEAREST away from both ends."""
    return logit(np.clip(np.asarray(probabilities, dtype=float), NEAREST, 1 - NEAREST))


def vote_logits(shares: np.ndarray, slices: int) -> np.ndarray:
    """Log odds of shares of votes, half a vote added to each side, so that none and all are finite.

    Args:
        shares: `[...]` of slices that voted HH, 0..1.
        slices: how many voted.
    """
    return logit((np.asarray(shares, dtype=float) * slices + 0.5) / (slices + 1))


@dataclass(frozen=True)
class Calibrator:
    """What turns a logit into a calibrated probability.

    Attributes:
        method: one of METHODS.
        slope, intercept: of the calibrated logit.
        prevalence: share of HH among the scans that it was fitted on, which the probabilities of a method of
            WITH_PREVALENCE hold for.
    """

    method: str
    slope: float
    intercept: float
    prevalence: float

    def __call__(self, scores: np.ndarray | float, prevalence: float | None = None) -> np.ndarray:
        """Calibrated probabilities of HH, 0..1.

        Args:
            scores: logits, `[...]`.
            prevalence: share of HH among those whom the scan is one of; None: that of the fit. Another share moves the
                odds, as Bayes' rule has it (Saerens et al., Neural Computation 2002, 14:21); what a scan of either
                group looks like must be as it was.
        """
        calibrated = self.slope * np.asarray(scores, dtype=float) + self.intercept
        if prevalence is not None:
            calibrated = calibrated + logit(prevalence) - logit(self.prevalence)
        return expit(calibrated)


def check_prevalence(prevalence: float | None) -> None:
    """Refuse a share of HH that no clinic has.

    Raises:
        InputError: it is not above 0 and below 1.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise InputError(f"prevalence is {prevalence:g}; give a share above 0 and below 1, such as 0.005, or null")


def check_enough(healthy: int, ill: int, source: str) -> None:
    """Refuse to calibrate on too few scans, or on one group.

    Args:
        healthy, ill: subjects of each group.
        source: what was to be calibrated on, for the message.

    Raises:
        InputError: says what is lacking.
    """
    for group, count in (("HC", healthy), ("HH", ill)):
        if count < 2:
            raise InputError(
                f"{source}: has {'one' if count else 'no'} {group}, and calibration needs both groups, two of each at"
                " least; take other scans"
            )
    if healthy + ill < LEAST_SUBJECTS:
        raise InputError(
            f"{source}: {healthy + ill} subjects ({ill} HH, {healthy} HC) are too few to calibrate on, at least"
            f" {LEAST_SUBJECTS} are due; take more scans, or --calibrate_on none"
        )
