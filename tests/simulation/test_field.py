"""The dipole field against the analytic sphere and cylinder, in straight and oblique grids; the shim."""

from itertools import product

import numpy as np
import pytest
import torch

from scripts.simulation.field import DipoleField, b0_in_voxel_axes, cuboid_response, harmonics, shim_field
from scripts.simulation.head import scan_affine


def share_inside(shape, spacing, inside, parts=5):
    """Share of each voxel that lies inside a body, from parts^3 points a voxel."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True)]
    steps = (np.arange(parts) - (parts - 1) / 2) / parts
    total = np.zeros(shape, np.float32)
    for a, b, c in product(steps, repeat=3):
        x, y, z = (u + s * d for u, s, d in zip(axes, (a, b, c), spacing, strict=True))
        total += inside(x[:, None, None], y[:, None], z)
    return torch.from_numpy(total / parts**3), np.stack(np.meshgrid(*axes, indexing="ij"))


def whole(shape):
    return tuple((0, n) for n in shape)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.6)])
@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (30.0, 0.0, 15.0)])
def test_field_of_a_sphere(spacing, tilt):
    """Inside 0 (sphere of Lorentz), outside chi/3 (R/r)^3 (3 cos^2 - 1) about B0, however oblique."""
    radius, shape = 8.0, tuple(round(36 / d) for d in spacing)
    chi, xyz = share_inside(shape, spacing, lambda x, y, z: x**2 + y**2 + z**2 < radius**2)
    affine = scan_affine(shape, spacing, tilt)
    field = DipoleField(shape, whole(shape), spacing, b0_in_voxel_axes(affine))(chi).numpy()
    along = np.tensordot(affine[2, :3] / spacing, xyz, 1)  # world z of each voxel
    r = np.linalg.norm(xyz, axis=0)
    expected = (radius / np.maximum(r, 1e-6)) ** 3 * (3 * (along / np.maximum(r, 1e-6)) ** 2 - 1) / 3
    outside, inside = r > radius + 2.5, r < radius - 2.5
    assert np.abs(field - expected)[outside].max() < 0.012 * np.abs(expected).max()
    assert np.abs(field[inside]).max() < 0.008


@pytest.mark.parametrize("angle_deg", [90.0, 40.0, 0.0])
def test_field_of_a_long_cylinder(angle_deg):
    """Inside chi/2 (cos^2 - 1/3); outside chi/2 sin^2 (R/rho)^2 cos 2 phi, phi from the field's transverse part."""
    radius, shape = 4.0, (30, 30, 240)
    chi, xyz = share_inside(shape, (1, 1, 1), lambda x, y, z: (x**2 + y**2 < radius**2) & (z > -1e9))
    angle = np.deg2rad(angle_deg)
    b0 = np.array([np.sin(angle), 0.0, np.cos(angle)])
    middle = ((0, 30), (0, 30), (118, 122))
    field = DipoleField(shape, middle, (1, 1, 1), b0)(chi).numpy()
    x, y = xyz[0, :, :, 118:122], xyz[1, :, :, 118:122]
    rho = np.hypot(x, y)
    outside, inside = rho > radius + 1.5, rho < radius - 1.5
    expected = 0.5 * np.sin(angle) ** 2 * radius**2 * (x**2 - y**2) / rho**4
    assert np.abs(field - expected)[outside].max() < 0.006
    assert field[inside] == pytest.approx(0.5 * (np.cos(angle) ** 2 - 1 / 3), abs=0.01)


def test_a_voxel_far_away_is_a_point_dipole_and_demagnetising_factors_add_up_to_one():
    spacing, offsets = (1.0, 1.0, 2.0), tuple(np.array([0.0, 30.0]) * d for d in (1.0, 1.0, 2.0))
    b0 = np.array([2.0, 3.0, 6.0]) / 7
    far = cuboid_response(offsets, spacing, b0)[1, 1, 1]
    position = np.array([30.0, 30.0, 60.0])
    r = np.linalg.norm(position)
    point = 2.0 / (4 * np.pi) * (3 * (position @ b0 / r) ** 2 - 1) / r**3
    assert far == pytest.approx(point, rel=2e-3)
    centre = [cuboid_response((np.zeros(1),) * 3, spacing, axis)[0, 0, 0] for axis in np.eye(3)]
    assert sum(centre) == pytest.approx(0.0, abs=1e-12)
    assert cuboid_response((np.zeros(1),) * 3, (1.0, 1.0, 1.0), b0)[0, 0, 0] == pytest.approx(0.0, abs=1e-12)


def test_nothing_wraps_around_and_a_part_of_the_grid_gets_what_the_whole_gets():
    chi = torch.zeros(12, 14, 16)
    chi[0, 0, 0] = 1.0
    field = DipoleField((12, 14, 16), whole((12, 14, 16)), (1, 1, 2), [0, 0, 1])(chi)
    offsets = tuple(np.arange(n) * d for n, d in zip((12, 14, 16), (1.0, 1.0, 2.0), strict=True))
    far = np.s_[8:, 10:, 8:]
    assert field.numpy()[far] == pytest.approx(cuboid_response(offsets, (1, 1, 2), np.array([0, 0, 1]))[far], rel=0.05)
    part = DipoleField((12, 14, 16), ((3, 7), (5, 14), (0, 2)), (1, 1, 2), [0, 0, 1])(chi)
    torch.testing.assert_close(part, field[3:7, 5:14, 0:2], rtol=1e-4, atol=1e-6)


def test_harmonics_solve_laplace():
    """Their second differences sum to 0 (exact for polynomials up to order 3)."""
    point, step = np.array([0.3, -0.2, 0.5]), 0.1
    stencil = [point] * 6 + [point]
    stencil = np.array(
        [p + s for p, s in zip(stencil, [*np.eye(3) * step, *-np.eye(3) * step, np.zeros(3)], strict=True)]
    )
    values = harmonics(stencil.T, 3)
    assert values.shape == (7, 16)
    np.testing.assert_allclose(values[:6].sum(0) - 6 * values[6], 0, atol=1e-12)


@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (20.0, 0.0, 0.0)])
def test_shim_removes_harmonics_up_to_its_order_and_nothing_else(tilt):
    shape = (20, 22, 18)
    affine = scan_affine(shape, (4.0, 4.0, 5.0), tilt)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).reshape(3, -1)
    xyz = (affine[:3, :3] @ index + affine[:3, 3:]) / 100
    terms = harmonics(xyz, 3).T.reshape(-1, *shape)
    mask = torch.from_numpy((xyz**2).sum(0).reshape(shape) < 0.3**2)
    rng = np.random.default_rng(0)
    low = torch.from_numpy((rng.normal(size=9)[:, None, None, None] * terms[:9]).sum(0).astype(np.float32))
    high = torch.from_numpy(terms[9].astype(np.float32))  # xyz: orthogonal to all lower ones in a ball
    flat = low + shim_field(low, mask, affine, 2)
    assert flat[mask].abs().max() < 1e-4 * low[mask].abs().max()
    kept = low + high + shim_field(low + high, mask, affine, 2)
    assert (kept - high)[mask].abs().max() < 0.05 * high[mask].abs().max()
    assert (low + shim_field(low, mask, affine, 1))[mask].std() > 0.1 * low[mask].std()
    assert shim_field(low, mask, affine, -1).abs().max() == 0
