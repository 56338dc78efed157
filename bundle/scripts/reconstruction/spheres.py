"""Spherical mean kernels: a harmonic field equals its own mean over any sphere, a local field does not."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

#: Points along each axis of a voxel at which a sphere's share of the voxel is sampled.
_SUBSAMPLES = 7


def spherical_mean_kernel(radius_mm: float, spacing_mm: Sequence[float], degree: int) -> torch.Tensor:
    """Weights of a mean over a sphere.

    Each voxel's weight is the share of it inside the sphere. With thick slices such a kernel is no spherical mean any
    more: harmonic fields leak through. So the weights are corrected, as little as possible in the sense of weighted
    least squares, until the kernel returns every harmonic polynomial up to a degree exactly.

    Args:
        radius_mm: of the sphere.
        spacing_mm: voxel size along the three axes.
        degree: even; harmonic polynomials up to this degree (and the next odd one) are kept exactly, as far as the
            kernel has enough voxels; 0 leaves the shares as they are.

    Returns:
        float32 `[X, Y, Z]`, odd sides, sum 1, centred.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    half = np.maximum(np.ceil(radius_mm / spacing - 0.5).astype(int), 1)
    squares = []
    for n, d in zip(half, spacing, strict=True):
        fine = (np.arange((2 * n + 1) * _SUBSAMPLES) + 0.5) / _SUBSAMPLES - 0.5 - n
        squares.append((fine * d) ** 2)
    x, y, z = np.ix_(*squares)
    inside = x + y + z <= radius_mm**2
    blocks = [size for n in half for size in (2 * n + 1, _SUBSAMPLES)]
    weights = inside.reshape(blocks).mean(axis=(1, 3, 5))
    weights = weights / weights.sum()
    if degree > 0:
        weights = _exact_for_harmonics(weights, half, spacing, radius_mm, degree)
    return torch.from_numpy(weights.astype(np.float32))


def _exact_for_harmonics(
    weights: np.ndarray, half: np.ndarray, spacing: np.ndarray, radius_mm: float, degree: int
) -> np.ndarray:
    """The nearest weights (least squares relative to the weights) that keep harmonic polynomials."""
    where = np.nonzero(weights)
    points = (np.stack(where, 1) - half) * spacing / radius_mm
    given = weights[where]
    conditions, targets = [np.ones(len(given))], [1.0]
    for n in range(2, degree + 1, 2):
        conditions += even_harmonics(points, n)
        targets += [0.0] * (len(conditions) - len(targets))
    rows = np.stack(conditions)
    # min sum (w - given)^2 / given subject to rows w = targets
    scaled = rows * given
    change = np.linalg.lstsq(scaled @ rows.T, np.array(targets) - rows @ given, rcond=1e-10)[0]
    corrected = weights.copy()
    corrected[where] = given + scaled.T @ change
    return corrected


def even_harmonics(points: np.ndarray, degree: int) -> list[np.ndarray]:
    """Harmonic polynomials of one even degree that are even in x, y and z, at points `[N, 3]`.

    Odd ones vanish on a symmetric kernel by themselves. They are found as the null space of the Laplacian on the
    monomials x^a y^b z^c with even exponents.
    """
    exponents = [e for e in product(range(0, degree + 1, 2), repeat=3) if sum(e) == degree]
    lower = [e for e in product(range(0, degree - 1, 2), repeat=3) if sum(e) == degree - 2]
    laplacian = np.zeros((len(lower), len(exponents)))
    for column, e in enumerate(exponents):
        for axis in range(3):
            if e[axis] >= 2:
                row = lower.index(tuple(v - 2 * (a == axis) for a, v in enumerate(e)))
                laplacian[row, column] += e[axis] * (e[axis] - 1)
    null = np.linalg.svd(laplacian)[2][len(lower) :]
    monomials = np.stack([np.prod(points ** np.array(e), axis=1) for e in exponents])
    return list(null @ monomials)
