"""Class-conditional conformal prediction: HH, HC, or "cannot say", at an error that the user chooses.

A scan is compared with scans of known group whose scores the model gave without having been trained on them. The p of a
group is the rank of the scan's score among that group's; a group is ruled out where its p is at most the chosen error.
Scans of a group are then denied that group in at most this share of cases, for each group on its own and whatever the
model and the share of HH among the scans (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005, on
Mondrian predictors). That holds as long as new scans are like the known ones; scores of several folds' models are taken
for scores of one (Vovk, Cross-conformal predictors, 2015).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from scripts.errors import InputError

#: What is answered where both groups are possible, or none is.
CANNOT_SAY = "cannot say"
#: The error that inference keeps unless it is told another (`conformal_error` in inference.yaml).
USUAL_ERROR = 0.1


def rounded(scores: np.ndarray | Sequence[float] | float) -> np.ndarray:
    """Scores `[...]` to the six digits that a calibration holds: they are only compared as they would be stored."""
    given = np.asarray(scores, dtype=float)
    return np.array([float(f"{score:.6g}") for score in given.ravel()]).reshape(given.shape)


def p_values(scores: np.ndarray | float, known: Mapping[str, Sequence[float]]) -> np.ndarray:
    """How usual scores are among scans of each group, `[..., 2]`: p of HC, p of HH, each above 0 and up to 1.

    Args:
        scores: `[...]`; the larger, the more a scan looks like HH. NaN has the smallest p of both.
        known: `HC` and `HH`: scores of scans of that group, in any order. Both are compared to six digits, see
            `rounded`, so that scans with one probability (0 or 1, say) are alike.
    """
    score = rounded(scores)
    healthy, ill = (np.sort(rounded(known[group])) for group in ("HC", "HH"))
    as_high = len(healthy) - np.searchsorted(healthy, score, side="left")
    as_low = np.searchsorted(ill, score, side="right")
    counts = np.stack([as_high, as_low], axis=-1)
    counts = np.where(np.isnan(score)[..., None], 0, counts)
    return (counts + 1) / (np.array([len(healthy), len(ill)]) + 1)


def decisions(p: np.ndarray, error: float) -> np.ndarray:
    """`HH`, `HC` or CANNOT_SAY for each pair of p, `[..., 2] -> [...]`.

    Args:
        p: from `p_values`.
        error: largest share of each group's scans that may be denied their group, above 0 and below 1.
    """
    healthy, ill = np.moveaxis(np.asarray(p) > error, -1, 0)
    return np.where(ill & ~healthy, "HH", np.where(healthy & ~ill, "HC", CANNOT_SAY))


def check_error(error: float, known: Mapping[str, Sequence[float]] | None = None, source: str = "") -> None:
    """Refuse an error that is none, or so small that no scan could ever be told.

    Args:
        error: see `decisions`.
        known: see `p_values`; None checks the number alone.
        source: of `known`, for the message.

    Raises:
        InputError: names the key.
    """
    if not 0 < error < 1:
        raise InputError(f"conformal_error is {error:g}; give a share above 0 and below 1, such as 0.1")
    if known is None:
        return
    group = min(known, key=lambda name: len(known[name]))
    if error < 1 / (len(known[group]) + 1):
        raise InputError(
            f"conformal_error is {error:g}, but {source} knows {len(known[group])} {group}, which never rules out that"
            f" group below {least_error(known):g}; raise it to at least that, or calibrate on more"
        )


def least_error(known: Mapping[str, Sequence[float]]) -> float:
    """The smallest error at which either group can be ruled out, rounded up to three decimals.

    Args:
        known: see `p_values`.
    """
    return float(np.ceil(1000 / (min(len(scores) for scores in known.values()) + 1)) / 1000)
