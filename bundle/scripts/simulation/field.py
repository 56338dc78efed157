"""The field that susceptibility makes, by direct summation over voxels, and the shim that flattens it.

The response of one voxel is computed in space, not sampled in k-space: the exact field of a uniformly magnetised
cuboid nearby (Joseph and Schlömann, J Appl Phys 1965, 36:1579), a point dipole far away, and the sphere of Lorentz
taken out (Marques and Bowtell, Concepts Magn Reson B 2005, 25:65). The sum over voxels is a convolution; its FFT is
padded so far that nothing wraps around. No reconstruction shares this code: a map that comes back right was not
inverted with the kernel that made it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.fft import next_fast_len

# Within this many voxels (of the longest side) a voxel is a cuboid; beyond, the point dipole is right to 0.1 %.
_NEAR_VOXELS = 10


def cuboid_response(offsets_mm: tuple[np.ndarray, ...], spacing_mm: tuple[float, ...], b0: np.ndarray) -> np.ndarray:
    """Relative field (per unit of susceptibility) of one voxel at points around it, sphere of Lorentz taken out.

    Args:
        offsets_mm: distances from the voxel's centre along its three axes; the result is on their outer grid.
        spacing_mm: the voxel's sides.
        b0: unit vector of the main field in the voxel's axes.

    Returns:
        float64 on the grid; at the centre 1/3 minus the demagnetising factor.
    """
    shape = tuple(len(o) for o in offsets_mm)
    tensor = {pair: np.zeros(shape) for pair in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))}
    for corner in product((-1, 1), repeat=3):
        u = [
            (o + 0.5 * c * d).reshape([-1 if a == axis else 1 for a in range(3)])
            for axis, (o, c, d) in enumerate(zip(offsets_mm, corner, spacing_mm, strict=True))
        ]
        r = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
        sign = float(np.prod(corner))
        for i, j in tensor:
            if i == j:
                a, b = (axis for axis in range(3) if axis != i)
                tensor[i, j] += sign * np.arctan(u[a] * u[b] / (u[i] * r))
            else:
                tensor[i, j] -= sign * np.arcsinh(u[3 - i - j] / np.hypot(u[i], u[j]))
    field = np.zeros(shape)
    for (i, j), value in tensor.items():
        field -= (1 if i == j else 2) * b0[i] * b0[j] * value / (4 * np.pi)
    centre = np.ix_(*(np.abs(o) < 1e-9 for o in offsets_mm))
    field[centre] += 1.0 / 3.0
    return field


class DipoleField:
    """Field of susceptibility on one grid, at a part of that grid.

    Args:
        shape: voxels of the grid that holds the sources.
        target: half-open voxel ranges ``((i0, i1), (j0, j1), (k0, k1))`` of the same grid where the field is wanted.
        spacing_mm: voxel size.
        b0: direction of the main field in the grid's axes (any length above 0); see :func:`b0_in_voxel_axes`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        target: tuple[tuple[int, int], ...],
        spacing_mm: tuple[float, float, float],
        b0: np.ndarray,
    ) -> None:
        self.shape = tuple(shape)
        self.target = tuple((int(a), int(b)) for a, b in target)
        self.spacing_mm = tuple(float(d) for d in spacing_mm)
        self.b0 = np.asarray(b0, float) / np.linalg.norm(b0)
        wanted = [n + b - a - 1 for n, (a, b) in zip(self.shape, self.target, strict=True)]
        self.padded = tuple(next_fast_len(n, real=axis == 2) for axis, n in enumerate(wanted))
        self._spectrum = self._transformed_response()

    def _transformed_response(self) -> torch.Tensor:
        """Spectrum of one voxel's response at every offset that occurs, complex64 (half of the last axis)."""
        index = []
        for n, (start, _), length in zip(self.shape, self.target, self.padded, strict=True):
            first = start - n + 1
            index.append((np.arange(length) - first) % length + first)
        reach = _NEAR_VOXELS * max(self.spacing_mm)
        near = [np.nonzero(np.abs(i * d) <= reach)[0] for i, d in zip(index, self.spacing_mm, strict=True)]
        offsets = tuple(i[n] * d for i, n, d in zip(index, near, self.spacing_mm, strict=True))
        exact = torch.from_numpy(cuboid_response(offsets, self.spacing_mm, self.b0).astype(np.float32))
        where = {int(i): exact[n] for n, i in enumerate(near[0])}

        x, y, z = (torch.from_numpy((i * d).astype(np.float32)) for i, d in zip(index, self.spacing_mm, strict=True))
        bx, by, bz = map(float, self.b0)
        scale = float(np.prod(self.spacing_mm)) / (4 * np.pi)
        n0, n1, n2 = self.padded
        spectrum = torch.empty((n0, n1, n2 // 2 + 1), dtype=torch.complex64)
        for i in range(n0):
            inverse = ((x[i] ** 2 + y[:, None] ** 2) + z**2).clamp_min_(1e-12).rsqrt_()
            along = ((bx * x[i] + by * y)[:, None] + bz * z).mul_(inverse)
            plane = along.square_().mul_(3 * scale).sub_(scale).mul_(inverse**3)
            if i in where:
                plane[np.ix_(near[1], near[2])] = where[i]
            spectrum[i] = torch.fft.fft(torch.fft.rfft(plane), dim=0)
        for j in range(n1):
            spectrum[:, j] = torch.fft.fft(spectrum[:, j], dim=0)
        return spectrum

    def __call__(self, chi: torch.Tensor) -> torch.Tensor:
        """Relative field in the unit of ``chi``, float32, of the target's shape.

        Args:
            chi: susceptibility relative to what surrounds the grid, float32 of the grid's shape.
        """
        n0, n1, n2 = self.padded
        (i0, i1), (j0, j1), (k0, k1) = self.target
        # Axis by axis and plane by plane: neither zeros nor what is not wanted is ever transformed.
        half = torch.stack([torch.fft.fft(torch.fft.rfft(plane, n=n2), n=n1, dim=0) for plane in chi])
        field = torch.empty((i1 - i0, n1, n2 // 2 + 1), dtype=torch.complex64)
        for j in range(n1):
            plane = torch.fft.fft(half[:, j], n=n0, dim=0).mul_(self._spectrum[:, j])
            field[:, j] = torch.fft.ifft(plane, dim=0)[i0:i1]
        # The response is laid out so that index t of the result is the field at voxel t.
        return torch.stack([torch.fft.irfft(torch.fft.ifft(plane, dim=0)[j0:j1], n=n2)[:, k0:k1] for plane in field])


def b0_in_voxel_axes(affine: np.ndarray) -> np.ndarray:
    """Unit vector of the main field, the scanner's foot-head axis, along the three voxel axes of an affine.

    The scanner's axes are those of NIfTI (RAS+); the field points along +z.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return axes.T @ np.array([0.0, 0.0, 1.0])


def harmonics(xyz: np.ndarray, order: int) -> np.ndarray:
    """Real solid harmonics up to an order, the fields that shim coils make: ``[N, (order + 1) ** 2]``.

    Args:
        xyz: positions ``[3, N]``, best scaled to about -1..1.
        order: 0 (centre frequency alone) to 3.
    """
    x, y, z = xyz
    terms = [np.ones_like(x)]
    if order >= 1:
        terms += [x, y, z]
    if order >= 2:
        terms += [x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    if order >= 3:
        terms += [
            x * y * z,
            z * (x**2 - y**2),
            x * (4 * z**2 - x**2 - y**2),
            y * (4 * z**2 - x**2 - y**2),
            z * (2 * z**2 - 3 * x**2 - 3 * y**2),
            x * (x**2 - 3 * y**2),
            y * (3 * x**2 - y**2),
        ]
    return np.stack(terms, 1)


def shim_field(field: torch.Tensor, mask: torch.Tensor, affine: np.ndarray, order: int) -> torch.Tensor:
    """The field that the scanner's shim adds: minus the best fit of solid harmonics inside the mask.

    Args:
        field: float32 ``[X, Y, Z]``, any unit.
        mask: bool, where the shim is fitted (least squares).
        affine: voxel to scanner, mm: shim coils belong to the scanner, not to the slices.
        order: highest order of the harmonics; 1 is a linear shim, 2 what most 3 T scanners have; below 0 none.

    Returns:
        float32 ``[X, Y, Z]`` in the field's unit; add it to the field.
    """
    if order < 0:
        return torch.zeros_like(field)
    where = mask.nonzero().numpy()
    # Some ten thousand places determine (order + 1)^2 numbers well enough.
    where = where[:: max(1, len(where) // 50_000)]
    scale = 100.0
    xyz = (where @ affine[:3, :3].T + affine[:3, 3]).T / scale
    values = field[tuple(where.T)].numpy().astype(np.float64)
    weights = np.linalg.lstsq(harmonics(xyz, order), values, rcond=None)[0]
    added = torch.empty_like(field)
    j, k = np.meshgrid(np.arange(field.shape[1]), np.arange(field.shape[2]), indexing="ij")
    for i in range(field.shape[0]):
        index = np.stack([np.full(j.size, i), j.ravel(), k.ravel()], 1)
        here = (index @ affine[:3, :3].T + affine[:3, 3]).T / scale
        added[i] = torch.from_numpy((-harmonics(here, order) @ weights).astype(np.float32)).reshape(j.shape)
    return added
