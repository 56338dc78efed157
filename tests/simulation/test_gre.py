"""The scanner's signal: closed forms, decay, noise, dephasing, phase, motion. On a ball instead of a head."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scripts.simulation.gre import GAMMA_MHZ_PER_T, Sequence, scan, spoiled_gre, transmit_field
from scripts.simulation.head import AIR_PPM, DigitalHead, Grid, scan_affine

QUIET = Sequence(
    echo_times_s=(0.005, 0.010, 0.020),
    flip_angles_deg=(6, 24),
    repetition_time_s=0.036,
    field_strength_t=3.0,
    snr=0.0,
    shim_order=-1,
    b1_deviation=0.0,
    receive_coils=0,
    receive_phase_rad=0.0,
    phase_sign=1,
    dephasing=False,
    motion_events=0,
    motion_mm=0.0,
    motion_deg=0.0,
)


def ball(radius_mm=30.0, chi_ppm=0.0, supersampling=(1, 1, 1), fov_mm=80.0, spacing=4.0):
    """A ball of white matter with R2* 20 1/s, T1 0.85 s, proton density 0.7, in air."""
    n = round(fov_mm / spacing)
    grid = Grid((n, n, n), scan_affine((n, n, n), (spacing,) * 3, (0, 0, 0)), supersampling)
    affine = grid.fine_affine
    axes = [affine[a, a] * np.arange(m) + affine[a, 3] for a, m in enumerate(grid.shape)]
    r = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    tissue = torch.from_numpy(r < radius_mm)
    inside = tuple(slice(a, b) for a, b in grid.target)
    here = tissue[inside]
    return DigitalHead(
        grid,
        torch.where(tissue, chi_ppm, AIR_PPM),
        20.0 * here,
        torch.where(here, 0.85, 1.0),
        0.7 * here,
        here.float(),
        here,
        torch.zeros((4, *here.shape)),
        here,
    )


@pytest.fixture(scope="module")
def quiet():
    head = ball()
    return head, scan(np.random.default_rng(0), head, QUIET)


def inner(head):
    """Well inside the ball."""
    return torch.nn.functional.avg_pool3d(head.brain[None].float(), 3, 1, 1)[0] > 0.99


def test_spoiled_gre_is_largest_at_the_ernst_angle_and_matches_its_closed_form():
    t1, tr = torch.tensor(0.85), 0.036
    angles = torch.linspace(1, 60, 5901)
    best = angles[spoiled_gre(torch.tensor(1.0), t1, angles, tr).argmax()]
    e1 = np.exp(-tr / 0.85)
    assert float(best) == pytest.approx(np.rad2deg(np.arccos(e1)), abs=0.05)
    # At the Ernst angle the signal is sqrt((1 - E1) / (1 + E1)).
    assert float(spoiled_gre(torch.tensor(1.0), t1, float(best), tr)) == pytest.approx(
        np.sqrt((1 - e1) / (1 + e1)), rel=1e-5
    )


def test_two_flip_angles_give_t1_back(quiet):
    """DESPOT1: S/sin against S/tan is a line of slope exp(-TR/T1)."""
    head, result = quiet
    s = result.signal[:, 0].abs()[:, inner(head)].double()
    a, b = np.deg2rad(QUIET.flip_angles_deg)
    slope = (s[1] / np.sin(b) - s[0] / np.sin(a)) / (s[1] / np.tan(b) - s[0] / np.tan(a))
    assert (-0.036 / torch.log(slope)).numpy() == pytest.approx(0.85, rel=1e-4)


def test_decay_without_noise_is_r2star(quiet):
    head, result = quiet
    s = result.signal[0].abs()[:, inner(head)]
    assert (torch.log(s[0] / s[2]) / 0.015).numpy() == pytest.approx(20.0, rel=1e-4)


def test_phase_is_the_field_times_echo_time_wrapped(quiet):
    head, result = quiet
    assert result.total_hz[inner(head)].abs().max() < 200
    for e, time in enumerate(QUIET.echo_times_s):
        phase = result.signal[1, e].angle()
        assert phase.abs().max() <= np.pi + 1e-6
        turns = (phase - 2 * np.pi * result.total_hz * time)[head.brain] / (2 * np.pi)
        assert (turns - turns.round()).abs().max() < 1e-3
    other = scan(np.random.default_rng(0), head, replace(QUIET, phase_sign=-1))
    torch.testing.assert_close(other.signal, result.signal.conj())


def test_field_scales_with_the_main_field_and_local_field_is_that_of_the_brain_alone(quiet):
    head, result = quiet
    weak = scan(np.random.default_rng(0), head, replace(QUIET, field_strength_t=1.5))
    torch.testing.assert_close(2 * weak.total_hz, result.total_hz, rtol=1e-4, atol=1e-3)
    assert result.local_hz.abs().max() == 0  # water in water
    iron = scan(np.random.default_rng(0), ball(chi_ppm=0.1), QUIET)
    # Outside, each voxel is a point dipole: summed one by one.
    axis = 4.0 * (np.arange(20) - 9.5)
    away = np.array([axis[10], axis[8], axis[19]]) - axis[np.argwhere(head.brain.numpy())]
    r = np.linalg.norm(away, axis=1)
    ppm = 0.1 * 4.0**3 / (4 * np.pi) * ((3 * (away[:, 2] / r) ** 2 - 1) / r**3).sum()
    assert float(iron.local_hz[10, 8, 19]) == pytest.approx(ppm * GAMMA_MHZ_PER_T * 3.0, rel=2e-3)


def test_phase_of_thick_slices_is_that_of_the_mean_field():
    head = ball(chi_ppm=0.1, supersampling=(1, 1, 2))
    result = scan(np.random.default_rng(0), head, QUIET)
    brain = torch.nn.functional.avg_pool3d(head.brain[None].float(), (1, 1, 2))
    # At the rim the field jumps by hundreds of Hz within a voxel, and a mean says nothing.
    inside = torch.nn.functional.avg_pool3d(brain, 5, 1, 2)[0] > 0.99
    turned = (result.signal[0, 1] * result.signal[0, 0].conj()).angle() / (2 * np.pi * 0.005)
    assert inside.sum() > 100
    assert (turned - result.total_hz)[inside].abs().max() < 0.5


def test_noise_is_what_the_snr_says(quiet):
    head, clean = quiet
    noisy = scan(np.random.default_rng(0), head, replace(QUIET, snr=50.0))
    difference = torch.view_as_real(noisy.signal - clean.signal)
    white = float(clean.signal[0, 0].abs()[head.wm > 0.9].mean())
    assert difference.std(dim=(2, 3, 4)).numpy() == pytest.approx(white / 50.0, rel=0.03)
    assert difference.mean().abs() < 4 * white / 50.0 / np.sqrt(difference.numel())
    assert noisy.noise_sd == pytest.approx(white / 50.0)


def test_same_seed_same_signal_and_another_seed_another():
    head = ball(spacing=8.0)
    sequence = replace(QUIET, snr=50.0, b1_deviation=0.1, receive_coils=8, receive_phase_rad=1.0)
    first, again, other = (scan(np.random.default_rng(s), head, sequence).signal for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_slope_inside_a_voxel_weakens_it_as_fine_voxels_do():
    """The sinc of one coarse voxel against the sum over ten fine ones, in a linear field along slices."""
    from scripts.simulation.gre import _echoes

    n, slope_hz = 6, 25.0  # per coarse voxel
    sums = []
    for parts in (1, 10):
        grid = Grid((n, n, n), scan_affine((n, n, n), (2.0,) * 3, (0, 0, 0)), (1, 1, parts))
        size = (n, n, n * parts)
        one = torch.ones(size)
        head = DigitalHead(grid, one, 0 * one, one, one, one, one > 0, one[None], one > 0)
        field = (slope_hz / parts * torch.arange(n * parts, dtype=torch.float32)).expand(size)
        sums.append(_echoes(head, field, torch.ones(n, n, n), replace(QUIET, dephasing=parts == 1)).abs()[..., 2, 2, 2])
    bare = spoiled_gre(torch.tensor(1.0), torch.tensor(1.0), 6.0, 0.036)
    expected = bare * np.sinc(slope_hz * np.array(QUIET.echo_times_s))
    assert sums[0][0].numpy() == pytest.approx(expected, rel=1e-4)
    assert sums[1][0].numpy() == pytest.approx(expected, rel=5e-3)


def test_thinner_slices_with_a_gap_lose_less_to_a_slope_across_them():
    """The mean over the fine voxels of 60 % of each slice, against the sinc of 60 % of the slope."""
    from scripts.simulation.gre import _echoes

    n, parts, slope_hz = 6, 15, 25.0
    grid = Grid((n, n, n), scan_affine((n, n, n), (2.0,) * 3, (0, 0, 0)), (1, 1, parts), 0.6)
    assert grid.slice_thickness_mm == pytest.approx(1.2)
    size = (n, n, n * parts)
    one = torch.ones(size)
    head = DigitalHead(grid, one, 0 * one, one, one, one, one > 0, one[None], one > 0)
    field = (slope_hz / parts * torch.arange(n * parts, dtype=torch.float32)).expand(size)
    found = _echoes(head, field, torch.ones(n, n, n), replace(QUIET, dephasing=False)).abs()[0, :, 2, 2, 2]
    bare = spoiled_gre(torch.tensor(1.0), torch.tensor(1.0), 6.0, 0.036)
    assert found.numpy() == pytest.approx(bare * np.sinc(0.6 * slope_hz * np.array(QUIET.echo_times_s)), rel=5e-3)


def test_transmit_field_has_the_deviation_asked_for():
    head = ball()
    b1 = transmit_field(np.random.default_rng(3), head.brain, head.grid.affine, 0.15)
    assert float(b1[head.brain].mean()) == pytest.approx(1.0, abs=1e-3)
    assert float((b1[head.brain] - 1).abs().max()) == pytest.approx(0.15, abs=1e-3)
    tilted = scan(np.random.default_rng(3), head, replace(QUIET, b1_deviation=0.15))
    ratio = tilted.signal[0, 0].abs() / spoiled_gre(torch.tensor(0.7), torch.tensor(0.85), 6.0 * tilted.b1, 0.036)
    assert ratio[inner(head)].numpy() == pytest.approx(np.exp(-0.005 * 20), rel=1e-4)


def test_motion_ghosts_along_phase_encoding_and_keeps_the_energy_of_a_shift():
    head = ball()
    still = scan(np.random.default_rng(0), head, QUIET).signal
    moved = scan(np.random.default_rng(0), head, replace(QUIET, motion_events=3, motion_mm=4.0)).signal
    assert not torch.allclose(still, moved, atol=1e-4)
    air = ~(torch.nn.functional.max_pool3d(head.brain[None].float(), 5, 1, 2)[0] > 0)
    assert moved[0, 0].abs()[air].mean() > 5e-4 > still[0, 0].abs()[air].max()
    stay = scan(np.random.default_rng(0), head, replace(QUIET, motion_events=3)).signal
    torch.testing.assert_close(stay, still, rtol=1e-3, atol=1e-5)
