"""Dipole inversion with total variation, from the local field or, in a single step, from the total field.

Sources: TV by ADMM: Bilgic et al., MRM 2014, 72:1444; weighted: Milovic et al., MRM 2018, 80:814. Single step:
Chatnuntawech et al., NMR Biomed 2017, 30:e3570.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scripts.reconstruction.fourier import PaddedFourier, padded_to, sphere_fits
from scripts.reconstruction.progress import Progress, ignore_progress
from scripts.reconstruction.spheres import spherical_mean_kernel
from scripts.reconstruction.voxel_dipole import voxel_dipole

#: Voxels at a time: they stay in a processor's cache, and are too few for torch to share them among threads, which
#: would wait for each other after every one of some thirty small sums.
_CACHED_VOXELS = 30_000


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
        field_step: float = 0.15,
        support_step: float = 5e-5,
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
        return [Term(voxel_dipole(fourier), torch.where(mask, field, 0.0), torch.where(mask, weight, 0.0))]

    def minimise(
        self, fourier: PaddedFourier, terms: Sequence[Term], mask: torch.Tensor, progress: Progress
    ) -> torch.Tensor:
        """ADMM with one splitting variable for the gradient, one for each term's prediction, one for the support.

        Only the scaled duals are kept. With u and u' a dual before and after its update, the right-hand side for chi
        is the adjoint of u - 2 u', whatever the penalty; each iteration adds its solution to the spectrum of chi.
        """
        gradient_step, field_step, support_step = self.strength / self.edge_step, self.field_step, self.support_step
        inverse = gradient_step * fourier.minus_laplacian() + support_step
        for term in terms:
            inverse += field_step * term.kernel.square()
        # Complex, although real: torch multiplies complex with real volumes four times slower.
        inverse = inverse.reciprocal_().to(torch.complex64)
        kernels = [term.kernel.to(torch.complex64) for term in terms]
        trusts = [term.weight.square() for term in terms]
        shares = [trust / (trust + field_step) for trust in trusts]
        duals = [torch.zeros_like(term.data) for term in terms]
        edges = Edges(mask, fourier, self.edge_step)
        spectrum = sum(
            fourier.forward(t.data * trust) * kernel for t, trust, kernel in zip(terms, trusts, kernels, strict=True)
        )
        del trusts
        spectrum *= inverse
        product, answer = torch.empty_like(spectrum), mask.new_zeros(fourier.padded, dtype=torch.float32)
        inside = fourier.cut(answer)
        for number in range(self.iterations):
            chi = fourier.inverse_padded(spectrum)
            update = fourier.forward(edges.answer(chi, gradient_step, support_step))
            for number_of, (term, kernel, share) in enumerate(zip(terms, kernels, shares, strict=True)):
                predicted = fourier.inverse(torch.mul(spectrum, kernel, out=product))
                # where weight is 0 the fitted value is the prediction, and the dual becomes 0
                new = predicted.add_(duals[number_of]).sub_(term.data).mul_(share)
                torch.sub(duals[number_of], new, alpha=2.0, out=inside)
                update.addcmul_(fourier.forward(answer), kernel, value=field_step)
                duals[number_of] = new
            update *= inverse
            spectrum += update
            progress((number + 1) / self.iterations)
            if length(update) < self.tolerance * length(spectrum):
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
        field_step: float = 0.15,
        support_step: float = 5e-5,
    ) -> None:
        super().__init__(strength, iterations, tolerance, pad_mm, edge_step, field_step, support_step)
        self.radii_mm = sorted((float(r) for r in radii_mm), reverse=True)
        self.harmonic_degree = harmonic_degree

    def terms(
        self, fourier: PaddedFourier, field: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor
    ) -> list[Term]:
        """One term a radius."""
        dipole = voxel_dipole(fourier)
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


class Edges:
    """The total variation and the support in ADMM: their duals, and what they answer to a map.

    Args:
        mask: bool `[X, Y, Z]`; the gradient counts between its voxels, and the map is 0 outside.
        fourier: the grid.
        edge_step: largest length of the gradient's dual, ppm/mm.
    """

    def __init__(self, mask: torch.Tensor, fourier: PaddedFourier, edge_step: float) -> None:
        self.edge_step = edge_step
        self.spacing_mm = fourier.spacing_mm
        self.steps = [pairs_inside(mask, axis) / d for axis, d in enumerate(fourier.spacing_mm)]
        self.dual = torch.zeros(3, *mask.shape, device=mask.device)
        self.outside = 1.0 - padded_to(mask.float(), fourier.padded)
        self.outside_dual = torch.zeros_like(self.outside)
        # On the CPU a few planes at a time stay in its cache, which is what the speed depends on.
        plane = mask.shape[1] * mask.shape[2]
        self.rows = max(1, _CACHED_VOXELS // plane) if mask.device.type == "cpu" else len(mask)

    def answer(self, chi: torch.Tensor, gradient_step: float, support_step: float) -> torch.Tensor:
        """Update the duals with a padded map; returns the right-hand side for its change, in the map's memory."""
        x, y, z = self.dual.shape[1:]
        last = None
        for start in range(0, x, self.rows):
            rows = slice(start, min(start + self.rows, x))
            here = chi[rows.start : rows.stop + 1, :y, :z].clone()  # with the next row, which is not yet overwritten
            right = self.of_support(chi, rows, support_step)[:, :y, :z]
            dual = self.dual[:, rows]
            count = dual.shape[1]
            new = torch.empty_like(dual)
            for axis in range(3):
                into, step = new[axis], self.steps[axis][rows]
                if axis == 0:
                    inner = len(here) - 1  # the last row of all has no neighbour
                    torch.sub(here[1:], here[:inner], out=into[:inner])
                    into[inner:] = 0.0
                else:
                    but_last = [slice(None)] * 3
                    but_last[axis] = slice(None, -1)
                    torch.sub(
                        here[:count].narrow(axis, 1, here.shape[axis] - 1),
                        here[:count][tuple(but_last)],
                        out=into[tuple(but_last)],
                    )
                    into.select(axis, -1).zero_()
                into.mul_(step).add_(dual[axis])
            size = new[0].square().addcmul_(new[1], new[1]).addcmul_(new[2], new[2])
            size.clamp_min_(1e-30).rsqrt_().mul_(self.edge_step).clamp_max_(1.0)
            for axis in range(3):
                dual[axis].sub_(new[axis].mul_(size), alpha=2.0)
            flux = dual
            for axis, d in enumerate(self.spacing_mm):
                right.sub_(flux[axis], alpha=gradient_step / d)
            right[1:].add_(flux[0, :-1], alpha=gradient_step / self.spacing_mm[0])
            right[:, 1:].add_(flux[1, :, :-1], alpha=gradient_step / self.spacing_mm[1])
            right[:, :, 1:].add_(flux[2, :, :, :-1], alpha=gradient_step / self.spacing_mm[2])
            if last is not None:
                right[0].add_(last, alpha=gradient_step / self.spacing_mm[0])
            last = flux[0, -1].clone()
            for axis in range(3):
                dual[axis].copy_(new[axis])
        self.of_support(chi, slice(x, len(chi)), support_step)
        return chi

    def of_support(self, chi: torch.Tensor, rows: slice, support_step: float) -> torch.Tensor:
        """The support's part in some rows, written over the map."""
        dual, answer = self.outside_dual[rows], chi[rows]
        new = answer.add_(dual).mul_(self.outside[rows])
        answer = dual.sub_(new, alpha=2.0).mul_(support_step)
        old = new.clone()
        chi[rows] = answer
        dual.copy_(old)
        return chi[rows]


def length(spectrum: torch.Tensor) -> float:
    """Root of the sum of squares (of a complex volume, which torch sums slowly as such)."""
    return float(torch.linalg.vector_norm(torch.view_as_real(spectrum)))


def pairs_inside(mask: torch.Tensor, axis: int) -> torch.Tensor:
    """Voxels that lie in a mask together with their next neighbour along an axis; the last has no neighbour."""
    both = mask & mask.roll(-1, axis)
    both.select(axis, -1).fill_(False)
    return both
