"""Whether a phase was high-pass filtered, as scanners do for SWI: then most of the iron is gone from it.

What air, bone and the shape of a head do to the field changes the phase by radians over some centimetres, and more from
echo to echo. A filtered phase has none of that left.
"""

from collections.abc import Sequence

import numpy as np

#: Side of the blocks over which the phase is averaged, mm: an SWI filter takes away what is as wide.
_BLOCK_MM = 25.0
#: Fewer blocks with signal say nothing: a part of a head may have an even field.
_LEAST_BLOCKS = 20
#: Weaker blocks than this share of the brightest are left out.
_SIGNAL = 0.3
#: Rms of the blocks' phases below which it was filtered: rad a ms and tesla, and the least and most such limit, rad.
#: Unfiltered, a head has 0.9 at 4.6 ms and 3 T, parts of heads 0.7 and more from 20 ms on; filtered over 15 mm, 0.05 to
#: 0.09 and at most 0.48 are left.
_FILTERED_RAD_PER_MS_T, _LEAST_RAD, _MOST_RAD = 0.025 / 3, 0.1, 0.5


def check_not_filtered(
    phase: np.ndarray, magnitude: np.ndarray, spacing_mm: Sequence[float], echo_time_s: float, field_strength_t: float
) -> list[str]:
    """A line where a phase varies from place to place as little as a filtered one.

    Args:
        phase, magnitude: of the last echo, `[X, Y, Z]`; rad.
        spacing_mm: voxel size.
        echo_time_s: of that echo, s.
        field_strength_t: T.
    """
    sums = magnitude * np.exp(1j * phase)
    weight = magnitude
    for axis, size in enumerate(spacing_mm):
        step = max(1, round(_BLOCK_MM / float(size)))
        whole = phase.shape[axis] // step * step
        if whole == 0:
            return []
        kept = tuple(slice(whole) if a == axis else slice(None) for a in range(3))
        sums, weight = (np.add.reduceat(part[kept], np.arange(0, whole, step), axis) for part in (sums, weight))
    bright = weight > _SIGNAL * weight.max()
    if bright.sum() < _LEAST_BLOCKS:
        return []
    angle = np.angle(sums[bright] * np.conj(sums[bright].sum()))
    varies = float(np.sqrt(np.average(angle**2, weights=weight[bright])))
    if varies >= np.clip(_FILTERED_RAD_PER_MS_T * 1000 * echo_time_s * field_strength_t, _LEAST_RAD, _MOST_RAD):
        return []
    return [
        f"The phase of the last echo varies by {varies:.2g} rad only from one part of the head to another, where the"
        " field makes radians: was it high-pass filtered, as for SWI? QSM is far too low then; export phase that was"
        " not filtered."
    ]
