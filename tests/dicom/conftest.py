"""One small study, written once and copied for every test that damages it."""

import shutil
from pathlib import Path

import pytest
from blobs import BOX

from scripts.maps.bids import find_scans
from scripts.maps.scan import Scan
from scripts.simulation.dicom import write_study


@pytest.fixture(scope="session")
def scan(shared_cohort: Path) -> Scan:
    """The scan that all studies here are made of."""
    return find_scans(shared_cohort)[0]


@pytest.fixture(scope="session")
def template(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classic, cut to the box: eight slices a map; read only."""
    return write_study(tmp_path_factory.mktemp("dicom") / "study", scan.maps, "sub-01", box=BOX, extras=False)


@pytest.fixture(scope="session")
def enhanced_template(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as multi-frame files; read only."""
    folder = tmp_path_factory.mktemp("dicom") / "enhanced"
    return write_study(folder, scan.maps, "sub-01", box=BOX, extras=False, layout="enhanced")


@pytest.fixture
def study(template: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(template, tmp_path / "study"))


@pytest.fixture
def enhanced_study(enhanced_template: Path, tmp_path: Path) -> Path:
    """A multi-frame copy to damage."""
    return Path(shutil.copytree(enhanced_template, tmp_path / "enhanced"))
