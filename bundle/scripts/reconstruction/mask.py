"""The brain mask: found or given, trimmed, and without voxels whose phase cannot be trusted."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage

from scripts.errors import InputError
from scripts.reconstruction.checks import doubts_about_brain
from scripts.reconstruction.progress import Progress, ignore_progress
from scripts.reconstruction.unwrap import wrap

#: Voxels kept around the brain while it is trimmed: as far as `phase_roughness` looks.
_MARGIN = 2
#: How far beyond the last echo a decay is carried on, in times from first to last echo: noise grows with it.
_FARTHEST = 3.0
#: Share of the brain's median signal below which an echo of a voxel has none.
_LEAST_SIGNAL = 0.01


class BrainMask:
    """The brain in one echo, or a given mask; then erosion, islands, and the quality of the phase.

    Args:
        extraction: finds the brain: `scripts.reconstruction.extraction.Morphology` or `scripts.reconstruction.bet.BET`.
        echo_time_s: whose magnitude it sees, and whose phase is judged: the echo nearest to this time, s. Later echoes
            show the skull darker and air larger (paper, Dataset: echo 2, 0.010 s). Where all echoes are earlier, the
            magnitude is continued to this time, see `continued`.
        erosion_mm: how far the edge is cut back (paper, Dataset: 4 voxels, of 0.6 mm in plane).
        island_size: connected parts with fewer voxels are dropped, and holes with fewer are filled (paper: 2000).
        phase_quality: largest roughness of the phase, rad, see `phase_roughness`; None trusts every voxel.
    """

    def __init__(
        self,
        extraction: Callable,
        echo_time_s: float,
        erosion_mm: float,
        island_size: int,
        phase_quality: float | None,
    ) -> None:
        self.extraction = extraction
        self.echo_time_s = echo_time_s
        self.erosion_mm = erosion_mm
        self.island_size = island_size
        self.phase_quality = phase_quality

    def __call__(
        self,
        magnitude: torch.Tensor,
        phase: torch.Tensor,
        echo_times_s: Sequence[float],
        spacing_mm: Sequence[float],
        given: np.ndarray | None = None,
        progress: Progress = ignore_progress,
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Find where QSM is possible.

        Args:
            magnitude, phase: `[E, X, Y, Z]`; magnitude in any unit, phase in rad.
            echo_times_s: one an echo.
            spacing_mm: voxel size.
            given: bool `[X, Y, Z]` instead of a brain found.
            progress: told how far the work is.

        Returns:
            The brain, the part of it whose phase is good, both bool `[X, Y, Z]`, and warnings.

        Raises:
            InputError: nothing is left, or it is no brain; see `checks.doubts_about_brain`.
        """
        index = int(np.argmin([abs(t - self.echo_time_s) for t in echo_times_s]))
        if given is None:
            seen = continued(magnitude, echo_times_s, self.echo_time_s, index)
            brain = self.extraction(seen.cpu().numpy(), spacing_mm, progress)
        else:
            brain = given
        warnings = doubts_about_brain(brain, spacing_mm, found=given is None)
        # All that follows needs the brain's surroundings only.
        box = bounding_box(brain, _MARGIN)
        brain = eroded(brain[box], self.erosion_mm, spacing_mm) if brain.any() else brain[box]
        brain = without_islands(brain, self.island_size)
        if not brain.any():
            raise InputError("mask: no brain found; give --brain_mask a mask file, or lower --mask#erosion_mm")
        good = brain & with_signal(magnitude[(slice(None), *box)], brain)
        if self.phase_quality is not None:
            rough = phase_roughness(phase[index][box]).cpu().numpy()
            good = without_islands(good & (rough < self.phase_quality), self.island_size) & good
            if not good.any():
                raise InputError(
                    "mask: the phase is noise throughout the brain; check that it belongs to these magnitudes"
                )
        progress(1.0)
        whole = torch.zeros(2, *magnitude.shape[1:], dtype=torch.bool)
        whole[(slice(None), *box)] = torch.from_numpy(np.stack([brain, good]))
        found, trusted = whole.to(magnitude.device)
        return found, trusted, warnings


def continued(magnitude: torch.Tensor, times_s: Sequence[float], time_s: float, nearest: int) -> torch.Tensor:
    """The magnitude at a time `[X, Y, Z]`: the nearest echo, or where all are earlier their decay carried on to it.

    What decays faster than brain (skull, scalp at its edges, sinuses) is as dark there as in a later echo.

    Args:
        magnitude: `[E, X, Y, Z]`.
        times_s: one an echo.
        time_s: wanted.
        nearest: index of the echo nearest to it.
    """
    power = (time_s - times_s[-1]) / (times_s[-1] - times_s[0])
    if power <= 0:
        return magnitude[nearest]
    decay = (magnitude[-1] / magnitude[0].clamp_min(1e-30)).clamp(0.0, 1.0)
    return magnitude[-1] * decay ** min(power, _FARTHEST)


def with_signal(magnitude: torch.Tensor, brain: np.ndarray) -> np.ndarray:
    """Voxels with signal in at least two echoes, without which there is no slope: bool `[X, Y, Z]`.

    Args:
        magnitude: `[E, X, Y, Z]`; signal is what exceeds a small share of the median in the brain at the first echo.
        brain: bool `[X, Y, Z]`.
    """
    first = magnitude[0].cpu().numpy()[brain]
    least = _LEAST_SIGNAL * float(np.median(first[first > 0])) if (first > 0).any() else np.inf
    return ((magnitude > least).sum(0) >= 2).cpu().numpy()


def bounding_box(mask: np.ndarray | torch.Tensor, margin: int) -> tuple[slice, ...]:
    """Slices that hold a mask `[X, Y, Z]` and a margin (voxels), inside the array; all of it if there is no mask."""
    box = []
    for axis, size in enumerate(mask.shape):
        others = tuple(a for a in range(3) if a != axis)
        along = np.flatnonzero(np.asarray(mask.any(others) if isinstance(mask, np.ndarray) else mask.sum(others).cpu()))
        low, high = (int(along[0]), int(along[-1]) + 1) if len(along) else (0, size)
        box.append(slice(max(low - margin, 0), min(high + margin, size)))
    return tuple(box)


def eroded(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels of a bool mask `[X, Y, Z]` all of whose neighbours up to a distance belong to it.

    The edge of the image is no edge of the brain: beyond it the mask goes on, so that slabs keep their end slices.
    """
    spacing, reach = np.asarray(spacing_mm), [int(radius_mm / d + 1e-6) for d in spacing_mm]
    padded = np.pad(mask, [(n, n) for n in reach], mode="edge")
    steps = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    # Shifted in one line, which only mixes up what lies in the padding.
    line, kept = padded.ravel(), padded.ravel().copy()
    for offset in np.ndindex(*(2 * n + 1 for n in reach)):
        shift = np.array(offset) - reach
        if 0 < np.linalg.norm(shift * spacing) <= radius_mm * (1 + 1e-6):
            step = int(shift @ steps)
            if step > 0:
                kept[:-step] &= line[step:]
            else:
                kept[-step:] &= line[:step]
    inner = tuple(slice(n, n + size) for n, size in zip(reach, mask.shape, strict=True))
    return kept.reshape(padded.shape)[inner]


def without_islands(mask: np.ndarray, size: int) -> np.ndarray:
    """A bool mask with small connected parts dropped and small holes filled."""
    for value in (True, False):
        labels, _ = ndimage.label(mask == value)
        small = np.bincount(labels.ravel()) < size
        small[0] = False
        mask = np.where(small[labels], not value, mask)
    return mask


def phase_roughness(phase: torch.Tensor) -> torch.Tensor:
    """How far the phase is from locally straight: the reliability of 3DSRNCP, over a 3 x 3 x 3 neighbourhood.

    Args:
        phase: wrapped, rad, `[X, Y, Z]`.

    Returns:
        Root mean square of the wrapped second differences along the axes, rad: about 0.1 in tissue, 2 in noise.
    """
    squared = torch.zeros_like(phase)
    for axis in range(3):
        step = wrap(phase.diff(dim=axis))
        bend = wrap(step.diff(dim=axis)).square()
        inner = [slice(None)] * 3
        inner[axis] = slice(1, -1)
        squared[tuple(inner)] += bend / 3.0
    return torch.nn.functional.avg_pool3d(squared[None, None], 3, 1, 1, count_include_pad=False)[0, 0].sqrt()
