"""Finding the basal ganglia: poses, storage, bad input, caching, and the way through preprocessing."""

import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from blobs import BUNDLE
from heads import TEMPLATE, head, held, templates, tight, write_scan
from refusal import refused

from scripts.anatomy.atlas import load_templates
from scripts.anatomy.template import load_template, make_template
from scripts.localisation.cohort import localise_cohort
from scripts.localisation.localiser import LOCALISE_DERIVATIVE, Localiser, check_boxes
from scripts.localisation.locate import Found, check_scan, locate, sure_of
from scripts.maps.bids import find_scans
from scripts.maps.scan import Scan
from scripts.model.outputs import used_box
from scripts.registration import search as registration
from scripts.registration.splines import Lattice, basis, bending_of, refine
from scripts.training.preprocessing import preprocessing

#: Heads of these numbers are not in the benchmark and were not used for tuning.
FIRST = 70_000
MARGIN_MM = yaml.safe_load((BUNDLE / "configs" / "train.yaml").read_text())["localise_margin_mm"]


@pytest.fixture(scope="module")
def tools():
    template = load_template(TEMPLATE)
    return template, registration.target_of(template)


@pytest.fixture(scope="module")
def located(tools):
    """Boxes by number and keywords of the head."""
    known: dict = {}

    def get(number: int, **how) -> Found:
        key = (number, *sorted(how.items()))
        if key not in known:
            scan = head(number, **how)
            known[key] = locate(scan.maps, scan.affine, *tools, margin_mm=MARGIN_MM)
        return known[key]

    return get


def up_axis(affine: np.ndarray) -> int:
    return int(np.argmax(np.abs(affine[2, :3] / np.linalg.norm(affine[:3, :3], axis=0))))


# --- where they are --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "skull"), [(FIRST, True), (FIRST + 1, False), (FIRST + 2, True)])
def test_the_box_holds_the_nuclei_at_any_pose(located, number, skull):
    scan = head(number, skull=skull)
    found = located(number, skull=skull)
    assert found.confidence > 0.5
    assert held(scan.labels, found.box) >= 0.99
    box, truth = np.array(found.box), tight(scan.labels)
    up = up_axis(scan.affine)
    plane = [axis for axis in range(3) if axis != up]
    assert np.prod(np.ptp(box, axis=1)[plane]) <= 1.6 * np.prod(np.ptp(truth, axis=1)[plane])
    assert np.abs(box[up] - truth[up]).max() <= 2


def test_maps_that_nobody_masked_give_the_right_box_all_the_same(tools):
    """QSM and R2* of noise outside the brain, T1W with skull: the brain is then taken from T1W."""
    scan = head(FIRST, skull=True)
    rng = np.random.default_rng(0)
    maps, outside = scan.maps.copy(), scan.maps[0] == 0
    maps[0][outside] = rng.normal(0, 0.1, outside.sum())
    maps[1][outside] = np.abs(rng.normal(30, 30, outside.sum()))
    found = locate(maps, scan.affine, *tools, margin_mm=MARGIN_MM)
    assert found.confidence >= 0.5
    assert held(scan.labels, found.box) >= 0.99


def test_the_same_scan_stored_otherwise_gives_the_same_place(tools, located):
    """Flipped storage, other axis order: the same voxels of the head, found without a hint."""
    scan = head(FIRST, skull=True)
    found = located(FIRST, skull=True)
    image = nib.Nifti1Image(np.moveaxis(scan.maps, 0, 3), scan.affine)
    current = nib.io_orientation(scan.affine)
    turn = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt("SLA"))
    maps = np.stack([nib.orientations.apply_orientation(channel, turn) for channel in scan.maps])
    affine = image.affine @ nib.orientations.inv_ornt_aff(turn, scan.labels.shape)
    again = locate(maps, affine, *tools, margin_mm=MARGIN_MM)
    mask = np.zeros(scan.labels.shape, np.uint8)
    mask[tuple(slice(*pair) for pair in found.box)] = 1
    moved = np.argwhere(nib.orientations.apply_orientation(mask, turn))
    expected = np.stack([moved.min(0), moved.max(0) + 1], 1)
    assert np.abs(np.array(again.box) - expected).max() <= 1


def test_localisation_gives_the_same_numbers_again(tools, located):
    scan = head(FIRST + 1, skull=False)
    again = locate(scan.maps, scan.affine, *tools, margin_mm=MARGIN_MM)
    assert again.box == located(FIRST + 1, skull=False).box
    assert again.measures == located(FIRST + 1, skull=False).measures


def test_the_margin_is_added_in_plane_alone(tools, located):
    scan = head(FIRST, skull=True)
    found = located(FIRST, skull=True)
    from scripts.localisation.locate import box_around

    wider = np.array(box_around(found.outline_mm, scan.labels.shape, scan.affine, MARGIN_MM + 6, "x", 1.0))
    grown = np.abs(wider - np.array(found.box)) * np.linalg.norm(scan.affine[:3, :3], axis=0)[:, None]
    up = up_axis(scan.affine)
    assert not grown[up].any()
    plane = [axis for axis in range(3) if axis != up]
    assert np.all((grown[plane] >= 6 - 1.5) & (grown[plane] <= 6 + 1.5))


def test_confidence_is_that_of_the_weaker_measure_of_t1w():
    best = {"t1": 1.0, "tissue": 1.0, "half": 1.0, "covered": 1.0, "iron": 0.0, "size": 0.9}
    assert sure_of(best) == 1
    assert sure_of(best | {"tissue": 0.0}) == 0
    assert 0 < sure_of(best | {"t1": 0.5}) < 1
    assert sure_of(best | {"half": 0.1}) == sure_of(best | {"covered": 0.4}) == 0


# --- the parts -------------------------------------------------------------------------------------------------------


def test_the_bundles_template_is_what_its_config_makes_and_carries_its_licence(tmp_path):
    from monai.bundle import ConfigWorkflow

    path = tmp_path / "template.nii.gz"
    workflow = ConfigWorkflow(str(BUNDLE / "configs" / "template.yaml"), meta_file=None, logging_file=False,
                              workflow_type="train", bundle_root=str(BUNDLE), template=str(path))  # fmt: skip
    templates()  # read once a session
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.excepthook", sys.excepthook)
        workflow.initialize()
        workflow.run()
    made, kept = load_template(path), load_template(TEMPLATE)
    assert made.sha256 == kept.sha256
    assert np.array_equal(made.outline_mm, kept.outline_mm)
    assert kept.ellipsoids.keys() == made.ellipsoids.keys()
    content = json.loads(Path(TEMPLATE.removesuffix(".nii.gz") + ".json").read_text())
    assert "Copyright (C) 1993-2009 Louis Collins" in content["License"]


def test_a_missing_template_is_named_with_what_to_do(tmp_path):
    with refused(tmp_path / "template.nii.gz", "restore it"):
        load_template(tmp_path / "template.nii.gz")
    assert not list(tmp_path.iterdir())


def test_without_its_packages_no_template_is_made(tmp_path, monkeypatch):
    load_templates.cache_clear()  # another test may have read them
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("template", "pip install nilearn"):
        make_template(tmp_path / "template.nii.gz", 2.0, 400)
    assert not list(tmp_path.iterdir())


def test_a_template_of_another_ending_is_refused_before_work(tmp_path):
    with refused("template.txt", "end it in .nii.gz"):
        make_template(tmp_path / "template.txt", 2.0, 400)


def test_a_damaged_template_is_refused(tmp_path):
    (tmp_path / "template.nii.gz").write_bytes(b"nothing")
    shutil.copy(Path(TEMPLATE).with_name("template.json"), tmp_path)
    with refused(tmp_path / "template.nii.gz"):
        load_template(tmp_path / "template.nii.gz")


def test_spline_weights_add_up_to_one():
    weights = basis(np.linspace(0, 4, 41), 4)
    assert weights.shape == (41, 7)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


def test_the_price_of_bending_has_the_derivative_it_says():
    rng = np.random.default_rng(0)
    coefficients, step = rng.normal(size=(3, 5, 6, 4)), rng.normal(size=(3, 5, 6, 4))
    _, gradient = bending_of(coefficients)
    change = (bending_of(coefficients + 1e-5 * step)[0] - bending_of(coefficients - 1e-5 * step)[0]) / 2e-5
    assert np.isclose((gradient * step).sum(), change, rtol=1e-6)


def test_splines_recover_a_known_displacement_and_sitk_agrees():
    """A smooth image, shifted: SimpleITK's transform must carry places where the displaced image says."""
    import SimpleITK as sitk
    from scipy import ndimage

    rng = np.random.default_rng(1)
    volume = ndimage.gaussian_filter(rng.normal(size=(50, 44, 36)), 3).astype(np.float32)
    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = [30, -20, 10]
    moved = ndimage.shift(volume, (1.0, -0.8, 0.6), order=3, mode="nearest")  # voxels
    part = (slice(8, 42), slice(8, 36), slice(8, 28))
    grid = affine.copy()
    grid[:3, 3] = (affine @ [8, 8, 8, 1])[:3]
    fixed = moved[part]
    brain = np.ones(fixed.shape, bool)
    scan = registration.Scan(fixed, fixed, brain, grid, fixed, np.zeros((2, 2)), [fixed] * 3)
    image = registration.sitk_image(volume, affine)
    transform = refine(scan, fixed, image, sitk.AffineTransform(3), Lattice(22.0, 1e-5, 40))
    middle = grid @ [17, 14, 10, 1]
    shift = np.array(transform.TransformPoint(middle[:3].tolist())) - middle[:3]
    np.testing.assert_allclose(shift, affine[:3, :3] @ [-1.0, 0.8, -0.6], atol=0.25)


# --- bad input -------------------------------------------------------------------------------------------------------


def bottle() -> tuple[np.ndarray, np.ndarray]:
    """A round bottle of water with a little noise, in all three maps."""
    rng = np.random.default_rng(0)
    shape, affine = (60, 60, 30), np.diag([3.5, 3.5, 4.0, 1.0])
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, (3.5, 3.5, 4.0), strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x / 70) ** 2 + (y / 85) ** 2 < 1
    inside &= np.abs(z) < 50
    maps = np.stack([0.01 * rng.normal(size=shape), 15 + rng.normal(size=shape), 800 + 20 * rng.normal(size=shape)])
    return (maps * inside).astype(np.float32), affine


def test_a_bottle_is_not_taken_for_a_brain(tools):
    maps, affine = bottle()
    try:
        found = locate(maps, affine, *tools, margin_mm=MARGIN_MM)
    except ValueError as error:
        assert ";" in str(error)
    else:
        assert found.confidence < 0.3


def test_noise_is_not_taken_for_a_brain(tools):
    rng = np.random.default_rng(0)
    maps = np.stack([rng.normal(size=(44, 44, 22)) * s + m for m, s in ((0, 0.01), (10, 3), (300, 50))])
    try:
        found = locate(maps.astype(np.float32), np.diag([4, 4, 5, 1.0]), *tools, margin_mm=MARGIN_MM)
    except ValueError as error:
        assert ";" in str(error)
    else:
        assert found.confidence < 0.3


def test_a_scan_without_a_brain_is_refused(tools):
    i, j, k = np.indices((80, 80, 30)) - np.array([40, 40, 15])[:, None, None, None]
    maps = np.stack([abs(i) + abs(j) + abs(k) < 8] * 3).astype(np.float32)
    with refused("scan-7", "no brain"):
        locate(maps, np.diag([2.5, 2.5, 3, 1.0]), *tools, margin_mm=MARGIN_MM, name="scan-7")


@pytest.mark.parametrize("end", ["foot", "head"])
def test_a_brain_cut_through_the_basal_ganglia_is_refused_or_uncertain(tools, end):
    scan = head(FIRST + 3, codes="RAS", turn_deg=5, shift_mm=3, tilt_deg=0)
    (low, high) = tight(scan.labels)[2]
    middle = (low + high) // 2
    part, first = (slice(0, middle), 0) if end == "head" else (slice(middle, None), middle)
    affine = scan.affine.copy()
    affine[:3, 3] = (scan.affine @ [0, 0, first, 1])[:3]
    try:
        found = locate(scan.maps[..., part], affine, *tools, margin_mm=MARGIN_MM, name="scan-8")
    except ValueError as error:
        assert "scan-8" in str(error) and ";" in str(error)
    else:
        assert found.confidence < 0.5


@pytest.mark.parametrize(
    ("shape", "spacing", "word"),
    [
        ((144, 144, 2), (1.5, 1.5, 3.0), "2 slices"),
        ((144, 144, 16), (1.5, 1.5, 10.0), "10 mm"),
        ((40, 40, 20), (6.0, 6.0, 6.0), "6 x 6 x 6"),
        ((144, 144, 40), (0.15, 0.15, 0.3), "covers 12 mm"),
    ],
    ids=["two slices", "thick slices", "huge voxels", "tiny voxels"],
)
def test_a_grid_on_which_nothing_can_be_found_is_refused(shape, spacing, word):
    with refused("scan-9", word):
        check_scan(shape, np.diag([*spacing, 1.0]), "scan-9")


def sheared() -> np.ndarray:
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[0, 1] = 0.4
    return affine


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.5, 0.0, 3.0, 1.0]), sheared()],
    ids=["zero", "NaN", "flat", "sheared"],
)
def test_an_affine_that_is_no_orientation_is_refused(affine):
    with refused("scan-10"):
        check_scan((144, 144, 40), affine, "scan-10")


def test_an_infants_head_or_a_wrong_voxel_size_is_refused(tools):
    scan = head(FIRST, skull=True)
    affine = scan.affine @ np.diag([0.6, 0.6, 0.6, 1.0])
    try:
        found = locate(scan.maps, affine, *tools, margin_mm=MARGIN_MM, name="scan-11")
    except ValueError as error:
        assert "scan-11" in str(error) and ";" in str(error)
    else:
        assert found.confidence < 0.5


def test_an_all_zero_map_is_refused_before_localisation(tmp_path):
    scan = head(FIRST, skull=True)
    maps = scan.maps.copy()
    maps[0] = 0
    write_scan(tmp_path, "sub-01", type(scan)(maps, scan.affine, scan.labels, scan.how))
    steps = preprocessing("cropped", [32, 32], 6, [0.5, 99.5], "auto", Localiser(TEMPLATE))
    with refused("sub-01_Chimap", "0 everywhere"):
        steps(find_scans(tmp_path)[0].item())


# --- through preprocessing -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("unannotated")
    write_scan(root, "sub-01", head(FIRST, skull=True))
    return root


def test_a_scan_without_annotation_goes_through_and_is_kept(cohort, monkeypatch):
    scan = find_scans(cohort)[0]
    assert scan.box is None
    steps = preprocessing("cropped", [64, 64], 12, [0.5, 99.5], "auto", Localiser(TEMPLATE))
    first = steps(scan.item())["image"]
    assert first.shape == (3, 64, 64, 12)
    assert 0.5 <= first.meta["box_confidence"] <= 1
    stem = cohort / LOCALISE_DERIVATIVE / "sub-01" / "anat" / "sub-01"
    content = json.loads(Path(f"{stem}_desc-basalganglia_box.json").read_text())
    assert content["Confidence"] == first.meta["box_confidence"]
    assert held(head(FIRST, skull=True).labels, content["Box"]) >= 0.99
    assert (stem.parent / f"{stem.name}_desc-basalganglia_box.png").stat().st_size > 10_000

    def never(*arguments, **keywords):
        raise AssertionError("found again, although it was kept")

    monkeypatch.setattr("scripts.localisation.localiser.locate", never)
    again = preprocessing("cropped", [64, 64], 12, [0.5, 99.5], "auto", Localiser(TEMPLATE))(scan.item())["image"]
    assert torch.equal(again.as_tensor(), first.as_tensor())
    # an annotated box goes before a found one, and needs no localiser
    annotated = replace(scan, box=content["Box"]).item()
    given = preprocessing("cropped", [64, 64], 12, [0.5, 99.5], "annotated")(annotated)["image"]
    assert torch.equal(given.as_tensor(), first.as_tensor())


def test_the_page_of_a_cohort_shows_refused_scans_first_and_compares_with_the_annotation(cohort, tmp_path):
    good = head(FIRST, skull=True)
    thin = type(good)(good.maps[..., :2], good.affine, good.labels[..., :2], good.how)
    write_scan(tmp_path, "sub-02", thin)
    (known,), (cut,) = find_scans(cohort), find_scans(tmp_path)
    localiser = Localiser(TEMPLATE, cache_dir=cohort / LOCALISE_DERIVATIVE)
    scans = [replace(known, box=tight(good.labels).tolist()), cut]
    with refused("1 of 2", "sub-02"):
        localise_cohort(cohort / LOCALISE_DERIVATIVE, scans, localiser, annotated_too=True)
    first, second = (cohort / LOCALISE_DERIVATIVE / "localise.tsv").read_text().splitlines()[1:]
    assert first.split("\t")[2] == "ok" and float(first.split("\t")[4]) >= 0.99
    assert second.split("\t")[2] == "refused"
    page = (cohort / LOCALISE_DERIVATIVE / "index.html").read_text()
    assert "leave 5 mm around the nuclei" in page and "--weights" in page
    assert page.index("sub-02: refused") < page.index("sub-01: confidence") < page.index("of the annotated box")


def test_a_kept_box_of_other_settings_is_not_read(cohort, monkeypatch):
    called = []

    def other(maps, affine, template, target, margin_mm, name):
        called.append(margin_mm)
        return Found([[0, 8], [0, 8], [0, 8]], 1.0, {"t1": 1.0, "tissue": 1.0, "iron": 1.0}, None, np.zeros((1, 3)))

    monkeypatch.setattr("scripts.localisation.localiser.locate", other)
    monkeypatch.setattr("scripts.localisation.localiser.Localiser.keep", lambda *arguments: None)
    scan = head(FIRST, skull=True)
    Localiser(TEMPLATE, margin_mm=9.0)(scan.maps, scan.affine, find_scans(cohort)[0].maps[0])
    assert called == [9.0]


def test_a_cohort_that_cannot_be_written_is_localised_all_the_same(tmp_path, monkeypatch):
    good = Found([[4, 60], [4, 60], [4, 20]], 0.9, {"t1": 1.0, "tissue": 1.0, "iron": 1.0}, None, np.zeros((1, 3)))
    monkeypatch.setattr("scripts.localisation.localiser.locate", lambda *arguments: good)
    (tmp_path / "derivatives").write_text("a file where the folder should be")
    scan = head(FIRST, skull=True)
    localiser = Localiser(TEMPLATE)
    with pytest.warns(RuntimeWarning, match="--localise_dir"):
        found = localiser(scan.maps, scan.affine, str(tmp_path / "sub-01" / "anat" / "sub-01_Chimap.nii.gz"))
    assert found.box == good.box
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        localiser(scan.maps, scan.affine, str(tmp_path / "sub-02" / "anat" / "sub-02_Chimap.nii.gz"))


def test_an_uncertain_scan_is_refused_with_its_confidence(tmp_path, monkeypatch):
    measures = {"t1": 0.42, "tissue": 0.5, "half": 0.4, "covered": 1.0, "iron": 0.9}
    poor = Found([[4, 60], [4, 60], [4, 20]], 0.31, measures, None, np.zeros((1, 3)))
    monkeypatch.setattr("scripts.localisation.localiser.locate", lambda *arguments: poor)
    scan = head(FIRST, skull=True)
    with refused("study.nii.gz", "0.31", "annotate a box"):
        Localiser(TEMPLATE)(scan.maps, scan.affine, "study.nii.gz")
    assert Localiser(TEMPLATE, least_confidence=0.2)(scan.maps, scan.affine, "study.nii.gz") is poor


def test_one_4d_file_of_a_server_is_localised_by_inference_yaml_and_nothing_is_written(tmp_path, monkeypatch):
    """MONAI Label and Deploy have no cohort: the box is found, used, and said in the metadata."""
    from monai.bundle import ConfigParser

    box = [[30, 90], [40, 100], [5, 20]]
    good = Found(box, 0.9, {"t1": 1.0, "tissue": 1.0, "iron": 1.0}, None, np.zeros((1, 3)))
    monkeypatch.setattr("scripts.localisation.localiser.locate", lambda *arguments: good)
    scan = head(FIRST, skull=True)
    path = tmp_path / "study.nii.gz"
    nib.save(nib.Nifti1Image(np.moveaxis(scan.maps, 0, 3), scan.affine), path)
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.yaml")
    parser.update({"bundle_root": str(BUNDLE), "template": TEMPLATE, "nuclei": "known"})
    assert parser.get_parsed_content("localise") == "auto"
    image = parser.get_parsed_content("preprocessing")({"image": str(path)})["image"]
    assert image.shape == (3, 128, 128, 16)
    assert used_box(image) == {"source": "found", "confidence": 0.9, "voxels": box}
    assert list(tmp_path.iterdir()) == [path]


def test_a_scan_without_a_box_is_refused_before_training_where_boxes_are_due():
    paths = {name: (f"a/{name}_Chimap.nii.gz",) for name in ("sub-01", "sub-02")}
    drawn, bare = (Scan(participant_id=name, scan_id=name, maps=maps) for name, maps in paths.items())
    scans = [replace(drawn, box=[[0, 1]] * 3), bare]
    with refused("sub-02_Chimap", "1 of 2", "--localise auto"):
        check_boxes("annotated", Localiser("none"), scans)
    check_boxes("annotated", Localiser("none"), scans[:1])
    check_boxes("whole", Localiser("none"), scans)


def test_an_unknown_choice_is_refused():
    with refused("localise", "everywhere"):
        preprocessing("cropped", [32, 32], 6, [0.5, 99.5], "everywhere")


def test_making_a_template_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.anatomy.template.LARGEST_FILE", 1000)
    with refused(tmp_path / "t.nii.gz", "spacing_mm"):
        make_template(tmp_path / "t.nii.gz", 4.0, 50, templates())
    assert not list(tmp_path.iterdir())
