"""A BIDS folder becomes a list of scans, or one line that says what is wrong with it; subjects split in folds."""

import errno
import gzip
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from blobs import BOX, write_map
from refusal import refused

from scripts.files.writing import check_output_dir
from scripts.maps.bids import (
    check_grid,
    chosen_scans,
    find_scans,
    known_ages,
    labelled_scans,
    read_box,
    read_participants,
    split,
    write_participants,
)
from scripts.maps.copies import without_copies
from scripts.maps.scan import MAPS, LabelledScan, Scan


def map_file(cohort: Path, suffix: str) -> Path:
    return cohort / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz"


def box_file(cohort: Path) -> Path:
    return cohort / "derivatives/basalganglia/sub-01/anat/sub-01_desc-basalganglia_box.json"


def edit_table(cohort: Path, old: str, new: str) -> None:
    table = cohort / "participants.tsv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def test_scans_are_found_in_order_with_maps_and_box(shared_cohort):
    scans = find_scans(shared_cohort)
    assert [scan.participant_id for scan in scans] == [f"sub-{n:02d}" for n in range(1, 13)]
    folder = shared_cohort / "sub-01" / "anat"
    paths = tuple(str(folder / f"sub-01_{name}.nii.gz") for name in ("Chimap", "R2starmap", "T1w"))
    assert scans[0] == Scan(participant_id="sub-01", scan_id="sub-01", maps=paths, box=BOX)


def test_sessions_of_a_subject_are_scans_of_their_own(cohort):
    for session in ("ses-1", "ses-2"):
        folder = cohort / "sub-01" / session / "anat"
        shutil.copytree(cohort / "sub-01" / "anat", folder)
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace("sub-01_", f"sub-01_{session}_"))
    shutil.rmtree(cohort / "sub-01" / "anat")
    box_file(cohort).unlink()
    scans = find_scans(cohort)
    assert [scan.scan_id for scan in scans[:2]] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert {scan.participant_id for scan in scans[:2]} == {"sub-01"}


def test_labels_come_from_the_participants_table(shared_cohort):
    labels = {scan.participant_id: scan.label for scan in labelled_scans(shared_cohort)}
    assert labels["sub-01"] == 0 and labels["sub-02"] == 1  # HC, HH in conftest
    assert Counter(labels.values()) == {0: 6, 1: 6}


# --- files that are missing, doubled or of another kind -------------------------------------------


def test_a_missing_dataset_folder_is_refused(tmp_path):
    with refused(tmp_path / "nowhere"):
        find_scans(tmp_path / "nowhere")


def test_a_folder_that_is_not_bids_is_refused(tmp_path):
    with refused(tmp_path, "anat"):
        find_scans(tmp_path)


@pytest.mark.parametrize("suffix", ["Chimap", "R2starmap", "T1w"])
def test_a_missing_map_is_refused(cohort, suffix):
    map_file(cohort, suffix).unlink()
    with refused(cohort / "sub-01" / "anat", f"*_{suffix}.nii.gz"):
        find_scans(cohort)


def test_a_map_of_another_format_is_refused(cohort):
    path = map_file(cohort, "T1w")
    path.rename(path.with_name("sub-01_T1w.mgz"))
    with refused(path.with_name("sub-01_T1w.mgz"), "NIfTI"):
        find_scans(cohort)


def test_a_map_that_is_there_twice_is_refused(cohort):
    shutil.copy(map_file(cohort, "Chimap"), cohort / "sub-01" / "anat" / "sub-01_run-2_Chimap.nii.gz")
    with refused(cohort / "sub-01" / "anat", "sub-01_Chimap.nii.gz", "sub-01_run-2_Chimap.nii.gz"):
        find_scans(cohort)


def test_two_sessions_with_the_same_file_names_are_refused(cohort):
    for session in ("ses-1", "ses-2"):  # their results would overwrite each other
        shutil.copytree(cohort / "sub-01" / "anat", cohort / "sub-01" / session / "anat")
    shutil.rmtree(cohort / "sub-01" / "anat")
    with refused(cohort / "sub-01" / "ses-2" / "anat", "sub-01_Chimap"):
        find_scans(cohort)


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[1, 2]",
        '{"box": [[0, 1], [0, 1], [0, 1]]}',
        '{"Box": null}',
        '{"Box": [[0, 4], [0, 4]]}',
        '{"Box": [[0, 4], [4, 0], [0, 4]]}',
        '{"Box": [[0, 4, 8], [0, 4, 8], [0, 4, 8]]}',
        '{"Box": [[0, 4.5], [0, 4], [0, 4]]}',
        '{"Box": [[0, Infinity], [0, 4], [0, 4]]}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_box_file_is_refused(cohort, text):
    path = box_file(cohort)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with refused(path):
        find_scans(cohort)


def test_a_box_of_whole_numbers_written_as_floats_is_read(tmp_path):
    (tmp_path / "box.json").write_text(json.dumps({"Box": [[0.0, 4.0], [1, 5], [2, 6]]}))
    assert read_box(tmp_path / "box.json") == [[0, 4], [1, 5], [2, 6]]


# --- the participants table -----------------------------------------------------------------------


def test_a_missing_table_is_refused(cohort):
    (cohort / "participants.tsv").unlink()
    with refused(cohort / "participants.tsv", "group"):
        labelled_scans(cohort)


@pytest.mark.parametrize("name", ["participants.csv", "Participants.TSV", "participants.tsv.txt"])
def test_a_table_called_nearly_as_the_one_that_is_read_is_named(cohort, name, caplog):
    (cohort / "participants.tsv").rename(cohort / name)
    with refused(cohort / "participants.tsv", name):
        labelled_scans(cohort)
    assert known_ages(cohort / "participants.tsv") == {}
    assert name in caplog.text and "participants.tsv" in caplog.text


def test_a_table_without_groups_is_refused(cohort):
    edit_table(cohort, "group", "diagnosis")
    with refused(cohort / "participants.tsv", "group"):
        labelled_scans(cohort)


def test_a_table_separated_by_commas_is_refused(cohort):
    edit_table(cohort, "\t", ",")
    with refused(cohort / "participants.tsv", "tab-separated"):
        labelled_scans(cohort)


def test_a_table_that_is_not_text_is_refused(cohort):
    (cohort / "participants.tsv").write_bytes(b"PK\x03\x04\xff\xfe" * 20)  # a spreadsheet under another name
    with refused(cohort / "participants.tsv", "tab-separated"):
        labelled_scans(cohort)


def test_a_name_that_is_no_utf8_is_that_scans_failure_and_can_be_written(cohort):
    (cohort / "sub-04").rename(cohort / os.fsdecode(b"sub-\xe9"))
    scans = find_scans(cohort, incomplete_too=True)
    (bad,) = [scan for scan in scans if scan.refused]
    assert (len(scans), bad.scan_id) == (4, "sub-\\xe9")
    assert "not in UTF-8" in bad.refused
    bad.refused.encode()
    with refused("sub-\\xe9", "rename it"):
        find_scans(cohort)


@pytest.mark.parametrize("link", ["sub-04", "sub-04/anat"])
def test_a_link_to_nothing_is_that_scans_failure(cohort, link):
    shutil.rmtree(cohort / link)
    (cohort / link).symlink_to("nowhere")
    scans = find_scans(cohort, incomplete_too=True)
    assert [scan.scan_id for scan in scans if scan.refused] == ["sub-04"]
    with refused(cohort / link, "link to what is not there"):
        find_scans(cohort)


def test_a_box_belongs_to_its_subject_whatever_letters_its_name_has(cohort, caplog):
    for path in sorted(cohort.rglob("*sub-04*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.replace("sub-04", "sub-山田")))
    assert next(scan for scan in find_scans(cohort) if scan.scan_id == "sub-山田").box is not None
    assert not caplog.messages
    box = next(cohort.glob("derivatives/basalganglia/sub-山田/anat/*_box.json"))
    box.rename(box.with_name("sub-山田_drawn_box.json"))
    with refused("is a box of no scan by its place and name, and sub-山田 has none"):
        find_scans(cohort)


def test_a_subject_without_scans_is_passed_over_with_a_word(cohort, caplog):
    (cohort / "sub-05" / "func").mkdir(parents=True)
    (cohort / "sub-01.html").touch()
    assert len(find_scans(cohort)) == 4
    assert caplog.messages == ["1 subjects have no anat folder and are passed over (first: sub-05)"]


def test_a_participant_with_two_rows_is_refused(cohort):
    edit_table(cohort, "sub-02", "sub-01")
    with refused(cohort / "participants.tsv", "sub-01"):
        labelled_scans(cohort)


def test_a_scan_without_a_row_is_refused(cohort):
    lines = (cohort / "participants.tsv").read_text().splitlines()
    (cohort / "participants.tsv").write_text("\n".join(lines[:-1]) + "\n")
    with refused(cohort / "participants.tsv", "sub-04"):
        labelled_scans(cohort)


def test_a_row_without_a_scan_is_refused(cohort):
    shutil.rmtree(cohort / "sub-04")
    with refused(cohort / "participants.tsv", "sub-04"):
        labelled_scans(cohort)


@pytest.mark.parametrize("group", ["patient", "hh", ""])
def test_an_unknown_group_is_refused(cohort, group):
    edit_table(cohort, "HH", group)
    with refused(cohort / "participants.tsv", "HH or HC", "sub-02"):
        labelled_scans(cohort)


@pytest.mark.parametrize(("old", "new"), [("HH", "HC"), ("HC", "HH")])
def test_a_cohort_of_one_class_is_refused(cohort, old, new):
    edit_table(cohort, old, new)
    with refused(cohort / "participants.tsv", new):
        labelled_scans(cohort)


def test_a_row_that_ends_early_is_refused(cohort):
    edit_table(cohort, "\tHH\n", "\n")
    with refused(cohort / "participants.tsv", "line 3 has 3 cells"):
        labelled_scans(cohort)


def test_a_table_saved_with_a_byte_order_mark_is_read(cohort):
    table = cohort / "participants.tsv"
    table.write_text(table.read_text(), encoding="utf-8-sig")
    assert len(labelled_scans(cohort)) == 4


def test_only_named_participants_are_chosen(shared_cohort, tmp_path):
    table = tmp_path / "chosen.tsv"
    table.write_text("participant_id\nsub-03\nsub-11\n")
    assert [scan.scan_id for scan in chosen_scans(shared_cohort, table)] == ["sub-03", "sub-11"]
    assert len(chosen_scans(shared_cohort, None)) == 12


def test_a_choice_of_nobody_is_refused(shared_cohort, tmp_path):
    table = tmp_path / "chosen.tsv"
    table.write_text("participant_id\n")
    with refused(table, "names nobody"):
        chosen_scans(shared_cohort, table)


def test_a_chosen_participant_without_a_scan_is_refused(shared_cohort, tmp_path):
    table = tmp_path / "chosen.tsv"
    table.write_text("participant_id\nsub-99\n")
    with refused(table, "sub-99"):
        chosen_scans(shared_cohort, table)


def test_the_held_out_table_reads_back(shared_cohort, tmp_path):
    _, held_out = split(labelled_scans(shared_cohort), 3, 0, 0)
    write_participants(tmp_path / "held_out.tsv", held_out)
    rows = read_participants(tmp_path / "held_out.tsv", ["participant_id", "group"])
    assert {name: row["group"] for name, row in rows.items()} == {
        scan.participant_id: ("HC", "HH")[scan.label] for scan in held_out
    }


# --- grids, from the headers alone ----------------------------------------------------------------


def other_shape(path: Path) -> None:
    image = nib.load(path)
    write_map(path, image.get_fdata()[:-1], image.affine)


def other_orientation(path: Path) -> None:
    image = nib.load(path)
    nib.save(image.as_reoriented(np.array([[0, -1], [1, -1], [2, 1]])), path)


def other_position(path: Path) -> None:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[2, 3] += 2
    write_map(path, image.get_fdata(), affine)


def other_voxel_size(path: Path) -> None:
    image = nib.load(path)
    write_map(path, image.get_fdata(), image.affine @ np.diag([1.01, 1, 1, 1]))


def four_dimensions(path: Path) -> None:
    image = nib.load(path)
    write_map(path, np.stack([image.get_fdata()] * 2, -1), image.affine)


def two_dimensions(path: Path) -> None:
    image = nib.load(path)
    write_map(path, image.get_fdata()[..., 5], image.affine)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def no_gzip(path: Path) -> None:
    path.write_bytes(b"<html>\nSign in to\ndownload</html>" * 30)


def damaged_gzip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[12:200] = b"\xff" * 188
    path.write_bytes(bytes(content))


def unknown_data_type(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[70:72] = (9999).to_bytes(2, "little")  # datatype in the NIfTI-1 header
    path.write_bytes(gzip.compress(bytes(content)))


def affine_of_nan(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    path.write_bytes(gzip.compress(bytes(content)))


def flat_affine(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:296] = b"\0" * 16  # srow_x
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize(
    "damage",
    [
        other_shape,
        other_orientation,
        other_position,
        other_voxel_size,
        four_dimensions,
        two_dimensions,
        empty,
        cut_in_the_header,
        no_gzip,
        damaged_gzip,
        unknown_data_type,
        affine_of_nan,
        flat_affine,
        Path.unlink,
    ],
)
@pytest.mark.parametrize("suffix", ["Chimap", "T1w"])
def test_a_map_on_another_grid_or_unreadable_is_refused(cohort, suffix, damage):
    paths = find_scans(cohort)[0].maps
    damage(map_file(cohort, suffix))
    with refused(cohort / "sub-01" / "anat"):
        check_grid(paths)


def test_a_header_is_checked_before_training_starts(cohort):
    four_dimensions(map_file(cohort, "R2starmap"))
    with refused(map_file(cohort, "R2starmap"), "(40, 44, 14, 2)"):
        labelled_scans(cohort)


def test_one_grid_written_with_rounding_is_accepted(cohort):
    path = map_file(cohort, "T1w")
    image = nib.load(path)
    write_map(path, image.get_fdata(), image.affine + 1e-5)
    assert len(labelled_scans(cohort)) == 4


# --- the output folder ----------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(path, "choose another output folder"):
            check_output_dir(path, 1)


def test_a_full_disk_is_refused_before_work_starts(tmp_path):
    with refused(tmp_path, "MB free"):
        check_output_dir(tmp_path, 10**20)


def test_an_output_folder_is_made_and_left_empty(tmp_path):
    assert list(check_output_dir(tmp_path / "a" / "b", 1).iterdir()) == []


# --- folds ----------------------------------------------------------------------------------------


def scans_of(subjects: int, hh: int, sessions: int = 1) -> list[LabelledScan]:
    return [
        LabelledScan(participant_id=f"sub-{n:03d}", scan_id=f"sub-{n:03d}_ses-{s}", label=int(n < hh))
        for n in range(subjects)
        for s in range(sessions)
    ]


def names(scans: list[LabelledScan]) -> set[str]:
    return {scan.participant_id for scan in scans}


def test_every_subject_is_held_out_once_and_never_trained_on_then():
    scans = scans_of(95, 49)  # the paper's cohort
    held_out = Counter()
    for fold in range(10):
        train, test = split(scans, 10, fold, seed=3)
        assert not names(train) & names(test)
        assert names(train) | names(test) == names(scans)
        held_out.update(names(test))
    assert held_out == Counter(names(scans))


def test_folds_are_stratified_by_group():
    for fold in range(10):
        test = split(scans_of(95, 49), 10, fold, seed=3)[1]
        assert sum(scan.label for scan in test) in (4, 5)
        assert sum(1 - scan.label for scan in test) in (4, 5)


def test_sessions_of_a_subject_stay_together():
    scans = scans_of(20, 9, sessions=2)
    train, test = split(scans, 4, 1, seed=0)
    assert Counter(scan.participant_id for scan in test) == dict.fromkeys(names(test), 2)
    assert Counter(scan.participant_id for scan in train) == dict.fromkeys(names(train), 2)


def test_the_seed_decides_the_split_and_the_order_of_files_does_not():
    scans = scans_of(30, 15)
    first = split(scans, 5, 0, seed=1)
    assert split(scans, 5, 0, seed=1) == first
    assert names(split(scans[::-1], 5, 0, seed=1)[1]) == names(first[1])
    assert names(split(scans, 5, 0, seed=2)[1]) != names(first[1])


@pytest.mark.parametrize(("num_folds", "fold"), [(1, 0), (0, 0), (5, 5), (5, -1), (6, 0)])
def test_folds_that_cannot_be_are_refused(num_folds, fold):
    with refused("fold"):
        split(scans_of(12, 5), num_folds, fold, seed=0)


def packed_again(source: Path, target: Path) -> None:
    target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1))


def saved_again(source: Path, target: Path) -> None:
    image = nib.load(source)
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), target)


@pytest.mark.parametrize("suffix", MAPS)
@pytest.mark.parametrize("copy", [shutil.copy, packed_again, saved_again])
def test_a_copy_of_a_map_under_another_name_is_refused_however_it_was_saved(cohort, copy, suffix):
    copy(cohort / f"sub-01/anat/sub-01_{suffix}.nii.gz", cohort / f"sub-03/anat/sub-03_{suffix}.nii.gz")
    with refused(f"sub-03_{suffix}.nii.gz", "'sub-01'", "copy"):
        labelled_scans(cohort)


def test_two_sessions_with_one_qsm_are_told_and_do_not_stop_the_others(cohort):
    box_file(cohort).unlink()
    anat = cohort / "sub-01" / "anat"
    for session in ("ses-1", "ses-2"):
        (cohort / "sub-01" / session / "anat").mkdir(parents=True)
        for suffix in MAPS:
            target = cohort / "sub-01" / session / "anat" / f"sub-01_{session}_{suffix}.nii.gz"
            saved_again(anat / f"sub-01_{suffix}.nii.gz", target)
    shutil.rmtree(anat)
    with refused("sub-01_ses-2_Chimap", "copy of the Chimap of 'sub-01_ses-1'"):
        labelled_scans(cohort)
    (cohort / "sub-03/anat/sub-03_Chimap.nii.gz").write_bytes(b"damaged")  # its own turn will say so
    found = {scan.scan_id: scan.refused for scan in without_copies(find_scans(cohort))}
    assert {name for name, why in found.items() if why} == {"sub-01_ses-1", "sub-01_ses-2"}
    assert "copy of the Chimap of 'sub-01_ses-2'" in found["sub-01_ses-1"]


@pytest.mark.parametrize("suffix", MAPS)
def test_a_map_of_another_participant_is_told_at_both_and_stops_nobody_else(cohort, suffix):
    saved_again(cohort / f"sub-01/anat/sub-01_{suffix}.nii.gz", cohort / f"sub-03/anat/sub-03_{suffix}.nii.gz")
    found = {scan.scan_id: scan.refused for scan in without_copies(find_scans(cohort))}
    assert {name for name, why in found.items() if why} == {"sub-01", "sub-03"}
    assert f"sub-01_{suffix}.nii.gz: is a copy of the {suffix} of 'sub-03'" in found["sub-01"]


def test_maps_that_begin_alike_are_no_copies(cohort):
    for name in ("sub-01", "sub-03"):
        path = cohort / f"{name}/anat/{name}_T1w.nii.gz"
        image = nib.load(path)
        voxels = image.get_fdata(dtype=np.float32)
        voxels[..., :4] = 7
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    assert len(labelled_scans(cohort)) == 4


@pytest.mark.parametrize("name", ["Age", "age_years", "Alter", "age (y)", "agee"])
def test_a_column_called_nearly_as_one_that_is_read_is_named_in_one_line(cohort, name, caplog):
    table = cohort / "participants.tsv"
    edit_table(cohort, "\tage", f"\t{name}")
    assert known_ages(table) == {}
    assert caplog.messages == [
        f"participants.tsv: column {name!r} is not read; ages in years are read from a column 'age'"
    ]


@pytest.mark.parametrize("age", ["-5", "1975", "old"])
def test_an_age_that_cannot_be_is_refused_before_any_training(cohort, age):
    table = cohort / "participants.tsv"
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    lines[1][lines[0].index("age")] = age
    table.write_text("".join("\t".join(line) + "\n" for line in lines))
    with refused(table, f"is {age!r}", "0 to 120"):
        labelled_scans(cohort)


def test_a_needed_column_called_otherwise_is_named(cohort):
    edit_table(cohort, "group", "Diagnosis")
    with refused("no column 'group'", "has 'Diagnosis'"):
        labelled_scans(cohort)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["T2starw"], "sub-02_T2starw.nii.gz is one echo by its name, of which QSM and R2* cannot be made: leave"),
        ([f"echo-{n}_part-{part}_MEGRE" for n in (1, 2) for part in ("mag", "phase")], "configs/reconstruct.yaml"),
    ],
)
def test_a_subject_with_raw_echoes_in_place_of_maps_is_a_row_that_says_so(cohort, there, said):
    anat = cohort / "sub-02" / "anat"
    for suffix in ("Chimap", "R2starmap"):
        (anat / f"sub-02_{suffix}.nii.gz").unlink()
    for name in there:
        shutil.copy(anat / "sub-02_T1w.nii.gz", anat / f"sub-02_{name}.nii.gz")
    scans = find_scans(cohort, incomplete_too=True)
    assert [scan.scan_id for scan in scans if not scan.refused] == ["sub-01", "sub-03", "sub-04"]
    assert said in str(scans[1].refused) and "no *_Chimap.nii.gz" in str(scans[1].refused)


@pytest.mark.parametrize("name", ["SUB-02", "sub02", "Sub_02"])
def test_a_subject_called_otherwise_than_bids_has_it_is_never_passed_over(cohort, name):
    (cohort / "sub-02").rename(cohort / name)
    with refused(name, "sub-01"):
        find_scans(cohort)
    assert [scan.scan_id for scan in find_scans(cohort, incomplete_too=True) if scan.refused] == [name]


@pytest.mark.parametrize(("name", "called"), [("02", "02"), ("patient-02", "patient-02"), ("Doe Jane", "folder-.{10}")])
@pytest.mark.parametrize("within", ["", "sub-02"])  # a subject's folder, or one of a group of subjects
def test_any_folder_that_holds_maps_beside_the_subjects_is_named_and_no_person_is(cohort, name, called, within):
    (cohort / name / within).parent.mkdir(exist_ok=True)
    (cohort / "sub-02").rename(cohort / name / within)
    with refused(name, "sub-01"):
        find_scans(cohort)
    (told,) = [scan for scan in find_scans(cohort, incomplete_too=True) if scan.refused]
    assert re.fullmatch(called, told.scan_id) and told.refused.startswith(told.scan_id)


@pytest.mark.parametrize("folder", ["S02", "S02/anat"])
def test_maps_that_are_called_by_their_kind_alone_are_of_a_subject_too(cohort, folder):
    (cohort / folder).mkdir(parents=True)
    for suffix in MAPS:
        (cohort / f"sub-02/anat/sub-02_{suffix}.nii.gz").rename(cohort / folder / f"{suffix}.nii.gz")
    shutil.rmtree(cohort / "sub-02")
    with refused("S02", "sub-01"):
        find_scans(cohort)


@pytest.mark.parametrize(
    "place", ["sourcedata/sub-02", "derivatives/qsm/sub-02", "templates", ".git/02", "recon/sub-02"]
)
def test_a_folder_of_other_things_is_no_subject(cohort, place):
    for suffix in ("T1w",) if place == "templates" else MAPS:
        (cohort / place / "anat").mkdir(parents=True, exist_ok=True)
        shutil.copy(map_file(cohort, suffix), cohort / place / ("" if place == "templates" else "anat"))
    if place.startswith("recon"):  # a cohort of its own
        (cohort / "recon" / "dataset_description.json").write_text("{}")
    assert len(find_scans(cohort)) == 4


@pytest.mark.parametrize(
    "place",
    [
        "derivatives/basalganglia/sub-01/ses-2/anat/sub-01_ses-1_desc-basalganglia_box.json",
        "Derivatives/BasalGanglia/sub-01/anat/sub-01_desc-basalganglia_box.json",
        "derivatives/basal_ganglia/sub-01/anat/sub-01_desc-basalganglia_box.json",
        "derivatives/basalganglia/sub-01_desc-basalganglia_box.json",
        "derivatives/basalganglia/sub-01/anat/sub-01_box.JSON",
        "sub-01/anat/sub-01_desc-basalganglia_box.json",
    ],
)
def test_a_box_at_another_place_is_never_passed_over(cohort, place):
    due = box_file(cohort)
    (cohort / place).parent.mkdir(parents=True, exist_ok=True)
    due.rename(cohort / place)
    with refused(cohort / place, due.relative_to(cohort)):
        find_scans(cohort)
    scans = find_scans(cohort, incomplete_too=True)
    assert [scan.scan_id for scan in scans if scan.refused] == ["sub-01"]
    assert place in scans[0].refused
    assert all(scan.box == BOX for scan in scans[1:])


@pytest.mark.parametrize("ending", ["_box.nii.gz", "_box.json.txt", "_box", "_mask.nii.gz"])
def test_a_box_that_is_no_json_file_is_never_passed_over(cohort, ending):
    due = box_file(cohort)
    other = due.rename(due.with_name(due.name.removesuffix("_box.json") + ending))
    with refused(other, due.relative_to(cohort), "no JSON file"):
        find_scans(cohort)
    assert [scan.scan_id for scan in find_scans(cohort, incomplete_too=True) if scan.refused] == ["sub-01"]
    due.write_text(json.dumps({"Box": BOX}))
    assert all(scan.box == BOX for scan in find_scans(cohort))


def test_boxes_of_others_are_passed_over_with_a_word(cohort, caplog):
    other = cohort / "derivatives/basalganglia/sub-99/anat/sub-99_desc-basalganglia_box.json"
    other.parent.mkdir(parents=True)
    shutil.copy(box_file(cohort), other)
    assert all(scan.box == BOX for scan in find_scans(cohort))
    assert "1 files" in caplog.text and "sub-99" not in caplog.text


@pytest.mark.parametrize("name", ["sub-01_Chimap.NII.GZ", "sub-01_Chimap.nii.Gz", "sub-01_chimap.nii.gz"])
def test_a_map_whose_name_is_in_other_capitals_is_named(cohort, name):
    path = map_file(cohort, "Chimap")
    path.rename(path.with_name(name))
    with refused(name, "*_Chimap.nii.gz"):
        find_scans(cohort)
    shutil.copy(path.with_name(name), path)
    with refused(path.parent, "2 files end in _Chimap"):
        find_scans(cohort)


@pytest.mark.parametrize("place", ["Anat", "ANAT", "Ses-1/anat"])
def test_a_folder_in_capitals_is_no_scan_less_but_a_row_with_its_name(cohort, place):
    anat = map_file(cohort, "Chimap").parent
    moved = anat.parent / place
    moved.parent.mkdir(exist_ok=True)
    anat.rename(moved)
    scans = find_scans(cohort, incomplete_too=True)
    assert [place in (scan.refused or "") for scan in scans] == [True] + [False] * (len(scans) - 1)


@pytest.mark.parametrize("name", ["sub_01", "SUB 01", "sub-1", "sub01", "sub-sub-01", "1.0", "1,0"])
def test_a_participant_spelled_otherwise_than_the_folder_is_told_with_row_and_spelling(cohort, name, tmp_path):
    edit_table(cohort, "sub-01\t", f"{name}\t")
    shown = name if name == "sub-sub-01" else name.removeprefix("sub-")
    with refused("participants.tsv", "row 1", repr(shown), "write sub-01"):
        labelled_scans(cohort)
    table = tmp_path / "some.tsv"
    table.write_text(f"participant_id\nsub-02\n{name}\n")
    with refused("some.tsv", "row 2", repr(shown), "write sub-01"):
        chosen_scans(cohort, table)


@pytest.mark.parametrize("name", ["1", "1.0", "sub_01", "sub\u201301"])
def test_inference_says_whose_age_it_cannot_read_for_its_spelling(cohort, name, caplog):
    edit_table(cohort, "sub-01\t", f"{name}\t")
    people = {scan.participant_id for scan in find_scans(cohort)}
    assert "sub-01" not in known_ages(cohort / "participants.tsv", people)
    assert "participants.tsv: row 1" in caplog.text and "write sub-01 there; until then" in caplog.text
    assert len(caplog.messages) == 1


def test_a_number_of_a_spreadsheet_is_not_taken_for_another_subject(cohort):
    for path in [*(cohort / "sub-02" / "anat").iterdir()]:
        path.rename(path.with_name(path.name.replace("sub-02", "sub-10")))
    (cohort / "sub-02").rename(cohort / "sub-10")
    edit_table(cohort, "sub-02", "sub-10")
    edit_table(cohort, "sub-01", "1.0")
    with refused("row 1", "write sub-01"):
        labelled_scans(cohort)


@pytest.mark.parametrize("names", [["Chimap.hdr", "Chimap.img"], ["T1w.mgz"], ["R2starmap.IMG"]])
def test_a_map_that_is_there_in_another_format_too_is_named(cohort, names):
    for name in names:
        (cohort / "sub-01" / "anat" / f"sub-01_{name}").write_bytes(b"x")
    with refused(cohort / "sub-01" / "anat", "in two formats", names[0]):
        find_scans(cohort)
    assert [scan.scan_id for scan in find_scans(cohort, incomplete_too=True) if scan.refused] == ["sub-01"]


@pytest.mark.parametrize("name", ["", "sub-02", "sub-02/anat"])
def test_a_folder_that_may_not_be_read_is_named_and_not_passed_over(cohort, name, monkeypatch):
    closed, scandir = cohort / name, os.scandir

    def may_not(path="."):  # as the system answers an ordinary user; root, who runs tests too, may read everything
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", may_not)
    with refused(closed, "Permission denied", "permissions"):
        find_scans(cohort)
    if name:
        assert [scan.scan_id for scan in find_scans(cohort, incomplete_too=True) if scan.refused] == ["sub-02"]


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ([-1, 1, 1], "left and right"),
        ([-1, -1, 1], "left and right"),
        ([1, -1, -1], "front and back"),
        ([1, 1, -1], "top and bottom"),
    ],
)
def test_two_orientations_that_contradict_each_other_are_refused(cohort, turn, said):
    path = map_file(cohort, "Chimap")
    image = nib.load(path)
    other = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    tilted = image.affine @ np.diag([*turn, 1.0])
    other.set_sform(tilted, 1)
    other.set_qform(image.affine, 1)
    nib.save(other, path)
    with refused(path, "sform and qform", said):
        labelled_scans(cohort)
    other.set_sform(tilted, 0)  # one of them says nothing
    nib.save(other, path)
    labelled_scans(cohort)


def test_a_head_that_was_turned_for_one_of_two_orientations_is_read(cohort):
    path = map_file(cohort, "Chimap")
    image = nib.load(path)
    angle = np.deg2rad(40)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image.set_qform(turn @ image.affine, 1)
    image.set_sform(image.affine, 2)
    nib.save(image, path)
    labelled_scans(cohort)
