"""A real head (Philips, 3 T, 3 mm): finite maps that show what a real brain has, whatever the magnitude's unit."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import BUNDLE
from monai.bundle import ConfigParser
from refusal import refused

from scripts.reconstruction.bet import BET
from scripts.reconstruction.checks import doubts_about_brain
from scripts.reconstruction.extraction import Morphology
from scripts.reconstruction.raw import Acquisition, RawScan, Volume, check_scan
from scripts.reconstruction.reconstruct import Maps, Reconstruction

DATA = Path(__file__).resolve().parents[1] / "data"
SPACING = (3.0, 3.0, 3.0)
#: Where the basal ganglia are and where white matter is (frontal and behind), found by eye on the T1-weighted image.
GANGLIA = [np.s_[22:28, 36:44, 23:26], np.s_[36:42, 36:44, 23:26]]
WHITE = [np.s_[22:28, 50:55, 24:27], np.s_[36:42, 48:53, 24:27], np.s_[38:44, 20:26, 26:29]]


def measured(name: str) -> np.ndarray:
    return nib.load(DATA / "philips_head" / f"philips_{name}.nii.gz").get_fdata(dtype=np.float32)


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase `[3, X, Y, Z]`; the scan has two echoes, the third goes on from them."""
    (a, b), (p, q) = ([measured(f"{part}{echo}") for echo in (1, 2)] for part in ("mag", "ph"))
    third = np.divide(b * b, a, out=np.zeros_like(a), where=a > 0)
    return np.stack([a, b, third]), np.stack([p, q, np.angle(np.exp(1j * (2 * q - p)))])


def recommended() -> Reconstruction:
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "reconstruct.yaml")))
    parser["device"] = "cpu"
    return parser.get_parsed_content("reconstruction")


def reconstructed(magnitude: np.ndarray, phase: np.ndarray) -> Maps:
    """Maps of the recommended recipe."""
    affine = nib.load(DATA / "philips_head" / "philips_mag1.nii.gz").affine
    volumes = [[Volume(n, array=v, affine=affine) for v in part] for n, part in (("mag", magnitude), ("ph", phase))]
    acquisition = Acquisition(("mag", "phase"), *volumes, [0.0023, 0.0046, 0.0069], 10.0, 0.02, 3.0, "rad")
    scan = RawScan("sub-01", "sub-01", "sub-01/anat", [acquisition])
    check_scan(scan)
    return recommended()(scan)


@pytest.fixture(scope="module")
def maps(head) -> Maps:
    return reconstructed(*head)


def test_the_basal_ganglia_are_brighter_than_white_matter(maps):
    chi = maps.volumes["Chimap"]
    assert np.isfinite(chi).all()
    assert abs(chi).max() < 1.0
    ganglia, white = [chi[where].mean() for where in GANGLIA], [chi[where].mean() for where in WHITE]
    # QSM of healthy putamen and pallidum is some 40 to 200 ppb above white matter at any age beyond 20.
    assert min(ganglia) - max(white) > 0.04
    assert max(ganglia) - min(white) < 0.35
    rates = maps.volumes["R2starmap"]
    assert 10 < np.median(rates[maps.volumes["mask"]]) < 40


def test_two_echoes_are_enough_as_the_scanner_exported_them(tmp_path):
    pytest.importorskip("pydicom")
    from scripts.reconstruction.run import find_scans, reconstruct

    rules = str(BUNDLE / "configs" / "dicom_series.yaml")
    scans = find_scans(str(DATA / "philips_enhanced"), None, None, "sub-01", None, None, None, None, rules)
    reconstruct(str(tmp_path), None, scans, recommended(), None, {})
    anat = tmp_path / "sub-01" / "anat"
    image = nib.load(anat / "sub-01_Chimap.nii.gz")
    chi = image.get_fdata()
    assert np.isfinite(chi).all()
    # the same places on the export's grid, whose axes run the other way and which was cut below
    move = np.linalg.solve(image.affine, nib.load(DATA / "philips_head" / "philips_mag1.nii.gz").affine)

    def mean(where: tuple[slice, ...]) -> float:
        index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in where))).reshape(3, -1)
        return float(chi[tuple(np.rint(move[:3, :3] @ index + move[:3, 3:]).astype(int))].mean())

    assert min(map(mean, GANGLIA)) - max(map(mean, WHITE)) > 0.04
    lines = json.loads((anat / "sub-01_R2starmap.json").read_text())["Warnings"]
    assert [line.split(":")[0] for line in lines] == ["R2* rests on two echoes", "One flip angle only"]
    assert "R2* rests on two echoes" in (tmp_path / "sub-01.html").read_text()


@pytest.mark.parametrize("factor", [1e-7, 1e7])
def test_the_unit_of_the_magnitude_does_not_matter(head, maps, factor):
    magnitude, phase = head
    other = reconstructed(magnitude * np.float32(factor), phase)
    for name, close in (("Chimap", 1e-4), ("R2starmap", 0.01)):
        assert np.allclose(other.volumes[name], maps.volumes[name], atol=close)
    assert np.array_equal(other.volumes["mask"], maps.volumes["mask"])


def test_the_brain_is_found_and_not_the_head(head, maps):
    assert maps.warnings == ["One flip angle only: no T1 and PD maps."]
    litres = maps.volumes["mask"].sum() * 27e-6
    assert 1.3 < litres < 1.7  # by eye it is what lies within the skull
    taken = BET(0.2)(head[0][1], SPACING)
    with refused("mask", "l were taken for the brain", "--brain_mask"):
        doubts_about_brain(taken, SPACING, found=True)


def test_a_crop_from_within_the_head_is_all_brain():
    magnitude = nib.load(DATA / "romeo_small" / "Mag.nii").get_fdata(dtype=np.float32)[..., 1]
    spacing = (0.47, 0.47, 1.0)
    found = Morphology(0.6, 6.0)(magnitude, spacing)
    assert found.mean() > 0.95
    assert doubts_about_brain(found, spacing, found=True) == []
    with refused("mask", "ml were taken"):
        doubts_about_brain(BET(0.2)(magnitude, spacing), spacing, found=True)


def test_a_mask_that_reaches_the_faces_where_air_should_be_is_doubted():
    brain = np.zeros((64, 76, 49), bool)
    brain[10:54, 20:76, 8:40] = True
    lines = doubts_about_brain(brain, SPACING, found=True)
    assert [("axis j" in line, "usual" in line) for line in lines] == [(True, False)]
    assert any("usual" in line for line in doubts_about_brain(~brain, SPACING, found=False))  # 4.3 l


def test_voxels_with_one_echo_alone_have_no_slope():
    from scripts.reconstruction.unwrap import Line

    line = Line((3,), torch.device("cpu"))
    for time, weights in ((0.005, [1.0, 1.0, 0.0]), (0.010, [1.0, 1e-9, 0.0])):
        line.add(torch.full((3,), 700.0 * time + 0.3), time, torch.tensor(weights))
    slope, intercept = line.fit()
    assert slope[0] == pytest.approx(700.0, rel=1e-3) and intercept[0] == pytest.approx(0.3, abs=1e-2)
    assert not slope[1:].any() and not intercept[1:].any()
    assert line.determined().tolist() == [True, False, False]


def test_the_sign_of_the_phase_is_doubted_only_where_it_is_wrong(head, maps):
    assert not any("sign" in line for line in maps.warnings)
    magnitude, phase = head
    assert any("--phase_sign -1" in line for line in reconstructed(magnitude, -phase).warnings)


@pytest.mark.parametrize("slab", [(18, 38), (10, 40), (25, 53), (20, 34), (0, 32)])
def test_a_slab_of_a_head_keeps_its_brain_and_leaves_its_eyes(head, slab):
    part = (..., slice(*slab))
    extraction = Morphology(0.5, 6.0)
    brain, whole = extraction(head[0][2][part], SPACING), extraction(head[0][2], SPACING)[part]
    assert 2 * (brain & whole).sum() / (brain.sum() + whole.sum()) > 0.98


def test_a_lost_slice_is_named(head):
    magnitude, phase = head
    for wrong, where in ((magnitude, np.s_[1, :, :, 25]), (phase, np.s_[:, 30])):
        damaged = wrong.copy()
        damaged[where] = 0
        given = (damaged, phase) if wrong is magnitude else (magnitude, damaged)
        with refused("of echo", "is 0 throughout (1 such slices) amid others"):
            reconstructed(*given)


@pytest.mark.parametrize("part", [0, 1])
def test_an_echo_given_twice_is_refused(head, part):
    given = [volume.copy() for volume in head]
    given[part][2] = given[part][1]
    with refused("echoes 2 and 3 are the same image"):
        reconstructed(*given)
