"""Echoes that cannot be what they are called: scales, slices, noise and voxel sizes."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blobs import REPOSITORY
from raw_head import affine, echoes
from refusal import refused
from scipy import ndimage

from scripts.errors import InputError
from scripts.files.nifti import read_voxels
from scripts.reconstruction.bids import common_units
from scripts.reconstruction.checks import check_map, check_slices
from scripts.reconstruction.consistency import check_echoes_agree
from scripts.reconstruction.filtered import check_not_filtered
from scripts.reconstruction.phase import check_not_noise, scale_phase, turn_slices_back
from scripts.reconstruction.places import check_in_one_piece, check_same_place
from scripts.reconstruction.raw import (
    Acquisition,
    RawScan,
    Volume,
    check_echo_times,
    check_scan,
    load_echoes,
    normalise,
    one_largest,
    repetition_notes,
)

FILES = ["p.nii.gz", "p2.nii.gz", "p3.nii.gz"]


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """Complex echoes of the head of spheres, three of them."""
    return echoes(24, np.random.default_rng(0))[:3]


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of two phases around the circle."""
    return abs(np.angle(np.exp(1j * (a - b))))


@pytest.mark.parametrize(
    "stored",
    [
        lambda p: np.round(p / np.pi * 4096).clip(-4096, 4094),  # Siemens
        lambda p: np.floor((p + np.pi) / (2 * np.pi) * 4096).clip(0, 4095),  # a scanner's whole numbers
        lambda p: np.round(1000 * p),  # Philips and GE, milliradians
        lambda p: np.degrees(p),
        lambda p: p % (2 * np.pi),
        lambda p: p / np.pi,
    ],
    ids=["siemens", "0..4095", "milliradians", "degrees", "0..2 pi", "-1..1"],
)
@pytest.mark.parametrize("odd", [0.0, 30.0], ids=["clean", "one voxel far off"])
def test_scanners_scales_are_known_and_one_voxel_changes_nothing(signal, stored, odd):
    phase = np.angle(signal).astype(np.float32)
    given = stored(phase).astype(np.float32)
    if odd:
        given[:, 3, 4, 5] += odd * given.max()
    scaled = scale_phase(given, "", FILES)
    difference = apart(scaled.phase, phase)
    difference[:, 3, 4, 5] = 0
    assert difference.max() < 0.005
    assert abs(scaled.phase).max() < 3.1416
    assert len(scaled.warnings) == (odd > 0)


@pytest.mark.parametrize(
    ("units", "turn"), [("deg", 360), ("Degrees", 360), ("mrad", 2000 * np.pi), ("radians", 2 * np.pi)]
)
@pytest.mark.parametrize("low", [0, -0.5])
def test_a_phase_in_a_unit_that_its_sidecar_names_is_converted(signal, units, turn, low):
    phase = np.angle(signal)
    given = ((phase / (2 * np.pi) - low) % 1 + low) * turn
    assert apart(scale_phase(given.astype(np.float32), units, FILES).phase, phase).max() < 1e-3


@pytest.mark.parametrize(
    ("units", "factor", "said"),
    [
        ("deg", 4096 / np.pi, "more than one wrap"),
        ("rad", 180 / np.pi, "more than one wrap"),
        ("deg", 1.0, "where deg has 360 a turn"),
        ("Hz", 1.0, "Units 'hz', but a phase"),
        ("ppm", 1.0, "Units 'ppm', but a phase"),
    ],
)
def test_a_unit_of_the_phase_that_cannot_be_is_refused(signal, units, factor, said):
    with refused(FILES[0], said):
        scale_phase((np.angle(signal) * factor).astype(np.float32), units, FILES)


def test_echoes_whose_sidecars_name_different_units_are_refused():
    files = [Path(f"sub-01_echo-{echo}_part-phase_MEGRE.nii.gz") for echo in (1, 2)]
    assert common_units([(files[0], {}), (files[1], {"Units": " rad"})]) == "rad"
    with refused(files[1], "'arbitrary'", "'rad'", files[0]):
        common_units([(files[0], {"Units": "rad"}), (files[1], {"Units": "arbitrary"})])


def test_an_unknown_scale_is_said(signal):
    scaled = scale_phase((np.angle(signal) * 7.7).astype(np.float32), "", FILES)
    assert "no scale that we know" in scaled.warnings[0]


def test_signed_values_declared_unsigned_are_refused(signal):
    signed = np.round(np.angle(signal) / np.pi * 4096).astype(np.int16)
    with refused("p.nii.gz", "signed values declared unsigned"):
        scale_phase(signed.view(np.uint16).astype(np.float32), "", FILES)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_alternate_slices_are_turned_back(signal, axis):
    phase, magnitude = np.angle(signal).astype(np.float32), abs(signal).astype(np.float32)
    untouched = phase.copy()
    assert turn_slices_back(untouched, magnitude) == []
    assert np.array_equal(untouched, phase)
    turned = np.angle(np.exp(1j * (phase + np.pi * (np.indices(phase.shape[1:])[axis] % 2)))).astype(np.float32)
    (line,) = turn_slices_back(turned, magnitude)
    assert f"axis {'ijk'[axis]}" in line
    difference = apart(turned, phase)[:, magnitude[0] > 0.1 * magnitude.max()]
    assert np.median(difference) < 0.01 or np.median(abs(difference - np.pi)) < 0.01


def test_a_steep_field_is_not_taken_for_turned_slices(signal):
    magnitude = abs(signal).astype(np.float32)
    slices = np.indices(magnitude.shape[1:])[2]
    for steep in (1.0, 1.8):  # rad a slice at the first echo, twice that at the second
        phase = np.stack([np.angle(np.exp(1j * steep * n * slices)) for n in (1, 2, 3)]).astype(np.float32)
        assert turn_slices_back(phase, magnitude) == []


def made(signal: np.ndarray, magnitude: np.ndarray | None = None, flip_angle_deg: float = 20.0) -> Acquisition:
    """An acquisition of the head of spheres, perhaps with another magnitude."""
    parts = (np.abs(signal) if magnitude is None else magnitude, np.angle(signal))
    first, second = (
        [
            Volume(f"{name}{n}", array=e.astype(np.float32), affine=np.diag([2.0, 2, 2, 1]))
            for n, e in enumerate(part, 1)
        ]
        for name, part in zip(("m", "p"), parts, strict=True)
    )
    times = [0.005 * n for n in range(1, len(signal) + 1)]
    return Acquisition(("mag", "phase"), first, second, times, flip_angle_deg, 0.036, 3.0)


def test_a_repetition_before_the_last_echo_is_spoken_of(signal):
    acquisition = made(signal)
    assert repetition_notes(acquisition) == []
    last = max(acquisition.echo_times_s)
    (line,) = repetition_notes(dataclasses.replace(acquisition, repetition_time_s=last))
    assert "RepetitionTimeExcitation" in line and "--repetition_time_s" in line


def test_echoes_that_were_scaled_each_on_its_own_are_refused(signal):
    grown = np.abs(signal)
    grown[2] *= 5
    with refused("m3", "echo 3", "signal decays"):
        load_echoes(made(signal, grown), 1)
    grown[2] /= 5
    grown[1, 3, 4, 5] *= 1e6  # one voxel is another fault
    load_echoes(made(signal, grown), 1)


def test_echoes_of_one_largest_value_are_spoken_of_unless_their_range_was_cut(signal):
    magnitude = np.abs(signal)
    each = magnitude.max((1, 2, 3), keepdims=True)
    scaled = load_echoes(made(signal, np.round(magnitude / each * 4095)), 1)
    assert any("largest value of all 3 echoes" in line for line in scaled.warnings)
    assert one_largest(np.minimum(magnitude, 0.5 * each.min())) == []


def test_echoes_in_reverse_order_are_refused(signal):
    with refused("m1", "grows", "reverse order", "--echo_times_s"):
        load_echoes(made(signal, np.abs(signal)[::-1]), 1)
    late = np.abs(signal) * np.array([1.0, 1.6, 1.5])[:, None, None, None]
    with refused("m1", "grows with echo time", "one scale"):
        load_echoes(made(signal, late), 1)


def test_an_echo_brighter_than_the_one_before_it_is_said(signal):
    magnitude = np.abs(signal)
    magnitude[2] *= 1.2  # 20/s lets 10 % decay from echo to echo
    (line,) = load_echoes(made(signal, magnitude), 1).warnings
    assert line.startswith("Echo 3 (15 ms) is 9 % brighter")
    magnitude[2] /= 1.2
    assert load_echoes(made(signal, magnitude), 1).warnings == []


@pytest.mark.parametrize(("stored", "span"), [(1 / np.pi, "2,"), (0.5 / np.pi, "")])
@pytest.mark.parametrize("echo", [0, 1])
@pytest.mark.parametrize("blanked", [False, True], ids=["noise around", "blank around"])
def test_a_phase_in_radians_that_wraps_at_less_than_a_turn_is_refused(signal, stored, span, echo, blanked):
    phase = np.angle(signal * np.exp(2j)).astype(np.float32)
    if blanked:
        phase[:, abs(signal[0]) < 0.5 * abs(signal[0]).max()] = 0
    assert scale_phase(phase, "rad", FILES).warnings == []
    phase[echo] *= stored
    with refused(f"{FILES[echo]}: phase from -", f"wraps within {span}", "correct Units"):
        scale_phase(phase, "rad", FILES)


def test_a_phase_that_never_wraps_may_span_less_than_a_turn(signal):
    inside = abs(signal[0]) > 0.5 * abs(signal[0]).max()
    x = np.linspace(1, 2, signal.shape[1])[:, None, None]
    phase = np.stack([np.where(inside, n * x, 0) for n in (0.5, 1.0, 1.5)]).astype(np.float32)
    assert np.array_equal(scale_phase(phase, "rad", FILES).phase, phase)
    assert apart(scale_phase(np.degrees(phase), "deg", FILES).phase, phase).max() < 1e-5


def test_the_echo_whose_phase_has_another_scale_is_named(signal):
    phase = np.angle(signal).astype(np.float32)
    phase[1] *= 4096 / np.pi
    for units, words in (("rad", "more than one wrap"), ("", "ranges of phase differ")):
        with refused(FILES[1], words):
            scale_phase(phase, units, FILES)


def test_an_echo_of_one_value_is_refused(signal):
    flat = np.abs(signal)
    flat[1] = 7
    with refused("m2", "7 throughout"):
        load_echoes(made(signal, flat), 1)


def test_a_flip_angle_in_radians_is_refused(signal):
    scan = RawScan("sub-01", "sub-01", "sub-01/anat", [made(signal, flip_angle_deg=0.35)])
    with refused("FlipAngle 0.35", "degrees"):
        check_scan(scan)


def test_noise_is_refused(signal):
    magnitude = abs(signal).astype(np.float32)
    check_not_noise(np.angle(signal).astype(np.float32), magnitude, FILES)
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, signal.shape).astype(np.float32)
    with refused("p.nii.gz", "noise"):
        check_not_noise(noise, magnitude, FILES)


@pytest.mark.parametrize("echo", [0, 1, 2])
def test_one_echo_of_noise_is_refused_unless_its_signal_is_gone_too(signal, echo):
    phase, magnitude = np.angle(signal).astype(np.float32), abs(signal).astype(np.float32)
    phase[echo] = np.random.default_rng(0).uniform(-np.pi, np.pi, phase[echo].shape)
    with refused(FILES[echo], f"echo {echo + 1} is noise"):
        check_not_noise(phase, magnitude, FILES)
    magnitude[echo] /= 30
    check_not_noise(phase, magnitude, FILES)


TIMES = [0.005, 0.01, 0.015]


def real_heads() -> dict[str, tuple[np.ndarray, np.ndarray, list[float], list[float]]]:
    """Phase, magnitude, echo times and voxel size: two real heads, and that of spheres."""
    folder = REPOSITORY / "tests" / "data"
    mag, stored = (np.moveaxis(read_voxels(folder / "romeo_small" / f"{n}.nii")[0], -1, 0) for n in ("Mag", "Phase"))
    head = [[read_voxels(folder / "philips_head" / f"philips_{p}{n}.nii.gz")[0] for n in (1, 2)] for p in ("ph", "mag")]
    spheres = echoes(24, np.random.default_rng(0))
    return {
        "7 T": (scale_phase(stored, "", 3 * ["p"]).phase, mag, [0.004, 0.008, 0.012], [0.47, 0.47, 1.0]),
        "3 T, two echoes": (np.stack(head[0]), np.stack(head[1]), [0.0023, 0.0046], [3.0, 3.0, 3.0]),
        "spheres": (np.angle(spheres[:3]).astype(np.float32), abs(spheres[:3]).astype(np.float32), TIMES, [3.0] * 3),
    }


@pytest.fixture(scope="module")
def heads():
    return real_heads()


@pytest.mark.parametrize("which", ["7 T", "3 T, two echoes", "spheres"])
def test_echoes_of_a_head_agree_and_a_negated_one_is_refused_or_said(heads, which):
    phase, magnitude, times, spacing = heads[which]
    assert check_echoes_agree(phase, magnitude, times, spacing, FILES) == []
    check_not_noise(phase, magnitude, FILES)
    ramp = np.linspace(0, 3, phase.shape[1])[:, None, None] * np.array([1, -1, 1])[: len(phase), None, None, None]
    bipolar = np.angle(np.exp(1j * (phase + ramp))).astype(np.float32)
    assert check_echoes_agree(bipolar, magnitude, times, spacing, FILES) == []
    for echo in range(len(phase)):
        negated = phase.copy()
        negated[echo] *= -1
        try:
            (line,) = check_echoes_agree(negated, magnitude, times, spacing, FILES)
        except InputError as error:
            line = str(error)
            assert FILES[echo] in line or len(phase) == 2
        assert "runs against that of the others" in line and "negated" in line
        assert f"echo {echo + 1} " in line or len(phase) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda phase: phase[:, ::-1], "mirrored along j"),
        (lambda phase: phase[:, :, ::-1], "mirrored along k"),
        (lambda phase: np.roll(phase, 10, 0), "shifted along i by 10"),
        (lambda phase: np.flip(phase, (1, 2)), "mirrored along j and k"),
        (lambda phase: phase[::-1], "mirrored along i"),  # a head is nearly symmetric
        (lambda phase: np.roll(phase, 3, 1), "shifted along j by 3"),
        (lambda phase: np.roll(phase, phase.shape[2] // 2, 2), "shifted along k"),  # its halves changed places
    ],
)
def test_a_phase_in_another_place_than_its_magnitude_is_refused(heads, change, said):
    for phase, magnitude, *_ in heads.values():
        for of_echo, bright in zip(phase, magnitude, strict=True):
            check_same_place(of_echo, bright, "p.nii.gz")
    phase, magnitude, *_ = heads["3 T, two echoes"]
    with refused("p.nii.gz", "lies elsewhere", said):
        check_same_place(change(phase[0]), magnitude[0], "p.nii.gz")


def test_a_brain_cut_out_of_one_image_alone_is_not_elsewhere(heads):
    phase, magnitude, *_ = heads["3 T, two echoes"]
    inside = sum(n**2 for n in np.ogrid[-1:1:64j, -1:1:76j, -1:1:49j]) < 0.4
    check_same_place(phase[0], np.where(inside, magnitude[0], 0), "p.nii.gz")
    check_same_place(np.where(inside, phase[0], 0), magnitude[0], "p.nii.gz")


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1)])
def test_images_whose_halves_changed_places_are_refused(heads, axes):
    for _, magnitude, *_ in heads.values():
        check_in_one_piece(magnitude[0], "m.nii.gz")
    _, magnitude, *_ = heads["3 T, two echoes"]
    with refused("m.nii.gz", f"halves along {' and '.join('ijk'[axis] for axis in axes)} changed places", "fftshift"):
        check_in_one_piece(np.fft.fftshift(magnitude[0], axes), "m.nii.gz")


@pytest.mark.parametrize("width", [24, 48])
def test_a_phase_that_was_filtered_as_for_swi_is_said(heads, width):
    for phase, magnitude, times, spacing in heads.values():
        assert check_not_filtered(phase[-1], magnitude[-1], spacing, times[-1], 3.0) == []
    phase, magnitude, times, spacing = heads["3 T, two echoes"]
    signal = magnitude[-1] * np.exp(1j * phase[-1])
    window = np.ones(signal.shape[:2])  # of a Hann filter in the plane, as SWI has it (Haacke et al., MRM 2004, 52:612)
    for axis, size in enumerate(window.shape):
        place = abs(np.fft.fftfreq(size, 1 / size))
        hann = np.where(place < width / 2, 0.5 + 0.5 * np.cos(2 * np.pi * place / width), 0)
        window = window * np.expand_dims(hann, 1 - axis)
    smooth = np.fft.ifft2(np.fft.fft2(signal, axes=(0, 1)) * window[..., None], axes=(0, 1))
    (line,) = check_not_filtered(np.angle(signal * smooth.conj()), magnitude[-1], spacing, times[-1], 3.0)
    assert "high-pass filtered" in line


def test_a_wide_filter_is_seen_in_a_late_echo(heads):
    phase, magnitude, _, spacing = heads["3 T, two echoes"]
    signal = magnitude[1] * np.exp(8j * (phase[1] - phase[0]))  # the field alone, as after 18.4 ms
    assert check_not_filtered(np.angle(signal), magnitude[1], spacing, 0.0184, 3.0) == []
    sigma = [15 / 2.355 / mm for mm in spacing]
    smooth = ndimage.gaussian_filter(signal.real, sigma) + 1j * ndimage.gaussian_filter(signal.imag, sigma)
    (line,) = check_not_filtered(np.angle(signal * smooth.conj()), magnitude[1], spacing, 0.0184, 3.0)
    assert "high-pass filtered" in line


def test_phases_in_another_order_or_with_a_wrong_echo_time_are_said(heads):
    phase, magnitude, times, spacing = heads["spheres"]
    swapped = phase[[0, 2, 1]]
    (line,) = check_echoes_agree(swapped, magnitude, times, spacing, FILES)
    assert "does not grow evenly" in line and "another order" in line
    with refused("wrong echo time"):
        check_echoes_agree(phase, magnitude, [0.005, 0.014, 0.015], spacing, FILES)


def test_an_echo_with_a_negated_imaginary_part_is_refused(signal):
    bad = signal.copy()
    bad[1] = bad[1].conj()
    scan = made(signal)
    parts = [[Volume(f"{w}{n}", array=p(e).astype(np.float32), affine=np.diag([2.0, 2, 2, 1])) for n, e in
              enumerate(bad, 1)] for w, p in (("r", np.real), ("i", np.imag))]  # fmt: skip
    with refused("i2", "echo 2", "runs against"):
        load_echoes(replace(scan, parts=("real", "imag"), first=parts[0], second=parts[1]), 1)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (lambda s: (s.real - s.real.min(), s.imag - s.imag.min()), ("r1", "the real part", "offset")),
        (lambda s: (s.real, abs(s)), ("i1", "the imaginary part", "correct the name")),
        (lambda s: (s.real, 0 * s.imag), ("i1", "0 throughout")),
    ],
    ids=["offset", "magnitude", "nothing"],
)
def test_a_real_or_imaginary_part_of_one_sign_is_refused(signal, stored, said):
    first, second = (
        [Volume(f"{name}{n}", array=e.astype(np.float32), affine=np.diag([2.0, 2, 2, 1])) for n, e in enumerate(p, 1)]
        for name, p in zip("ri", stored(signal), strict=True)
    )
    with refused(*said):
        load_echoes(replace(made(signal), parts=("real", "imag"), first=first, second=second), 1)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([5e-6, 10e-6, 15e-6], "0.005 ms apart"),  # ms over a million
        ([0.005, 0.0050004, 0.01], "0.0004 ms apart"),
        ([0.005, float("nan"), 0.015], "not all numbers"),  # as DICOM may hold it
    ],
)
def test_echo_times_that_no_scanner_has_are_refused(times, said):
    with refused("m1", said):
        check_echo_times("m1", times)


def test_echoes_of_two_trains_may_lie_near_each_other():
    check_echo_times("m1", [0.005, 0.0054, 0.010, 0.0104])


@pytest.mark.parametrize("kind", ["rician", "whole numbers"])
def test_noise_in_both_parts_is_refused(kind):
    rng = np.random.default_rng(3)
    if kind == "rician":
        noise = rng.normal(0, 20, (2, 3, 32, 32, 32))
        parts = np.hypot(*noise), np.arctan2(noise[1], noise[0])
    else:
        parts = rng.integers(0, 4096, (2, 3, 32, 32, 32))
    volumes = [[Volume(f"{n}.nii.gz", array=v, affine=affine()) for v in p] for n, p in zip("mp", parts, strict=True)]
    read = load_echoes(Acquisition(("mag", "phase"), *volumes, [0.005, 0.01, 0.015], 24.0, 0.036, 3.0), 1)
    with refused("p.nii.gz", "as noise is"):
        check_not_noise(read.phase, read.magnitude, FILES)


def test_one_bright_voxel_does_not_make_all_others_dark(signal):
    magnitude = abs(signal).astype(np.float32)
    expected = magnitude.copy()
    normalise(expected)
    magnitude[1, 3, 4, 5] = 1e30
    _, lines = normalise(magnitude)
    assert "1 voxels" in lines[0]
    magnitude[1, 3, 4, 5] = expected[1, 3, 4, 5]
    assert np.allclose(magnitude, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [1000 / 3, 1e-3])
def test_voxels_of_no_head_are_refused(signal, factor):
    matrix = affine() @ np.diag([factor, factor, factor, 1.0])
    parts = [[Volume(f"{n}.nii.gz", array=v, affine=matrix) for v in signal.real] for n in ("mag", "ph")]
    acquisition = Acquisition(("mag", "phase"), *parts, [0.005, 0.01, 0.015], 24.0, 0.036, 3.0)
    with refused("mag.nii.gz", "none of a head"):
        check_scan(RawScan("sub-01", "sub-01", "anat", [acquisition]))


@pytest.mark.parametrize(
    ("chi", "field", "words"),
    [
        (0.0, 0.1, ["inversion", "0 throughout"]),
        (7.0, 0.1, ["inversion", "7 ppm"]),
        (7.0, 1e3, ["total field", "7 ppm"]),
        (np.nan, 0.1, ["inversion", "finite"]),
        (0.1, np.inf, ["total field", "finite"]),
    ],
)
def test_a_map_that_no_tissue_has_is_refused_and_the_step_named(chi, field, words):
    import torch

    mask = torch.ones(4, 4, 4, dtype=torch.bool)
    volumes = [torch.full((4, 4, 4), float(v)) for v in (chi, field, 0.01)]
    with refused(*words):
        check_map(*volumes, mask)


def test_a_phase_of_0_in_air_is_no_lost_slice_and_one_with_signal_is():
    magnitude = np.zeros((1, 6, 6, 6), dtype=np.float32)
    magnitude[0, 2:, 1:5, 1:5] = 100
    phase = np.ones_like(magnitude)
    phase[0, 1] = 0  # between air that is not 0 and the head
    check_slices(phase, ["phase.nii"], magnitude > 20)
    phase[0, 3] = 0
    with refused("slice 3", "phase.nii"):
        check_slices(phase, ["phase.nii"], magnitude > 20)
