"""Real FFTs on a padded grid, and the kernels of QSM in k-space: the unit dipole and the gradient."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len


class PaddedFourier:
    """Real FFTs of volumes on one grid, padded with zeros to a size that is fast.

    Args:
        shape: voxels along the three axes of the volumes.
        spacing_mm: voxel size along them.
        b0: direction of the main field along the axes of the array, a unit vector; oblique slices are exact.
        pad_mm: least width of the zeros that keep periodic copies of the volume apart.
        device: where the kernels live.
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        b0: Sequence[float] = (0.0, 0.0, 1.0),
        pad_mm: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.spacing_mm = tuple(float(d) for d in spacing_mm)
        self.b0 = tuple(float(b) for b in b0)
        self.device = torch.device(device)
        wanted = [n + int(np.ceil(pad_mm / d)) for n, d in zip(self.shape, self.spacing_mm, strict=True)]
        self.padded = tuple(next_fast_len(n) for n in wanted)
        last = self.padded[2]
        while last % 2 or next_fast_len(last) != last:  # an even last axis halves without a remainder
            last += 1
        self.padded = (*self.padded[:2], last)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Spectrum of a volume `[..., X, Y, Z]`, padded already or not."""
        return torch.fft.rfftn(volume, s=self.padded, dim=(-3, -2, -1))

    def inverse(self, spectrum: torch.Tensor) -> torch.Tensor:
        """The volume `[..., X, Y, Z]` of a spectrum, padding cut off."""
        return self._inverse(spectrum, self.shape)

    def inverse_padded(self, spectrum: torch.Tensor) -> torch.Tensor:
        """The volume of a spectrum with its padding."""
        return self._inverse(spectrum, self.padded)

    def _inverse(self, spectrum: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
        # Axis by axis: what is cut off is not transformed, and on the CPU torch's inverse of three axes takes twice as
        # long as its forward transform.
        half = torch.fft.ifft(spectrum, dim=-3).narrow(-3, 0, kept[0])
        half = torch.fft.ifft(half, dim=-2).narrow(-2, 0, kept[1])
        return torch.fft.irfft(half, n=self.padded[2], dim=-1).narrow(-1, 0, kept[2])

    def cut(self, padded: torch.Tensor) -> torch.Tensor:
        """A padded volume without its padding."""
        x, y, z = self.shape
        return padded[..., :x, :y, :z]

    def frequencies(self) -> list[torch.Tensor]:
        """Spatial frequencies (1/mm) along the axes, float32, shaped to broadcast."""
        fx, fy = (torch.fft.fftfreq(n, d) for n, d in zip(self.padded[:2], self.spacing_mm[:2], strict=True))
        fz = torch.fft.rfftfreq(self.padded[2], self.spacing_mm[2])
        return [f.to(self.device) for f in (fx[:, None, None], fy[None, :, None], fz[None, None, :])]

    def dipole(self) -> torch.Tensor:
        """Unit dipole 1/3 - (k b0)^2 / k^2: field (ppm of B0) of a susceptibility (ppm); 0 at k = 0.

        As published for TKD; for voxels, which have a size, and for oblique slices see `voxel_dipole`.
        """
        k = self.frequencies()
        squared = k[0] * k[0] + k[1] * k[1] + k[2] * k[2]
        squared[0, 0, 0] = 1.0
        x, y, z = ((f * b) ** 2 for f, b in zip(k, self.b0, strict=True))
        along = x + y + z
        # The highest frequency of an even axis stands for both its signs, between which products of axes cancel: left
        # in, they would make a tilted dipole's volume complex.
        signed = [
            torch.where(f.abs() * d < 0.5 - 1e-6, f * b, 0.0)
            for f, d, b in zip(k, self.spacing_mm, self.b0, strict=True)
        ]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            if self.b0[i] * self.b0[j] != 0.0:
                along = along + 2.0 * signed[i] * signed[j]
        kernel = 1.0 / 3.0 - along / squared
        kernel[0, 0, 0] = 0.0
        return kernel

    def minus_laplacian(self) -> torch.Tensor:
        """Spectrum of the sum over axes of D^T D, D the periodic forward difference of a voxel over its size in mm."""
        x, y, z = (
            (2.0 - 2.0 * torch.cos(2.0 * torch.pi * f * d)) / d**2
            for f, d in zip(self.frequencies(), self.spacing_mm, strict=True)
        )
        return x + y + z

    def kernel_spectrum(self, kernel: torch.Tensor) -> torch.Tensor:
        """Real spectrum of a point-symmetric kernel with odd sides, centred in its array."""
        volume = torch.zeros(self.padded, device=self.device)
        x, y, z = kernel.shape
        volume[:x, :y, :z] = kernel.to(self.device)
        volume = torch.roll(volume, [-(n // 2) for n in kernel.shape], (0, 1, 2))
        return self.forward(volume).real.contiguous()


def b0_direction(affine: np.ndarray) -> np.ndarray:
    """Direction of the main field along the axes of an array.

    Args:
        affine: `[4, 4]` voxel to world (mm); world z is the bore of the scanner.

    Returns:
        Unit vector `[3]`.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = axes.T @ np.array([0.0, 0.0, 1.0])
    return along / np.linalg.norm(along)


def padded_to(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Zeros appended to every axis up to a size."""
    short = [n - m for n, m in zip(size, volume.shape, strict=True)]
    return torch.nn.functional.pad(volume, [0, short[2], 0, short[1], 0, short[0]])


def sphere_fits(fourier: PaddedFourier, mask_spectrum: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Voxels around which all voxels of a kernel lie in the mask, bool `[X, Y, Z]`."""
    support = (kernel != 0).float()
    return fourier.inverse(mask_spectrum * fourier.kernel_spectrum(support)) > support.sum().item() - 0.5
