"""What annotated boxes leave around the nuclei, and that boxes found later leave the same."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import TEMPLATE, head, tight, write_scan
from refusal import refused

from scripts.localisation.localiser import Localiser
from scripts.localisation.margin import as_trained, check_as_trained, margin_of_boxes, of_weights, sides
from scripts.maps.bids import find_scans
from scripts.maps.scan import Scan

#: Heads of these numbers are in no benchmark.
FIRST = 75_000


@pytest.fixture(scope="module")
def roomy(tmp_path_factory) -> list[Scan]:
    """Two heads whose boxes were drawn 12 mm around the nuclei, and one without a box."""
    root = tmp_path_factory.mktemp("roomy")
    for number in range(3):
        made = head(FIRST + number)
        name = f"sub-{number:02d}"
        write_scan(root, name, made)
        spacing = np.linalg.norm(made.affine[:3, :3], axis=0)
        up = int(np.argmax(np.abs(made.affine[2, :3] / spacing)))
        beyond = np.where(np.arange(3) == up, 0, np.round(12 / spacing)).astype(int)
        nuclei = tight(made.labels)
        box = np.stack([nuclei[:, 0] - beyond, nuclei[:, 1] + beyond], 1).tolist()
        if number < 2:
            path = root / "derivatives" / "basalganglia" / name / "anat" / f"{name}_desc-basalganglia_box.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"Box": box}))
    return find_scans(root)


def test_boxes_with_the_margin_of_a_roomy_hand_are_found_like_the_annotated_ones(roomy):
    margin = margin_of_boxes("auto", Localiser(TEMPLATE), roomy[:2], "refuse", least_boxes=2, compared=2)
    assert margin is not None and 9 <= margin <= 13  # the outline that is found lies a little outside of the nuclei
    scan = roomy[0]
    images = [nib.load(path) for path in scan.maps]
    maps = np.stack([image.get_fdata(dtype=np.float32) for image in images])
    found = Localiser(TEMPLATE, margin)(maps, images[0].affine, scan.maps[0])
    assert np.mean(sides(scan.box, found.box, images[0].affine)) == pytest.approx(0, abs=1.5)


def test_found_boxes_among_annotated_ones_that_differ_are_spoken_of(roomy, caplog):
    assert margin_of_boxes("auto", Localiser(TEMPLATE), roomy, "refuse", least_boxes=2, compared=1) is None
    assert "--localise_margin_mm 1" in caplog.text


@pytest.mark.parametrize("localise, boxes", [("whole", 2), ("auto", 3)])
def test_cut_scans_and_few_boxes_say_nothing(roomy, localise, boxes):
    assert margin_of_boxes(localise, Localiser(TEMPLATE), roomy[:2], "refuse", least_boxes=boxes) is None


def test_sides_are_in_plane_and_in_millimetres():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    assert sides([[0, 10], [0, 10], [0, 10]], [[1, 8], [2, 9], [5, 6]], affine) == [2, 4, 6, 3]


@pytest.mark.parametrize(
    "record, expected",
    [({"annotated_margin_mm": 9.0, "localise_margin_mm": 5.0}, 9.0), ({"localise_margin_mm": 7.0}, 7.0), ({}, 5.0)],
)
def test_boxes_are_found_as_those_that_trained_the_weights(record, expected):
    assert as_trained({**record}, 5.0) == expected


def test_localisation_takes_the_margin_of_weights_that_it_is_given_and_refuses_those_without_a_record(tmp_path):
    assert of_weights(None, 5.0) == 5.0
    models = Path(TEMPLATE).parent
    shipped = json.loads((models / "model.json").read_text())["settings"]["annotated_margin_mm"]
    assert of_weights(models / "model.pt", 5.0) == shipped != 5.0
    (tmp_path / "model.pt").write_bytes(b"weights")
    with refused("model.pt", "no training record (model.json)", "--localise_margin_mm"):
        of_weights(tmp_path / "model.pt", 5.0)


def test_other_boxes_than_the_weights_learned_from_are_refused(roomy, tmp_path: Path):
    settings = {"region": "cropped", "num_slices": 4, "spatial_size": [32, 32], "stretch_percentiles": [0.5, 99.5]}
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    record = {"settings": settings | {"annotated_margin_mm": 9.0}, "weights": {}}
    weights.with_suffix(".json").write_text(json.dumps(record))
    check_as_trained(weights, "beside", "auto", 5.0, roomy[:2])
    with refused("--localise_margin_mm 9"):
        check_as_trained(weights, "beside", "auto", 5.0, roomy)


@pytest.mark.parametrize(
    "key, value",
    [
        ("annotated_margin_mm", "7 mm"),
        ("annotated_margin_mm", True),
        ("annotated_margin_mm", -3),
        ("localise_margin_mm", 1e9),
    ],
)
def test_a_margin_that_is_none_is_told_of_its_record(key, value, tmp_path):
    settings = {"region": "cropped", "num_slices": 4, "spatial_size": [32, 32], "stretch_percentiles": [0.5, 99.5]}
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    weights.with_suffix(".json").write_text(json.dumps({"settings": settings | {key: value}, "weights": {}}))
    with refused("model.json", key):
        check_as_trained(weights, "beside", "auto", 5.0, [])
