"""Maps that cannot be are refused in one line; maps that hardly are get a flag in every result."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from blobs import BOX, BUNDLE, write_cohort
from monai.bundle import ConfigWorkflow
from refusal import refused

from scripts.maps.bids import checked_box, find_scans
from scripts.maps.plausibility import (
    brain_r2star_flags,
    check_box_size,
    check_grid_size,
    check_maps,
    nuclei_flags,
    region_flags,
)
from scripts.nuclei.curves import read_reference_curves
from scripts.training.preprocessing import preprocessing

NAMES = ("sub-01_Chimap.nii.gz", "sub-01_R2starmap.nii.gz", "sub-01_T1w.nii.gz")


def good() -> np.ndarray:
    """Three maps of a masked brain with two nuclei."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 44, 16)), indexing="ij")
    brain = x**2 + y**2 + z**2 < 0.9
    iron = sum(np.exp(-(((x - c) / 0.2) ** 2 + (y / 0.3) ** 2 + (z / 0.4) ** 2)) for c in (-0.3, 0.3))
    qsm = 0.15 * iron + rng.normal(0, 0.02, x.shape)
    r2star = 18 + 30 * iron + rng.normal(0, 2, x.shape)
    t1 = 800 - 100 * iron + rng.normal(0, 30, x.shape)
    return (np.stack([qsm, r2star, t1]) * brain).astype(np.float32)


def changed(channel: int, change) -> np.ndarray:
    maps = good()
    maps[channel] = change(maps[channel])
    return maps


def spiked(value: float):
    def change(volume: np.ndarray) -> np.ndarray:
        volume = volume.copy()
        volume[20, 22, 8] = value
        return volume

    return change


def test_maps_of_a_brain_pass_without_a_flag():
    check_maps(good(), NAMES)
    assert region_flags(good(), BOX) == []
    assert region_flags(good(), None) == []


@pytest.mark.parametrize(
    ("channel", "change", "words"),
    [
        (0, lambda v: 1000 * v, ("ppb", "divide it by 1000")),
        (0, lambda v: v / 1000, ("its unit is not ppm",)),
        (0, lambda v: np.abs(v), ("no negative value",)),
        # int16 with a slope of 0.001 ppm, read as uint16
        (0, lambda v: np.round(1000 * v).astype(np.int16).astype(np.uint16) / 1000, ("no negative value", "unsigned")),
        (0, spiked(1e30), ("reaches 1e+30", "remove the outlying voxels")),
        (1, spiked(1e30), ("reaches 1e+30",)),
        (2, spiked(1e30), ("reaches 1e+30",)),
        (1, lambda v: v / 1000, ("1/ms", "give R2* in 1/s")),
        (1, lambda v: np.divide(1, v, out=np.zeros_like(v), where=v > 1), ("T2* in s",)),
        (1, lambda v: -v, ("no positive value",)),
        (2, lambda v: -np.abs(v), ("no positive value",)),
        (2, lambda v: (v > 700).astype(np.float32), ("different values, as a mask",)),
        (1, lambda v: 10 * np.digitize(v, [0.1, 15, 25]).astype(np.float32), ("different values",)),
        (1, lambda v: np.round(spiked(2000)(v) / 8) * 8, ("different values, since", "up to 2e+03", "outlying voxels")),
    ],
    ids=[
        "QSM in ppb", "QSM divided twice", "QSM clipped", "signed as unsigned", "QSM voxel of 1e30",
        "R2* voxel of 1e30", "T1w voxel of 1e30", "R2* in 1/ms", "T2* in s", "R2* negative",
        "T1w negative", "mask for T1w", "labels for R2*", "rounded for an outlier",
    ],
)  # fmt: skip
def test_an_impossible_map_is_refused_with_its_reason(channel, change, words):
    with refused(NAMES[channel], *words):
        check_maps(changed(channel, change), NAMES)


def test_r2star_and_t1w_swapped_are_refused():
    with refused(NAMES[1], "no brain's R2*", "T1w"):
        check_maps(good()[[0, 2, 1]], NAMES)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (1, 2)])
def test_one_image_given_twice_is_refused_also_when_scaled(first, second):
    maps = good()
    maps[second] = np.where(maps[first] != 0, 25 + 40 * maps[first], 0)
    with refused("same image"):
        check_maps(maps, NAMES)


@pytest.mark.parametrize("size", [1500.0, 0.01])
def test_voxels_that_no_head_was_scanned_with_are_refused(size):
    with refused("sub-01_Chimap", "mm", "correct the voxel size"):
        check_grid_size((40, 44, 16), np.diag([size, size, size, 1]), NAMES[0])
    check_grid_size((366, 366, 64), np.diag([0.6, 0.6, 2, 1]), NAMES[0])


def test_a_box_of_one_voxel_or_of_booleans_is_refused():
    with refused("sub-01", "correct the box"):
        check_box_size([[5, 6], [5, 6], [0, 9]], np.diag([3.0, 3, 3, 1]), "sub-01")
    with refused("box.json", "whole voxel indices"):
        checked_box([[False, True], [False, True], [0, 9]], "box.json")


@pytest.mark.parametrize(
    ("channel", "change", "words"),
    [
        (0, lambda v: np.where(v != 0, v - 0.3, 0), "shifted"),
        (0, lambda v: 8 * v, "scaled"),
        (0, lambda v: v / 8, "scaled"),
        (0, lambda v: -v, "sign of QSM"),
        (1, lambda v: np.divide(1000, v, out=np.zeros_like(v), where=v > 1), "T2*"),
        (1, lambda v: v / 8, "R2*: median"),
    ],
    ids=["QSM shifted", "QSM times 8", "QSM by 8", "QSM inverted", "T2* in ms", "R2* by 8"],
)
def test_an_unlikely_map_is_flagged(channel, change, words):
    maps = changed(channel, change)
    check_maps(maps, NAMES)
    flags = region_flags(maps, BOX)
    assert any(words in flag for flag in flags)
    assert not any(";" in flag for flag in flags)  # a table's cell joins them


@pytest.mark.parametrize("value", [0.0, 20.0], ids=["zero", "constant"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("channel", "name"), [(0, "QSM"), (1, "R2*"), (2, "T1W")])
def test_half_of_a_box_that_was_not_measured_is_flagged_in_any_map_and_direction(channel, name, axis, value):
    low, high = BOX[axis]
    where = (slice(None),) * axis + (slice((low + high) // 2, high),)
    maps = good()
    maps[channel][where] = value
    (flag,) = [f for f in region_flags(maps, BOX) if "throughout" in f]
    half = (high - low) - ((high - low) // 2)
    assert flag.startswith(f"{name}: {half} of {high - low} slices") and f"axis {'ijk'[axis]}" in flag
    assert ";" not in flag


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_place_of_one_value_and_slices_that_are_repeated_are_flagged(channel):
    maps = good()
    maps[channel, 8:20, 10:30, 3:9] = 0.0
    assert any("% of the basal ganglia's box have one value" in flag for flag in region_flags(maps, BOX))
    maps = good()
    maps[channel, :, :, 6:10] = maps[channel, :, :, 5:6]
    (flag,) = region_flags(maps, BOX)
    assert "4 of 8 slices" in flag and "the same as another one" in flag


def test_the_mask_around_a_brain_and_a_hole_in_it_are_no_lost_slices():
    maps = good()
    for margin in (0, 6):
        padded = np.pad(maps, ((0, 0), *((margin, margin),) * 3))
        assert region_flags(padded, None) == []
    maps[0, 20:24, 20:24, 5:9] = 0
    assert region_flags(maps, BOX) == []
    maps[0, :, :, 8] = 0
    assert "1 of 16 slices of the image" in region_flags(maps, None)[0]


def test_nuclei_beyond_every_age_are_flagged_and_iron_overload_is_not():
    curves = read_reference_curves(BUNDLE / "models" / "reference_curves.json")
    usual = [{"nucleus": "pallidum", "side": side, "Chimap": 0.14, "R2starmap": 65.0} for side in ("left", "right")]
    assert nuclei_flags(usual, curves) == []
    assert nuclei_flags([row | {"Chimap": 0.28} for row in usual], curves) == []
    (flag,) = nuclei_flags([row | {"Chimap": 1.4} for row in usual], curves)
    assert "QSM: 1.4 ppm in the pallidum" in flag
    (flag,) = nuclei_flags([row | {"R2starmap": 6.5} for row in usual], curves)
    assert "R2*: 6.5 1/s in the pallidum" in flag
    assert nuclei_flags(usual, None) == nuclei_flags(None, curves) == []


def test_a_flag_is_in_json_table_report_and_summary_and_in_the_log_of_training(tmp_path, caplog):
    cohort = write_cohort(tmp_path / "cohort", 1)
    path = cohort / "sub-01" / "anat" / "sub-01_Chimap.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) - 0.3, image.affine), path)
    out = tmp_path / "out"
    workflow = ConfigWorkflow(
        workflow_type="infer", config_file=str(BUNDLE / "configs" / "inference.yaml"), logging_file=False,
        meta_file=None, bundle_root=str(BUNDLE), dataset_dir=str(cohort), output_dir=str(out), nuclei="known",
        outputs=["json", "report"],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.excepthook", None)
        workflow.initialize()
        workflow.run()
    flag, strange = json.loads((out / "sub-01" / "sub-01_prediction.json").read_text())["flags"]
    assert "shifted" in flag and "unlike the training scans" in strange
    with (out / "predictions.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["flags"] == f"{flag}; {strange}"
    shown = flag.split(":")[1]
    assert shown in (out / "sub-01" / "sub-01_report.html").read_text()
    assert shown in (out / "summary.html").read_text()
    preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated")(find_scans(cohort)[0].item())
    assert f"sub-01: {flag}" in caplog.text


def test_the_rates_of_a_whole_brain_tell_scaled_and_squared_echoes():
    rates = np.random.default_rng(0).normal(20, 4, 1000)
    assert brain_r2star_flags(rates, 3.0, "echo") == []
    (line,) = brain_r2star_flags(2 * rates, 3.0, "echo")
    assert "squared" in line
    assert brain_r2star_flags(2 * rates, 7.0, "echo") == []
    (line,) = brain_r2star_flags(rates - 13, 3.0, "echo")
    assert "scaled each on its own" in line
    with refused("echo", "hardly decays", "one scale"):
        brain_r2star_flags(rates - 19, 3.0, "echo")
