"""Raw echoes laid out in other ways: named in another order, or as complex numbers."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from raw_head import TIMES, affine, echoes, write_raw
from refusal import refused

from scripts.reconstruction.bids import find_raw
from scripts.reconstruction.derivatives import box_of, copy_box
from scripts.reconstruction.raw import Acquisition, RawScan, check_scan, load_echoes
from scripts.reconstruction.run import find_scans, path_for, reconstruct

RULES = str(Path(__file__).parents[2] / "bundle" / "configs" / "dicom_series.yaml")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return echoes(24, np.random.default_rng(0))[:3].astype(np.complex64)


def read(acquisition: Acquisition) -> np.ndarray:
    """Complex echoes of about unit brightness."""
    found = load_echoes(acquisition, 1)
    return found.magnitude * found.unit * np.exp(1j * found.phase)


def test_echoes_are_sorted_by_their_times_whatever_their_names(tmp_path):
    write_raw(tmp_path, flips=(24,))
    anat = tmp_path / "sub-01" / "anat"
    before = read(find_raw(tmp_path)[0].acquisitions[0])
    for part in ("mag", "phase"):
        for ending in ("nii.gz", "json"):
            one, three, aside = (anat / f"sub-01_acq-fa24_echo-{n}_part-{part}_MEGRE.{ending}" for n in (1, 3, 9))
            one.rename(aside), three.rename(one), aside.rename(three)
    (scan,) = find_raw(tmp_path)
    (acquisition,) = scan.acquisitions
    check_scan(scan)
    assert acquisition.echo_times_s == list(TIMES)
    assert "15, 10, 5, 20, 25, 30 ms" in acquisition.notes[0]
    assert np.array_equal(read(acquisition), before)
    assert acquisition.notes[0] in load_echoes(acquisition, 1).warnings


@pytest.mark.parametrize("other", ["echo-03_part-mag_MEGRE.nii.gz", "echo-3_part-mag_MEGRE.nii", "echo-3_MEGRE.nii.gz"])
def test_two_files_for_one_echo_and_part_are_refused(tmp_path, other):
    write_raw(tmp_path, flips=(24,))
    anat = tmp_path / "sub-01" / "anat"
    one = anat / "sub-01_acq-fa24_echo-3_part-mag_MEGRE.nii.gz"
    nib.save(nib.load(one), anat / f"sub-01_acq-fa24_{other}")
    with refused(one.name, f"sub-01_acq-fa24_{other}", "same echo"):
        raise find_raw(tmp_path)[0].error


def test_an_echo_that_is_there_in_another_format_too_is_named(tmp_path):
    write_raw(tmp_path, flips=(24,))
    other = tmp_path / "sub-01" / "anat" / "sub-01_acq-fa24_echo-3_part-mag_MEGRE.hdr"
    other.write_bytes(b"x")
    with refused(other, "not a .nii or .nii.gz file"):
        raise find_raw(tmp_path)[0].error


def test_an_echo_of_a_huge_number_takes_no_memory(tmp_path):
    write_raw(tmp_path, flips=(24,))
    for path in [*tmp_path.glob("sub-01/anat/*echo-6*")]:
        path.rename(path.with_name(path.name.replace("echo-6", "echo-99999999999")))
    with refused("no echo-6 of 99999999999"):
        raise find_raw(tmp_path)[0].error


def test_a_subject_whose_echoes_are_not_named_as_such_is_a_row_and_one_without_any_is_counted(tmp_path, caplog):
    write_raw(tmp_path, flips=(24,))
    for name in ("sub-02_part-mag_MEGRE", "sub-03_echo-1_part-mag_megre", "sub-04_T1w"):
        (tmp_path / name[:6] / "anat").mkdir(parents=True)
        shutil.copy(
            next((tmp_path / "sub-01" / "anat").glob("*.nii.gz")), tmp_path / name[:6] / "anat" / f"{name}.nii.gz"
        )
    *rows, good = find_raw(tmp_path)
    assert (good.scan_id, [row.scan_id for row in rows]) == ("sub-01", ["sub-02", "sub-03"])
    for row in rows:
        with refused(f"{row.scan_id}_", "which echo it is"):
            raise row.error
    assert "1 folders hold no gradient echoes and are passed over (first: of sub-04)" in caplog.text


@pytest.mark.parametrize("name", ["../sub-01", "sub-0/1", "01", "sub-Müller"])
def test_a_participant_that_is_no_folder_of_the_output_is_refused_whatever_the_input(tmp_path, name):
    with refused("participant_id", name):
        find_scans(str(tmp_path), None, None, name, None, None, None, None, RULES)


def test_a_name_that_is_no_utf8_is_that_scans_failure_and_can_be_written(tmp_path):
    write_raw(tmp_path, flips=(24,))
    old = os.fsdecode(b"sub-\xe9")
    shutil.copytree(tmp_path / "sub-01", tmp_path / old)
    good, bad = find_raw(tmp_path)
    assert (good.scan_id, bad.participant_id) == ("sub-01", "sub-\\xe9")
    with refused("sub-\\xe9", "not in UTF-8"):
        raise bad.error
    str(bad.error).encode()


def test_a_box_beside_the_maps_that_somebody_changed_stays(tmp_path, capsys):
    scan = RawScan("sub-01", "sub-01", "sub-01/anat")
    raw, maps = box_of(tmp_path / "raw", scan), box_of(tmp_path / "maps", scan)
    for path in (raw, maps):
        path.parent.mkdir(parents=True)
    raw.write_text("first")
    maps.unlink(missing_ok=True)
    copied = copy_box(tmp_path / "raw", tmp_path / "maps", scan, None)
    raw.write_text("second")
    copied = copy_box(tmp_path / "raw", tmp_path / "maps", scan, copied)
    assert maps.read_text() == "second"  # ours, so it follows the raw data's
    maps.write_text("drawn")
    assert copy_box(tmp_path / "raw", tmp_path / "maps", scan, copied) is None
    assert maps.read_text() == "drawn"
    assert "was left so" in capsys.readouterr().out


def test_of_words_in_braces_the_scan_alone_is_filled_in(tmp_path):
    scan = RawScan("sub-01", "sub-01_run-2", "sub-01/anat")
    assert path_for("/x/{scan}/{scan}_mask.nii", scan) == "/x/sub-01_run-2/sub-01_run-2_mask.nii"
    for wrong in ("{subject}", "{}", "{scan", "{scan.x}", "{scan!z}", "{scan}}"):
        with refused(f"/x/{wrong}_mask.nii", "{scan} alone"):
            path_for(f"/x/{wrong}_mask.nii", scan)
    odd = tmp_path / "{a} mask.nii"
    odd.touch()
    assert path_for(str(odd), scan) == str(odd)


@pytest.mark.parametrize("name", ["participants.tsv", "participants.json"])
def test_a_table_of_participants_that_is_no_file_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with refused(tmp_path / name, "directory"):
        reconstruct(str(tmp_path / "maps"), str(tmp_path), [], None, None, {})
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to("nowhere")
    with refused(tmp_path / name, "No such file"):
        reconstruct(str(tmp_path / "maps"), str(tmp_path), [], None, None, {})
    assert not (tmp_path / "maps").exists()


def test_complex_files_of_a_bids_folder_are_read_as_magnitude_and_phase(image, tmp_path):
    for echo, (time, volume) in enumerate(zip(TIMES, image, strict=False), 1):
        path = tmp_path / "sub-01" / "anat" / f"sub-01_echo-{echo}_MEGRE.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume, affine()), path)
        facts = {"EchoTime": time, "MagneticFieldStrength": 3.0, "SliceThickness": 3.0}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(facts))
    (scan,) = find_raw(tmp_path)
    check_scan(scan)
    assert np.abs(read(scan.acquisitions[0]) - image).max() < 1e-5
    path.rename(path.with_name("sub-01_echo-3_part-mag_MEGRE.nii.gz"))
    with refused("sub-01_echo-3", "part-"):
        raise find_raw(tmp_path)[0].error


def test_a_complex_file_by_key_needs_no_phase_and_a_real_one_does(image, tmp_path):
    path = tmp_path / "echoes.nii.gz"
    keys = ["sub-01", [0.010, 0.005, 0.015], [24], 0.036, 3.0, RULES]
    nib.save(nib.Nifti1Image(np.moveaxis(image[[1, 0, 2]], 0, 3), affine()), path)
    (scan,) = find_scans(None, [str(path)], None, *keys)
    assert np.abs(read(scan.acquisitions[0]) - image).max() < 1e-5
    nib.save(nib.Nifti1Image(np.moveaxis(abs(image), 0, 3), affine()), path)
    with refused("echoes.nii.gz", "--phase"):
        find_scans(None, [str(path)], None, *keys)


def test_echoes_in_files_of_their_own_are_a_list_within_the_list(image, tmp_path):
    paths = [str(tmp_path / f"echo{echo}.nii.gz") for echo in (1, 2, 3)]
    for path, volume in zip(paths, image, strict=True):
        nib.save(nib.Nifti1Image(volume, affine()), path)
    keys = ["sub-01", [0.005, 0.010, 0.015], [24], 0.036, 3.0, RULES]
    (scan,) = find_scans(None, [paths], None, *keys)
    assert np.abs(read(scan.acquisitions[0]) - image).max() < 1e-5
    for flat in (paths, ",".join(paths), paths[0]):
        with refused("echo1.nii.gz", "--magnitude [[ECHO1,ECHO2,...]]"):
            find_scans(None, flat, None, *keys)


def test_neither_folder_nor_files_is_refused():
    with refused("input: not given", "--input", "--magnitude"):
        find_scans(None, None, None, "sub-01", None, None, None, None, RULES)
