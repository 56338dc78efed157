"""The bundle on the path, and a toy cohort that every test can read."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that skips itself fails")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr}"
    return report
