"""Whether the phases of one acquisition's echoes belong together.

In a voxel the phase is a constant plus a field times the echo time. Its step from a voxel to one nearby (which hardly
ever wraps) therefore lies on a line over the echoes too, so that the others foretell it in each echo. A negated echo
is foretold with the wrong sign; another scale, order or echo time shows as a factor; noise is like nothing. Steps are
taken against their median along each axis, so that ramps, as a bipolar readout leaves them, change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.errors import InputError
from scripts.reconstruction.phase import TURN

#: Distance of the two voxels of a step, mm: farther it wraps, nearer it drowns in noise.
_STEP_MM = 2.0
#: Most steps along an axis that are looked at.
_STEPS = 100_000
#: Share of the voxels, the darkest, that is not asked.
_DARK = 0.5
#: Likeness below which an echo is refused, and below which it is spoken of. Real heads have 0.3 to 1.
_OPPOSITE, _ODD = -0.5, -0.15
#: The largest likeness below which all of them are spoken of.
_UNLIKE = 0.15
#: Likeness from which on the factor is sure, and how far it may be from 1.
_SURE, _FACTOR = 0.9, 1.6


@dataclass(frozen=True)
class Foretold:
    """How one echo's steps follow from those of the others.

    Attributes:
        likeness: correlation of both, -1..1.
        factor: the steps over what is foretold.
    """

    likeness: float
    factor: float


def check_echoes_agree(
    phase: np.ndarray,
    magnitude: np.ndarray,
    echo_times_s: Sequence[float],
    spacing_mm: Sequence[float],
    paths: Sequence[str],
) -> list[str]:
    """Refuse an echo whose phase is the opposite of what the others foretell.

    Args:
        phase, magnitude: `[E, X, Y, Z]`, at least two echoes; rad.
        echo_times_s: s.
        spacing_mm: voxel size.
        paths: of the echoes' phases, for the message.

    Returns:
        a warning where echoes hardly follow from each other, or not with their echo times.

    Raises:
        InputError: names the echo.
    """
    step = steps(phase, magnitude, spacing_mm)
    found = foretell(step, echo_times_s)
    if not found:
        return []
    least = min(one.likeness for one in found)
    doubt = "was its phase negated, or given in another order, scale or with a wrong echo time?"
    if least < _ODD:
        worst = negated(step, echo_times_s)
        which = "one of the two echoes" if len(found) == 2 else f"echo {worst + 1}"
        if least < _OPPOSITE:
            raise InputError(
                f"{paths[worst]}: the phase of {which} runs against that of the others (correlation {least:.2f});"
                f" {doubt} Export all echoes alike"
            )
        return [f"The phase of {which} runs against that of the others: {doubt} QSM is wrong then."]
    if len(found) < 3:
        return []
    if max(one.likeness for one in found) < _UNLIKE:
        return [
            "The phases of the echoes hardly follow from each other: was one given in another scale or order, or is"
            " there more noise than signal? QSM is wrong then."
        ]
    sure = [n for n, one in enumerate(found) if one.likeness > _SURE]
    off = {n: found[n].factor for n in sure if not 1 / _FACTOR < found[n].factor < _FACTOR}
    if off:
        said = ", ".join(f"{factor:.2g} times in echo {n + 1}" for n, factor in off.items())
        return [
            f"The phase does not grow evenly with the echo time ({said} what the others say): was an echo given in"
            " another order or scale, or with a wrong echo time? QSM is wrong then."
        ]
    return []


def negated(step: np.ndarray, echo_times_s: Sequence[float]) -> int:
    """The echo, counted from 0, whose sign must be turned for all to follow best from each other."""

    def agreement(echo: int) -> float:
        turned = step.copy()
        turned[echo] *= -1
        return sum(one.likeness for one in foretell(turned, echo_times_s))

    return max(range(len(step)), key=agreement)


def steps(phase: np.ndarray, magnitude: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Steps of the phase between voxels in the middle of the image, against their median along each axis.

    Args:
        phase, magnitude: `[E, X, Y, Z]`; rad.
        spacing_mm: voxel size.

    Returns:
        rad, -pi..pi, `[E, N]`.
    """
    middle = (slice(None), *(slice(n // 6, n - n // 6) for n in phase.shape[1:]))
    angle, signal = phase[middle], magnitude[middle].min(0)
    limit = float(np.quantile(signal, _DARK))
    found = []
    for axis, size in enumerate(spacing_mm):
        far = max(1, round(_STEP_MM / float(size)))
        if angle.shape[axis + 1] <= far:
            continue
        ahead, behind = (
            tuple(part if a == axis else slice(None) for a in range(3)) for part in (slice(far, None), slice(-far))
        )
        bright = np.flatnonzero(np.minimum(signal[ahead], signal[behind]).ravel() > limit)
        if len(bright) < 100:
            continue
        bright = bright[:: max(1, len(bright) // _STEPS)]
        step = np.stack([echo[ahead].ravel()[bright] - echo[behind].ravel()[bright] for echo in angle])
        # the median of angles, which wrap: around their mean direction
        for _ in range(2):
            step -= np.angle(np.exp(1j * step).mean(1, keepdims=True)).astype(np.float32)
            step -= np.float32(TURN) * np.round(step / np.float32(TURN))
            step -= np.median(step, axis=1, keepdims=True)
        found.append(step)
    return np.concatenate(found, 1) if found else np.empty((len(phase), 0), np.float32)


def foretell(step: np.ndarray, echo_times_s: Sequence[float]) -> list[Foretold]:
    """What the others say of each echo, by a line through them; of two echoes, by the other one.

    Args:
        step: `[E, N]`, rad.
        echo_times_s: s.

    Returns:
        one an echo; none where there are no steps.
    """
    times = np.asarray(echo_times_s, float)
    answers: list[Foretold] = []
    for echo in range(len(times) if step.shape[1] else 0):
        others = [n for n in range(len(times)) if n != echo]
        line = np.stack([np.ones(len(others)), times[others]], 1)
        weights = np.array([1.0, times[echo]]) @ np.linalg.pinv(line) if len(others) > 1 else np.ones(1)
        said, own = weights @ step[others], step[echo]
        said, own = said - said.mean(), own - own.mean()
        power, product = float(said @ said), float(said @ own)
        scale = np.sqrt(power * float(own @ own))
        answers.append(Foretold(product / scale if scale > 0 else 0.0, product / power if power > 0 else 0.0))
    return answers
