"""The rules that say which DICOM series is which map and what its numbers mean (`configs/dicom_series.yaml`)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from scripts.errors import InputError
from scripts.files.text import read_text
from scripts.files.yaml_text import fault_in, read_yaml
from scripts.maps.scan import KNOWN_MAPS, MAPS

#: Series headers that a rule may look at. None of them says who the patient is.
HEADERS = (
    "SeriesDescription", "ProtocolName", "SequenceName", "ImageType", "DerivationDescription", "Manufacturer",
    "ManufacturerModelName", "SoftwareVersions", "SeriesNumber", "ScanningSequence", "SequenceVariant",
    "MRAcquisitionType", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "Modality",
    "ContrastBolusAgent",
)  # fmt: skip
#: Those that hold a number, and may stand in `ranges`. Times in ms, angles in degrees.
NUMBERS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
#: Factor from each map's units to ours: ppm, 1/s, s, and whatever maps without a unit come in.
UNITS = {
    "Chimap": {"ppm": 1.0, "ppb": 1e-3},
    "R2starmap": {"1/s": 1.0, "1/ms": 1e3},
    "T1w": {"any": 1.0},
    "T1map": {"s": 1.0, "ms": 1e-3},
    "PDmap": {"any": 1.0},
    "MTsat": {"any": 1.0},
}
_OPTIONAL = frozenset({"where", "not", "words", "not_words", "ranges", "multiply"})
SCALINGS = ("rescale", "philips", "real_world")


def words_of(said: str) -> str:
    """A header's words: letters and digits in lower case, with one space for everything between them."""
    return re.sub(r"[\W_]+", " ", said.casefold()).strip()


def read_words(pattern: str) -> re.Pattern:
    """A pattern that meets whole words only, never letters within one."""
    return re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rule:
    """One way to find a map.

    `where` and `unless`: header -> pattern of its text (`where`, `not` in the YAML); `words` and `no_words`: header ->
    pattern of whole words (`words`, `not_words`); `ranges`: header -> lowest and highest number, where it is there.
    """

    where: dict[str, re.Pattern]
    unless: dict[str, re.Pattern]
    unit: str
    factor: float
    scaling: str
    words: dict[str, re.Pattern] = field(default_factory=dict)
    no_words: dict[str, re.Pattern] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def meets(self, headers: Mapping[str, str]) -> bool:
        """Whether a series with these headers (missing ones empty) is meant."""
        return self.is_called(headers) and not self.contradicted(headers)

    def is_called(self, headers: Mapping[str, str]) -> bool:
        """Whether the patterns are met."""
        return (
            all(pattern.search(headers.get(name, "")) for name, pattern in self.where.items())
            and all(pattern.search(words_of(headers.get(name, ""))) for name, pattern in self.words.items())
            and not any(pattern.search(headers.get(name, "")) for name, pattern in self.unless.items())
            and not any(pattern.search(words_of(headers.get(name, ""))) for name, pattern in self.no_words.items())
        )

    def contradicted(self, headers: Mapping[str, str]) -> str:
        """Which number of the acquisition is out of its range, as text; empty if none. 0 and no number say nothing."""
        for name, (low, high) in self.ranges.items():
            try:
                value = float(headers.get(name, "").split("\\")[0])
            except ValueError:
                continue
            if value > 0 and not low <= value <= high:
                return f"{name} {value:g} is not {low:g} to {high:g}"
        return ""


@dataclass(frozen=True)
class Rules:
    """The whole file: rules by map (those of MAPS, and further ones that it has), what is preferred among series that
    meet them, and what is allowed of a study.

    `numbers`: map -> number of the series that the user chose for it, whatever the rules would take.
    """

    series: dict[str, tuple[Rule, ...]]
    one_frame_of_reference: bool
    position_tolerance_mm: float
    max_files: int
    max_file_bytes: int
    max_study_bytes: int
    prefer: dict[str, tuple[dict[str, re.Pattern], ...]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)


def read_rules(path: str | os.PathLike) -> Rules:
    """Read and check a rules file.

    Raises:
        InputError: no such file, not YAML, a key that is missing, unknown or out of range, a pattern that is none.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; give --dicom_rules a YAML file as configs/dicom_series.yaml is")
    try:
        content = read_yaml(read_text(path, "give --dicom_rules a YAML file in UTF-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({fault_in(error)}); see configs/dicom_series.yaml") from error
    top = _keys(path, "it", content, {"series", "one_frame_of_reference", "position_tolerance_mm", "limits"},
                frozenset({"prefer"}))  # fmt: skip
    series = _keys(path, "series", top["series"], set(MAPS), frozenset(KNOWN_MAPS))
    limits = _keys(path, "limits", top["limits"], {"files", "file_gb", "study_gb"})
    if not isinstance(top["one_frame_of_reference"], bool):
        raise InputError(f"{path}: one_frame_of_reference is {top['one_frame_of_reference']!r}; write true or false")
    for name, value in {"position_tolerance_mm": top["position_tolerance_mm"], **limits}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise InputError(f"{path}: {name} is {value!r}; give a number above 0")
    return Rules(
        {suffix: _rules(path, suffix, series[suffix]) for suffix in KNOWN_MAPS if suffix in series},
        top["one_frame_of_reference"],
        float(top["position_tolerance_mm"]),
        int(limits["files"]),
        int(limits["file_gb"] * 1e9),
        int(limits["study_gb"] * 1e9),
        _preferences(path, top.get("prefer", {})),
    )


def _preferences(path: str | os.PathLike, content: Any) -> dict[str, tuple[dict[str, re.Pattern], ...]]:
    """Map -> what is preferred, the first thing first."""
    content = _keys(path, "prefer", content, set(), frozenset(KNOWN_MAPS))
    for suffix, wishes in content.items():
        if not isinstance(wishes, list):
            raise InputError(f"{path}: prefer of {suffix} is no list; write - {{ImageType: NORM}}")
    return {
        suffix: tuple(_patterns(path, f"prefer of {suffix}", wish) for wish in wishes)
        for suffix, wishes in content.items()
    }


def _keys(
    path: str | os.PathLike, name: str, content: Any, wanted: set[str], optional: frozenset = frozenset()
) -> dict:
    """A mapping that has all wanted keys and no others but the optional ones."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: {name} is not a mapping; see configs/dicom_series.yaml")
    for key in sorted(wanted - content.keys()):
        raise InputError(f"{path}: {name} has no {key}; see configs/dicom_series.yaml")
    for key in sorted(map(str, content.keys() - wanted - optional)):
        raise InputError(f"{path}: {name} has the unknown key {key}; remove it")
    return content


def _rules(path: str | os.PathLike, suffix: str, content: Any) -> tuple[Rule, ...]:
    """The rules of one map."""
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: {suffix} has no list of rules; give at least one")
    rules = []
    for number, item in enumerate(content, 1):
        name = f"rule {number} of {suffix}"
        item = _keys(path, name, item, {"unit", "scaling"}, _OPTIONAL)
        if item["unit"] not in UNITS[suffix]:
            raise InputError(f"{path}: {name} has unit {item['unit']!r}; use {' or '.join(UNITS[suffix])}")
        if item["scaling"] not in SCALINGS:
            raise InputError(f"{path}: {name} has scaling {item['scaling']!r}; use {', '.join(SCALINGS)}")
        factor = item.get("multiply", 1)
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < abs(factor) < float("inf"):
            raise InputError(f"{path}: {name} has multiply {factor!r}; give a number that is not 0")
        where, words = _patterns(path, name, item.get("where", {})), _patterns(path, name, item.get("words", {}), True)
        if not where and not words:
            raise InputError(f"{path}: {name} has an empty where and no words; it would take every series")
        rules.append(
            Rule(
                where,
                _patterns(path, name, item.get("not", {})),
                item["unit"],
                UNITS[suffix][item["unit"]] * factor,
                item["scaling"],
                words,
                _patterns(path, name, item.get("not_words", {}), True),
                _ranges(path, name, item.get("ranges", {})),
            )
        )
    return tuple(rules)


def _ranges(path: str | os.PathLike, name: str, content: Any) -> dict[str, tuple[float, float]]:
    """Header -> lowest and highest number."""
    ranges = {}
    for header, pair in (content if isinstance(content, dict) else {"ranges": content}).items():
        if header not in NUMBERS:
            raise InputError(f"{path}: ranges of {name} look at {header!r}; use some of {', '.join(NUMBERS)}")
        try:
            low, high = (float(value) for value in pair)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if not low <= high:
            raise InputError(f"{path}: the range of {header} of {name} is {pair!r}; give lowest and highest, [2, 30]")
        ranges[header] = (low, high)
    return ranges


def _patterns(path: str | os.PathLike, name: str, content: Any, words: bool = False) -> dict[str, re.Pattern]:
    """Header -> compiled pattern, of its text or of its `words`."""
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: where, words and not of {name} map headers to patterns; see configs/dicom_series.yaml"
        )
    patterns = {}
    for header, pattern in content.items():
        if header not in HEADERS:
            raise InputError(f"{path}: {name} looks at {header!r}; use one of {', '.join(HEADERS)}")
        pattern = "|".join(map(str, pattern)) if isinstance(pattern, list) else pattern
        try:
            patterns[header] = read_words(str(pattern)) if words else re.compile(str(pattern), re.IGNORECASE)
        except re.error as error:
            raise InputError(f"{path}: pattern {pattern!r} of {name} is no regular expression; {error}") from error
    return patterns
