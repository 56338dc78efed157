"""R2*, T1, PD and B1 against exact signals and published numbers."""

import nibabel as nib
import numpy as np
import pytest
import torch
from refusal import refused

from scripts.reconstruction.r2star import ARLO, WeightedFit, noise_level, without_dephasing
from scripts.reconstruction.t1 import GivenB1, UniformReferenceB1, despot1

TIMES = [0.005, 0.010, 0.015, 0.020, 0.025, 0.030]
REPETITION = 0.036


def decay(rates: torch.Tensor, times=TIMES, amplitude: float = 100.0) -> torch.Tensor:
    return torch.stack([amplitude * torch.exp(-rates * t) for t in times])


def spoiled(t1: torch.Tensor, flip_deg: float, b1: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Steady state of a spoiled gradient echo."""
    angle, e1 = np.deg2rad(flip_deg) * torch.as_tensor(b1), torch.exp(-REPETITION / t1)
    return torch.sin(angle) * (1 - e1) / (1 - torch.cos(angle) * e1)


RATES = torch.tensor([5.0, 20.0, 45.0, 80.0, 150.0]).reshape(5, 1, 1)


@pytest.mark.parametrize(("method", "tolerance"), [(ARLO(3.0, 500.0), 2e-3), (WeightedFit(3.0, 500.0), 1e-4)])
def test_exact_exponentials_give_their_rate(method, tolerance):
    # Simpson's rule, on which ARLO rests, is off by (R2* dTE)^4 / 180
    assert torch.allclose(method(decay(RATES), TIMES, 0.0), RATES, rtol=tolerance)


def test_a_weighted_fit_takes_any_echo_times_and_arlo_says_that_it_does_not():
    uneven = [0.004, 0.006, 0.013, 0.020]
    assert torch.allclose(WeightedFit(3.0, 500.0)(decay(RATES, uneven), uneven, 0.0), RATES, rtol=1e-4)
    with refused("evenly spaced", "WeightedFit"):
        ARLO(3.0, 500.0)(decay(RATES, uneven), uneven, 0.0)


@pytest.mark.parametrize("method", [ARLO, WeightedFit])
def test_echoes_in_the_noise_do_not_flatten_a_fast_decay(method):
    rng = np.random.default_rng(0)
    true = decay(torch.full((40, 40, 20), 180.0)).numpy()
    noisy = torch.from_numpy(np.abs(true + rng.normal(0, 2, true.shape) + 1j * rng.normal(0, 2, true.shape))).float()
    respected = float(method(3.0, 500.0)(noisy, TIMES, 2.0).mean())
    ignored = float(method(0.0, 500.0)(noisy, TIMES, 0.0).mean())
    assert respected == pytest.approx(180.0, rel=0.05)
    assert abs(respected - 180.0) < 0.7 * abs(ignored - 180.0)


def test_the_noise_level_is_read_from_the_air():
    rng = np.random.default_rng(0)
    head = np.zeros((40, 40, 40))
    head[10:30, 10:30, 10:30] = 300.0
    image = torch.from_numpy(np.abs(head + rng.normal(0, 2, head.shape) + 1j * rng.normal(0, 2, head.shape)))
    assert noise_level(image, torch.from_numpy(head > 0)) == pytest.approx(2.0, rel=0.02)
    assert noise_level(torch.from_numpy(head), torch.from_numpy(head > 0)) == 0.0


def test_signal_lost_by_a_slope_of_the_field_through_the_slice_is_restored():
    slices = torch.arange(12.0).expand(6, 6, 12)
    field = 20.0 * slices  # Hz, 20 Hz a slice
    true = decay(torch.full((6, 6, 12), 20.0))
    seen = torch.stack([image * np.sinc(20.0 * t) for image, t in zip(true, TIMES, strict=True)])
    found = without_dephasing(seen, field, slices >= 0, TIMES, 2, 0.2)[:, :, :, 1:-1]
    assert torch.allclose(found, true[:, :, :, 1:-1], rtol=1e-5)


T1 = torch.tensor([0.4, 0.878, 1.3, 2.5, 4.0]).reshape(5, 1, 1)


@pytest.mark.parametrize("angles", [(6.0, 24.0), (4.0, 10.0, 24.0)])
def test_despot1_is_exact_without_noise(angles):
    signals = torch.stack([1000 * spoiled(T1, a) for a in angles])
    t1, pd = despot1(signals, angles, REPETITION, 1.0, 10.0)
    assert torch.allclose(t1, T1, rtol=2e-3)
    assert torch.allclose(pd, torch.full_like(T1, 1000.0), rtol=2e-3)


def test_a_flip_angle_ten_per_cent_too_large_moves_white_matter_as_published_and_b1_brings_it_back():
    signals = torch.stack([spoiled(T1, a, 1.1) for a in (6.0, 24.0)])
    wrong, _ = despot1(signals, (6.0, 24.0), REPETITION, 1.0, 10.0)
    assert float(wrong[1]) == pytest.approx(1.071, rel=0.01)
    right, _ = despot1(signals, (6.0, 24.0), REPETITION, 1.1, 10.0)
    assert float(right[1]) == pytest.approx(0.878, rel=2e-3)


@pytest.mark.parametrize("white", [0.45, 0.15])
def test_a_smooth_b1_is_found_from_the_tissues_alone(white):
    """Also where there is little white matter, in the outer half of the volume, as in the cortex."""
    rng = np.random.default_rng(0)
    shape = (30, 32, 24)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    b1 = torch.from_numpy((1.05 - 0.12 * (x**2 + y**2) + 0.04 * z).astype(np.float32))
    tissue = rng.random(shape)
    share = np.where(x**2 + y**2 < 0.5, 0.45, white)
    t1 = torch.from_numpy(np.where(tissue < share, 0.878, np.where(tissue < 0.85, 1.4, 3.5)).astype(np.float32))
    signals = torch.stack([spoiled(t1, a, b1) for a in (6.0, 24.0)]) * (1 + 0.01 * torch.randn(2, *shape))
    mask = torch.ones(shape, dtype=torch.bool)
    found = UniformReferenceB1(0.878, 1.33, 4.0, 3, 40)(signals, (6.0, 24.0), REPETITION, mask, ())
    assert float((found - b1).abs().mean()) < 0.015
    assert float((found - b1).abs().mean()) < 0.3 * float((1 - b1).abs().mean())


@pytest.mark.parametrize(("stored", "read"), [(1.1, 1.1), (90.0, 0.9)])
def test_a_given_b1_map_is_taken_as_ratio_or_per_cent(tmp_path, stored, read):
    path = tmp_path / "b1.nii.gz"
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), stored, np.float32), np.eye(4)), path)
    box = (slice(0, 4),) * 3
    found = GivenB1(str(path))(torch.ones(2, 4, 4, 4), (6, 24), REPETITION, torch.ones(4, 4, 4, dtype=torch.bool), box)
    assert found.shape == (4, 4, 4)
    assert float(found[0, 0, 0]) == pytest.approx(read)


def test_a_b1_map_in_another_unit_is_refused(tmp_path):
    path = tmp_path / "b1.nii.gz"
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), 900.0, np.float32), np.eye(4)), path)
    with refused(path, "900"):
        GivenB1(str(path))(
            torch.ones(2, 8, 8, 8), (6, 24), REPETITION, torch.ones(8, 8, 8, dtype=torch.bool), (slice(None),) * 3
        )
