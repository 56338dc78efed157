"""Whether phase and magnitude of an acquisition lie in the same place, and the head in one piece.

Where there is no signal, phase is noise, so that the phase is smooth where the magnitude is bright. A phase that was
mirrored, shifted, or whose halves changed places fits the magnitude better when that is undone: far better as a whole,
or, where a head is nearly symmetric or the shift is small, in its details. One voxel of a grid of 128 is not told, nor
is left from right in a head that is the same on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfftn, rfftn

from scripts.errors import InputError
from scripts.reconstruction.phase import TURN

#: Voxels along an axis that are compared as a whole, and in detail, at most.
_COARSE, _FINE = 64, 128
#: A correlation below says nothing: no air in the image, or none that is noise.
_SURE = 0.5
#: By how much another place must fit better. Heads that lie right, cut or blanked as may be, are best there to 0.04.
_BETTER = 0.1
#: In detail (both images whitened, so that their likeness is a sharp peak): how many standard deviations the peak must
#: have, how many times the one where the phase is, and by how much the plain likeness must grow there. A real head has
#: 57 where it lies and 36 mirrored left to right; with the brain cut out of one image alone others reach 37, but fit
#: worse as a whole.
_PEAK, _TIMES, _MORE = 20.0, 1.3, 0.002
#: Likeness of the slices at both ends from which they are neighbours, and by how much it is above that in the middle.
_NEIGHBOURS, _BROKEN = 0.7, 0.2
_MIRRORED: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class _Fit:
    """How well a phase fits where it is, and where it fits best: mirrored along axes, then shifted by voxels."""

    here: float
    best: float
    mirrored: tuple[int, ...]
    shift: tuple[int, ...]


def check_same_place(phase: np.ndarray, magnitude: np.ndarray, path: str) -> None:
    """Refuse a phase that fits the magnitude better in another place.

    Args:
        phase, magnitude: of one echo, `[X, Y, Z]`; rad.
        path: of the phase, for the message.

    Raises:
        InputError: it is mirrored or shifted; says along which axes.
    """
    signal = magnitude[1:-1, 1:-1, 1:-1]
    signal = np.log(signal + 1e-3 * max(float(signal.max()), 1e-30))
    smooth = -roughness(phase)
    fit = _fit(_coarse(signal, _COARSE), _coarse(smooth, _COARSE), sharp=False)
    if fit.best > _SURE and fit.best - fit.here > _BETTER:
        raise InputError(_elsewhere(path, fit, signal.shape, _COARSE))
    bright, calm = (_coarse(part, _FINE) for part in (signal, smooth))
    fit = _fit(bright, calm, sharp=True)
    if fit.best < _PEAK or fit.best < _TIMES * fit.here:
        return
    moved = np.roll(np.flip(calm, fit.mirrored), fit.shift, (0, 1, 2))
    if _likeness(bright, moved) > _likeness(bright, calm) + _MORE:
        raise InputError(_elsewhere(path, fit, signal.shape, _FINE))


def check_in_one_piece(magnitude: np.ndarray, path: str) -> None:
    """Refuse an image whose halves changed places, as a Fourier transform leaves them: the slices at its two ends are
    neighbours, and those in the middle are not.

    Args:
        magnitude: of one echo, `[X, Y, Z]`.
        path: of the file, for the message.

    Raises:
        InputError: names the axes.
    """
    bright = np.minimum(magnitude, np.quantile(magnitude, 0.995))
    axes = []
    for axis, size in enumerate(bright.shape):
        ends = _likeness(bright.take(0, axis), bright.take(-1, axis))
        middle = min(_likeness(bright.take(n - 1, axis), bright.take(n, axis)) for n in {size // 2, (size + 1) // 2})
        if ends > _NEIGHBOURS and ends > middle + _BROKEN:
            axes.append("ijk"[axis])
    if axes:
        raise InputError(
            f"{path}: the two halves along {' and '.join(axes)} changed places (the image goes on from its last slice"
            " to its first, and breaks off in the middle), as a Fourier transform leaves them; put them back (fftshift)"
            " in all images"
        )


def _fit(bright: np.ndarray, calm: np.ndarray, sharp: bool) -> _Fit:
    """Compare two images `[X, Y, Z]` in all places; `sharp`: in detail, and a voxel away is here too."""
    target = _spectrum(bright, sharp)
    here, best = 0.0, _Fit(0.0, 0.0, (), (0, 0, 0))
    for mirrored in _MIRRORED:
        product = target * _spectrum(np.flip(calm, mirrored), sharp).conj()
        likeness = irfftn(product, calm.shape)
        if sharp:
            likeness /= max(float(likeness.std()), 1e-30)
        if not mirrored:
            near = np.ix_(*[(-1, 0, 1) if sharp else (0,)] * 3)
            here = float(likeness[near].max())
            likeness[near] = here
        if likeness.max() > best.best:
            shift = np.unravel_index(int(likeness.argmax()), likeness.shape)
            best = _Fit(here, float(likeness.max()), mirrored, tuple(int(n) for n in shift))
    return _Fit(here, best.best, best.mirrored, best.shift)


def _spectrum(volume: np.ndarray, sharp: bool) -> np.ndarray:
    """The spectrum of a standardised volume, whose inverse product with another is their likeness; `sharp`: of equal
    strength throughout."""
    volume = volume - volume.mean()
    if not sharp:
        return rfftn(volume / max(float(volume.std()) * np.sqrt(volume.size), 1e-30))
    spectrum = rfftn(volume)
    strength = abs(spectrum)
    return spectrum / np.maximum(strength, max(1e-3 * float(strength.mean()), 1e-30))


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two images; 0 where one is flat."""
    one, other = one - one.mean(), other - other.mean()
    scale = float(one.std()) * float(other.std())
    return float((one * other).mean()) / scale if scale > 0 else 0.0


def _elsewhere(path: str, fit: _Fit, shape: Sequence[int], side: int) -> str:
    """The message."""
    moved = [
        f"{'ijk'[axis]} by {min(n, size // step - n) * step}"
        for axis, (n, size) in enumerate(zip(fit.shift, shape, strict=True))
        if n and (step := _block(size, side))
    ]
    how = f"mirrored along {' and '.join('ijk'[axis] for axis in fit.mirrored)}" if fit.mirrored else ""
    how += f"{' and ' if how and moved else ''}{'shifted along ' + ', '.join(moved) if moved else ''}"
    return (
        f"{path}: the phase lies elsewhere than its magnitude: it is smooth where that is bright once it is"
        f" {how} (likeness {fit.best:.2f}, {fit.here:.2f} as it is); export both alike"
    )


def roughness(phase: np.ndarray) -> np.ndarray:
    """How much a phase `[X, Y, Z]` bends from voxel to voxel, rad, `[X - 2, Y - 2, Z - 2]`; where it is 0 throughout,
    as where air was blanked, as much as noise."""
    squares = np.zeros([n - 2 for n in phase.shape], np.float32)
    for axis in range(3):
        bend = np.diff(phase, 2, axis)[tuple(slice(None) if a == axis else slice(1, -1) for a in range(3))]
        bend -= np.float32(TURN) * np.round(bend / np.float32(TURN))
        squares += bend**2 / 3
    squares[squares == 0] = np.pi**2 / 3
    return np.sqrt(squares)


def _coarse(volume: np.ndarray, side: int) -> np.ndarray:
    """Sums over blocks, so that no axis has more than `side` of them; what is left over at its end is left out."""
    for axis in range(3):
        step = _block(volume.shape[axis], side)
        whole = volume.shape[axis] // step * step
        kept = volume[tuple(slice(whole) if a == axis else slice(None) for a in range(3))]
        volume = np.add.reduceat(kept, np.arange(0, whole, step), axis)
    return volume


def _block(size: int, side: int) -> int:
    """Voxels of a block along an axis of so many."""
    return -(-size // side)
