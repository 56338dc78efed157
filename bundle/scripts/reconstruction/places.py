"""Whether phase and magnitude of an acquisition lie in the same place.

Where there is no signal, phase is noise, so that the phase is smooth where the magnitude is bright. A phase that was
mirrored, shifted, or whose halves changed places fits the magnitude far better when that is undone. What a head is
symmetric in, left and right, is not told.
"""

import numpy as np

from scripts.errors import InputError
from scripts.reconstruction.phase import TURN

#: Voxels along an axis that are compared, at most: coarser than the image, finer than what is told.
_COARSE = 64
#: A correlation below says nothing: no air in the image, or none that is noise.
_SURE = 0.5
#: By how much another place must fit better. Heads that lie right, cut or blanked as may be, are best there to 0.04.
_BETTER = 0.1


def check_same_place(phase: np.ndarray, magnitude: np.ndarray, path: str) -> None:
    """Refuse a phase that fits the magnitude far better in another place.

    Args:
        phase, magnitude: of one echo, `[X, Y, Z]`; rad.
        path: of the phase, for the message.

    Raises:
        InputError: it is mirrored or shifted; says along which axes.
    """
    inner = (slice(1, -1),) * 3
    signal = magnitude[inner]
    calm = _standard(_coarse(-roughness(phase)))
    bright = np.fft.rfftn(_standard(_coarse(np.log(signal + 1e-3 * max(float(signal.max()), 1e-30)))))
    here, best, how = 0.0, 0.0, ""
    for mirrored in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        other = np.fft.rfftn(np.flip(calm, mirrored))
        likeness = np.fft.irfftn(bright * other.conj(), calm.shape, (0, 1, 2)) / calm.size
        if not mirrored:
            here = float(likeness[0, 0, 0])
        if likeness.max() > best:
            best = float(likeness.max())
            shift = np.unravel_index(int(likeness.argmax()), likeness.shape)
            moved = [
                f"{'ijk'[axis]} by {min(n, size - n) * _block(signal.shape[axis])}"
                for axis, (n, size) in enumerate(zip(shift, calm.shape, strict=True))
                if n
            ]
            how = f"mirrored along {' and '.join('ijk'[axis] for axis in mirrored)}" if mirrored else ""
            how += f"{' and ' if how and moved else ''}{'shifted along ' + ', '.join(moved) if moved else ''}"
    if best > _SURE and best - here > _BETTER:
        raise InputError(
            f"{path}: the phase lies elsewhere than its magnitude: it is smooth where that is bright once it is"
            f" {how} (likeness {best:.2f}, {here:.2f} as it is); export both alike"
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


def _coarse(volume: np.ndarray) -> np.ndarray:
    """Sums over blocks, so that no axis has more than _COARSE of them; what is left over at its end is left out."""
    for axis in range(3):
        step = _block(volume.shape[axis])
        whole = volume.shape[axis] // step * step
        kept = volume[tuple(slice(whole) if a == axis else slice(None) for a in range(3))]
        volume = np.add.reduceat(kept, np.arange(0, whole, step), axis)
    return volume


def _block(size: int) -> int:
    """Voxels of a block along an axis of so many."""
    return -(-size // _COARSE)


def _standard(volume: np.ndarray) -> np.ndarray:
    """With mean 0 and standard deviation 1."""
    return (volume - volume.mean()) / max(float(volume.std()), 1e-30)
