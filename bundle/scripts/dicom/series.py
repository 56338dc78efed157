"""The files of a DICOM study as series of one patient, and which series is which map by a site's rules."""

import logging
from collections import defaultdict
from collections.abc import Sequence

from pydicom.uid import UID

from scripts.dicom.files import MAP_CLASSES, PATIENT_TAGS, Header
from scripts.dicom.rules import UNITS, Rule, Rules
from scripts.errors import InputError
from scripts.files.writing import sha256
from scripts.maps.scan import KNOWN_MAPS, MAPS

LOGGER = logging.getLogger(__name__)
#: How many series a message lists.
MOST_LISTED = 30
#: Images of these modalities are no maps, whatever kind of object they are in.
OTHER_MODALITIES = ("CT", "PT", "NM", "US", "CR", "DX", "XA", "RF", "MG", "OT", "SC", "SM", "XC", "RTIMAGE", "RTDOSE")


def check_one_patient(name: str, headers: Sequence[Header]) -> None:
    """All files are of one study and one patient: what a program left out when it made a series says nothing, as long
    as the series tells whose it is by number or name."""
    first = headers[0]
    known: dict[str, tuple[str, Header]] = {}
    fullest = max(headers, key=lambda header: sum(map(bool, header.patient)))
    for header in headers:
        for tag, said in zip(PATIENT_TAGS, header.patient, strict=True):
            one, other = known.setdefault(tag, (said, header)) if said else (said, header)
            if one != said:
                raise InputError(
                    f"{name}: holds images of two patients ({tag} differs between {other.label} and {header.label});"
                    " take the wrong one out"
                )
        shared = [one for one, other in zip(fullest.patient, header.patient, strict=True) if one == other != ""]
        if header.patient != fullest.patient and not set(shared) & set(fullest.patient[:2]):
            raise InputError(
                f"{name}: {header.label} does not say of whom it is ({PATIENT_TAGS[0]}, {PATIENT_TAGS[1]}), and"
                f" {fullest.label} does; export both with their patient's headers, or both without"
            )
        if header.study_uid != first.study_uid:
            raise InputError(
                f"{name}: its folders hold images of two studies ({first.label} and {header.label}); give each study"
                " a folder of its own"
            )


def group_series(name: str, headers: Sequence[Header]) -> list[list[Header]]:
    """Files grouped by series and kind of object, without copies of the same image."""
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
    series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in by_image.values():
        series[header.series_uid, header.sop_class_uid].append(header)
    return sorted(series.values(), key=lambda files: (len(files[0].headers["SeriesNumber"]), files[0].label))


def choose_series(
    name: str, series: Sequence[Sequence[Header]], rules: Rules, maps: Sequence[str] = MAPS
) -> dict[str, tuple[Sequence[Header], Rule]]:
    """For each map its series and the rule that it met.

    Args:
        name: the study's, for messages.
        series: files by series.
        rules: from `read_rules`.
        maps: BIDS suffixes, all of which the rules have.

    Raises:
        InputError: no series or several for a map, or one series for two maps.
    """
    chosen: dict[str, tuple[Sequence[Header], Rule]] = {}
    for suffix in maps:
        found = []
        named = rules.numbers.get(suffix)
        for files in series if named is None else _numbered(name, suffix, named, series):
            rule = _rule_for(name, suffix, files, rules) if named is None else _rule_of(name, suffix, files, rules)
            if rule is None:
                continue
            if files[0].sop_class_uid in MAP_CLASSES:
                _check_one_kind(name, files)
                found.append((files, rule))
            else:
                kind = UID(files[0].sop_class_uid).name
                LOGGER.warning("%s: %s is a %s and was not taken for the %s", name, files[0].label, kind, suffix)
        found = _preferred(name, suffix, found, rules)
        if len(found) > 1:
            labels = ", ".join(files[0].label for files, _ in found)
            raise InputError(f"{name}: {len(found)} series could be the {suffix} ({labels}); choose one with"
                             f" --series#{suffix} NUMBER, or tell them apart in --dicom_rules")  # fmt: skip
        if not found:
            cure = (
                "choose one with --series#T1w NUMBER" if suffix == "T1w" else "add its name and unit to --dicom_rules"
            )
            called = KNOWN_MAPS[suffix].words
            raise InputError(f"{name}: no series is the {suffix}, that is, none is called as {called} is; the"
                             f" study holds {_listed(series)}; {cure}")  # fmt: skip
        files, rule = found[0]
        for other, (taken, _) in chosen.items():
            if taken is files:
                raise InputError(f"{name}: {files[0].label} meets the rules of the {other} and of the {suffix}; tell"
                                 " them apart in the DICOM rules")  # fmt: skip
        chosen[suffix] = (files, rule)
    return chosen


def _listed(series: Sequence[Sequence[Header]]) -> str:
    """What a study holds, in words."""
    more = f" and {len(series) - MOST_LISTED} more" if len(series) > MOST_LISTED else ""
    return ", ".join(files[0].label for files in series[:MOST_LISTED]) + more


def _numbered(name: str, suffix: str, number: int, series: Sequence[Sequence[Header]]) -> Sequence[Sequence[Header]]:
    """The series with the number that the user chose for a map."""
    found = [files for files in series if files[0].headers["SeriesNumber"] == str(number)]
    if not found:
        raise InputError(f"{name}: holds no series {number}, which --series#{suffix} names; it holds {_listed(series)};"
                         " choose one of these")  # fmt: skip
    return found


def _rule_of(name: str, suffix: str, files: Sequence[Header], rules: Rules) -> Rule:
    """How a series that the user chose is read: by the rule that it meets; a T1W, whose unit says nothing, by any."""
    called = [rule for rule in rules.series[suffix] if any(rule.is_called(file.headers) for file in files)]
    if not called and len(UNITS[suffix]) > 1:
        raise InputError(f"{name}: {files[0].label} was chosen for the {suffix}, but no rule says what its numbers"
                         " mean; add one to --dicom_rules")  # fmt: skip
    return (called or rules.series[suffix])[0]


def _rule_for(name: str, suffix: str, files: Sequence[Header], rules: Rules) -> Rule | None:
    """The first rule that a series meets. One that is called like the map and was taken otherwise is spoken of."""
    contradicted = ""
    for rule in rules.series[suffix]:
        for headers in (file.headers for file in files):
            if not rule.is_called(headers):
                continue
            if not (said := rule.contradicted(headers)):
                return rule
            contradicted = said
            break
    if contradicted:
        LOGGER.warning("%s: %s is called like the %s, but %s; it was not taken", name, files[0].label, suffix,
                       contradicted)  # fmt: skip
    return None


def _check_one_kind(name: str, files: Sequence[Header]) -> None:
    """A series that is taken for a map is called one thing, and comes from an MR scanner."""
    if len({file.label for file in files}) > 1:
        raise InputError(f"{name}: {files[0].label} holds images of another description under one SeriesInstanceUID;"
                         " export one series a map")  # fmt: skip
    for file in files:
        modality = file.headers["Modality"].upper()
        if modality in OTHER_MODALITIES:
            raise InputError(f"{name}: {file.label} is of modality {modality}, not MR; give the maps of an MR scan")


def _preferred(
    name: str, suffix: str, found: list[tuple[Sequence[Header], Rule]], rules: Rules
) -> list[tuple[Sequence[Header], Rule]]:
    """Of several series, those that the rules prefer; what is left out is named."""
    for wish in rules.prefer.get(suffix, ()):
        better = [
            (files, rule)
            for files, rule in found
            if all(pattern.search(files[0].headers.get(header, "")) for header, pattern in wish.items())
        ]
        if better and len(better) < len(found):
            kept = {id(files) for files, _ in better}
            left = ", ".join(files[0].label for files, _ in found if id(files) not in kept)
            LOGGER.warning("%s: %s could be the %s too and was not preferred", name, left, suffix)
            found = better
    return found
