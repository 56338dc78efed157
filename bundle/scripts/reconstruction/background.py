"""Background field removal: what sources outside the brain (air, bone, shim) add to the field is taken away.

All of it rests on one fact: inside the brain the background field is harmonic.

Sources: SHARP: Schweser et al., NeuroImage 2011, 54:2789. V-SHARP: Li, Wu, Liu, NeuroImage 2011, 55:1645; Wu et al.,
MRM 2012, 67:137. PDF: Liu et al., NMR Biomed 2011, 24:1129.
"""

from collections.abc import Sequence

import torch

from scripts.errors import InputError
from scripts.reconstruction.fourier import PaddedFourier, padded_to, sphere_fits
from scripts.reconstruction.progress import Progress, ignore_progress
from scripts.reconstruction.spheres import spherical_mean_kernel
from scripts.reconstruction.voxel_dipole import voxel_dipole


class VSHARP:
    """Spherical means of several radii, each voxel with the largest sphere that fits into the mask, then deconvolution.

    Args:
        radii_mm: from large to small; one radius alone is SHARP.
        threshold: spectrum of (1 - largest sphere) below which nothing is restored.
        harmonic_degree: see `spherical_mean_kernel`; 0 is the plain sphere.
        pad_mm: zeros around the field.
    """

    def __init__(self, radii_mm: Sequence[float], threshold: float, harmonic_degree: int, pad_mm: float) -> None:
        self.radii_mm = sorted((float(r) for r in radii_mm), reverse=True)
        if not self.radii_mm:
            raise InputError("radii_mm: names no radius; give one or more, in mm")
        self.threshold = threshold
        self.harmonic_degree = harmonic_degree
        self.pad_mm = pad_mm

    def __call__(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        weight: torch.Tensor,
        spacing_mm: Sequence[float],
        b0: Sequence[float] = (0.0, 0.0, 1.0),
        progress: Progress = ignore_progress,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remove the background.

        Args:
            field: total field `[X, Y, Z]`, any unit.
            mask: bool `[X, Y, Z]`, where the field is known.
            weight: how far each voxel is trusted, 0..1; not used here.
            spacing_mm: voxel size.
            b0: direction of the main field; not used here.
            progress: told how far the work is.

        Returns:
            The local field (0 outside) and the mask where it is known: voxels whose smallest sphere fits.
        """
        fourier = PaddedFourier(field.shape, spacing_mm, pad_mm=self.pad_mm, device=field.device)
        # A constant changes nothing, but keeps float32 sums exact when the field is far from 0.
        field = torch.where(mask, field - field[mask].mean(), 0.0)
        spectrum, mask_spectrum = fourier.forward(field), fourier.forward(mask.float())
        filtered, known = torch.zeros_like(field), torch.zeros_like(mask)
        restore: torch.Tensor | None = None
        for number, radius in enumerate(self.radii_mm):
            kernel = spherical_mean_kernel(radius, spacing_mm, self.harmonic_degree)
            inside = sphere_fits(fourier, mask_spectrum, kernel)
            high_pass = 1.0 - fourier.kernel_spectrum(kernel)
            new = inside & ~known
            filtered = torch.where(new, fourier.inverse(spectrum * high_pass), filtered)
            known |= inside
            if restore is None:
                restore = torch.where(high_pass.abs() < self.threshold, 0.0, 1.0 / high_pass)
            progress((number + 1) / (len(self.radii_mm) + 1))
        assert restore is not None  # there is a radius
        local = fourier.inverse(fourier.forward(filtered) * restore)
        progress(1.0)
        return torch.where(known, local, 0.0), known


class SHARP(VSHARP):
    """Spherical mean of one radius; the mask loses that radius (paper, Dataset: threshold 0.05, kernel size 6).

    Args:
        radius_mm: of the sphere.
        threshold, harmonic_degree, pad_mm: see `VSHARP`.
    """

    def __init__(self, radius_mm: float, threshold: float, harmonic_degree: int, pad_mm: float) -> None:
        super().__init__([radius_mm], threshold, harmonic_degree, pad_mm)


class PDF:
    """Projection onto dipole fields: the field that sources outside the mask explain best is the background.

    Args:
        iterations: of conjugate gradients.
        tolerance: ends them early, residual relative to the start.
        pad_mm: space around the volume in which sources may lie.
    """

    def __init__(self, iterations: int, tolerance: float, pad_mm: float) -> None:
        self.iterations = iterations
        self.tolerance = tolerance
        self.pad_mm = pad_mm

    def __call__(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        weight: torch.Tensor,
        spacing_mm: Sequence[float],
        b0: Sequence[float],
        progress: Progress = ignore_progress,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remove the background; arguments as for `VSHARP`, `weight` (0..1) says how far the field is trusted."""
        fourier = PaddedFourier(field.shape, spacing_mm, b0, self.pad_mm, field.device)
        dipole = voxel_dipole(fourier)
        field = torch.where(mask, field - field[mask].mean(), 0.0)
        trust = padded_to(torch.where(mask, weight, 0.0).square(), fourier.padded)
        outside = 1.0 - padded_to(mask.float(), fourier.padded)

        def convolve(volume: torch.Tensor) -> torch.Tensor:
            return fourier.inverse_padded(fourier.forward(volume) * dipole)

        residual = outside * convolve(trust * padded_to(field, fourier.padded))
        sources, direction = torch.zeros_like(residual), residual.clone()
        power = first = residual.square().sum().item()
        for number in range(self.iterations):
            image = outside * convolve(trust * convolve(direction))
            step = power / (direction * image).sum().item()
            sources += step * direction
            residual -= step * image
            power, before = residual.square().sum().item(), power
            progress((number + 1) / self.iterations)
            if power <= self.tolerance**2 * first:
                break
            direction = residual + (power / before) * direction
        progress(1.0)
        background = fourier.inverse(fourier.forward(sources) * dipole)
        return torch.where(mask, field - background, 0.0), mask
