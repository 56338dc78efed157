"""Localisation on a real head and on a fruit (tests/data/real_head), and what confidence must notice about T1W."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import TEMPLATE
from refusal import refused
from scipy import ndimage

from scripts.anatomy.template import load_template
from scripts.errors import InputError
from scripts.localisation.locate import Found, locate
from scripts.maps.plausibility import LEAST_IRON, found_flags
from scripts.registration import search as registration

DATA = Path(__file__).resolve().parents[1] / "data" / "real_head"
MARGIN_MM, LEAST_CONFIDENCE = 5.0, 0.5
#: The real head's box, checked by eye: around both putamina and the heads and bodies of the caudate nuclei.
BOX = [[23, 66], [48, 84], [32, 48]]


@pytest.fixture(scope="module")
def tools():
    template = load_template(TEMPLATE)
    return template, registration.target_of(template)


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(DATA / "head_T1w.nii.gz")
    return np.asarray(image.dataobj, np.float32), image.affine


def without_iron(t1: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Maps of somebody whose nuclei hold no iron that shows: noise in the brain."""
    rng = np.random.default_rng(0)
    qsm, r2star = rng.normal(0, 0.02, t1.shape), np.abs(20 + 3 * rng.normal(size=t1.shape))
    return np.stack([qsm * brain, r2star * brain, t1]).astype(np.float32)


@pytest.fixture(scope="module")
def young(real, tools) -> Found:
    t1, affine = real
    return locate(without_iron(t1, t1 > 0), affine, *tools, margin_mm=MARGIN_MM)


@pytest.fixture(scope="module")
def painted(real, tools, young) -> np.ndarray:
    """The real head with iron painted in where its nuclei are."""
    t1, affine = real
    turned, lps, orientation = registration.ras(without_iron(t1, t1 > 0), affine)
    scan = next(registration.scans_on(turned, lps))
    iron = registration.seen_from(tools[1].iron, scan, young.transform)
    fine = ndimage.zoom(iron, np.array(turned.shape[1:]) / iron.shape, order=1)
    turned[0] += 0.12 * fine * (turned[2] > 0)
    turned[1] += 35 * fine * (turned[2] > 0)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
    return np.stack([nib.orientations.apply_orientation(channel, back) for channel in turned])


def confidence(maps: np.ndarray, affine: np.ndarray, tools) -> float:
    """0 where the scan is refused outright."""
    try:
        return locate(maps, affine, *tools, margin_mm=MARGIN_MM).confidence
    except InputError:
        return 0.0


def test_a_real_head_without_iron_contrast_is_found_by_its_t1(young):
    assert young.measures["iron"] < LEAST_IRON
    assert young.confidence >= 0.9
    assert np.abs(np.array(young.box) - BOX).max() <= 1


def test_a_real_head_with_iron_is_found_at_the_same_place(real, painted, tools):
    found = locate(painted, real[1], *tools, margin_mm=MARGIN_MM)
    assert found.measures["iron"] > 0.6
    assert found.confidence >= 0.9
    assert np.abs(np.array(found.box) - BOX).max() <= 2


@pytest.mark.parametrize("made", ["flat", "noise", "inverted", "FLAIR"])
def test_iron_does_not_outweigh_a_t1w_that_is_wrong(real, painted, tools, made):
    t1, affine = real
    brain, white = t1 > 0, np.percentile(t1[t1 > 0], 85)
    rng = np.random.default_rng(1)
    wrong = {
        "flat": lambda: brain * 100.0,
        "noise": lambda: np.abs(rng.normal(100, 30, t1.shape)) * brain,
        "inverted": lambda: np.maximum(1.4 * white - t1, 1) * brain,
        # dark fluid, gray matter brighter than white
        "FLAIR": lambda: np.interp(t1 / white, [0, 0.25, 0.55, 0.8, 1, 2], [15, 30, 95, 100, 86, 85]) * brain,
    }[made]()
    maps = np.stack([*painted[:2], wrong]).astype(np.float32)
    assert confidence(maps, affine, tools) < LEAST_CONFIDENCE


def test_a_noisy_biased_t1w_of_weak_contrast_is_still_found(real, painted, tools):
    t1, affine = real
    brain, white = t1 > 0, np.percentile(t1[t1 > 0], 85)
    rng = np.random.default_rng(2)
    weak = np.interp(t1 / white, [0, 0.35, 0.7, 1, 2], [50, 65, 85, 100, 120]) + rng.normal(0, 10, t1.shape)
    bias = np.exp(np.linspace(-0.4, 0.4, t1.shape[1]))[None, :, None]
    maps = np.stack([*painted[:2], np.abs(weak * bias) * brain]).astype(np.float32)
    assert confidence(maps, affine, tools) >= 0.9


def test_a_fruit_is_no_brain(tools):
    image = nib.load(DATA / "fruit_T1w.nii.gz")
    t1 = np.asarray(image.dataobj, np.float32)
    found = locate(without_iron(t1, np.ones(t1.shape)), image.affine, *tools, margin_mm=MARGIN_MM)
    assert found.confidence == 0 and found.measures["t1"] < 0.3


def part_of(maps: np.ndarray, affine: np.ndarray, part: str, found: Found) -> np.ndarray:
    """Where a part of a head lies, bool `[I, J, K]`."""
    index = np.indices(maps.shape[1:])
    x, y, _ = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]
    where = maps[0] != 0
    left, front = x < x[where].mean(), y > y[where].mean()
    if part == "hole":
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        middle = np.mean(found.box, axis=1)
        middle[0] += 22 / spacing[0]
        return sum((spacing[k] * (index[k] - middle[k])) ** 2 for k in range(3)) < 20**2
    return {"left": left, "right": ~left, "front": front, "quarter": left & front}[part]


@pytest.mark.parametrize("part", ["left", "right", "front", "quarter", "hole"])
def test_a_head_of_which_much_is_missing_is_not_found_with_confidence(real, painted, young, tools, part):
    maps = painted * ~part_of(painted, real[1], part, young)
    assert confidence(maps, real[1], tools) < LEAST_CONFIDENCE


@pytest.mark.parametrize("made", ["flat", "noise", "nothing in QSM"])
def test_a_half_that_shows_nothing_is_no_half(real, painted, young, tools, made):
    left = part_of(painted, real[1], "left", young) & (painted[2] > 0)
    maps = painted.copy()
    if made == "nothing in QSM":
        maps[0][left] = 0
    else:
        maps[2][left] = 100.0 if made == "flat" else np.random.default_rng(4).normal(100, 30, left.sum())
    assert confidence(maps, real[1], tools) < LEAST_CONFIDENCE


def test_a_half_that_was_put_to_the_other_side_is_not_taken_for_it(real, painted, tools):
    assert confidence(np.roll(painted, painted.shape[1] // 2, axis=1), real[1], tools) < LEAST_CONFIDENCE


@pytest.mark.parametrize("padded", [False, True])
def test_a_slab_is_found_as_the_whole_head_is(real, painted, tools, padded):
    """Cut to 50 mm; also where the rest is there and empty, as of a gradient echo on the grid of an MPRAGE."""
    low, high = BOX[2][0] - 5, BOX[2][1] + 5
    maps, affine = painted.copy(), real[1].copy()
    if padded:
        maps[:2, ..., :low] = maps[:2, ..., high:] = 0
    else:
        maps = np.ascontiguousarray(maps[..., low:high])
        affine[:3, 3] = (affine @ [0, 0, low, 1])[:3]
    found = locate(maps, affine, *tools, margin_mm=MARGIN_MM)
    assert found.confidence >= 0.9
    assert np.abs(np.array(found.box) - BOX + [[0, 0], [0, 0], [0 if padded else low] * 2]).max() <= 2


def test_a_childs_head_is_found_and_said_to_be_small(real, painted, tools):
    affine = real[1] @ np.diag([0.8, 0.8, 0.8, 1])
    found = locate(painted, affine, *tools, margin_mm=MARGIN_MM)
    assert found.confidence >= 0.9
    assert np.abs(np.array(found.box) - BOX).max() <= 3
    (flag,) = found_flags(found.measures, LEAST_IRON)
    assert f"{found.measures['size']:.2f} times the template's length" in flag and "a child's" in flag


def test_one_voxel_far_too_bright_changes_nothing(real, painted, young, tools):
    maps = painted.copy()
    maps[2][tuple(np.mean(BOX, axis=1).astype(int))] = 1e9
    found = locate(maps, real[1], *tools, margin_mm=MARGIN_MM)
    assert found.confidence >= 0.9 and np.abs(np.array(found.box) - BOX).max() <= 2


def test_what_is_as_large_as_no_head_is_refused_at_once(tools):
    ball = sum(axis**2 for axis in np.meshgrid(*[np.linspace(-1, 1, 80)] * 3)) < 0.9
    t1 = np.random.default_rng(5).normal(100, 5, ball.shape) * ball
    with refused("no brain found"):
        locate(without_iron(t1, ball), np.diag([3.5, 3.5, 3.5, 1]), *tools, margin_mm=MARGIN_MM)


def test_a_defaced_head_with_unmasked_qsm_gets_its_brain_by_registration(real, tools):
    """T1W exactly 0 around the head, QSM and R2* of noise there: what is not 0 is the head, not the brain."""
    brain, affine = real
    edge = 10
    t1 = np.pad(brain, edge)
    moved = affine.copy()
    moved[:3, 3] = (affine @ [-edge, -edge, -edge, 1])[:3]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    whole = ndimage.binary_fill_holes(ndimage.binary_closing(t1 > 0, iterations=2))
    depth = ndimage.distance_transform_edt(~whole, sampling=spacing)
    white = np.percentile(brain[brain > 0], 85)
    for least, most, share in ((0, 3, 0.25), (3, 8, 0.15), (8, 16, 1.3)):  # fluid, skull, scalp
        t1[(depth > least) & (depth <= most)] = share * white
    rng = np.random.default_rng(3)
    qsm, r2star = rng.normal(0, 0.1, t1.shape), np.abs(rng.normal(30, 30, t1.shape)) + 0.1
    maps = np.stack([qsm, r2star, t1]).astype(np.float32)
    found = locate(maps, moved, *tools, margin_mm=MARGIN_MM)
    assert found.confidence >= 0.9
    assert np.abs(np.array(found.box) - edge - BOX).max() <= 2
    turned, lps, _ = registration.ras(maps, moved)
    first = next(registration.scans_on(turned, lps))
    ml = whole.sum() * np.prod(spacing) / 1000
    assert first.ml > 1.4 * ml
    assert registration.brain_by_template(first, tools[1], found.transform).ml == pytest.approx(ml, rel=0.12)
