"""The ramp between odd and even echoes of a bipolar readout, added to echoes whose phase is known."""

import numpy as np
import pytest
from raw_head import SHAPE, TIMES, echoes

from scripts.reconstruction.bipolar import remove_ramp


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return echoes(24, np.random.default_rng(0))


@pytest.mark.parametrize(("across_rad", "count"), [((3.0, 0.0, 0.0), 3), ((-0.5, 1.5, 0.3), 6)])
def test_a_ramp_between_odd_and_even_echoes_is_found_and_taken_away(image, across_rad, count):
    i, j, k = (np.linspace(-0.5, 0.5, n) * rad for n, rad in zip(SHAPE, across_rad, strict=True))
    ramp = i[:, None, None] + j[:, None] + k
    signs = np.array([1, -1, 1, -1, 1, -1])[:count, None, None, None]
    image = image[:count]
    bipolar = image * np.exp(1j * signs * (0.4 + ramp))
    phase, magnitude = np.angle(bipolar).astype(np.float32), abs(bipolar).astype(np.float32)
    (line,) = remove_ramp(phase, magnitude, TIMES[:count])
    assert f"axis {'ijk'[int(np.argmax(np.abs(across_rad)))]}" in line
    # A quarter turn back and forth is a constant and an even field: the growth from echo to echo tells it, and no more.
    grown = np.exp(1j * phase[1:]) * np.exp(-1j * phase[:-1]) * image[:-1] * np.conj(image[1:])
    head = abs(image[count - 1]) > 0.3 * abs(image[count - 1]).max()
    assert np.abs(np.angle(grown[:, head] / grown[:, head].mean(1, keepdims=True))).max() < 0.05


def test_echoes_without_a_ramp_stay_as_they_are(image):
    magnitude, phase = abs(image).astype(np.float32), np.angle(image).astype(np.float32)
    before = phase.copy()
    assert remove_ramp(phase, magnitude, TIMES) == []
    noise = np.random.default_rng(1).uniform(-np.pi, np.pi, phase.shape).astype(np.float32)
    assert remove_ramp(noise, magnitude, TIMES) == []
    assert remove_ramp(phase[:2], magnitude[:2], TIMES[:2]) == []
    assert np.array_equal(phase, before)
