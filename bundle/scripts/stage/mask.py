"""The brain mask: found or given, trimmed, and without voxels whose phase cannot be trusted."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from scripts.errors import InputError
from scripts.stage.bet import extract_brain
from scripts.stage.progress import Progress, ignore_progress
from scripts.stage.unwrap import wrap


class BrainMask:
    """BET on one echo, or a given mask; then erosion, islands, and the quality of the phase.

    Args:
        echo: whose magnitude BET sees, counted from 1 (paper, Dataset: 2).
        threshold: BET's fractional intensity threshold (paper, Dataset: 0.2).
        erosion_mm: how far the edge is cut back (paper, Dataset: 4 voxels, of 0.6 mm in plane).
        island_size: connected parts with fewer voxels are dropped, and holes with fewer are filled (paper: 2000).
        phase_quality: largest roughness of the phase, rad, see `phase_roughness`; None trusts every voxel.
    """

    def __init__(
        self, echo: int, threshold: float, erosion_mm: float, island_size: int, phase_quality: float | None
    ) -> None:
        self.echo = echo
        self.threshold = threshold
        self.erosion_mm = erosion_mm
        self.island_size = island_size
        self.phase_quality = phase_quality

    def __call__(
        self,
        magnitude: torch.Tensor,
        phase: torch.Tensor,
        spacing_mm: Sequence[float],
        given: np.ndarray | None = None,
        progress: Progress = ignore_progress,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find where QSM is possible.

        Args:
            magnitude, phase: `[E, X, Y, Z]`; phase in rad.
            spacing_mm: voxel size.
            given: bool `[X, Y, Z]` instead of BET's.
            progress: told how far the work is.

        Returns:
            The brain, and the part of it whose phase is good; both bool `[X, Y, Z]`.

        Raises:
            InputError: nothing is left.
        """
        index = self.echo - 1
        if given is None:
            brain = extract_brain(magnitude[index].cpu().numpy(), spacing_mm, self.threshold, progress)
        else:
            brain = given
        if self.erosion_mm > 0:
            # The edge of the image is no edge of the brain: slabs keep their end slices.
            margin = np.pad(brain, 1, mode="edge")
            distance = ndimage.distance_transform_edt(margin, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
            brain = distance > self.erosion_mm
        brain = without_islands(brain, self.island_size)
        if not brain.any():
            raise InputError("mask: no brain found; give --mask a mask file, or lower the mask's threshold or erosion")
        good = brain
        if self.phase_quality is not None:
            rough = phase_roughness(phase[index], spacing_mm).cpu().numpy()
            good = without_islands(brain & (rough < self.phase_quality), self.island_size) & brain
            if not good.any():
                raise InputError(
                    "mask: the phase is noise throughout the brain; check that it belongs to these magnitudes"
                )
        progress(1.0)
        device = magnitude.device
        return torch.from_numpy(brain).to(device), torch.from_numpy(good).to(device)


def without_islands(mask: np.ndarray, size: int) -> np.ndarray:
    """A bool mask with small connected parts dropped and small holes filled."""
    for value in (True, False):
        labels, _ = ndimage.label(mask == value)
        small = np.bincount(labels.ravel()) < size
        small[0] = False
        mask = np.where(small[labels], not value, mask)
    return mask


def phase_roughness(phase: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """How far the phase is from locally straight: the reliability of 3DSRNCP, over a 3 x 3 x 3 neighbourhood.

    Args:
        phase: wrapped, rad, `[X, Y, Z]`.
        spacing_mm: not used: a wrapped phase jumps per voxel, not per mm.

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
