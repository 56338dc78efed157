"""What every reader of a file does with what strangers' machines hand it."""

import csv
import gzip
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import BUNDLE
from refusal import refused

from scripts.dicom.rules import read_rules
from scripts.errors import InputError
from scripts.files import limits, nifti
from scripts.files.json_file import read_json
from scripts.files.schemas import SCHEMAS
from scripts.files.table import for_spreadsheet, from_spreadsheet, read_frame, read_table, table_text
from scripts.files.tensors import read_tensors
from scripts.files.text import read_text
from scripts.files.writing import sha256
from scripts.inference.inputs import find_input
from scripts.maps.bids import labelled_scans, read_box
from scripts.maps.transforms import LoadImageMapsd, reading
from scripts.nuclei.curves import read_reference_curves
from scripts.runs.finished import content_of_file

RULES = BUNDLE / "configs" / "dicom_series.yaml"
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
DESCRIPTION = '{"Name": "Köln", "BIDSVersion": "1.10.0"}'


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.nii.gz", nifti.read_header),
        ("a.nii", nifti.read),
        ("a.tsv", read_text),
        ("rules.yaml", read_rules),
        ("model.pt", sha256),
        ("SCANS", lambda path: find_input(path, dicom_rules=RULES)),
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(name, read, tmp_path):
    os.mkfifo(tmp_path / name)
    with refused(tmp_path / name, "pipe"):
        read(tmp_path / name)
    assert content_of_file(tmp_path / name) is None  # as of any file that cannot be read


@contextmanager
def as_somebody_else() -> Iterator[Path]:
    """A folder that everybody may enter, and no rights of the administrator, whom nothing is forbidden."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        was = os.geteuid()
        try:
            yield Path(folder)
        finally:
            os.seteuid(was)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.nii.gz", nifti.read_header),
        ("a.nii", lambda path: find_input([path] * 3, dicom_rules=RULES)),
        ("a.tsv", read_text),
        ("model.pt", lambda path: read_tensors(path, "train again")),
    ],
)
def test_a_file_that_may_not_be_read_is_told_so_and_not_that_it_is_damaged(name, read):
    with as_somebody_else() as folder:
        (folder / name).write_bytes(b"content")
        (folder / name).chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        with refused(folder / name, "cannot be read (Permission denied)", "permissions"):
            read(folder / name)


def saved(path: Path, array: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).normal(size=(9, 8, 7)).astype(np.float32)
    return saved(tmp_path / "map.nii.gz", values)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_any_encoding_that_names_itself(tmp_path, encoding):
    path = tmp_path / "dataset_description.json"
    path.write_text(DESCRIPTION, encoding=encoding)
    assert read_json(path, "description")["Name"] == "Köln"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (DESCRIPTION.encode("latin-1"), "UTF-8"),
        (DESCRIPTION.encode("utf-16-le"), "UTF-8"),
        (b'{"Name": "x",}', "not JSON"),
        (b'{"Name": "x", "Name": "y"}', "twice"),
        (b'{"Name": null}', "null"),
        (b'{"Name": ["Jane Doe"]}', "a list"),
        (b'["x"]', "an object"),
        (b"", "not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"x": NaN}', "NaN"),
        (b'{"x": 1e999}', "1e999"),
        (b'{"x": 1' + b"0" * 400 + b"}", "no number of JSON"),
    ],
)
def test_json_that_is_not_what_is_due_is_refused(tmp_path, content, word):
    path = tmp_path / "dataset_description.json"
    path.write_bytes(content)
    with refused(path, word):
        read_json(path, "description")


def test_a_message_about_json_repeats_no_text_of_it(tmp_path):
    (tmp_path / "x.json").write_text('{"Name": ["Jane Doe"]}')
    with pytest.raises(InputError) as caught:
        read_json(tmp_path / "x.json", "description")
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_schema_is_one_and_refuses_a_list(tmp_path, kind):
    (tmp_path / "x.json").write_text("[]")
    with refused(tmp_path / "x.json", "an object is due"):
        read_json(tmp_path / "x.json", kind)


def test_booleans_are_no_voxel_indices(tmp_path):
    (tmp_path / "box.json").write_text(json.dumps({"Box": [[False, True], [2, 9], [2, 9]]}))
    with refused(tmp_path / "box.json", "Box[0]", "whole number"):
        read_json(tmp_path / "box.json", "box")


def test_a_quote_in_a_tsv_is_a_letter_and_takes_no_rows_with_it(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes('participant_id\tnote\r\nsub-01\t"left arm\u2028numb\r\nsub-02\t\r\n\r\n'.encode())
    rows = read_table(path, ["participant_id"])
    assert [row["note"] for row in rows] == ['"left arm\u2028numb', ""]


def test_a_tsv_whose_header_is_quoted_throughout_is_read_as_r_writes_it(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('"participant_id"\t"age"\t"group"\n"sub-01"\t54\t"HH"\n')
    assert read_table(path, ["participant_id"]) == [{"participant_id": "sub-01", "age": "54", "group": "HH"}]


def test_a_csv_has_quotes_and_lines_within_cells(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\r\n1,"x, ""y""\r\nz"\r\n')
    assert read_table(path, ["a"]) == [{"a": "1", "b": 'x, "y"\r\nz'}]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("group\tgroup\nHC\tHH\n", "two columns 'group'"),
        ("group\tage\nHC\n", "line 2 has 1 cells"),
        ("\n\ngroup\tage\nHC\t1\n\nHH\t2\t3\n", "line 6 has 3 cells"),
        ("group\tage\nHC\t1\n" + "\t" * 1_000_000 + "x\n", "line 3"),
        ("age\n1\n", "no column 'group'"),
        ("", "no column 'group'"),
        ("a\t" * 300_000 + "group\nHC\n", "300001 cells"),
        ("group;age\nHC;1\n", "separated by ';'"),
        ("age  group\nHC  1\n", "separated by '  '"),
        ("group\nHC\nHC\n", "lines 2 and 3"),
        ("Table 1. Participants\n\nage\tgroup\n1\tHC\n", "its header is line 3"),
        ("group\t\tage\t\tsex\nHC\t\t1\t\tF\n", "columns 2 and 4 of its header have no name"),
        ("group\tage\nHC\t\t1\n", "tabs follow each other in line 2"),
        ("group\t\tage\nHC\t1\n", "tabs follow each other in the header"),
        ("sep=;\ngroup;age\nHC;1\n", "says that ';' parts its cells"),
        ("<!DOCTYPE html>\n<table><tr><td>group</td></tr></table>\n", "a web page or XML"),
    ],
)
def test_a_table_that_is_not_what_is_due_is_refused(tmp_path, text, word):
    (tmp_path / "t.tsv").write_text(text)
    with refused(tmp_path / "t.tsv", word):
        read_table(tmp_path / "t.tsv", ["group"], unique=["group"])


@pytest.mark.parametrize(
    ("content", "word"), [(b"PK\x03\x04\x14\0", "XLSX"), (b"\xd0\xcf\x11\xe0\xa1", "XLS"), (b"%PDF-1.7\n", "PDF")]
)
@pytest.mark.parametrize("name", ["t.tsv", "t.json"])
def test_a_spreadsheet_under_the_name_of_a_text_is_said_to_be_one(tmp_path, content, word, name):
    (tmp_path / name).write_bytes(content)
    with refused(tmp_path / name, word, "not text"):
        read_table(tmp_path / name, ["group"]) if name == "t.tsv" else read_json(tmp_path / name, "box")


@pytest.mark.parametrize(("name", "text"), [("t.csv", "sep=,\r\na,b\r\n1,2\r\n"), ("t.tsv", '"sep=\t"\na\tb\n1\t2\n')])
def test_the_line_that_tells_excel_what_parts_cells_is_passed_over(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    assert read_table(tmp_path / name, ["a"]) == [{"a": "1", "b": "2"}]
    (tmp_path / name).write_text(text + "3\n", newline="")
    with refused("line 4" if name == "t.tsv" else "row 4"):
        read_table(tmp_path / name, ["a"])


def test_lines_without_words_are_passed_over_whatever_their_length(tmp_path):
    (tmp_path / "t.csv").write_text(" ,\n\na,b\n,,,\n1,\n \n")
    assert read_table(tmp_path / "t.csv", ["a"]) == [{"a": "1", "b": ""}]


def test_numbers_of_a_table_are_as_exact_as_they_were_written(tmp_path):
    values = [*np.random.default_rng(0).random(200), 1e-300, 5e22]
    (tmp_path / "t.csv").write_text(table_text(["a", "b"], [{"a": v, "b": "x"} for v in [*values, None]], tabs=False))
    read = read_frame(tmp_path / "t.csv", ["a"], numbers=["a"])
    np.testing.assert_array_equal(read["a"], [*values, np.nan])
    for cell in ("1_000", "inf", "nan", "x"):
        (tmp_path / "t.csv").write_text(f"a\n2\n{cell}\n")
        with refused("row 3, column 'a'"):
            read_frame(tmp_path / "t.csv", ["a"], numbers=["a"])


def test_the_last_line_of_a_log_may_be_torn(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,")
    assert read_table(tmp_path / "t.csv", ["a"], may_end_torn=True) == [{"a": "1", "b": "2"}]


def test_a_log_whose_first_line_is_not_yet_written_has_no_rows(tmp_path):
    for begun in ("", "a,", "a,b"):
        (tmp_path / "t.csv").write_text(begun)
        assert read_table(tmp_path / "t.csv", ["a"], may_end_torn=True) == []


def test_no_cell_is_a_formula_for_a_spreadsheet_and_all_are_read_back(tmp_path):
    cells = ["=1+1", "+1-1", "-2+3", "@SUM(A1)", "'=x", "''@", "'quoted", "plain", "\tx", ""]
    written = [for_spreadsheet(cell) for cell in cells]
    assert not any(str(cell).startswith(("=", "+", "-", "@", "\t")) for cell in written)
    assert [from_spreadsheet(cell) for cell in written] == cells
    numbers = ["-0.5", "+3", "-1e-7", ".5", "-inf", -0.5, 2, None]
    assert [for_spreadsheet(cell) for cell in numbers] == numbers


def test_a_map_is_read_as_nibabel_reads_it(tmp_path):
    values = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(0.37, -2)
    for path in (tmp_path / "m.nii", tmp_path / "m.nii.gz"):
        nib.save(image, path)
        voxels, affine = nifti.read_voxels(path)
        np.testing.assert_array_equal(voxels, nib.load(path).get_fdata().astype(np.float32))
        np.testing.assert_array_equal(affine, AFFINE)


def test_a_trailing_axis_of_length_1_is_taken_away(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 6, 7, 1, 1)).astype(np.float32)
    path = saved(tmp_path / "m.nii.gz", values)
    assert nifti.read_header(path).shape == (5, 6, 7)
    np.testing.assert_array_equal(nifti.read_voxels(path)[0], values[..., 0, 0])


def loaded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = LoadImageMapsd("image")({"image": [str(path)]})["image"]
    return image[0].numpy(), image.affine.numpy()


@pytest.mark.parametrize("read", [nifti.read_voxels, loaded])
def test_no_flipped_bit_of_a_compressed_map_is_read_as_good_data(small, read):
    good, content = read(small)[0], small.read_bytes()
    for number in np.random.default_rng(0).integers(12 * 8, 8 * len(content), 80):
        bad = bytearray(content)
        bad[number // 8] ^= 1 << (number % 8)
        small.write_bytes(bad)
        try:
            voxels, affine = read(small)
        except InputError:
            continue
        np.testing.assert_array_equal(voxels, good)
        np.testing.assert_array_equal(affine, AFFINE)


def test_members_and_zeros_at_the_end_of_a_gzip_file_are_read_as_gzip_does(small):
    content = gzip.decompress(small.read_bytes())
    small.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + bytes(512))
    assert nifti.read_voxels(small)[0].shape == (9, 8, 7)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data + b"more", "other data"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-8]), "once unpacked"),
        (lambda data: gzip.compress(gzip.decompress(data) + bytes(5_000_000)), "goes on"),
        (lambda data: gzip.compress(bytes(5_000_000)), "NIfTI"),
        (lambda data: b"", "NIfTI"),
    ],
)
def test_a_stream_that_is_cut_off_or_goes_on_is_refused(small, change, word):
    small.write_bytes(change(small.read_bytes()))
    with refused(small, word):
        nifti.read(small)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_claims_fewer_or_more_slices_than_there_are_is_refused(tmp_path, ending):
    values = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    path = saved(tmp_path / f"m{ending}", values)
    content = gzip.decompress(path.read_bytes()) if ending == ".nii.gz" else path.read_bytes()
    packed = gzip.compress if ending == ".nii.gz" else bytes
    path.write_bytes(packed(content + bytes(200)))  # padding is no slice
    np.testing.assert_array_equal(nifti.read_voxels(path)[0], values)
    for slices, words in ((5, "9 x 8 x 5"), (6, "too few slices"), (8, "bytes")):
        header = bytearray(content)
        header[46:48] = slices.to_bytes(2, "little")  # dim[3]
        path.write_bytes(packed(bytes(header)))
        with refused(path, words):
            nifti.read(path)
    path.write_bytes(packed(content + bytes(9 * 8 * 4)))  # an empty slice is one
    with refused(path, "too few slices"):
        nifti.read(path)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)])
@pytest.mark.parametrize("shape", [(9, 8, 7), (9, 8, 7, 1)])
def test_a_header_in_metres_or_micrometres_becomes_mm(tmp_path, unit, factor, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    affine = np.diag([2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = -10, 20, 30
    image = nib.Nifti1Image(values, np.diag([1 / factor] * 3 + [1]) @ affine)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "m.nii.gz")
    for read in (nifti.read_header, nifti.read):
        found = read(tmp_path / "m.nii.gz")
        np.testing.assert_allclose(found.affine, affine, rtol=1e-6)
        np.testing.assert_allclose(found.header.get_zooms()[:3], [2, 2, 3], rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(found.dataobj), values.reshape(9, 8, 7))
    voxels, loaded_affine = loaded(tmp_path / "m.nii.gz")
    np.testing.assert_allclose(loaded_affine, affine, rtol=1e-6)
    np.testing.assert_array_equal(voxels, values.reshape(9, 8, 7))


def test_a_wrong_or_unknown_unit_of_length_is_refused(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32), AFFINE)
    image.header.set_xyzt_units("meter")  # but 2 x 2 x 3
    nib.save(image, tmp_path / "m.nii")
    with refused("voxels of 2e+03", "its unit"):
        loaded(tmp_path / "m.nii")
    image.header["xyzt_units"] = 5
    nib.save(image, tmp_path / "m.nii")
    with refused(tmp_path / "m.nii", "xyzt_units 5", "mm"):
        nifti.read_header(tmp_path / "m.nii")


def test_a_folder_that_is_called_like_a_map_is_refused(cohort):
    path = cohort / "sub-01" / "anat" / "sub-01_Chimap.nii.gz"
    path.unlink()
    path.mkdir()
    (scan, *_) = find_input(cohort, dicom_rules=RULES)
    with refused(path, "is a folder"):
        reading()(scan.item())
    with refused(path, "is a folder"):
        labelled_scans(cohort)


@pytest.mark.parametrize("end", ["1e30", "1" + 40 * "0", "40000", "8.5", "-1", "1e400"])
def test_a_box_of_impossible_numbers_is_refused(tmp_path, end):
    (tmp_path / "box.json").write_text(f'{{"Box": [[0, 4], [0, {end}], [0, 4]]}}')
    with refused(tmp_path / "box.json", "Box"):
        read_box(tmp_path / "box.json")


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [
        ("Chimap", {"rise": -0.1}, "rise"),
        ("R2starmap", {"rise": 1e9}, "rise"),
        ("Chimap", {"sd": 1e-300}, "sd"),
        ("R2starmap", {"sd": 1e-3}, "sd"),
        ("Chimap", {"sd": 1e6}, "sd"),
        ("Chimap", {"controls": 0}, "controls"),
        ("Chimap", {"controls": 1.5}, "controls"),
        ("Chimap", {"rate": 1e-30}, "rate"),
        ("Chimap", {"rate": 1e30}, "rate"),
        ("Chimap", {"start": 1e300}, "start"),
        ("Chimap", {"unit": "ppb"}, "unit"),
        ("R2starmap", {"unit": "ppm"}, "unit"),
    ],
)
def test_reference_curves_of_impossible_numbers_are_refused(tmp_path, suffix, change, words):
    content = json.loads((BUNDLE / "models" / "reference_curves.json").read_text())
    content["Curves"][suffix]["putamen"] |= change
    (tmp_path / "curves.json").write_text(json.dumps(content))
    with refused(tmp_path / "curves.json", f"Curves.{suffix}.putamen.{words}"):
        read_reference_curves(tmp_path / "curves.json")


def test_a_header_that_claims_too_much_is_refused_before_it_is_read(small):
    content = bytearray(gzip.decompress(small.read_bytes()))
    content[42:48] = np.array([30_000, 30_000, 30], "<i2").tobytes()
    small.write_bytes(gzip.compress(bytes(content)))
    with refused(small, "30000 x 30000 x 30 voxels", "108 GB", "--largest_file"):
        nifti.read_header(small)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"/annex/objects/MD5E-s12345--4d7a.nii.gz\n", "git annex get"),
        (b"../../.git/annex/objects/Kx/q1/MD5E-s12345--4d7a.nii.gz", "git annex get"),
    ],
)
def test_a_pointer_to_a_file_that_was_not_fetched_is_said_to_be_one(tmp_path, content, word):
    reads = {
        "a_T1w.nii.gz": nifti.read_header,
        "a_T1w.nii": nifti.read,
        "model.pt": lambda path: read_tensors(path, "give another"),
        "participants.tsv": lambda path: read_table(path, ["participant_id"]),
        "box.json": lambda path: read_json(path, "box"),
    }
    for name, read in reads.items():
        (tmp_path / name).write_bytes(content)
        with refused(tmp_path / name, "is a pointer of", word):
            read(tmp_path / name)


def test_the_limit_is_set_in_words(small):
    limits.set_largest_file("1 KB")
    try:
        with refused(small, "1 KB"):
            nifti.read_header(small)
        with refused("--largest_file", "model.pt: has 2 KB, and more than 1 KB are not read"):
            torch.save(torch.zeros(250), small.with_name("model.pt"))
            os.truncate(small.with_name("model.pt"), 2000)
            read_tensors(small.with_name("model.pt"), "give another")
    finally:
        limits.set_largest_file("4 GB")
    for size in ("4", "four GB", "0 GB", 4):
        with refused("largest_file"):
            limits.bytes_of(size)


def test_a_header_without_orientation_is_refused(tmp_path):
    path = saved(tmp_path / "m.nii.gz", np.ones((4, 5, 6), np.float32), affine=None)
    with refused(path, "orientation", "sform_code"):
        nifti.read_header(path)


def test_a_size_of_0_mm_is_not_taken_for_1_mm(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), None)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "m.nii")
    assert nifti.read_header(tmp_path / "m.nii").shape == (4, 5, 6)
    with open(tmp_path / "m.nii", "r+b") as file:
        file.seek(80)  # pixdim[1]
        file.write(np.float32(0).tobytes())
    with refused(tmp_path / "m.nii", "0 mm"):
        nifti.read_header(tmp_path / "m.nii")


def test_no_library_says_a_line_beside_ours(tmp_path, caplog):
    path = saved(tmp_path / "m.nii", np.ones((4, 5, 6), np.float32))
    with open(path, "r+b") as file:
        file.seek(70)  # datatype: nibabel knows none of this number
        file.write(np.int16(77).tobytes())
    with refused(path, "cannot be read as NIfTI"):
        nifti.read_header(path)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_real_numbers_are_refused(tmp_path, dtype):
    path = saved(tmp_path / "m.nii", np.zeros((4, 5, 6), dtype))
    with refused(path, "real"):
        nifti.read_header(path)


def test_weights_that_unpack_to_more_than_they_are_do_not_get_memory(tmp_path):
    plain, packed, wide = (tmp_path / f"{name}.pt" for name in ("plain", "packed", "wide"))
    torch.save({"a": torch.zeros(2000, 1000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, wide)
    assert read_tensors(plain, "train again")["a"].shape == (2000, 1000)
    for path in (packed, wide):
        with refused(path):
            read_tensors(path, "train again")


def test_what_python_writes_as_csv_is_read(tmp_path):
    rows = [{"a": 'x "y"\n,', "b": "'=z"}, {"a": "-1.5", "b": "@"}]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows({name: for_spreadsheet(cell) for name, cell in row.items()} for row in rows)
    assert read_table(tmp_path / "t.csv", ["a", "b"]) == rows


def test_a_refused_map_leaves_no_path_in_the_log(tmp_path, caplog):
    folder = tmp_path / "Meier_Hans"
    folder.mkdir()
    voxels = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)  # enough that the header is whole
    path = saved(folder / "a.nii.gz", voxels)
    path.write_bytes(path.read_bytes()[:-20])
    said = re.escape(f"{path}: ends before its data do, so it is cut off; export or copy it again")
    with caplog.at_level("INFO"), pytest.raises(InputError, match=f"^{said}$"):
        LoadImageMapsd("image").load_one(str(path))
    assert "Meier" not in caplog.text


def test_empty_columns_at_the_end_of_a_table_are_passed_over(tmp_path):
    (tmp_path / "t.tsv").write_text("participant_id\tage\t\t\nsub-01\t50\t\t\nsub-02\t\t\t\n")
    assert [row["age"] for row in read_table(tmp_path / "t.tsv", ["participant_id"])] == ["50", ""]


@pytest.mark.parametrize("row", ["sub-02\tX\tHC\t", "sub-02\tHC\t50\t", "sub-02\t\tHC\t", "sub-02\tHC\t50\t\t"])
def test_a_row_with_a_cell_more_than_the_header_is_refused_even_if_its_last_is_empty(tmp_path, row):
    path = tmp_path / "t.tsv"
    path.write_text(f"participant_id\tgroup\tage\nsub-01\tHH\t40\n{row}\n")
    with refused(path, "line 3", f"{row.count(chr(9)) + 1} cells where the header has 3", "tab"):
        read_table(path, ["participant_id"])
