"""Localisation on a real head and on a fruit (tests/data/real_head), and what confidence must notice about T1W."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import TEMPLATE
from scipy import ndimage

from scripts import registration
from scripts.errors import InputError
from scripts.localise import LEAST_IRON, Found, locate
from scripts.template import load_template

DATA = Path(__file__).parent / "data" / "real_head"
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
    assert confidence(without_iron(t1, np.ones(t1.shape)), image.affine, tools) < LEAST_CONFIDENCE


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
