"""Pictures from images: turned as radiologists see them, boxes and evidence in their places, titles that tell all."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from blobs import BOX, SHAPE

from scripts.maps.bids import find_scans
from scripts.model.networks import QNet
from scripts.reporting.architecture import architecture, layer_sizes
from scripts.reporting.pictures import (
    Explained,
    evidence_overlays,
    example_maps,
    place_shown,
    shown_volume,
    subject_strip,
)


def write_evidence(path, scan, array):
    nib.save(nib.Nifti1Image(array.astype(np.float32), nib.load(scan.maps[0]).affine), path)
    return path


@pytest.fixture
def evidence(cohort, tmp_path):
    """Evidence for HH in one octant of the box, half as strong for HC in the opposite one."""
    array = np.zeros(SHAPE)
    array[10:18, 12:22, 5:8] = 2.0
    array[22:30, 24:34, 5:8] = -1.0
    return write_evidence(tmp_path / "evidence.nii.gz", find_scans(cohort)[0], array)


def test_a_volume_is_turned_and_its_box_moves_along(cohort):
    scan = find_scans(cohort)[0]
    volume, ranges = shown_volume(scan.maps[0], scan.box)
    stored = nib.load(scan.maps[0]).get_fdata(dtype=np.float32)
    assert volume.shape == (SHAPE[1], SHAPE[0], SHAPE[2])
    inside = volume[tuple(slice(*pair) for pair in ranges)]
    expected = stored[tuple(slice(*pair) for pair in BOX)]
    np.testing.assert_array_equal(np.sort(inside.ravel()), np.sort(expected.ravel()))
    # rows run from front to back, and the subject's right is on the left
    np.testing.assert_array_equal(volume, stored.transpose(1, 0, 2)[::-1, ::-1])


def test_example_maps_show_three_maps_of_each_subject_with_the_box(cohort):
    first, second = find_scans(cohort)[:2]
    figure = example_maps({"HC": first, "HH": second}, "Two subjects, simulated cohort")
    panels = [axes for axes in figure.axes if axes.images and axes.get_xlabel() == "" and len(axes.lines) == 1]
    assert len(panels) == 6
    (_, ranges) = shown_volume(first.maps[0], first.box)
    corners = panels[0].lines[0].get_xydata()
    assert (corners[:, 0].min(), corners[:, 0].max()) == ranges[1]
    assert (corners[:, 1].min(), corners[:, 1].max()) == ranges[0]
    assert figure.get_suptitle() == "Two subjects, simulated cohort"


def test_scans_that_are_cut_already_need_no_box(cohort):
    scan = replace(find_scans(cohort)[0], box=None)
    figure = example_maps({"HC": scan}, "cut")
    assert not figure.axes[0].lines
    assert place_shown([scan]) == "the middle slice"


def test_words_say_where_only_some_boxes_are_known(cohort):
    scans = find_scans(cohort)[:2]
    bare = replace(scans[1], box=None)
    assert "where no box is known" in place_shown([scans[0], bare])
    assert "where no box is known" not in place_shown(scans) and "with the box" in place_shown(scans)


def test_evidence_is_scaled_to_the_scans_strongest_and_keeps_its_sign(cohort, evidence):
    item = Explained(find_scans(cohort)[0], evidence, "HC", "HH", 0.7)
    qsm, share = item.planes("cropped")
    assert qsm.shape == share.shape == (BOX[1][1] - BOX[1][0], BOX[0][1] - BOX[0][0])
    assert (share.max(), share.min()) == (1.0, -0.5)
    assert item.planes("full")[0].shape == (SHAPE[1], SHAPE[0])
    # the stored low x, low y is the subject's left and back: on the right and at the bottom of the picture
    rows, columns = np.nonzero(share == 1.0)
    assert rows.min() >= share.shape[0] // 2 and columns.min() >= share.shape[1] // 2


def test_overlays_tell_group_probability_and_whether_it_is_right(cohort, evidence):
    scans = find_scans(cohort)
    items = [Explained(scans[0], evidence, "HC", "HH", 0.7), Explained(scans[0], evidence, "HC", "HC", 0.2)]
    figure = evidence_overlays(items, "cropped", simulated=True, method="occlusion")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "sub-01\ntrue HC"
    assert "P(HH) 0.70: HH, WRONG" in titles and "P(HH) 0.20: HC, correct" in titles
    assert "simulated cohort" in figure.get_suptitle()
    bar = figure.axes[-1]
    assert "for HC" in bar.get_ylabel() and "for HH" in bar.get_ylabel()


def test_a_scan_without_any_evidence_is_drawn_plain(cohort, tmp_path):
    scan = find_scans(cohort)[0]
    empty = write_evidence(tmp_path / "empty.nii.gz", scan, np.zeros(SHAPE))
    figure = evidence_overlays([Explained(scan, empty, "HC", "HC", 0.1)], "full", False, "occlusion")
    assert "simulated" not in figure.get_suptitle()


def test_a_subjects_strip_has_a_panel_for_each_map_and_region(cohort, evidence):
    scan = find_scans(cohort)[0]
    assert len(subject_strip(scan, {}).axes) == 3
    titles = [axes.get_title() for axes in subject_strip(scan, {"full": evidence, "cropped": evidence}).axes]
    assert titles[-2:] == ["evidence, full", "evidence, cropped"]


def test_the_diagram_holds_the_networks_own_sizes():
    assert dict(layer_sizes(QNet().eval(), (128, 128)))["2 ResBlocks (4)"] == (512, 4, 4)
    words = json.dumps([text.get_text() for text in architecture(10, 64).axes[0].texts], ensure_ascii=False)
    for expected in ("all 10 slices", "2 × 64 units", "10 × 512", "1280", "512 × 4 × 4"):
        assert expected in words
