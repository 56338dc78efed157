"""The bundle on the path, and a toy cohort that every test can read."""

import os
import sys
from pathlib import Path

import pytest

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the internet for its newest version otherwise

from blobs import write_cohort  # noqa: E402


@pytest.fixture(scope="session")
def shared_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve subjects, read only."""
    return write_cohort(tmp_path_factory.mktemp("shared") / "cohort", 12)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Four subjects that a test may damage."""
    return write_cohort(tmp_path / "cohort", 4)
