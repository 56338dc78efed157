"""DICOM studies whose weights want more than QSM, R2* and T1W."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from blobs import BOX, BUNDLE, write_cohort, write_further_maps
from refusal import refused

from scripts.inference.inputs import find_input
from scripts.maps.bids import find_scans
from scripts.simulation.dicom import stored_maps, write_study

RULES = BUNDLE / "configs" / "dicom_series.yaml"
MAPS = ["T1map", "PDmap"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return find_scans(write_further_maps(write_cohort(tmp_path_factory.mktemp("dicom") / "cohort", 1)), maps=MAPS)[0]


@pytest.mark.parametrize("style", ["siemens", "ge", "philips"])
def test_series_of_further_maps_are_found_and_read_in_their_units(scan, tmp_path, style):
    study = write_study(tmp_path / "study", scan.maps, "sub-01", style, box=BOX, maps=scan.names, extras=False)
    (found,) = find_input(study, dicom_rules=RULES, maps=MAPS)
    stored, _ = stored_maps(scan.maps, style, box=BOX, maps=scan.names)
    read = found.study.load()
    assert list(found.series()) == list(scan.names)
    assert 0.5 < float(read[3].median()) < 2.5  # s, whatever the vendor stored
    for suffix, values, expected in zip(scan.names, read.numpy(), stored, strict=True):
        if suffix == "T1w":  # has no unit: as it is displayed
            continue
        np.testing.assert_allclose(values, expected.maps_unit, rtol=1e-5, atol=1e-6)
    (three,) = find_input(study, dicom_rules=RULES)
    assert len(three.study.load()) == 3


def test_a_study_without_the_map_and_rules_without_it_are_told(scan, tmp_path):
    study = write_study(tmp_path / "study", scan.maps[:3], "sub-01", box=BOX, extras=False)
    (found,) = find_input(study, dicom_rules=RULES, maps=["T1map"])
    with refused("no series is the T1map", "a map of T1"):
        found.study.load()
    content = yaml.safe_load(Path(RULES).read_text())
    del content["series"]["T1map"]
    own = tmp_path / "rules.yaml"
    own.write_text(yaml.safe_dump(content))
    with refused("rules.yaml", "T1map"):
        find_input(study, dicom_rules=own, maps=["T1map"])
    assert len(find_input(study, dicom_rules=own)) == 1
