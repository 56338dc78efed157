"""Dipole inversion with total variation, from the local field or, in a single step, from the total field.

Sources: TV by ADMM: Bilgic et al., MRM 2014, 72:1444; weighted: Milovic et al., MRM 2018, 80:814. Single step:
Chatnuntawech et al., NMR Biomed 2017, 30:e3570.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scripts.stage.fourier import PaddedFourier, padded_to, sphere_fits
from scripts.stage.progress import Progress, ignore_progress
from scripts.stage.spheres import spherical_mean_kernel


@dataclass
class Term:
    """One term 1/2 sum (weight (kernel * chi - data))^2 of what is minimised.

    Attributes:
        kernel: real spectrum.
        data: `[X, Y, Z]`.
        weight: `[X, Y, Z]`, 0 where the data are not known.
    """

    kernel: torch.Tensor
    data: torch.Tensor
    weight: torch.Tensor


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
        field_step: float = 0.1,
        support_step: float = 5e-4,
    ) -> None:
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
        """As `inversion.TKD`; `weight` is the data's. Outside the mask the field is not known, rather than 0."""
        fourier = PaddedFourier(field.shape, spacing_mm, b0, self.pad_mm, field.device)
        return self.minimise(fourier, self.terms(fourier, field, mask, weight), mask, progress)

    def terms(
        self, fourier: PaddedFourier, field: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor
    ) -> list[Term]:
        """What the field says."""
        return [Term(fourier.dipole(), torch.where(mask, field, 0.0), torch.where(mask, weight, 0.0))]

    def minimise(
        self, fourier: PaddedFourier, terms: Sequence[Term], mask: torch.Tensor, progress: Progress
    ) -> torch.Tensor:
        """ADMM with one splitting variable for the gradient, one for each term's prediction, one for the support.

        Each variable is kept as its difference from what chi predicts, and each update adds to the spectrum of chi.
        """
        gradient_step, field_step, support_step = self.strength / self.edge_step, self.field_step, self.support_step
        inverse = gradient_step * fourier.minus_laplacian() + support_step
        for term in terms:
            inverse += field_step * term.kernel.square()
        inverse.reciprocal_()
        edges = [pairs_inside(mask, axis) for axis in range(3)]
        outside = 1.0 - padded_to(mask.float(), fourier.padded)
        trusts = [term.weight.square() for term in terms]
        field_duals = [torch.zeros_like(term.data) for term in terms]
        gradient_dual = outside.new_zeros(3, *mask.shape)
        support_dual = torch.zeros_like(outside)
        spectrum = sum(fourier.forward(t.data * trust).mul_(t.kernel) for t, trust in zip(terms, trusts, strict=True))
        spectrum *= inverse
        for number in range(self.iterations):
            chi = torch.fft.irfftn(spectrum, s=fourier.padded)
            support_gap = outside * chi
            support_dual += support_gap
            support_gap += support_dual

            gap = masked_gradient(fourier.cut(chi), edges, fourier.spacing_mm).neg_()
            gradient_dual -= gap
            length = gradient_dual.square().sum(0).sqrt_().clamp_min_(1e-20)
            kept = gradient_dual * length.reciprocal_().mul_(-self.edge_step).add_(1.0).clamp_min_(0.0)
            gradient_dual -= kept
            gap += kept.sub_(gradient_dual)
            spatial = padded_to(divergence(gap, fourier.spacing_mm).mul_(-gradient_step), fourier.padded)
            update = torch.fft.rfftn(spatial.sub_(support_gap, alpha=support_step))

            for term, trust, dual in zip(terms, trusts, field_duals, strict=True):
                predicted = fourier.inverse(spectrum * term.kernel)
                dual += predicted
                # where weight is 0 the fitted value is the dual itself, and the dual becomes 0
                fitted = (trust * term.data + field_step * dual) / (trust + field_step)
                dual -= fitted
                fitted -= dual
                update += fourier.forward(fitted.sub_(predicted)).mul_(term.kernel).mul_(field_step)
            update *= inverse
            spectrum += update
            progress((number + 1) / self.iterations)
            if torch.linalg.vector_norm(update).item() < self.tolerance * torch.linalg.vector_norm(spectrum).item():
                break
        progress(1.0)
        return torch.where(mask, fourier.inverse(spectrum), 0.0)


class SingleStepTV(TV):
    """TV straight from the total field: both sides of the equation go through spherical means that remove harmonics.

    Nothing is deconvolved, so nothing of the local field is lost to a threshold, and voxels at the edge, where only the
    smallest sphere fits, count with what that sphere can tell. Each voxel's equation uses the largest sphere that fits.
    The map covers the whole mask.

    Args:
        radii_mm: of the spheres.
        harmonic_degree: see `spherical_mean_kernel`.
        strength, iterations, tolerance, pad_mm, edge_step, field_step, support_step: see `TV`.
    """

    def __init__(
        self,
        radii_mm: Sequence[float],
        harmonic_degree: int,
        strength: float,
        iterations: int,
        tolerance: float,
        pad_mm: float,
        edge_step: float = 0.01,
        field_step: float = 0.1,
        support_step: float = 5e-4,
    ) -> None:
        super().__init__(strength, iterations, tolerance, pad_mm, edge_step, field_step, support_step)
        self.radii_mm = sorted((float(r) for r in radii_mm), reverse=True)
        self.harmonic_degree = harmonic_degree

    def terms(
        self, fourier: PaddedFourier, field: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor
    ) -> list[Term]:
        """One term a radius."""
        dipole = fourier.dipole()
        spectrum = fourier.forward(torch.where(mask, field - field[mask].mean(), 0.0))
        mask_spectrum = fourier.forward(mask.float())
        taken = torch.zeros_like(mask)
        terms = []
        for radius in self.radii_mm:
            kernel = spherical_mean_kernel(radius, fourier.spacing_mm, self.harmonic_degree)
            fits = sphere_fits(fourier, mask_spectrum, kernel) & mask
            high_pass = 1.0 - fourier.kernel_spectrum(kernel)
            new = fits & ~taken
            taken |= fits
            data = torch.where(new, fourier.inverse(spectrum * high_pass), 0.0)
            terms.append(Term(dipole * high_pass, data, torch.where(new, weight, 0.0)))
        return terms


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
