"""Bipolar readout: odd and even echoes are read in opposite directions, which turns their phases apart along a ramp.

Delays of the gradients shift the echoes of either direction the other way in k-space: a phase linear in space, of
opposite sign in odd and even echoes, which a field that grows evenly with the echo time never makes.

Source: Yu et al., J Magn Reson Imaging 2010, 31:1264.
"""

from collections.abc import Sequence

import numpy as np

#: Every how many voxels along each axis are looked at.
_STEP = 2
#: Most echoes that are looked at: later ones are darker.
_ECHOES = 5
#: Difference of two distances of echoes, relative, up to which they are the same.
_EVEN = 0.01
#: Ramp across the image (rad, either way) below which nothing is changed.
_LEAST_RAD = 0.1
#: How well the echoes must agree once it is taken away (1: entirely, 0: not at all).
_LEAST_AGREEMENT = 0.7


def remove_ramp(phase: np.ndarray, magnitude: np.ndarray, echo_times_s: Sequence[float]) -> list[str]:
    """Take the ramp between odd and even echoes away, in place, where there is one.

    Three echoes at even distances tell it: first + third - twice the second is four times the ramp, with no field and
    no phase of the coils left in it. Its constant is known up to a quarter turn, which makes no difference: a quarter
    turn back and forth is an even field and a constant.

    Args:
        phase: rad, `[E, X, Y, Z]`; wrapped again where it is changed.
        magnitude: of the same shape.
        echo_times_s: s.

    Returns:
        one line where a ramp was removed.
    """
    distances = np.diff(echo_times_s)[: _ECHOES - 1]
    if len(distances) < 2 or np.ptp(distances) > _EVEN * distances.max():
        return []
    thin = (slice(None), *(slice(None, None, _STEP),) * 3)
    angle, signal = phase[:_ECHOES][thin], magnitude[:_ECHOES][thin]
    told: np.ndarray = np.zeros(angle.shape[1:], np.complex64)
    for n in range(len(angle) - 2):
        turned = angle[n] - 2 * angle[n + 1] + angle[n + 2]
        told += signal[n] * signal[n + 2] * np.exp(np.complex64(1j if n % 2 == 0 else -1j) * turned)
    shape = phase.shape[1:]
    slopes = []  # of the ramp, rad a voxel
    for axis, size in enumerate(told.shape):
        if size < 2:
            slopes.append(0.0)
            continue
        ahead, behind = (np.take(told, np.arange(size - 1) + k, axis) for k in (1, 0))
        slopes.append(float(np.angle(np.vdot(behind, ahead))) / (4 * _STEP))
    across = [abs(slope) * size for slope, size in zip(slopes, shape, strict=True)]
    if max(across) < _LEAST_RAD:
        return []
    ramp = _ramp(slopes, shape)
    flat = told * np.exp(-4j * ramp[thin[1:]]).astype(np.complex64)
    mean = complex(flat.sum())
    if abs(mean) < _LEAST_AGREEMENT * float(np.abs(flat).sum()):
        return []
    ramp += np.float32(np.angle(mean) / 4)
    for n, echo in enumerate(phase):
        echo += ramp if n % 2 else -ramp
        echo -= np.float32(2 * np.pi) * np.round(echo / np.float32(2 * np.pi))
    axis = int(np.argmax(across))
    return [
        f"Odd and even echoes differ by a ramp of {2 * across[axis]:.2g} rad across the image along axis {'ijk'[axis]},"
        " as a bipolar readout leaves it: it was taken away."
    ]


def _ramp(slopes: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """A phase (rad, float32) that is linear along the axes and 0 in the middle."""
    x, y, z = (
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(s) for s, n in zip(slopes, shape, strict=True)
    )
    return x[:, None, None] + y[:, None] + z
