"""Damage done to simulated studies, for tests of what the reader refuses."""

from collections.abc import Callable
from pathlib import Path

import pydicom
from blobs import BUNDLE
from pydicom.dataset import Dataset

from scripts.dicom.rules import read_rules
from scripts.dicom.study import DicomStudy, find_studies

RULES = BUNDLE / "configs" / "dicom_series.yaml"
QSM, R2STAR, T1W = 3, 4, 5  # series numbers of the simulated studies


def files_of(study: Path, number: int | None = None) -> list[Path]:
    """The files of a series, foot to head (all files of the study without a number)."""
    files = [path for path in sorted(study.rglob("*")) if path.is_file()]
    if number is None:
        return files
    headers = [(pydicom.dcmread(path, stop_before_pixels=True), path) for path in files]
    mine = [
        (float(d.get("ImagePositionPatient", [0, 0, 0])[2]), path) for d, path in headers if d.SeriesNumber == number
    ]
    return [path for _, path in sorted(mine)]


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change one file in place."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def edit_series(study: Path, number: int, change: Callable[[Dataset], None]) -> None:
    """Change all files of a series in place."""
    for path in files_of(study, number):
        edit(path, change)


def only_study(folder: Path, rules: Path = RULES, **settings) -> DicomStudy:
    """The study of a folder that holds one."""
    (study,) = find_studies(folder, read_rules(rules), **settings)
    return study
