"""Coarse B-splines on top of an affine registration: the last millimetres around the basal ganglia.

Cubic B-splines on a coarse lattice (Rueckert et al., IEEE TMI 1999, 18:712) that maximise the correlation of two
images of one contrast, with a price on bending. ITK's own optimiser of such splines takes a second an iteration on
these images; the lattice is small enough for a hundredth of that when its tensor product is used. The result is an
ordinary SimpleITK B-spline transform.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.optimize import minimize

from scripts.registration import Scan, sitk_image

#: Voxels beyond the scan that displaced places may be read from.
BORDER = 4


def basis(places: np.ndarray, cells: int) -> np.ndarray:
    """Uniform cubic B-splines: weight of each of `cells + 3` coefficients at places 0..cells, `[N, cells + 3]`."""
    first = np.clip(np.floor(places).astype(int), 0, cells - 1)
    t = places - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    matrix = np.zeros((len(places), cells + 3))
    for n in range(4):
        matrix[np.arange(len(places)), first + n] += weights[:, n]
    return matrix


def refine(
    scan: Scan,
    fixed: np.ndarray,
    moving: sitk.Image,
    start: sitk.Transform,
    knots_mm: float,
    bending: float,
    iterations: int,
) -> sitk.Transform:
    """Displace a scan smoothly until `fixed` is most like `moving`.

    Args:
        scan: cut to the region of interest; gives grid and brain mask.
        fixed: `[X, Y, Z]` on the scan's grid.
        moving: of the template, with the contrast of `fixed`.
        start: scan to template.
        knots_mm: distance of the lattice's knots, mm.
        bending: weight of the mean squared second difference of the coefficients (mm^2) beside 1 - correlation.
        iterations: of L-BFGS, at most.

    Returns:
        The composite of the B-splines and `start`, scan to template.
    """
    shape = np.array(scan.brain.shape)
    cells = [int(max(1, round(e / knots_mm))) for e in scan.spacing * shape]
    # The lattice lies along the scan's axes, so that it is a tensor product: one small matrix an axis.
    splines = sitk.BSplineTransform(3, 3)
    splines.SetTransformDomainOrigin((scan.affine @ [-0.5, -0.5, -0.5, 1])[:3].tolist())
    splines.SetTransformDomainDirection((scan.affine[:3, :3] / scan.spacing).ravel().tolist())
    splines.SetTransformDomainPhysicalDimensions((scan.spacing * shape).tolist())
    splines.SetTransformDomainMeshSize(cells)
    bases = [basis((np.arange(n) + 0.5) / n * c, c) for n, c in zip(shape, cells, strict=True)]
    lattice = (3, *(c + 3 for c in cells))

    wide = scan.affine.copy()
    wide[:3, 3] = (scan.affine @ [-BORDER, -BORDER, -BORDER, 1])[:3]
    around = sitk_image(np.zeros(np.array(scan.brain.shape) + 2 * BORDER, np.uint8), wide)
    near = sitk.GetArrayFromImage(sitk.Resample(moving, around, start, sitk.sitkLinear, 0.0, sitk.sitkFloat32))
    near = near.transpose(2, 1, 0).astype(np.float64)
    slopes = np.gradient(near)
    # Displacements are LPS mm; the images are read by index.
    to_index = np.linalg.inv(scan.affine[:3, :3])
    inside = scan.brain.ravel()
    here = np.indices(scan.brain.shape).reshape(3, -1)[:, inside] + float(BORDER)
    wanted = fixed.ravel()[inside].astype(np.float64)
    wanted = (wanted - wanted.mean()) / max(np.linalg.norm(wanted - wanted.mean()), 1e-9)

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients = parameters.reshape(lattice)
        moved = np.einsum("dabc,xa,yb,zc->dxyz", coefficients, *bases, optimize=True).reshape(3, -1)[:, inside]
        places = here + to_index @ moved
        seen = ndimage.map_coordinates(near, places, order=1, mode="nearest")
        seen = seen - seen.mean()
        norm = max(np.linalg.norm(seen), 1e-9)
        likeness = float(wanted @ seen) / norm
        by_value = (wanted - likeness * seen / norm) / norm
        by_value -= by_value.mean()
        by_place = np.stack([ndimage.map_coordinates(slope, places, order=1, mode="nearest") for slope in slopes])
        full = np.zeros((3, inside.size))
        full[:, inside] = to_index.T @ (by_value * by_place)
        gradient = np.einsum("dxyz,xa,yb,zc->dabc", full.reshape(3, *scan.brain.shape), *bases, optimize=True)
        price, by_bending = bending_of(coefficients)
        return 1 - likeness + bending * price, (bending * by_bending - gradient).ravel()

    found = minimize(
        cost, np.zeros(np.prod(lattice)), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "gtol": 3e-6}
    )
    splines.SetParameters(found.x.reshape(lattice).transpose(0, 3, 2, 1).ravel().tolist())
    # The last transform added is applied first.
    return sitk.CompositeTransform([start, splines])


def bending_of(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean squared second difference along each axis, and its derivative."""
    price, gradient = 0.0, np.zeros_like(coefficients)
    for axis in (1, 2, 3):
        count = coefficients.shape[axis]
        second = np.diff(coefficients, 2, axis)
        price += float((second**2).mean())
        weight = 2 * second / second.size
        for shift, factor in ((0, 1), (1, -2), (2, 1)):
            part = [slice(None)] * 4
            part[axis] = slice(shift, shift + count - 2)
            gradient[tuple(part)] += factor * weight
    return price, gradient
