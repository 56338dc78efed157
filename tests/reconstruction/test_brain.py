"""The brain's surface on a head whose shape is written down, and the masks around it."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.reconstruction.bet import extract_brain
from scripts.reconstruction.mask import BrainMask, bounding_box, eroded

HALF_AXES = np.array([62.0, 78.0, 56.0])


def head(shape: tuple[int, ...], spacing: tuple[float, ...], middle_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude of brain, dark skull and scalp with noise, and the true brain; the slices may miss the middle."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True)]
    axes[2] = axes[2] + middle_mm
    x, y, z = np.meshgrid(*axes, indexing="ij")

    def inside(more_mm: float) -> np.ndarray:
        a, b, c = HALF_AXES + more_mm
        return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1

    brain = inside(0.0)
    image = np.where(brain, 100.0, np.where(inside(7.0), 12.0, np.where(inside(13.0), 80.0, 0.0)))
    noise = np.random.default_rng(0).normal(0, 3, (2, *shape))
    return np.hypot(ndimage.gaussian_filter(image, 0.5) + noise[0], noise[1]).astype(np.float32), brain


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("shape", "spacing", "middle_mm"),
    [((56, 66, 52), (3.0, 3.0, 3.0), 0.0), ((84, 98, 24), (2.0, 2.0, 4.0), 10.0)],
    ids=["whole head", "slab of thick slices"],
)
def test_bet_finds_an_ellipsoid(shape, spacing, middle_mm):
    image, brain = head(shape, spacing, middle_mm)
    tight, generous = (extract_brain(image, spacing, threshold) for threshold in (0.5, 0.2))
    assert dice(tight, brain) > 0.94
    assert dice(generous, brain) > 0.88
    assert (generous & brain).sum() > 0.995 * brain.sum()  # the paper's threshold loses nothing, and is then eroded
    assert generous.sum() >= tight.sum()
    beyond = ndimage.distance_transform_edt(~brain, sampling=spacing)[generous & ~brain]
    assert np.median(beyond) < 4.0  # mm: inside the skull, which begins at 0 and ends at 7


@pytest.mark.parametrize("radius", [1.0, 2.4, 4.1])
def test_erosion_takes_what_is_no_farther_from_the_outside_than_its_radius(radius):
    mask = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 44, 18)), 3) > 0.5
    distance = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"), sampling=(0.67, 0.67, 2.0))[
        1:-1, 1:-1, 1:-1
    ]
    assert np.array_equal(eroded(mask, radius, (0.67, 0.67, 2.0)), distance > radius)


def test_islands_holes_and_bad_phase_are_left_out():
    brain = np.zeros((40, 40, 30), bool)
    brain[8:32, 8:32, 6:24] = True
    given = brain.copy()
    given[2:5, 2:5, 2:5] = True  # an island
    given[20, 20, 15] = False  # a hole
    phase = np.full((3, *brain.shape), 0.5, np.float32)
    phase[:, 8:16, 8:32, 6:24] = np.random.default_rng(0).uniform(-np.pi, np.pi, (3, 8, 24, 18))
    arguments = torch.ones(3, *brain.shape), torch.from_numpy(phase), [0.005, 0.01, 0.015], (1.0, 1.0, 1.0), given
    found, good, _ = BrainMask(None, 0.01, 0.0, 200, 1.2)(*arguments)
    assert np.array_equal(found.numpy(), brain)
    assert not good[10:13, 12:28, 10:20].any()
    assert good[20:30, 12:28, 10:20].all()
    _, all_of_it, _ = BrainMask(None, 0.01, 0.0, 200, None)(*arguments)
    assert torch.equal(all_of_it, found)


def test_a_box_holds_the_mask_and_its_margin_inside_the_array():
    mask = np.zeros((10, 12, 8), bool)
    mask[1:4, 5:7, 7] = True
    assert bounding_box(mask, 2) == (slice(0, 6), slice(3, 9), slice(5, 8))
    assert bounding_box(torch.from_numpy(mask), 2) == bounding_box(mask, 2)
