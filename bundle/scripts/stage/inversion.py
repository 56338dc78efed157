"""Dipole inversion: from the local field to the susceptibility, both in ppm.

Sources: TKD: Shmueli et al., MRM 2009, 62:1510; its point-spread correction: Schweser et al., MRM 2013, 69:1581.
Iterative TKD: Tang, Liu, Neelavalli et al., MRM 2013, 69:1396. TV by ADMM: Bilgic et al., MRM 2014, 72:1444;
weighted: Milovic et al., MRM 2018, 80:814.
"""

from collections.abc import Sequence

import torch

from scripts.stage.fourier import PaddedFourier, padded_to
from scripts.stage.progress import Progress, ignore_progress


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
        fourier = PaddedFourier(field.shape, spacing_mm, b0, self.pad_mm, field.device)
        spectrum = self.spectrum(fourier, field, mask)
        near_cone = fourier.dipole().abs() < self.threshold
        chi = fourier.inverse(spectrum)
        for number in range(self.iterations):
            marked = (chi if self.structures == "susceptibility" else r2star) > self.structure_threshold
            structures = fourier.forward(torch.where(mask & marked, chi, 0.0))
            chi = fourier.inverse(torch.where(near_cone, structures, spectrum))
            progress((number + 1) / self.iterations)
        return torch.where(mask, chi, 0.0)


class TV:
    """Least squares with total variation, solved by ADMM.

    Minimises 1/2 sum (weight (dipole * chi - field))^2 + strength * sum |gradient of chi| (isotropic, ppm/mm) over all
    chi that are 0 outside the mask; the gradient counts between voxels of the mask.

    Args:
        strength: of the total variation, mm ppm.
        iterations: of ADMM, at most.
        tolerance: ends them early, change of chi relative to chi.
        pad_mm: zeros around the field.
        edge_step, field_step, support_step: penalties of ADMM for the gradient (as a gradient in ppm/mm below which an
            edge is flattened at once), the predicted field, and the support; they decide how fast it converges, not
            where to.
    """

    def __init__(
        self,
        strength: float,
        iterations: int,
        tolerance: float,
        pad_mm: float,
        edge_step: float = 0.01,
        field_step: float = 1.0,
        support_step: float = 0.02,
        freedom: float = 0.0,
    ) -> None:
        self.freedom = freedom
        self.strength = strength
        self.iterations = iterations
        self.tolerance = tolerance
        self.pad_mm = pad_mm
        self.edge_step = edge_step
        self.field_step = field_step
        self.support_step = support_step

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
        """As `TKD`; `weight` is the data's. Outside the mask the field is taken as not known rather than as 0."""
        fourier = PaddedFourier(field.shape, spacing_mm, b0, self.pad_mm, field.device)
        dipole = fourier.dipole()
        gradient_step, field_step, support_step = self.strength / self.edge_step, self.field_step, self.support_step
        inverse = gradient_step * fourier.minus_laplacian() + field_step * dipole.square() + support_step
        inverse.reciprocal_()
        trust = torch.where(mask, weight, 0.0).square()
        pull = trust * field
        trust += field_step
        edges = [pairs_inside(mask, axis) for axis in range(3)]
        outside = 1.0 - padded_to(mask.float(), fourier.padded)

        # Each splitting variable is kept as its difference from what chi predicts; `*_dual` are the scaled duals.
        gradient_dual = field.new_zeros(3, *field.shape)
        field_dual = torch.zeros_like(field)
        support_dual = outside.new_zeros(fourier.padded)
        spectrum = fourier.forward(pull).mul_(dipole).mul_(inverse)
        for number in range(self.iterations):
            chi = torch.fft.irfftn(spectrum, s=fourier.padded)
            support_change = outside * chi
            support_dual += support_change
            support_kept = support_dual * self.freedom
            support_dual -= support_kept
            support_change += support_dual - support_kept

            gradient = masked_gradient(fourier.cut(chi), edges, fourier.spacing_mm)
            gradient_dual += gradient
            length = gradient_dual.square().sum(0).sqrt_().clamp_min_(1e-20)
            kept = gradient_dual * (1.0 - self.edge_step / length).clamp_min_(0.0)
            gradient_dual -= kept
            kept -= gradient_dual
            kept -= gradient  # target of the gradient minus the gradient

            predicted = fourier.inverse(spectrum * dipole)
            field_dual += predicted
            fitted = torch.where(mask, (pull + field_step * field_dual) / trust, field_dual)
            field_dual -= fitted
            fitted -= field_dual
            fitted -= predicted

            spatial = divergence(kept, fourier.spacing_mm).mul_(-gradient_step)
            update = torch.fft.rfftn(padded_to(spatial, fourier.padded).sub_(support_change, alpha=support_step))
            update += fourier.forward(fitted).mul_(dipole).mul_(field_step)
            update.mul_(inverse)
            spectrum += update
            progress((number + 1) / self.iterations)
            if torch.linalg.vector_norm(update).item() < self.tolerance * torch.linalg.vector_norm(spectrum).item():
                break
        progress(1.0)
        return torch.where(mask, fourier.inverse(spectrum), 0.0)


def pairs_inside(mask: torch.Tensor, axis: int) -> torch.Tensor:
    """Voxels that lie in a mask together with their next neighbour along an axis; the last has no neighbour."""
    both = mask & mask.roll(-1, axis)
    both.select(axis, -1).fill_(False)
    return both


def masked_gradient(volume: torch.Tensor, edges: Sequence[torch.Tensor], spacing_mm: Sequence[float]) -> torch.Tensor:
    """Periodic forward differences per mm where `edges` says so, else 0: `[X, Y, Z]` -> `[3, X, Y, Z]`."""
    parts = [
        torch.where(edge, (volume.roll(-1, axis) - volume) / d, 0.0)
        for axis, (edge, d) in enumerate(zip(edges, spacing_mm, strict=True))
    ]
    return torch.stack(parts)


def divergence(vectors: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """Minus the adjoint of the forward differences: `[3, X, Y, Z]` -> `[X, Y, Z]`."""
    return sum((v - v.roll(1, axis)) / d for axis, (v, d) in enumerate(zip(vectors, spacing_mm, strict=True)))
