"""Phase as scanners store it: brought to radians, and made to go on from slice to slice.

Scales are known from vendors' documents and from exports: Siemens 0..4095 or -4096..4094, Philips and GE milliradians,
GE and others 0..2^n-1, degrees, radians.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.errors import InputError
from scripts.maps.units import named_factor

TURN = 2 * np.pi
#: Lowest and highest value of scales, and how many units make a turn.
SCALES = (
    (-np.pi, np.pi, TURN),
    (0.0, TURN, TURN),
    (-4096, 4095, 8192),
    (0, 4095, 4096),
    (-2048, 2047, 4096),
    (-3142, 3142, 1000 * TURN),
    (-180, 180, 360),
    (0, 360, 360),
    (-1, 1, 2),
    (0, 255, 256),
    (0, 65535, 65536),
    (-32768, 32767, 65536),
)
#: Units that a sidecar may name, in small letters -> rad; BIDS has `rad` and `arbitrary`.
UNITS = {
    **dict.fromkeys(("rad", "radian", "radians"), 1.0),
    **dict.fromkeys(("deg", "degree", "degrees", "\u00b0"), TURN / 360),
    **dict.fromkeys(("mrad", "milliradian", "milliradians"), 1e-3),
}
#: Share of the voxels at either end of the range that does not decide the scale: single odd voxels.
_ODD = 2e-4
#: How near the range must come to that of a known scale, relative to it.
_LIKE = 0.02
#: Widest gap without any value in the range of a phase, relative to it.
_WIDEST_GAP = 0.4
#: A wrapped phase spans at least this share of a turn.
_FULL = 0.9
#: Step between neighbours, relative to the range, from which it is a wrap; and the share of such steps in a phase that
#: wraps: 6 % of those in noise, and about 1 % in a head without noise around it.
_WRAP, _LEAST_WRAPS = 0.75, 0.002
#: Mean cosine of the step from slice to slice below which one of them is turned by pi.
_TURNED = -0.3
#: Signal of two neighbouring slices, relative to the largest, below which they tell nothing.
_LEAST_SIGNAL = 0.1
#: Share of head voxels that must lie where the phase is smooth; in noise it is 1 to 10 %.
_LEAST_SMOOTH = 0.15
#: The same of an echo beside others that are smooth, if its signal is above this share of the brightest echo's: a late
#: one may be lost in noise.
_LEAST_SMOOTH_ECHO, _LOST = 0.12, 0.1
#: Roughness (rad) up to which a phase is smooth; noise has 1.8 on average.
_SMOOTH_RAD = 1.0


@dataclass(frozen=True)
class Scaled:
    """Phase in radians.

    Attributes:
        phase: -pi..pi, float32, of the shape that was given.
        how: one line for sidecars.
        warnings: one line each.
    """

    phase: np.ndarray
    how: str
    warnings: list[str]


def scale_phase(stored: np.ndarray, units: str, paths: Sequence[str]) -> Scaled:
    """Phase as stored to radians: by its unit where known, by the known scale that its range is, or by its range.

    The range is that of all but a few voxels in ten thousand, so that single odd voxels decide nothing.

    Args:
        stored: `[E, X, Y, Z]`.
        units: of the sidecar: one of UNITS, or `arbitrary` or nothing for a scanner's own scale.
        paths: of the echoes, for messages.

    Raises:
        InputError: another unit; given in one of UNITS, it spans more than a turn, or wraps at less than one; its
            echoes do not span one common turn; or signed values were declared unsigned.
    """
    check_no_gap(stored, paths)
    path = paths[0]
    low, high = _range_of(stored)
    span = high - low
    factor = named_factor(units, UNITS, path, "a phase (unless arbitrary, on the scanner's own scale)")
    if factor is not None:
        for echo, file in zip(stored, paths, strict=True):
            check_named_unit(echo, file, units, TURN / factor)
        how = f"{units} by its sidecar ({low:.4g}..{high:.4g})" if factor != 1 else ""
        return in_radians(stored, low, high, path, factor, 0.0, how or f"rad as stored ({low:.4g}..{high:.4g})")
    if span <= 0:
        raise InputError(f"{path}: the phase has one value only ({low:.4g}); export phase images")
    # A wrapped phase with noise around the head fills its range; scanners store -n..n-1 or 0..n-1.
    spans = [float(np.subtract(*_range_of(echo)[::-1])) for echo in stored]
    if min(spans) < 0.9 * max(spans):
        scales = np.log(np.maximum(spans, 1e-30))
        odd = int(np.argmax(np.abs(scales - np.median(scales))))
        raise InputError(
            f"{paths[odd]}: the echoes' ranges of phase differ ({', '.join(f'{s:.4g}' for s in spans)}), so they are"
            " not wrapped phase on one scale; export the scanner's phase images again"
        )
    for least, most, turn in SCALES:
        if max(abs(low - least), abs(high - most)) <= _LIKE * turn:
            # Whole numbers begin at -pi, angles at what they say.
            zero = 0.5 * (least + most + 1) if turn in (256, 4096, 8192, 65536) else 0.0
            if turn == TURN:
                how = f"rad as stored ({low:.4g}..{high:.4g})"
            else:
                how = f"{least:.6g}..{most:.6g} as scanners store it, {turn:.6g} a turn"
            return in_radians(stored, low, high, path, TURN / turn, zero, how)
    how = f"range {low:.6g}..{high:.6g} taken as one turn"
    scaled = in_radians(stored, low, high, path, TURN / span, 0.5 * (low + high), how)
    scaled.warnings.append(
        f"The phase ranges from {low:.6g} to {high:.6g}, which is no scale that we know: its range was taken as one"
        " turn. If that is wrong, convert it to radians and say Units: rad in the sidecar."
    )
    return scaled


def _range_of(stored: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value of all but a few voxels in ten thousand."""
    low, high = np.quantile(thinned(stored), (_ODD, 1 - _ODD))
    return float(low), float(high)


def check_named_unit(echo: np.ndarray, path: str, unit: str, turn: float) -> None:
    """Refuse an echo `[X, Y, Z]` that spans more than a turn in the unit that it is said to be in, or wraps at less.

    Args:
        echo: as stored.
        path: of its file.
        unit: by its sidecar.
        turn: how many units make one.

    Raises:
        InputError: see above.
    """
    low, high = _range_of(echo)
    span = high - low
    if span > turn * 1.01:
        raise InputError(
            f"{path}: phase from {low:.4g} to {high:.4g} is more than one wrap; give wrapped phase,"
            f" or correct Units if it is not in {unit}"
        )
    # Without noise around the head a phase that never wraps may span less.
    if 0 < span < _FULL * turn and max(share_of_wraps(echo, span)) > _LEAST_WRAPS:
        raise InputError(
            f"{path}: phase from {low:.3g} to {high:.3g} wraps within {span:.3g}, where {unit} has {turn:.4g} a turn;"
            " correct Units (arbitrary, for the scanner's own scale), or convert it to rad"
        )


def share_of_wraps(echo: np.ndarray, span: float) -> list[float]:
    """Share of the steps between neighbours along each axis that are nearly as wide as the range of the values.

    Voxels that were blanked, to 0 or to the end of the range, have no neighbours.
    """
    known = np.where((echo == 0) | (echo == echo.min()) | (echo == echo.max()), np.nan, echo)
    steps = [np.abs(np.diff(known, axis=axis)) for axis in range(3)]
    return [float((step > _WRAP * span).sum() / max(1, np.isfinite(step).sum())) for step in steps]


def in_radians(stored: np.ndarray, low: float, high: float, path: str, factor: float, zero: float, how: str) -> Scaled:
    """Scale, wrap, and say how many voxels lie beyond the range that decided."""
    room = 0.05 * (high - low)
    odd = (stored < low - room) | (stored > high + room)
    beyond = int(np.count_nonzero(odd))
    warnings = []
    if beyond:
        warnings.append(
            f"{beyond} voxels of the phase lie far beyond its range {low:.6g}..{high:.6g} and decided nothing about its"
            " scale: the images may be damaged there."
        )
    scaled = stored.astype(np.float32)
    if beyond:
        scaled[odd] = zero
    if zero:
        scaled -= np.float32(zero)
    if factor != 1.0:
        scaled *= np.float32(factor)
    if max(-float(scaled.min()), float(scaled.max())) > np.pi * (1 + 1e-6):
        scaled -= np.float32(TURN) * np.round(scaled / np.float32(TURN))
    return Scaled(scaled, how, warnings)


def thinned(volume: np.ndarray) -> np.ndarray:
    """At most about a million values of a volume, in the order of memory: nothing is copied."""
    return volume.ravel(order="K")[:: max(1, volume.size // 1_000_000)]


def check_no_gap(stored: np.ndarray, paths: Sequence[str]) -> None:
    """Refuse whole numbers in two groups with nothing between them: signed values that were declared unsigned.

    Raises:
        InputError: they are.
    """
    values = thinned(stored)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high < 250 or not np.array_equal(values, np.round(values)):
        return
    values = np.sort(values)
    gaps = np.diff(values)
    widest = int(np.argmax(gaps))
    # Single odd voxels leave a gap too, but have no company on its other side.
    if gaps[widest] > _WIDEST_GAP * (high - low) and min(widest + 1, len(values) - widest - 1) > 0.02 * len(values):
        path = next(p for echo, p in zip(stored, paths, strict=True) if echo.max() > values[widest])
        raise InputError(
            f"{path}: its values lie in 0..{values[widest]:.6g} and {values[widest + 1]:.6g}..{high:.6g} with nothing"
            " between, as signed values declared unsigned do; correct the data type in its header"
        )


def check_not_magnitude(phase: np.ndarray, magnitude: np.ndarray, path: str) -> None:
    """Refuse a phase that follows the magnitude voxel by voxel.

    Raises:
        InputError: correlation of the first echo above 0.9.
    """
    a, b = phase[0, ::2, ::2, ::2].ravel(), magnitude[0, ::2, ::2, ::2].ravel()
    if a.std() > 0 and b.std() > 0 and abs(np.corrcoef(a, b)[0, 1]) > 0.9:
        raise InputError(
            f"{path}: looks like magnitude, not phase; check which images were exported or how they are named"
        )


def steps_between_slices(phase: np.ndarray, magnitude: np.ndarray, axis: int) -> np.ndarray:
    """Mean cosine of the step from each slice to the next, weighted with the magnitude, `[N - 1]`.

    0 where there is too little signal, or too few voxels, to tell.

    Args:
        phase, magnitude: one echo, `[X, Y, Z]`; rad.
        axis: across the slices.
    """
    signal = np.moveaxis(magnitude, axis, 0)[:, ::2, ::2]
    angle = np.moveaxis(phase, axis, 0)[:, ::2, ::2]
    weight = np.minimum(signal[1:], signal[:-1])
    total = weight.sum((1, 2))
    cosine = (weight * np.cos(np.diff(angle, axis=0))).sum((1, 2)) / np.maximum(total, 1e-30)
    chance = np.sqrt(0.5 * (weight**2).sum((1, 2))) / np.maximum(total, 1e-30)  # standard deviation in noise
    cosine[(total < _LEAST_SIGNAL * total.max()) | (abs(cosine) < 5 * chance)] = 0.0
    return cosine


def slice_signs(phase: np.ndarray, magnitude: np.ndarray, axis: int) -> np.ndarray:
    """Which slices across an axis are turned by pi against the others.

    Every second one is in GE's real and imaginary images that were not corrected. The step from each slice to the next
    decides, in the first two echoes alike: a head's phase is not turned by pi on average, unless by a steep field,
    which turns later echoes farther.

    Args:
        phase, magnitude: `[E, X, Y, Z]`, at least two echoes; rad.
        axis: across the slices.

    Returns:
        1 or -1 a slice, most of the signal 1.
    """
    turned = np.all([steps_between_slices(phase[e], magnitude[e], axis) < _TURNED for e in (0, 1)], axis=0)
    signs = np.cumprod(np.concatenate([[1], np.where(turned, -1, 1)]))
    return signs if (signs * magnitude[0].sum(tuple(a for a in range(3) if a != axis))).sum() >= 0 else -signs


def turn_slices_back(phase: np.ndarray, magnitude: np.ndarray) -> list[str]:
    """Undo slices that are turned by pi in every echo alike, in place.

    Args:
        phase, magnitude: `[E, X, Y, Z]`; rad, -pi..pi.

    Returns:
        A warning for each axis along which there were some.
    """
    warnings = []
    for axis in range(3):
        signs = slice_signs(phase, magnitude, axis)
        turned = np.flatnonzero(signs < 0)
        if len(turned) == 0:
            continue
        where = (slice(None),) * (axis + 1) + (turned,)
        part = phase[where]
        phase[where] = part - np.float32(np.pi) * np.where(part > 0, 1, -1).astype(np.float32)
        warnings.append(
            f"{len(turned)} of {len(signs)} slices along axis {'ijk'[axis]} were turned by pi against their neighbours,"
            " as every second one is in GE's uncorrected real and imaginary images: turned back."
        )
    return warnings


def check_not_noise(phase: np.ndarray, magnitude: np.ndarray, paths: Sequence[str]) -> None:
    """Refuse a phase that is smooth hardly anywhere, as that of noise is, in all echoes or in one.

    Args:
        phase, magnitude: `[E, X, Y, Z]`; rad.
        paths: of the echoes, for the message.

    Raises:
        InputError: it is noise.
    """
    shares, signals = [], []
    for angle, signal in zip(phase, magnitude, strict=True):
        middle = tuple(slice(n // 4, n - n // 4) for n in signal.shape)  # where the brain is
        angle, signal = angle[middle], signal[middle]
        squares = np.zeros([n - 2 for n in angle.shape], np.float32)
        for axis in range(3):
            inner = tuple(slice(None) if a == axis else slice(1, -1) for a in range(3))
            bend = np.diff(angle, 2, axis)[inner]
            bend -= np.float32(TURN) * np.round(bend / np.float32(TURN))
            squares += bend**2 / 3
        bright = (signal > np.median(thinned(signal)))[1:-1, 1:-1, 1:-1]
        shares.append(float((squares < _SMOOTH_RAD**2)[bright].mean()))
        signals.append(float(np.quantile(thinned(signal), 0.75)))
    if max(shares) > _LEAST_SMOOTH:
        for number, (share, seen) in enumerate(zip(shares, signals, strict=True)):
            if share < _LEAST_SMOOTH_ECHO and seen > _LOST * max(signals):
                raise InputError(
                    f"{paths[number]}: the phase of echo {number + 1} is noise, though that of other echoes is not;"
                    " export it again, or leave the echo out"
                )
        return
    raise InputError(
        f"{paths[0]}: the phase is smooth in {100 * max(shares):.0f} % of the bright voxels only, as noise is; check"
        " that these are phase images (or real and imaginary ones) of a head"
    )
