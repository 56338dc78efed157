"""The simulated DICOM studies, read back by another library and by eye of their headers."""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from blobs import BOX, SHAPE
from nibabel.nicom.dicomwrappers import wrapper_from_file
from refusal import refused

from scripts.maps.bids import find_scans
from scripts.maps.scan import MAPS, Scan
from scripts.simulation.dicom import STYLES, stored_maps, write_cohort, write_study

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def scan(shared_cohort: Path) -> Scan:
    return find_scans(shared_cohort)[0]


def series(study: Path, number: int) -> list[Path]:
    files = [path for path in sorted(study.rglob("*")) if path.is_file()]
    return [path for path in files if pydicom.dcmread(path, stop_before_pixels=True).SeriesNumber == number]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("oblique_deg", [0.0, 12.0])
def test_another_reader_finds_the_maps_where_they_were(scan, tmp_path, oblique_deg):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", "siemens", oblique_deg=oblique_deg)
    maps, affine = stored_maps(scan.maps, "siemens", oblique_deg=oblique_deg)
    for number, stored in enumerate(maps, 3):
        # nibabel's arrays run over rows, then columns, and its slice axis from head to foot
        slices = sorted((wrapper_from_file(path) for path in series(study, number)), key=lambda w: -w.slice_indicator)
        found = np.stack([w.get_data().T for w in slices], axis=-1)
        np.testing.assert_allclose(found, stored.values * stored.slope + stored.intercept, rtol=1e-9)
        for index, wrapper in enumerate(slices):
            at = LPS_TO_RAS @ np.append(wrapper.image_position, 1)
            np.testing.assert_allclose(at, affine @ [0, 0, index, 1], atol=1e-6)


def test_another_reader_finds_the_enhanced_maps_too(scan, tmp_path):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", "siemens", layout="enhanced")
    maps, _ = stored_maps(scan.maps, "siemens")
    for number, stored in enumerate(maps, 3):
        (path,) = series(study, number)
        wrapper = wrapper_from_file(path)
        found = wrapper.get_data().transpose(1, 0, 2)[:, :, ::-1]
        np.testing.assert_allclose(found, stored.values * stored.slope, rtol=1e-9)
        np.testing.assert_allclose(wrapper.voxel_sizes[:2], [3, 3])
        np.testing.assert_allclose(wrapper.image_orient_patient, [[1, 0], [0, 1], [0, 0]], atol=1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_stored_is_the_map_within_half_a_step(scan, style):
    maps, affine = stored_maps(scan.maps, style)
    for suffix, path, stored in zip(MAPS, scan.maps, maps, strict=True):
        image = nib.load(path)
        turned = image.get_fdata()[::-1, ::-1]  # the file runs to the right and front, the study to the left and back
        step = stored.slope / STYLES[style].habits[suffix].per_unit
        assert np.abs(stored.maps_unit - turned).max() <= step / 2 * 1.001
    corner = affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner, image.affine @ [SHAPE[0] - 1, SHAPE[1] - 1, 0, 1])


@pytest.mark.parametrize("transfer_syntax", ["implicit", "rle", "jpegls"])
def test_compression_loses_nothing(scan, tmp_path, transfer_syntax):
    plain = write_study(tmp_path / "plain", scan.maps, "sub-01")
    other = write_study(tmp_path / "other", scan.maps, "sub-01", transfer_syntax=transfer_syntax)
    for one, two in zip(series(plain, 3), series(other, 3), strict=True):
        np.testing.assert_array_equal(pydicom.dcmread(one).pixel_array, pydicom.dcmread(two).pixel_array)


def test_the_same_settings_give_the_same_bytes_and_another_seed_other_uids(scan, tmp_path):
    first = write_study(tmp_path / "first", scan.maps, "sub-01", seed=1)
    again = write_study(tmp_path / "again", scan.maps, "sub-01", seed=1)
    other = write_study(tmp_path / "other", scan.maps, "sub-01", seed=2)
    assert digests(first) == digests(again)
    uids = [{pydicom.dcmread(p).SOPInstanceUID for p in folder.rglob("*.IMA")} for folder in (first, other)]
    assert not uids[0] & uids[1]
    assert all(value.is_valid and value.startswith("2.25.") for value in uids[0])


def test_a_study_holds_other_series_unless_told_otherwise(scan, tmp_path):
    study = write_study(tmp_path / "study", scan.maps, "sub-01")
    assert len(series(study, 1)) == 3 and len(series(study, 99)) == 1
    bare = write_study(tmp_path / "bare", scan.maps, "sub-01", extras=False)
    assert not series(bare, 1) and not series(bare, 99)


def test_a_slab_is_the_box(scan):
    whole, _ = stored_maps(scan.maps)
    slab, affine = stored_maps(scan.maps, box=BOX)
    (i0, i1), (j0, j1), (k0, k1) = BOX
    kept = whole[0].values[SHAPE[0] - i1 : SHAPE[0] - i0, SHAPE[1] - j1 : SHAPE[1] - j0, k0:k1]
    np.testing.assert_array_equal(slab[0].values, kept)
    at = nib.load(scan.maps[0]).affine @ [i1 - 1, j1 - 1, k0, 1]
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], at)


def test_a_cohort_becomes_a_study_a_scan_and_a_second_run_keeps_them(cohort, tmp_path):
    settings = {"slab": "basalganglia", "style": "mixed", "layout": "enhanced", "extras": False}
    folders = write_cohort(cohort, None, tmp_path / "studies", **settings)
    assert [folder.name for folder in folders] == ["sub-01", "sub-02", "sub-03", "sub-04"]
    makers = [pydicom.dcmread(next(p for p in folder.rglob("*") if p.is_file())).Manufacturer for folder in folders]
    assert len(set(makers[:3])) == 3
    before = digests(tmp_path / "studies")
    write_cohort(cohort, None, tmp_path / "studies", **settings)
    assert digests(tmp_path / "studies") == before
    with refused("sub-01", "not made of these maps with these settings"):
        write_cohort(cohort, None, tmp_path / "studies", **{**settings, "layout": "classic"})
    with refused("sub-02", "not made of these maps with these settings"):
        (tmp_path / "real" / "sub-02").mkdir(parents=True)  # somebody's study
        write_cohort(cohort, None, tmp_path / "real", **settings)
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["sub-02"]
    assert digests(tmp_path / "studies") == before


@pytest.mark.parametrize("key", ["style", "layout", "transfer_syntax"])
def test_an_unknown_choice_is_refused_and_nothing_is_left(scan, tmp_path, key):
    with refused(key, "'hitachi'"):
        write_study(tmp_path / "study", scan.maps, "sub-01", **{key: "hitachi"})
    assert not list(tmp_path.iterdir())


def test_an_existing_study_is_not_overwritten(scan, tmp_path):
    (tmp_path / "study").mkdir()
    with refused(tmp_path / "study", "exists"):
        write_study(tmp_path / "study", scan.maps, "sub-01")
