"""Unwrapping: whole turns and nothing else, on measured and on written-down phase."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.reconstruction.combine import CombinedField, phase_to_ppm
from scripts.reconstruction.mask import phase_roughness, without_islands
from scripts.reconstruction.phase import scale_phase
from scripts.reconstruction.unwrap import EchoToEcho, PerEcho, wrap

DATA = Path(__file__).resolve().parents[1] / "data" / "romeo_small"
TIMES = [0.005, 0.010, 0.015, 0.020]


@pytest.fixture(scope="module")
def measured() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Phase (rad) and magnitude `[3, X, Y, Z]` of the crop of a head at 7 T, and a mask of good phase."""
    phase, magnitude = (
        torch.from_numpy(np.moveaxis(nib.load(DATA / f"{name}.nii").get_fdata(dtype=np.float32), 3, 0).copy())
        for name in ("Phase", "Mag")
    )
    phase = torch.from_numpy(scale_phase(phase.numpy(), "arbitrary", ["Phase.nii"] * len(phase)).phase)
    good = (magnitude[0] > 0.2 * magnitude[0].median()) & (phase_roughness(phase[1]) < 1.0)
    return phase, magnitude, torch.from_numpy(without_islands(good.numpy(), 2000)) & good


@pytest.mark.parametrize("method", [EchoToEcho(6.0, 2.0), PerEcho()], ids=["echo to echo", "per echo"])
def test_measured_phase_gets_whole_turns(measured, method):
    phase, magnitude, mask = measured
    unwrapped, _ = method(phase, magnitude, mask, [0.004, 0.008, 0.012], (0.47, 0.47, 1.0))
    turns = (unwrapped - phase)[:, mask] / (2 * np.pi)
    assert float((turns - turns.round()).abs().max()) < 1e-4
    assert float(turns.round().abs().max()) >= 1  # there was something to unwrap
    assert not unwrapped[:, ~mask].any()


def test_measured_phase_has_no_jump_that_the_raw_phase_did_not_have(measured):
    phase, magnitude, mask = measured
    unwrapped, _ = EchoToEcho(6.0, 2.0)(phase, magnitude, mask, [0.004, 0.008, 0.012], (0.47, 0.47, 1.0))
    for axis in range(3):
        both = mask.narrow(axis, 1, mask.shape[axis] - 1) & mask.narrow(axis, 0, mask.shape[axis] - 1)
        jump = unwrapped[0].diff(dim=axis).abs() > np.pi
        assert not (jump & both & (phase[0].diff(dim=axis).abs() <= np.pi)).any()


@pytest.fixture(scope="module")
def written() -> dict[str, torch.Tensor]:
    """A field with steep flanks, a phase offset of the coils, and noise."""
    generator = torch.Generator().manual_seed(0)
    x, y, z = (a.float() for a in torch.meshgrid(*(torch.arange(n) for n in (40, 42, 24)), indexing="ij"))
    field = 12.0 * x + 150.0 * torch.exp(-((x - 30) ** 2 + (y - 30) ** 2 + (z - 12) ** 2) / 60)  # Hz
    offset = 1.5 + 0.08 * y - 0.02 * z
    true = torch.stack([offset + 2 * np.pi * field * t for t in TIMES])
    noisy = true + 0.05 * torch.randn(true.shape, generator=generator)
    return {"field": field, "true": noisy, "wrapped": wrap(noisy), "mask": torch.ones(40, 42, 24, dtype=torch.bool)}


def test_every_turn_of_every_echo_is_found(written):
    ones = torch.ones_like(written["true"])
    unwrapped, _ = EchoToEcho(8.0, 2.0)(written["wrapped"], ones, written["mask"], TIMES, (1.0, 1.0, 1.0))
    turns = ((unwrapped - written["true"]) / (2 * np.pi)).round()
    for echo in turns:
        assert float((echo != echo.mode().values.mode().values.mode().values).float().mean()) <= 3e-5


@pytest.mark.parametrize("ramp", [0.0, 0.9], ids=["", "and an echo off its centre"])
def test_poles_of_the_coils_phase_leave_the_field_as_it_is(written, ramp):
    x, y, z = (a.float() for a in torch.meshgrid(*(torch.arange(n) for n in (40, 42, 24)), indexing="ij"))
    poles = torch.atan2(y - 20.5, x - 12.3) - torch.atan2(y - 15.5, x - 27.3 - 0.2 * z) + ramp * x
    ones, mask = torch.ones_like(written["true"]), written["mask"]
    field = {}
    for name, extra in (("without", 0.0), ("with", poles)):
        unwrapped, corrected = EchoToEcho(8.0, 2.0)(wrap(written["true"] + extra), ones, mask, TIMES, (1.0, 1.0, 1.0))
        assert any("poles" in line for line in corrected) == (name == "with")
        field[name], weight = CombinedField(8.0, 0.6).field(unwrapped, ones, mask, TIMES, (1.0, 1.0, 1.0))
    trusted = weight > 0
    assert trusted.float().mean() > 0.9  # all but a tube around each pole
    off = (field["with"] - field["without"])[trusted] / (2 * np.pi)
    assert off.abs().median() < 0.5  # Hz
    assert off.abs().quantile(0.98) < 12.0


def test_the_combined_field_is_free_of_the_coils_phase(written):
    ones = torch.ones_like(written["true"])
    mask = written["mask"]
    unwrapped, _ = EchoToEcho(8.0, 2.0)(written["wrapped"], ones, mask, TIMES, (1.0, 1.0, 1.0))
    field, _ = CombinedField(8.0, 1.0).field(unwrapped, ones, mask, TIMES, (1.0, 1.0, 1.0))
    difference = (field / (2 * np.pi) - written["field"])[4:-4, 4:-4, 4:-4]
    assert float(difference.std()) < 1.0  # Hz; 0.05 rad of noise in a single echo of 20 ms is 0.4 Hz


def test_phase_becomes_parts_per_million_of_the_main_field():
    # 1 ppm at 3 T is 127.73 Hz: a whole turn in 7.829 ms
    assert float(phase_to_ppm(torch.tensor(2 * np.pi), 1 / 127.732435554, 3.0)) == pytest.approx(1.0)
