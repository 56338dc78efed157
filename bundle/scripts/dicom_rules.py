"""The rules that say which DICOM series is which map and what its numbers mean (`configs/dicom_series.yaml`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.cohort import MAPS
from scripts.errors import InputError, reason

#: Series headers that a rule may look at. None of them says who the patient is.
HEADERS = (
    "SeriesDescription", "ProtocolName", "SequenceName", "ImageType", "DerivationDescription", "Manufacturer",
    "ManufacturerModelName", "SoftwareVersions", "SeriesNumber",
)  # fmt: skip
#: Factor from each map's units to ours: ppm, 1/s, and whatever the T1W comes in.
UNITS = {
    "Chimap": {"ppm": 1.0, "ppb": 1e-3},
    "R2starmap": {"1/s": 1.0, "1/ms": 1e3},
    "T1w": {"any": 1.0},
}
SCALINGS = ("rescale", "philips", "real_world")


@dataclass(frozen=True)
class Rule:
    """One way to find a map. `where` and `unless`: header -> pattern (`where`, `not` in the YAML)."""

    where: dict[str, re.Pattern]
    unless: dict[str, re.Pattern]
    unit: str
    factor: float
    scaling: str

    def meets(self, headers: Mapping[str, str]) -> bool:
        """Whether a series with these headers (missing ones empty) is meant."""
        return all(pattern.search(headers.get(name, "")) for name, pattern in self.where.items()) and not any(
            pattern.search(headers.get(name, "")) for name, pattern in self.unless.items()
        )

    def __str__(self) -> str:
        said = " and ".join(f"{name} ~ {pattern.pattern!r}" for name, pattern in self.where.items())
        return said + "".join(f" and not {name} ~ {pattern.pattern!r}" for name, pattern in self.unless.items())


@dataclass(frozen=True)
class Rules:
    """The whole file: rules by map, and what is allowed of a study."""

    series: dict[str, tuple[Rule, ...]]
    one_frame_of_reference: bool
    position_tolerance_mm: float
    max_files: int
    max_file_bytes: int
    max_study_bytes: int


def read_rules(path: str | Path) -> Rules:
    """Read and check a rules file.

    Raises:
        InputError: no such file, not YAML, a key that is missing, unknown or out of range, a pattern that is none.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give --dicom_rules a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({reason(error)}); see configs/dicom_series.yaml") from error
    top = _keys(path, "it", content, {"series", "one_frame_of_reference", "position_tolerance_mm", "limits"})
    series = _keys(path, "series", top["series"], set(MAPS))
    limits = _keys(path, "limits", top["limits"], {"files", "file_gb", "study_gb"})
    if not isinstance(top["one_frame_of_reference"], bool):
        raise InputError(f"{path}: one_frame_of_reference is {top['one_frame_of_reference']!r}; write true or false")
    for name, value in {"position_tolerance_mm": top["position_tolerance_mm"], **limits}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise InputError(f"{path}: {name} is {value!r}; give a number above 0")
    return Rules(
        {suffix: _rules(path, suffix, series[suffix]) for suffix in MAPS},
        top["one_frame_of_reference"],
        float(top["position_tolerance_mm"]),
        int(limits["files"]),
        int(limits["file_gb"] * 1e9),
        int(limits["study_gb"] * 1e9),
    )


def _keys(path: str | Path, name: str, content: Any, wanted: set[str], optional: frozenset = frozenset()) -> dict:
    """A mapping that has all wanted keys and no others but the optional ones."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: {name} is not a mapping; see configs/dicom_series.yaml")
    for key in sorted(wanted - content.keys()):
        raise InputError(f"{path}: {name} has no {key}; see configs/dicom_series.yaml")
    for key in sorted(map(str, content.keys() - wanted - optional)):
        raise InputError(f"{path}: {name} has the unknown key {key}; remove it")
    return content


def _rules(path: str | Path, suffix: str, content: Any) -> tuple[Rule, ...]:
    """The rules of one map."""
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: {suffix} has no list of rules; give at least one")
    rules = []
    for number, item in enumerate(content, 1):
        name = f"rule {number} of {suffix}"
        item = _keys(path, name, item, {"where", "unit", "scaling"}, frozenset({"not", "multiply"}))
        if item["unit"] not in UNITS[suffix]:
            raise InputError(f"{path}: {name} has unit {item['unit']!r}; use {' or '.join(UNITS[suffix])}")
        if item["scaling"] not in SCALINGS:
            raise InputError(f"{path}: {name} has scaling {item['scaling']!r}; use {', '.join(SCALINGS)}")
        factor = item.get("multiply", 1)
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < abs(factor) < float("inf"):
            raise InputError(f"{path}: {name} has multiply {factor!r}; give a number that is not 0")
        where = _patterns(path, name, item["where"])
        if not where:
            raise InputError(f"{path}: {name} has an empty where; it would take every series")
        unless = _patterns(path, name, item.get("not", {}))
        rules.append(Rule(where, unless, item["unit"], UNITS[suffix][item["unit"]] * factor, item["scaling"]))
    return tuple(rules)


def _patterns(path: str | Path, name: str, content: Any) -> dict[str, re.Pattern]:
    """Header -> compiled pattern."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: where and not of {name} map headers to patterns; see configs/dicom_series.yaml")
    patterns = {}
    for header, pattern in content.items():
        if header not in HEADERS:
            raise InputError(f"{path}: {name} looks at {header!r}; use one of {', '.join(HEADERS)}")
        try:
            patterns[header] = re.compile(str(pattern), re.IGNORECASE)
        except re.error as error:
            raise InputError(f"{path}: pattern {pattern!r} of {name} is no regular expression; {error}") from error
    return patterns
