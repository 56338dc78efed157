"""Background removal and dipole inversion, against the analytic field of spheres and harmonic polynomials."""

from itertools import product

import numpy as np
import pytest
import torch
from raw_head import positions, sphere_field
from refusal import refused

from scripts.reconstruction.background import PDF, SHARP, VSHARP
from scripts.reconstruction.combine import AverageOfMaps
from scripts.reconstruction.fourier import PaddedFourier, b0_direction
from scripts.reconstruction.inversion import TKD, IterativeTKD, point_spread, truncated_inverse
from scripts.reconstruction.spheres import even_harmonics, spherical_mean_kernel
from scripts.reconstruction.variation import TV, SingleStepTV, pairs_inside
from scripts.reconstruction.voxel_dipole import mean_response, voxel_dipole
from scripts.simulation.field import cuboid_response

SHAPE, SPACING = (40, 44, 32), (1.0, 1.0, 1.5)
UP = (0.0, 0.0, 1.0)


def ball(radius: float, centre=(0.0, 0.0, 0.0)) -> torch.Tensor:
    offset = [x - c for x, c in zip(positions(SHAPE, SPACING), centre, strict=True)]
    return torch.from_numpy(np.sqrt(sum(o**2 for o in offset)) <= radius)


def field_of(centre, radius, chi, b0=UP) -> torch.Tensor:
    return torch.from_numpy(sphere_field(centre, radius, chi, b0, SHAPE, SPACING).astype(np.float32))


def error(found: torch.Tensor, true: torch.Tensor, mask: torch.Tensor) -> float:
    """Root mean square of the difference over that of the truth, without means."""
    a, b = found[mask] - found[mask].mean(), true[mask] - true[mask].mean()
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


def test_an_oblique_dipole_is_a_real_volume_on_even_grids():
    fourier = PaddedFourier((16, 18, 14), (1.0, 1.2, 0.9), (0.3, 0.5, np.sqrt(1 - 0.34)))
    spectrum = fourier.dipole()
    again = fourier.forward(fourier.inverse_padded(spectrum.to(torch.complex64)))
    assert torch.allclose(again, spectrum.to(torch.complex64), atol=1e-4)


@pytest.mark.parametrize("degrees", [0, 30])
def test_the_dipole_gives_the_field_of_a_sphere_also_in_oblique_slices(degrees):
    b0 = (np.sin(np.deg2rad(degrees)), 0.0, np.cos(np.deg2rad(degrees)))
    fourier = PaddedFourier(SHAPE, SPACING, b0, 40)
    field = fourier.inverse(fourier.forward(ball(6.0).float()) * fourier.dipole())
    # compared outside the sphere's own rough edge; the sphere of voxels has a slightly other volume
    volume = float(ball(6.0).sum()) * np.prod(SPACING) / (4 / 3 * np.pi * 6.0**3)
    outside = ~ball(8.5)
    assert error(field, volume * field_of((0, 0, 0), 6.0, 1.0, b0), outside) < 0.08
    assert abs(float(field[ball(3.0)].mean())) < 0.01


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0)])
def test_a_voxels_own_field_is_its_mean_over_each_voxel_around_it(spacing):
    b0 = np.array([0.3, 0.5, np.sqrt(1 - 0.34)])
    found = mean_response((3, 2, 2), spacing, b0)
    points, weights = np.polynomial.legendre.leggauss(6)
    mean = np.zeros_like(found)
    for (i, u), (j, v), (k, w) in product(enumerate(points), repeat=3):
        offsets = [(np.arange(-n, n + 1) + 0.5 * p) * d for n, p, d in zip((3, 2, 2), (u, v, w), spacing, strict=True)]
        mean += weights[i] * weights[j] * weights[k] / 8 * cuboid_response(tuple(offsets), spacing, b0)
    mean[3, 2, 2] += 1 / 3  # no point of the sum lies in the middle, where that function takes out the sphere
    assert np.abs(found - mean).max() < 1e-3
    assert np.abs(found).max() > 0.05


def test_the_dipole_of_voxels_keeps_the_field_of_a_sphere_in_oblique_slices_where_that_in_k_space_rings():
    b0 = (np.sin(np.deg2rad(25)), 0.0, np.cos(np.deg2rad(25)))
    fourier = PaddedFourier(SHAPE, SPACING, b0, 40)
    # The share of each voxel in the sphere, and the mean of the sphere's field over each voxel, by 2 x 2 x 2 points.
    shape, spacing = tuple(2 * n for n in SHAPE), tuple(d / 2 for d in SPACING)
    means = [
        torch.nn.functional.avg_pool3d(torch.from_numpy(v.astype(np.float32))[None, None], 2)[0, 0]
        for v in (
            np.sqrt(sum(x**2 for x in positions(shape, spacing))) <= 6.0,
            sphere_field((0, 0, 0), 6.0, 1.0, b0, shape, spacing),
        )
    ]
    far, deep = ~ball(8.5), ball(4.0)  # away from the voxels that the sphere fills in part
    found = [
        fourier.inverse(fourier.forward(means[0]) * dipole) for dipole in (voxel_dipole(fourier), fourier.dipole())
    ]
    outside, inside = zip(*((error(field, means[1], far), float(field[deep].std())) for field in found), strict=True)
    assert outside[0] < 0.015 and inside[0] < 0.005  # within a sphere the field is even
    assert outside[1] > 2 * outside[0] and inside[1] > 2 * inside[0]


def test_the_field_direction_comes_from_the_affine():
    tilt = np.deg2rad(20)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.6, 0.6, 2.0])
    assert np.allclose(b0_direction(affine), [0, np.sin(tilt), np.cos(tilt)])
    affine[:3, :3] = np.array(
        [[0, 0, 2.0], [0.6, 0, 0], [0, -0.6, 0]]
    )  # coronal: the second array axis runs to the feet
    assert np.allclose(b0_direction(affine), [0, -1, 0])


def test_a_padded_grid_is_no_smaller_than_asked_and_its_last_axis_is_even():
    fourier = PaddedFourier((37, 41, 23), (1.0, 2.0, 3.0), pad_mm=10)
    assert all(p >= n + 10 / d for p, n, d in zip(fourier.padded, (37, 41, 23), (1, 2, 3), strict=True))
    assert fourier.padded[2] % 2 == 0
    volume = torch.randn(37, 41, 23)
    assert torch.allclose(fourier.inverse(fourier.forward(volume)), volume, atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.67, 0.67, 2.0)])
def test_a_corrected_sphere_keeps_harmonic_fields_and_a_plain_one_does_not_with_thick_slices(spacing):
    def kept(degree: int) -> float:
        kernel = spherical_mean_kernel(6.0, spacing, degree).numpy()
        offsets = (np.stack(np.nonzero(kernel), 1) - np.array(kernel.shape) // 2) * spacing
        values = np.abs(
            [(kernel[np.nonzero(kernel)] * h).sum() for n in (2, 4) for h in even_harmonics(offsets / 6, n)]
        )
        assert abs(kernel.sum() - 1) < 1e-5
        return values.max()

    assert kept(4) < 1e-5
    if spacing[2] == 2.0:
        assert kept(0) > 1e-3


@pytest.mark.parametrize(
    ("method", "least_removed"),
    [(SHARP(5.0, 0.05, 4, 10), 0.95), (VSHARP([8, 5, 3, 2], 0.05, 4, 12), 0.9), (PDF(60, 1e-4, 20), 0.95)],
    ids=["SHARP", "V-SHARP", "PDF"],
)
def test_background_removal_takes_fields_from_outside_away(method, least_removed):
    mask = ball(15.0)
    background = field_of((0, 24, 0), 6.0, 3.0) + 0.02 * torch.from_numpy(positions(SHAPE, SPACING)[0]).float()
    local, known = method(background, mask, mask.float(), SPACING, UP)
    before = background[known] - background[known].mean()
    after = local[known] - local[known].mean()
    assert float(torch.linalg.norm(after) / torch.linalg.norm(before)) < 1 - least_removed
    assert not known[~mask].any()
    assert not local[~known].any()


@pytest.mark.parametrize("method", [SHARP(4.0, 0.02, 4, 10), VSHARP([6, 4, 2], 0.02, 4, 10)], ids=["SHARP", "V-SHARP"])
def test_background_removal_keeps_the_field_of_a_source_inside(method):
    mask, true = ball(15.0), field_of((2, 0, 0), 4.0, 0.1)
    local, known = method(torch.where(mask, true, 0.0), mask, mask.float(), SPACING, UP)
    assert error(local, true, known) < 0.35


def test_the_point_spread_is_the_height_of_the_map_of_a_point():
    fourier = PaddedFourier((32, 32, 32), (1.0, 1.0, 1.0))
    dipole = fourier.dipole()
    inverse = truncated_inverse(dipole, 0.1)
    point = torch.zeros(32, 32, 32)
    point[5, 6, 7] = 1.0
    found = fourier.inverse(fourier.forward(point) * dipole * inverse)
    assert float(found[5, 6, 7]) == pytest.approx(point_spread(dipole, inverse, fourier.padded), abs=1e-5)
    assert point_spread(dipole, inverse, fourier.padded) < 0.95
    corrected = TKD(0.1, True, 0)(fourier.inverse(fourier.forward(point) * dipole), point >= 0, point, (1, 1, 1), UP)
    assert float(corrected[5, 6, 7]) == pytest.approx(1.0, abs=1e-4)


def test_tkd_is_exact_where_the_dipole_is_larger_than_the_threshold():
    fourier = PaddedFourier((24, 24, 24), (1.0, 1.0, 1.0))
    true = torch.randn(24, 24, 24)
    spectrum, dipole = fourier.forward(true), fourier.dipole()
    found = fourier.forward(TKD(0.1, False, 0)(fourier.inverse(spectrum * dipole), true > -99, true, (1, 1, 1), UP))
    large = dipole.abs() > 0.1
    assert torch.allclose(found[large], spectrum[large], atol=2e-3)


def test_iterations_bring_a_strong_structure_closer_to_the_truth():
    true, mask = 0.4 * ball(4.0).float(), ball(15.0)
    fourier = PaddedFourier(SHAPE, SPACING, UP, 30)
    field = fourier.inverse(fourier.forward(true) * fourier.dipole())
    plain = TKD(0.1, True, 30)(field, mask, mask.float(), SPACING, UP)
    for structures, threshold, r2star in (("susceptibility", 0.1, None), ("r2star", 50.0, 100 * true / 0.4)):
        iterated = IterativeTKD(0.1, True, 30, 4, structures, threshold)(field, mask, mask.float(), SPACING, UP, r2star)
        assert error(iterated, true, mask) < 0.8 * error(plain, true, mask)


def test_tv_reaches_the_minimum_that_another_solver_finds():
    generator = torch.Generator().manual_seed(0)
    shape = (10, 12, 8)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[2:8, 2:10, 2:6] = True
    weight = torch.where(mask, 0.5 + 0.5 * torch.rand(shape, generator=generator), 0.0)
    fourier = PaddedFourier(shape, (1.0, 1.0, 1.0), UP, 6)
    true = torch.where(mask, 0.1 * torch.randn(shape, generator=generator), 0.0)
    dipole = voxel_dipole(fourier)
    field = fourier.inverse(fourier.forward(true) * dipole)
    strength = 5e-4
    edges = [pairs_inside(mask, axis) for axis in range(3)]

    def objective(chi: torch.Tensor, smooth: float = 0.0) -> torch.Tensor:
        misfit = weight * (fourier.inverse(fourier.forward(chi) * dipole) - field)
        steps = [torch.where(edge, chi.roll(-1, axis) - chi, 0.0) for axis, edge in enumerate(edges)]
        gradient = torch.stack(steps)
        return 0.5 * misfit.square().sum() + strength * (gradient.square().sum(0) + smooth**2).sqrt().sum()

    free = torch.zeros(int(mask.sum()), requires_grad=True)
    solver = torch.optim.LBFGS([free], max_iter=300, history_size=20, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = objective(torch.zeros(shape).masked_scatter(mask, free), 1e-5)
        value.backward()
        return value

    solver.step(closure)
    best = float(objective(torch.zeros(shape).masked_scatter(mask, free.detach())))
    found = TV(strength, 2000, 0.0, 6)(field, mask, weight, (1.0, 1.0, 1.0), UP)
    assert float(objective(found)) <= 1.01 * best
    assert float(objective(torch.zeros(shape))) > 1.2 * best  # the minimum is no triviality


def test_a_single_step_finds_a_source_under_a_background_a_hundred_times_as_strong():
    true, mask = 0.1 * ball(4.0, (3, 0, 0)).float(), ball(15.0)
    total = (
        field_of((3, 0, 0), 4.0, 0.1)
        + field_of((0, 24, 0), 6.0, 9.4)
        + 0.05 * torch.from_numpy(positions(SHAPE, SPACING)[2]).float()
    )
    found = SingleStepTV([8, 4, 2], 4, 5e-5, 25, 0.0, 15)(total, mask, mask.float(), SPACING, UP)
    inside, outside = ball(3.0, (3, 0, 0)), mask & ~ball(6.0, (3, 0, 0))
    contrast = float(found[inside].mean() - found[outside].mean())
    assert contrast == pytest.approx(0.1, abs=0.015)
    local, known = VSHARP([8, 4, 2], 0.05, 4, 15)(total, mask, mask.float(), SPACING, UP)
    two_steps = TV(5e-5, 25, 0.0, 15)(local, known, known.float(), SPACING, UP)
    assert error(found, true, known) < 0.9 * error(two_steps, true, known)


def test_radii_that_name_none_are_refused():
    with refused("radii_mm", "one or more"):
        VSHARP([], 0.05, 4, 12)


def test_echoes_that_the_scan_lacks_are_refused():
    echoes = torch.ones(2, 4, 4, 4)
    with refused("2 echoes", "first_echo"):
        AverageOfMaps(3, 6)(echoes, echoes, echoes[0] > 0, [0.005, 0.01], SPACING, 3.0, pytest.fail)
