"""A sample of the fuzz: on every surface, damaged input ends as it is meant or in one clear line."""

import sys

import pytest
from blobs import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from fuzz import RIGHT, run  # noqa: E402
from fuzz_surfaces import SURFACES  # noqa: E402


@pytest.mark.parametrize("name", SURFACES)
def test_damaged_input_is_read_as_it_is_meant_or_refused_in_one_line(name):
    outcomes = run(8 if name == "dicom" else 24, 7, [name], progress=False)
    assert [outcome for outcome in outcomes if outcome.kind not in RIGHT] == []
