"""Dipole inversion: from the local field to the susceptibility, both in ppm.

Sources: TKD: Shmueli et al., MRM 2009, 62:1510; its point-spread correction: Schweser et al., MRM 2013, 69:1581.
Iterative TKD: Tang, Liu, Neelavalli et al., MRM 2013, 69:1396. Total variation is in `variation.py`.
"""

from collections.abc import Sequence

import torch

from scripts.reconstruction.fourier import PaddedFourier
from scripts.reconstruction.progress import Progress, ignore_progress


def truncated_inverse(dipole: torch.Tensor, threshold: float) -> torch.Tensor:
    """1 / dipole, cut off at +-1/threshold where the dipole is smaller than the threshold; 0 at k = 0."""
    sign = torch.where(dipole < 0, -1.0, 1.0)
    inverse = sign / dipole.abs().clamp_min(threshold)
    inverse[0, 0, 0] = 0.0
    return inverse


def point_spread(dipole: torch.Tensor, inverse: torch.Tensor, padded: Sequence[int]) -> float:
    """Height of the point-spread function of dipole and truncated inverse together: 1 for a perfect inverse."""
    product = dipole * inverse
    # rfft layout: planes other than the first and the last (even size) stand for two each
    total = 2.0 * product.sum(dtype=torch.float64) - product[..., 0].sum(dtype=torch.float64)
    total -= product[..., -1].sum(dtype=torch.float64)
    return float(total) / (padded[0] * padded[1] * padded[2])


class TKD:
    """Division in k-space with the small dipole values replaced by a threshold (paper, Dataset: 0.1).

    Args:
        threshold: least dipole to divide by.
        correct_point_spread: divide by the height of the point-spread function, which the threshold lowers.
        pad_mm: zeros around the field.
    """

    def __init__(self, threshold: float, correct_point_spread: bool, pad_mm: float) -> None:
        self.threshold = threshold
        self.correct_point_spread = correct_point_spread
        self.pad_mm = pad_mm

    def __call__(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        weight: torch.Tensor,
        spacing_mm: Sequence[float],
        b0: Sequence[float],
        r2star: torch.Tensor | None = None,
        progress: Progress = ignore_progress,
    ) -> torch.Tensor:
        """Susceptibility `[X, Y, Z]` (ppm), 0 outside the mask.

        Args:
            field: local field, ppm, 0 outside the mask.
            mask: bool.
            weight: how far each voxel is trusted, 0..1; not used here.
            spacing_mm: voxel size.
            b0: direction of the main field along the array's axes.
            r2star: 1/s, for structure masks; not used here.
            progress: told how far the work is.
        """
        fourier = PaddedFourier(field.shape, spacing_mm, b0, self.pad_mm, field.device)
        chi = fourier.inverse(self.spectrum(fourier, field, mask))
        progress(1.0)
        return torch.where(mask, chi, 0.0)

    def spectrum(self, fourier: PaddedFourier, field: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Spectrum of the susceptibility before masking."""
        dipole = fourier.dipole()
        inverse = truncated_inverse(dipole, self.threshold)
        if self.correct_point_spread:
            inverse /= point_spread(dipole, inverse, fourier.padded)
        return fourier.forward(torch.where(mask, field, 0.0)) * inverse


class IterativeTKD(TKD):
    """TKD whose spectrum near the magic angle is taken, again and again, from the map with its structures alone.

    Args:
        threshold, correct_point_spread, pad_mm: see `TKD`.
        iterations: how often (paper, Dataset: 4).
        structures: what marks a structure: `susceptibility` or `r2star`.
        structure_threshold: ppm (paper, Dataset: 0.1) or 1/s, above which a voxel belongs to a structure.
    """

    def __init__(
        self,
        threshold: float,
        correct_point_spread: bool,
        pad_mm: float,
        iterations: int,
        structures: str,
        structure_threshold: float,
    ) -> None:
        super().__init__(threshold, correct_point_spread, pad_mm)
        self.iterations = iterations
        self.structures = structures
        self.structure_threshold = structure_threshold

    def __call__(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        weight: torch.Tensor,
        spacing_mm: Sequence[float],
        b0: Sequence[float],
        r2star: torch.Tensor | None = None,
        progress: Progress = ignore_progress,
    ) -> torch.Tensor:
        """As `TKD`; `r2star` is needed where structures are marked by it."""
        marks = None if self.structures == "susceptibility" else r2star
        if marks is None and self.structures != "susceptibility":
            raise ValueError("structures are marked by R2*, which is not given")
        fourier = PaddedFourier(field.shape, spacing_mm, b0, self.pad_mm, field.device)
        spectrum = self.spectrum(fourier, field, mask)
        near_cone = fourier.dipole().abs() < self.threshold
        chi = fourier.inverse(spectrum)
        for number in range(self.iterations):
            marked = (chi if marks is None else marks) > self.structure_threshold
            structures = fourier.forward(torch.where(mask & marked, chi, 0.0))
            chi = fourier.inverse(torch.where(near_cone, structures, spectrum))
            progress((number + 1) / self.iterations)
        return torch.where(mask, chi, 0.0)
