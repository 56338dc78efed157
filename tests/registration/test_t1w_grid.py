"""A T1W on another grid: refused with advice, or registered to R2* and resampled, from every kind of input."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import BUNDLE
from heads import TEMPLATE, head
from monai.bundle import ConfigWorkflow
from refusal import refused
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.inference.inputs import find_input
from scripts.localisation.cohort import localise_cohort
from scripts.localisation.localiser import Localiser
from scripts.maps.bids import check_grid, labelled_scans
from scripts.maps.notes import write_notes
from scripts.maps.scan import MAPS, Scan, items
from scripts.maps.transforms import LoadImageMapsd
from scripts.registration import t1w_grid
from scripts.registration.t1w_grid import check_quality, register
from scripts.training.cache import CachedScans, fill
from scripts.training.preprocessing import preprocessing

RULES = BUNDLE / "configs" / "dicom_series.yaml"
TURN_DEG, SHIFT_MM = (4.0, -3.0, 6.0), (5.0, -7.0, 4.0)
GOOD = {"sharpness": 0.7, "spread_mm": 0.2, "overlap": 1.0}


def moved(volume: np.ndarray, affine: np.ndarray, turn_deg, shift_mm) -> tuple[np.ndarray, np.ndarray]:
    """A volume taken again on a sagittal grid of 3 mm, after its owner had moved."""
    spacing, size = 3.0, (64, 80, 80)
    centre = (affine @ [*((np.array(volume.shape) - 1) / 2), 1])[:3]
    grid = np.eye(4)
    grid[:3, :3] = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[:, [2, 0, 1]] * spacing
    grid[:3, 3] = centre - grid[:3, :3] @ ((np.array(size) - 1) / 2)
    step = np.linalg.solve(affine, motion(centre, turn_deg, shift_mm) @ grid)
    return ndimage.affine_transform(volume, step[:3, :3], step[:3, 3], size, order=1).astype(np.float32), grid


def motion(centre: np.ndarray, turn_deg, shift_mm) -> np.ndarray:
    """From where the head is in the moved scan to where it was."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift_mm
    return matrix


@pytest.fixture(scope="module")
def maps() -> tuple[np.ndarray, np.ndarray]:
    """A simulated head of 3 mm voxels: `[3, I, J, K]` and its affine."""
    scan = head(0)
    axes = [2 if step < 2 else 1 for step in np.linalg.norm(scan.affine[:3, :3], axis=0)]
    part = scan.maps[(slice(None), *(slice(None, None, n) for n in axes))]
    return np.ascontiguousarray(part), scan.affine @ np.diag([*axes, 1.0])


@pytest.fixture(scope="module")
def scan(maps, tmp_path_factory) -> list[str]:
    """The three maps as files, the T1W on a grid of its own."""
    folder = tmp_path_factory.mktemp("grids") / "sub-01" / "anat"
    folder.mkdir(parents=True)
    volumes, affine = maps
    images = [(volumes[0], affine), (volumes[1], affine), moved(volumes[2], affine, TURN_DEG, SHIFT_MM)]
    paths = [str(folder / f"sub-01_{suffix}.nii.gz") for suffix in MAPS]
    for path, (volume, where) in zip(paths, images, strict=True):
        nib.save(nib.Nifti1Image(volume, where), path)
    return paths


def test_by_default_it_is_refused_and_the_line_says_what_helps(scan):
    with refused("_T1w.nii.gz", "let --resample_t1w rigid do it"):
        check_grid(scan)
    with refused("resample_t1w is 'affine'"):
        check_grid(scan, "affine")


def test_only_the_t1w_may_lie_elsewhere(scan):
    with refused("_T1w.nii.gz", "resample it to that grid"):
        check_grid([scan[0], scan[2], scan[1]], "rigid")


def test_it_comes_back_to_where_it_was(scan, maps):
    (item,) = find_input(",".join(scan), dicom_rules=RULES, resample_t1w="rigid")
    image = LoadImageMapsd("image", "rigid")(item.item())["image"]
    volumes, affine = maps
    stored = nib.load(scan[2])
    centre = (affine @ [*((np.array(volumes[2].shape) - 1) / 2), 1])[:3]
    step = np.linalg.solve(motion(centre, TURN_DEG, SHIFT_MM) @ stored.affine, affine)
    true = ndimage.affine_transform(stored.get_fdata(), step[:3, :3], step[:3, 3], volumes[2].shape, order=3)
    brain = volumes[0] != 0
    assert np.corrcoef(image[2].numpy()[brain], true[brain])[0, 1] > 0.98
    quality = json.loads(image.meta["t1w_registration"])
    assert quality["rotation_deg"] == pytest.approx(np.rad2deg(_magnitude()), abs=1.0)
    assert quality["sharpness"] > 0.5 and quality["spread_mm"] < 1.5 and quality["overlap"] > 0.99


def test_a_map_of_t1_on_its_grid_goes_with_it(scan, tmp_path):
    stored = nib.load(scan[2])
    values = stored.get_fdata()
    scale = np.float32(np.median(values[values != 0]))
    paths = [*scan, str(tmp_path / "sub-01_T1map.nii.gz")]
    nib.save(nib.Nifti1Image((values / scale).astype(np.float32), stored.affine), paths[3])
    image = LoadImageMapsd("image", "rigid", ["T1map"])({"image": paths})["image"]
    np.testing.assert_allclose(image[3].numpy() * scale, image[2].numpy(), atol=1e-3 * float(image[2].max()))
    image = nib.Nifti1Image(np.ones((5, 6, 7), np.float32), stored.affine)
    nib.save(image, paths[3])
    with refused("_T1map.nii.gz", "resample it to that grid"):
        check_grid(paths, "rigid", [*MAPS, "T1map"])


def _magnitude() -> float:
    return Rotation.from_euler("xyz", TURN_DEG, degrees=True).magnitude()


def test_a_dicom_study_gives_the_same(scan, maps, tmp_path):
    pytest.importorskip("pydicom")
    from scripts.dicom.rules import read_rules
    from scripts.dicom.study import find_studies
    from scripts.simulation.dicom import write_study

    volumes, affine = maps
    here, there = [], []
    elsewhere = nib.load(scan[2])
    for suffix, volume in zip(MAPS, volumes, strict=True):
        away = (there, elsewhere.get_fdata(dtype=np.float32), elsewhere.affine)
        for paths, data, where in ((here, volume, affine), away):
            folder = tmp_path / ("here" if paths is here else "there")
            folder.mkdir(exist_ok=True)
            paths.append(str(folder / f"sub-01_{suffix}.nii.gz"))
            nib.save(nib.Nifti1Image(data, where), paths[-1])
    study = Path(write_study(tmp_path / "study", here, "sub-01", extras=False))
    other = Path(write_study(tmp_path / "other", there, "sub-01", extras=False))
    shutil.rmtree(study / "05")
    shutil.copytree(other / "05", study / "05")
    (found,) = find_studies(study, read_rules(RULES))
    with refused("series 5", "let --resample_t1w rigid do it"):
        found.load()
    image = found.load("rigid")
    assert image.shape[1] != elsewhere.shape[0] and image[2].shape == image[0].shape
    assert json.loads(image.meta["t1w_registration"])["sharpness"] > 0.5


def test_noise_is_refused_and_the_line_says_what_was_measured(maps):
    volumes, affine = maps
    qsm, r2star, t1w = np.ascontiguousarray(volumes[:, ::2, ::2, ::2])
    noise = np.random.default_rng(0).normal(100, 10, t1w.shape).astype(np.float32)
    affine = affine @ np.diag([2.0, 2, 2, 1])
    with refused("T1w", "could not be registered to R2*"):
        register(noise, affine, qsm, r2star, affine, "T1w")


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"sharpness": 0.1}, "falls by 10%"),
        ({"spread_mm": 4.0}, "other starts end 4.0 mm apart"),
        ({"overlap": 0.5}, "covers 50% of the brain"),
    ],
)
def test_each_measure_refuses(measured, said):
    check_quality(GOOD, "T1w")
    with refused("T1w", said):
        check_quality(GOOD | measured, "T1w")


def test_a_t1w_that_cannot_be_read_as_numbers_is_refused_for_that(maps):
    volumes, affine = maps
    broken = volumes[2].copy()
    broken[3, 3, 3] = np.nan
    with refused("T1w", "holds NaN"):
        register(broken, affine @ np.diag([1, 1, -1, 1]), volumes[0], volumes[1], affine, "T1w")


@pytest.fixture(scope="module")
def cohort(maps, scan, tmp_path_factory) -> Path:
    """Four people with the head of `maps` and noise of their own, each T1W taken after a movement of its own."""
    root = tmp_path_factory.mktemp("cohort")
    volumes, affine = maps
    box = np.argwhere(volumes[0] != 0).mean(0).astype(int)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Simulated", "BIDSVersion": "1.10.0"}))
    rows = ["participant_id\tage\tsex\tgroup"]
    for number in range(4):
        name, rng = f"sub-{number + 1:02d}", np.random.default_rng(number)
        folder = root / name / "anat"
        folder.mkdir(parents=True)
        noise = 1 + rng.normal(0, 0.02, volumes.shape).astype(np.float32)
        t1w = moved(volumes[2] * noise[2], affine, rng.uniform(-5, 5, 3), rng.uniform(-6, 6, 3))
        images = [(volumes[0] * noise[0], affine), (volumes[1] * noise[1], affine), t1w]
        for suffix, (volume, where) in zip(MAPS, images, strict=True):
            nib.save(nib.Nifti1Image(volume, where), folder / f"{name}_{suffix}.nii.gz")
        annotated = root / "derivatives" / "basalganglia" / name / "anat"
        annotated.mkdir(parents=True)
        ranges = [[int(middle) - 8, int(middle) + 8] for middle in box]
        (annotated / f"{name}_desc-basalganglia_box.json").write_text(json.dumps({"Box": ranges}))
        rows.append(f"{name}\t{40 + number}\tF\t{('HC', 'HH')[number % 2]}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def test_training_takes_it_says_how_well_it_was_registered_and_a_cache_keeps_both(cohort, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.yaml"), logging_file=False, meta_file=None, workflow_type="train",
        run_id="image_level", bundle_root=str(BUNDLE), dataset_dir=str(cohort), output_dir=str(tmp_path / "out"),
        ckpt_dir=str(tmp_path / "models"), resample_t1w="rigid", num_folds=2, cropped_size=[32, 32], num_slices=4,
        imagenet_weights="none", image_epochs=1, swa=False,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    with (tmp_path / "out" / "scans.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["scan_id"] for row in rows] == ["sub-01", "sub-02", "sub-03", "sub-04"]
    assert all(row["box_source"] == "annotated" and "covers 100 %" in row["t1w_registration"] for row in rows)

    steps = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated", resample_t1w="rigid")
    scans = items(labelled_scans(cohort, "rigid")[:2])
    before = len(t1w_grid._KNOWN)
    for _ in range(2):  # the second reads
        cached = CachedScans(scans, steps, tmp_path / "cache")
        fill(cached, "cropped", 1)
        write_notes(tmp_path / "scans.tsv", cached)
    assert len(t1w_grid._KNOWN) == before  # what training registered was not registered again
    with (tmp_path / "scans.tsv").open(newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == rows[:2]
    fresh = workflow.parser.get_parsed_content("train#dataset")
    of_training = {item["scan_id"]: item["image"] for item in fresh}
    for item in cached:
        if item["scan_id"] in of_training:
            torch.testing.assert_close(item["image"].as_tensor(), of_training[item["scan_id"]].as_tensor())


def test_localisation_takes_it_and_says_how_well_it_was_registered(scan, tmp_path):
    localiser = Localiser(TEMPLATE, cache_dir=tmp_path)
    found = Scan(participant_id="sub-01", scan_id="sub-01", maps=tuple(scan))
    localise_cohort(tmp_path, [found], localiser, annotated_too=True, resample_t1w="rigid")
    with (tmp_path / "localise.tsv").open(newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert row["status"] == "ok" and float(row["confidence"]) > 0.9
    assert row["t1w_registration"].startswith("moved ") and "covers 100 %" in row["t1w_registration"]
