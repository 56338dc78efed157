"""Gaussian smoothing, separable, on the device of the data."""

from collections.abc import Sequence

import torch

#: Full width at half maximum of a Gaussian of standard deviation 1.
FWHM_PER_SD = 2.3548


def gaussian_smooth(volume: torch.Tensor, fwhm_mm: float, spacing_mm: Sequence[float]) -> torch.Tensor:
    """Smooth a volume `[X, Y, Z]`; outside it counts as 0.

    Args:
        volume: any unit.
        fwhm_mm: full width at half maximum.
        spacing_mm: voxel size.
    """
    smoothed = volume[None, None]
    for axis, spacing in enumerate(spacing_mm):
        sd = fwhm_mm / FWHM_PER_SD / spacing
        half = max(1, int(3.0 * sd + 0.5))
        line = torch.exp(-0.5 * (torch.arange(-half, half + 1, device=volume.device) / sd) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(line)
        padding = [half if a == axis else 0 for a in range(3)]
        smoothed = torch.nn.functional.conv3d(smoothed, (line / line.sum()).reshape(shape), padding=padding)
    return smoothed[0, 0]
