"""Maps beside QSM, R2* and T1W, and fewer of them: what the network gets, and what is refused."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from blobs import BUNDLE, SHAPE, stacked, write_further_maps
from refusal import refused

from scripts.inference.inputs import find_input
from scripts.maps.bids import find_scans, labelled_scans
from scripts.maps.plausibility import region_flags
from scripts.maps.scan import KNOWN_MAPS, MAPS, network_maps, scan_maps
from scripts.training.preprocessing import preprocessing

RULES = BUNDLE / "configs" / "dicom_series.yaml"
FOUR = [*MAPS, "T1map"]


@pytest.fixture
def further(cohort) -> Path:
    """Four subjects with T1map and PDmap, which a test may damage."""
    return write_further_maps(cohort)


def steps(maps, **settings):
    """Without resizing or cutting, so that every voxel can be followed."""
    return preprocessing("full", [SHAPE[1], SHAPE[0]], SHAPE[2], [0, 100], "whole", maps=maps, **settings)


def file_of(cohort: Path, suffix: str, subject: str = "sub-01") -> Path:
    return cohort / subject / "anat" / f"{subject}_{suffix}.nii.gz"


def change(path: Path, function) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(function(image.get_fdata()).astype(np.float32), image.affine), path)


def test_the_network_gets_the_maps_that_are_named_in_their_order(further):
    scan = find_scans(further, maps=["T1map", "R2starmap", "PDmap"])[0]
    assert scan.names == (*MAPS, "T1map", "PDmap") and list(scan.files()) == list(scan.names)
    image = steps(["T1map", "R2starmap", "PDmap"], intensity="window", t1map_window=(1.0, 1.5))(scan.item())["image"]
    t1, r2star, pd = (nib.load(file_of(further, name)).get_fdata() for name in ("T1map", "R2starmap", "PDmap"))
    expected = [(t1 - 1.0) / 0.5, r2star / 120, (pd - pd.min()) / np.ptp(pd)]
    # H runs to the back, W to the left: both turn around what is stored from the left and from the back
    expected = np.stack([np.clip(v, 0, 1)[::-1, ::-1].transpose(1, 0, 2) for v in expected])
    turned = [expected, expected[:, :, ::-1]]
    assert min(float(np.abs(image.numpy() - v).max()) for v in turned) < 1e-5
    assert json.loads(image.meta["maps"]) == ["T1map", "R2starmap", "PDmap"]


def test_three_maps_are_what_they_were_without_the_key(further):
    item = find_scans(further)[0].item()
    wanted = preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated")(item)["image"]
    assert torch.equal(steps_cropped(FOUR)(find_scans(further, maps=FOUR)[0].item())["image"][:3], wanted)


def steps_cropped(maps):
    return preprocessing("cropped", [32, 32], 4, [0.5, 99.5], "annotated", maps=maps)


def test_t1_in_milliseconds_is_read_as_such(further):
    (first, *_) = find_scans(further, maps=["T1map"])
    run = steps(["T1map"], intensity="window")
    seconds, path = run(first.item())["image"].as_tensor(), file_of(further, "T1map")
    change(path, lambda t1: 1000 * t1)
    sidecar = path.with_name("sub-01_T1map.json")
    with refused("Units 's'", "no head has"):
        run(first.item())
    for said in ('{"Units": "ms", "FlipAngle": [6, 24]}', None):
        sidecar.write_text(said) if said else sidecar.unlink()
        made = run(first.item())
        assert torch.allclose(made["image"].as_tensor(), seconds, atol=1e-5)
        assert ("taken for ms" in made["notes"]) == (said is None)
    change(path, lambda t1: t1 / 50)  # about 24
    with refused("nothing says the unit", "s or ms"):
        run(first.item())
    sidecar.write_text('{"Units": "Hz"}')
    with refused("Units 'hz'", "s or ms"):
        run(first.item())


@pytest.mark.parametrize(
    ("suffix", "unit", "other", "factor"),
    [("Chimap", "ppm", "ppb", 1e3), ("R2starmap", "s^-1", "1/ms", 1e-3)],
)
def test_qsm_and_r2star_are_read_in_the_unit_that_they_say_and_refused_in_one_that_they_are_not(
    further, suffix, unit, other, factor
):
    (first, *_), run, path = find_scans(further), steps(MAPS, intensity="window"), file_of(further, suffix)
    wanted = run(first.item())["image"].as_tensor()
    sidecar = path.with_name(f"sub-01_{suffix}.json")
    sidecar.write_text(json.dumps({"Units": other}))
    with refused(f"sub-01_{suffix}.nii.gz", f"Units {other!r}", "no head has"):
        run(first.item())
    sidecar.write_text(json.dumps({"Units": unit}))
    assert torch.equal(run(first.item())["image"].as_tensor(), wanted)
    change(path, lambda values: factor * values)
    with refused(f"Units {unit!r}", "no head has"):
        run(first.item())
    sidecar.unlink()  # BIDS lets a file above say it for all, and a nearer one say otherwise
    (further / f"{suffix}.json").write_text(json.dumps({"Units": unit}))
    (further / "sub-01" / f"sub-01_{suffix}.json").write_text(json.dumps({"Units": other}))
    assert torch.allclose(run(first.item())["image"].as_tensor(), wanted, atol=1e-5)
    (further / "sub-01" / f"sub-01_{suffix}.json").rename(further / "sub-01" / f"sub-02_{suffix}.json")
    with refused(f"Units {unit!r}"):
        run(first.item())
    sidecar.write_text(json.dumps({"Units": "rad"}))
    with refused("Units 'rad'", f"{suffix} is in"):
        run(first.item())


def test_r1_in_place_of_t1_is_refused_since_it_brightens_where_t1w_does(further):
    scan, path = find_scans(further, maps=["T1map"])[0], file_of(further, "T1map")
    path.with_name("sub-01_T1map.json").unlink()  # which would say s
    change(path, lambda t1: 1 / t1)  # 0.8 1/s: T1 of 0.8 s would be as usual
    with refused("sub-01_T1map.nii.gz", "rises with the brightness of the T1w", "R1 (1/s) instead of T1"):
        steps(["T1map"])(scan.item())


def test_a_map_that_goes_against_t1w_around_the_basal_ganglia_alone_is_flagged(further):
    maps = np.stack([nib.load(file_of(further, name)).get_fdata() for name in FOUR])
    assert region_flags(maps, None, FOUR) == region_flags(maps[:3], None)
    maps[3] = 1 / maps[3] + np.random.default_rng(0).normal(0, 0.03, maps[3].shape)
    (flag,) = set(region_flags(maps, None, FOUR)) - set(region_flags(maps[:3], None))
    assert flag.startswith("T1: around the basal ganglia") and "R1" in flag
    mtsat = [*MAPS, "MTsat"]
    assert region_flags(maps, None, mtsat) == region_flags(maps[:3], None)  # bright where T1w is
    maps[3] = -maps[3] + 5
    assert any("MTsat falls with the brightness of the T1w" in flag for flag in region_flags(maps, None, mtsat))


@pytest.mark.parametrize(
    ("suffix", "function", "words"),
    [
        ("PDmap", lambda pd: np.ones_like(pd), ["the PDmap is 1 everywhere"]),
        ("PDmap", lambda pd: (pd > np.median(pd)).astype(float), ["PDmap has 1 different values", "mask"]),
        ("PDmap", lambda pd: 80 + 0.001 * pd, ["nearly all of the PDmap is 80.1", "constant"]),
        ("PDmap", lambda pd: pd - np.median(pd), ["50 % of the PDmap is negative"]),
    ],
)
def test_a_mask_a_constant_or_negative_water_is_no_map(further, suffix, function, words):
    change(file_of(further, suffix), function)
    scan = find_scans(further, maps=[suffix])[0]
    with refused(*words):
        steps([suffix])(scan.item())


def test_a_map_that_scans_lack_is_refused_with_their_names_before_anything_is_read(further):
    for subject in ("sub-02", "sub-04"):
        file_of(further, "T1map", subject).unlink()
    with refused("2 of 4 scans", "T1map", "sub-02, sub-04"):
        labelled_scans(further, maps=FOUR)
    assert [scan.scan_id for scan in find_input(further, dicom_rules=RULES, maps=FOUR) if scan.refused] == [
        "sub-02",
        "sub-04",
    ]
    with refused("no scan has *_MTsat.nii.gz"):
        find_input(further, dicom_rules=RULES, maps=["MTsat"])
    assert len(labelled_scans(further, maps=["R2starmap"])) == 4


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (["T1maps"], ["'T1maps'", "did you mean T1map?"]),
        (["Chimap", "T1w", "Chimap"], ["Chimap twice"]),
        ([], ["at least one"]),
    ],
)
def test_maps_that_cannot_be_are_refused(maps, words):
    with refused(*words):
        network_maps(maps)


def test_what_the_config_allows_is_what_is_known():
    allowed = yaml.safe_load((BUNDLE / "configs" / "allowed.yaml").read_text())["everywhere"]["maps"]["each"]
    assert allowed.split(" | ") == list(KNOWN_MAPS)
    assert scan_maps(["T1map"]) == (*MAPS, "T1map")


def test_further_maps_are_checked_as_the_three_are(further):
    scan, run = find_scans(further, maps=FOUR)[0], steps(FOUR)
    path = file_of(further, "T1map")
    good = path.read_bytes()
    change(path, lambda t1: np.where(np.arange(len(t1))[:, None, None] == 3, np.nan, t1))
    with refused("T1map holds NaN"):
        run(scan.item())
    image = nib.load(file_of(further, "T1w"))
    nib.save(nib.Nifti1Image((image.get_fdata() / 300).astype(np.float32), image.affine), path)
    with refused("T1w and T1map are the same image"):
        run(scan.item())
    nib.save(nib.Nifti1Image(image.get_fdata()[..., 1:].astype(np.float32) / 300, image.affine), path)
    with refused("sub-01_T1map.nii.gz", "its grid"):
        labelled_scans(further, maps=FOUR)
    path.write_bytes(good)
    shutil.copy(path, file_of(further, "T1map", "sub-03"))
    with refused("copy of the T1map", "sub-01"):
        labelled_scans(further, maps=FOUR)
    assert len(labelled_scans(further)) == 4


def test_four_maps_come_as_four_files_or_as_one_of_four(further, tmp_path):
    files = [str(file_of(further, suffix)) for suffix in FOUR]
    (scan,) = find_input(",".join(reversed(files)), dicom_rules=RULES, maps=["T1map"])
    (one,) = find_input(stacked_file(further, tmp_path / "four.nii.gz", FOUR), dicom_rules=RULES, maps=["T1map"])
    run = steps(["T1map"])
    assert torch.equal(run(scan.item())["image"].as_tensor(), run(one.item())["image"].as_tensor())
    with refused("3 paths", "Chimap, R2starmap, T1w, T1map"):
        find_input(",".join(files[:3]), dicom_rules=RULES, maps=["T1map"])
    with refused("Chimap, R2starmap, T1w, T1map along its last axis"):
        find_input(stacked_file(further, tmp_path / "three.nii.gz", MAPS), dicom_rules=RULES, maps=["T1map"])


def stacked_file(cohort: Path, path: Path, suffixes) -> str:
    nib.save(stacked(cohort, "sub-01", suffixes), path)
    return str(path)
