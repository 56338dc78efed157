"""What a cohort's table says of its scans is read back, or refused where it cannot be so."""

from dataclasses import replace

import pytest
from blobs import BOX
from refusal import refused

from scripts.files.writing import write_table
from scripts.maps.bids import find_scans
from scripts.maps.notes import cut_as_noted


def noted(folder, **cells):
    """A table that says this of the first scan."""
    path = folder / "scans.tsv"
    write_table(path, ["scan_id", *cells], [{"scan_id": "sub-01", **cells}])
    return path


@pytest.mark.parametrize("annotated", [BOX, None])
def test_a_scan_has_the_box_that_its_input_was_cut_by_whatever_is_annotated(cohort, tmp_path, annotated):
    first, second = (replace(scan, box=annotated) for scan in find_scans(cohort)[:2])
    other = [[1, 9], [2, 12], [0, 7]]
    assert [scan.box for scan in cut_as_noted(noted(tmp_path, box=str(other)), [first, second])] == [other, annotated]
    assert cut_as_noted(noted(tmp_path, box="n/a"), [first])[0].box is None  # the whole scan was the input


def test_annotated_boxes_are_kept_where_a_table_has_none_or_there_is_no_table(cohort, tmp_path):
    scan = find_scans(cohort)[0]
    for path in (noted(tmp_path, flags="n/a"), tmp_path / "none.tsv"):
        assert cut_as_noted(path, [scan]) == [scan]


@pytest.mark.parametrize(
    "cell",
    ["here", "7", "[[8, 32], [10, 36]]", "[[8, 32], [10, 36], [11, 3]]", "[[8, 32], [10, 36], [3, 99]]", "[" * 9999],
)  # fmt: skip
def test_what_is_no_box_of_the_scan_is_refused(cohort, tmp_path, cell):
    path = noted(tmp_path, box=cell)
    with refused("sub-01", path):
        cut_as_noted(path, find_scans(cohort)[:1])
