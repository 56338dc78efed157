"""The files of a DICOM study as series of one patient, and which series is which map by a site's rules."""

import logging
from collections import defaultdict
from collections.abc import Sequence

from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    ParametricMapStorage,
)

from scripts.cohort import MAPS
from scripts.dicom_files import PATIENT_TAGS, Header
from scripts.dicom_rules import Rule, Rules
from scripts.errors import InputError
from scripts.provenance import sha256

LOGGER = logging.getLogger(__name__)
#: Kinds of objects that can hold a map. A secondary capture (screenshot) cannot, whatever it is called.
MAP_CLASSES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, ParametricMapStorage)


def check_one_patient(name: str, headers: Sequence[Header]) -> None:
    """All files are of one study and one patient."""
    first = headers[0]
    for header in headers:
        for tag, one, other in zip(PATIENT_TAGS, first.patient, header.patient, strict=True):
            if one != other:
                raise InputError(
                    f"{name}: holds images of two patients ({tag} differs between {first.label} and {header.label});"
                    " take the wrong one out"
                )
        if header.study_uid != first.study_uid:
            raise InputError(
                f"{name}: its folders hold images of two studies ({first.label} and {header.label}); give each study"
                " a folder of its own"
            )


def group_series(name: str, headers: Sequence[Header]) -> list[list[Header]]:
    """Files grouped by series, without copies of the same image."""
    by_image: dict[str, Header] = {}
    copies = 0
    for header in headers:
        known = by_image.setdefault(header.sop_instance_uid, header)
        if known is not header:
            copies += 1
            if sha256(known.path) != sha256(header.path):
                raise InputError(f"{name}: {header.label} holds two different images with one SOPInstanceUID; send the"
                                 " study again")  # fmt: skip
    if copies:
        LOGGER.info("%s: %d files are exact copies of others and were passed over", name, copies)
    series: dict[str, list[Header]] = defaultdict(list)
    for header in by_image.values():
        series[header.series_uid].append(header)
    for files in series.values():
        for tag in ("sop_class_uid", "label"):
            if len({getattr(file, tag) for file in files}) > 1:
                raise InputError(f"{name}: {files[0].label} holds images of another kind or description under one"
                                 " SeriesInstanceUID; export one series a map")  # fmt: skip
    return sorted(series.values(), key=lambda files: (len(files[0].headers["SeriesNumber"]), files[0].label))


def choose_series(
    name: str, series: Sequence[Sequence[Header]], rules: Rules
) -> dict[str, tuple[Sequence[Header], Rule]]:
    """For each map its series and the rule that it met.

    Args:
        name: the study's, for messages.
        series: files by series.
        rules: from `read_rules`.

    Raises:
        InputError: no series or several for a map, or one series for two maps.
    """
    chosen: dict[str, tuple[Sequence[Header], Rule]] = {}
    for suffix in MAPS:
        found = []
        for files in series:
            rule = next((rule for rule in rules.series[suffix] if rule.meets(files[0].headers)), None)
            if rule is None:
                continue
            if files[0].sop_class_uid in MAP_CLASSES:
                found.append((files, rule))
            else:
                kind = UID(files[0].sop_class_uid).name
                LOGGER.warning("%s: %s is a %s and was not taken for the %s", name, files[0].label, kind, suffix)
        if len(found) > 1:
            labels = ", ".join(files[0].label for files, _ in found)
            raise InputError(f"{name}: {len(found)} series could be the {suffix} ({labels}); tell them apart in the"
                             " DICOM rules")  # fmt: skip
        if not found:
            tried = " or ".join(f"[{rule}]" for rule in rules.series[suffix])
            there = ", ".join(files[0].label for files in series[:30])
            raise InputError(f"{name}: no series is the {suffix}; the rules want {tried}, the study holds {there};"
                             " correct the DICOM rules")  # fmt: skip
        files, rule = found[0]
        for other, (taken, _) in chosen.items():
            if taken is files:
                raise InputError(f"{name}: {files[0].label} meets the rules of the {other} and of the {suffix}; tell"
                                 " them apart in the DICOM rules")  # fmt: skip
        chosen[suffix] = (files, rule)
    return chosen
