"""The images that a DICOM result refers to."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

from pydicom.dataset import Dataset

from scripts.dicom.files import read_dataset
from scripts.dicom.geometry import fill_places
from scripts.dicom.identity import source_of, uids_of
from scripts.errors import InputError
from scripts.files.writing import sha256


def read_series(files: Mapping[str, Sequence[str | os.PathLike]]) -> dict[str, list[Dataset]]:
    """Read what output objects refer to of the source series: clean, whatever their headers hold.

    Args:
        files: map (`Chimap`, `R2starmap`, `T1w`) -> the DICOM files of its series.

    Returns:
        map -> datasets from `scripts.dicom.identity.source_of`, in the order of the files.

    Raises:
        InputError: a file that is no DICOM, or series of more than one patient or study.
    """
    series: dict[str, list[Dataset]] = {}
    for name, paths in files.items():
        series[name] = []
        for number, path in enumerate(paths, 1):
            where = f"file {number} of the {name} series"  # not its path, which may hold a patient's name
            dataset = read_dataset(str(path), where, pixels=False)
            try:
                series[name].append(source_of(dataset, uids_of(dataset, partial(sha256, path))))
            except Exception as error:  # values that pydicom parses late
                raise InputError(f"{where}: is damaged ({type(error).__name__}); export or send it again") from error
        fill_places(series[name])
    _fill_identity([source for sources in series.values() for source in sources])
    for keyword, said in (
        ("PatientID", lambda source: source.identity["PatientID"]),
        ("StudyInstanceUID", lambda source: source.StudyInstanceUID),
    ):
        if len({said(source) for sources in series.values() for source in sources}) > 1:
            raise InputError(f"the series differ in {keyword}; a report is of one patient and one study")
    return series


def _fill_identity(sources: Sequence[Dataset]) -> None:
    """What one series lacks of the patient and the study, another says."""
    for keyword in {keyword for source in sources for keyword in source.identity}:
        said = next((found for source in sources if (found := source.identity.get(keyword))), None)
        for source in sources:
            if said is not None and not source.identity.get(keyword):
                source.identity[keyword] = said
