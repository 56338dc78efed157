"""Coarse B-splines on top of an affine registration: the last millimetres around the basal ganglia.

Cubic B-splines on a coarse lattice (Rueckert et al., IEEE TMI 1999, 18:712) that maximise the correlation of two
images of one contrast, with a price on bending. ITK's own optimiser of such splines takes a second an iteration on
these images; the lattice is small enough for a hundredth of that when its tensor product is used. The result is an
ordinary SimpleITK B-spline transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from scipy.interpolate import BSpline
from scipy.optimize import minimize
from scipy.sparse import csr_array
from torch.nn.functional import grid_sample

from scripts.registration.search import Scan, sitk_image

#: Voxels beyond the scan that displaced places may be read from.
BORDER = 4


def basis(places: np.ndarray, cells: int) -> csr_array:
    """Uniform cubic B-splines: weight of each of `cells + 3` coefficients at places 0..cells, `[N, cells + 3]`."""
    return csr_array(BSpline.design_matrix(places, np.arange(-3.0, cells + 4), 3))


@dataclass(frozen=True)
class Lattice:
    """How B-splines are fitted.

    Attributes:
        knots_mm: distance of the knots, mm.
        bending: weight of the mean squared second difference of the coefficients (mm^2) beside 1 - correlation.
        iterations: of L-BFGS, at most.
    """

    knots_mm: float
    bending: float
    iterations: int


def refine(
    scan: Scan,
    fixed: np.ndarray,
    moving: sitk.Image,
    start: sitk.Transform,
    lattice: Lattice,
) -> sitk.Transform:
    """Displace a scan smoothly until `fixed` is most like `moving`.

    Args:
        scan: cut to the region of interest; gives grid and brain mask.
        fixed: `[X, Y, Z]` on the scan's grid.
        moving: of the template, with the contrast of `fixed`.
        start: scan to template.
        lattice: how coarse, how stiff, how long.

    Returns:
        The composite of the B-splines and `start`, scan to template.
    """
    shape = np.array(scan.brain.shape)
    cells = [int(max(1, round(e / lattice.knots_mm))) for e in scan.spacing * shape]
    # The lattice lies along the scan's axes, so that it is a tensor product: one small matrix an axis.
    splines = sitk.BSplineTransform(3, 3)
    splines.SetTransformDomainOrigin((scan.affine @ [-0.5, -0.5, -0.5, 1])[:3].tolist())
    splines.SetTransformDomainDirection((scan.affine[:3, :3] / scan.spacing).ravel().tolist())
    splines.SetTransformDomainPhysicalDimensions((scan.spacing * shape).tolist())
    splines.SetTransformDomainMeshSize(cells)
    # Sparse products run on one core, add up in the same order everywhere, and leave out what is 0.
    bases = [basis((np.arange(n) + 0.5) / n * c, c) for n, c in zip(shape, cells, strict=True)]
    shape_of = (3, *(c + 3 for c in cells))

    wide = scan.affine.copy()
    wide[:3, 3] = (scan.affine @ [-BORDER, -BORDER, -BORDER, 1])[:3]
    around = sitk_image(np.zeros(np.array(scan.brain.shape) + 2 * BORDER, np.uint8), wide)
    near = sitk.GetArrayFromImage(sitk.Resample(moving, around, start, sitk.sitkLinear, 0.0, sitk.sitkFloat32))
    near = np.ascontiguousarray(near.transpose(2, 1, 0), np.float64)
    # The image and its slopes are read together: one look-up of a place for all four.
    images = torch.from_numpy(np.stack([near, *np.gradient(near)]))[None]
    # Displacements are LPS mm; grid_sample reads places of -1..1 between the outermost voxels, last axis first.
    unit = 2 / (np.array(near.shape) - 1)
    to_index = np.linalg.inv(scan.affine[:3, :3])
    to_place = (unit[:, None] * to_index)[::-1]
    here = np.moveaxis(np.indices(scan.brain.shape), 0, -1).reshape(-1, 3)
    here = np.ascontiguousarray(((here + BORDER) * unit - 1)[:, ::-1])
    inside = scan.brain.ravel().astype(np.float64)
    wanted = centred(fixed.ravel().astype(np.float64), inside)
    wanted /= max(np.linalg.norm(wanted), 1e-9)

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients = parameters.reshape(shape_of)
        places = here + spread(np.tensordot(to_place, coefficients, 1), bases).reshape(-1, 3)
        places = torch.from_numpy(places)[None, None, None]
        seen, *slopes = grid_sample(images, places, padding_mode="border", align_corners=True)[0, :, 0, 0].numpy()
        seen = centred(seen, inside)
        norm = max(float(np.sqrt(np.square(seen).sum())), 1e-9)
        likeness = float((wanted * seen).sum()) / norm
        by_value = centred((wanted - likeness / norm * seen) / norm, inside)
        by_place = np.stack([by_value * slope for slope in slopes], 1).reshape(*scan.brain.shape, 3)
        gradient = np.tensordot(to_index.T, gathered(by_place, bases), 1)
        price, by_bending = bending_of(coefficients)
        return 1 - likeness + lattice.bending * price, (lattice.bending * by_bending - gradient).ravel()

    options = {"maxiter": lattice.iterations, "gtol": 3e-6}
    found = minimize(cost, np.zeros(np.prod(shape_of)), jac=True, method="L-BFGS-B", options=options)
    splines.SetParameters(found.x.reshape(shape_of).transpose(0, 3, 2, 1).ravel().tolist())
    # The last transform added is applied first.
    return sitk.CompositeTransform([start, splines])


def centred(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Values minus their mean within a mask of 0 and 1, 0 outside."""
    return (values - (values * inside).sum() / inside.sum()) * inside


def spread(coefficients: np.ndarray, bases: list[csr_array]) -> np.ndarray:
    """The field `[X, Y, Z, 3]` of coefficients `[3, A, B, C]`."""
    field = coefficients
    for matrix in reversed(bases):  # the last axis becomes the first
        field = np.moveaxis(field, -1, 0)
        field = (matrix @ field.reshape(len(field), -1)).reshape(-1, *field.shape[1:])
    return field


def gathered(field: np.ndarray, bases: list[csr_array]) -> np.ndarray:
    """The transpose of `spread`: `[X, Y, Z, 3]` -> `[3, A, B, C]`."""
    for matrix in bases:
        field = (matrix.T @ field.reshape(len(field), -1)).reshape(-1, *field.shape[1:])
        field = np.moveaxis(field, 0, -1)
    return field


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
