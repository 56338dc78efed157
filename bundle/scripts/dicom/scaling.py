"""From the numbers that a DICOM file stores to ppm, 1/s, s or the map's own unit: slopes, private scaling, padding."""

import re

import numpy as np
from pydicom.tag import Tag

from scripts.dicom.frames import Frame
from scripts.dicom.identity import text
from scripts.dicom.rules import Rule
from scripts.errors import InputError

_PHILIPS_CREATOR, _PHILIPS_GROUP, _PHILIPS_SCALE_SLOPE = "Philips MR Imaging DD 001", 0x2005, 0x0E
_PHILIPS_FRAME_CREATOR, _PHILIPS_FRAME_SEQUENCE = "Philips MR Imaging DD 005", 0x0F
#: Ways to write the units of maps in Rescale Type and as UCUM codes, without brackets, spaces and powers' signs.
_WRITTEN_UNITS = {"ppm": "ppm", "10*-6": "ppm", "1e-6": "ppm", "ppb": "ppb", "10*-9": "ppb", "1e-9": "ppb", "/s": "1/s",
                  "1/s": "1/s", "hz": "1/s", "s-1": "1/s", "/sec": "1/s", "1/sec": "1/s", "sec-1": "1/s",
                  "/ms": "1/ms", "1/ms": "1/ms", "ms-1": "1/ms", "/msec": "1/ms", "1/msec": "1/ms",
                  "khz": "1/ms", "s": "s", "sec": "s", "second": "s", "seconds": "s",
                  "ms": "ms", "msec": "ms", "millisecond": "ms", "milliseconds": "ms"}  # fmt: skip
#: What other units are made of. DICOM's `US` is "unspecified".
_UNIT = re.compile(
    r"hu|hu_mod|od|mgml|z_eff|ed|edw|pct|%|percent"  # DICOM's terms of Rescale Type for other images
    r"|[munpµμk]?(s|sec|m|g|l|mol|rad|radians?|degrees?|deg|hz|t|tesla|gauss)|milliseconds?|seconds?|min|minutes?|cm|ml|bq"
)


def scaled(stored: np.ndarray, frame: Frame, rule: Rule) -> np.ndarray:
    """Stored numbers `[rows, columns]` in our unit; what the file calls padding becomes 0."""
    slope, intercept = _scaling(frame, rule)
    values = (stored.astype(np.float64) * slope + intercept) * rule.factor
    padding = frame.dataset.get("PixelPaddingValue")
    if padding is not None and stored.dtype.kind in "iu":
        limit = frame.dataset.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((int(padding), int(limit)))
        values[(stored >= low) & (stored <= high)] = 0
    return values


def _scaling(frame: Frame, rule: Rule) -> tuple[float, float]:
    """Slope and intercept from stored numbers to the unit of the rule."""
    if rule.scaling == "real_world":
        return _real_world(frame, rule)
    group = "PixelValueTransformationSequence"
    tags = ("RescaleSlope", "RescaleIntercept")
    there = [frame.get(tag, group) is not None for tag in tags]
    if any(there) != all(there):
        raise InputError(
            f"{frame.name}: has no {tags[there.index(False)]} {Tag(tags[there.index(False)])}; export it again"
        )
    slope, intercept = (float(frame.numbers(tag, group, 1)[0]) for tag in tags) if all(there) else (1.0, 0.0)
    if slope == 0:
        raise InputError(f"{frame.name}: RescaleSlope is 0; export it again")
    _check_unit(frame, text(frame.get("RescaleType", group)), rule)
    if rule.scaling == "rescale":
        return slope, intercept
    scale = _philips_scale_slope(frame)
    return 1 / scale, intercept / (slope * scale)


def has_philips_scale(frame: Frame) -> bool:
    """Whether Philips' private scale slope is there."""
    try:
        _philips_scale_slope(frame)
    except InputError:
        return False
    return True


def _philips_scale_slope(frame: Frame) -> float:
    """Philips' private scale slope SS: true value = (stored * slope + intercept) / (slope * SS)."""
    places = [frame.dataset]
    for group in frame.groups:
        try:
            places += group.private_block(_PHILIPS_GROUP, _PHILIPS_FRAME_CREATOR)[_PHILIPS_FRAME_SEQUENCE].value
        except (KeyError, TypeError):
            continue
    for place in places:
        try:
            scale = float(place.private_block(_PHILIPS_GROUP, _PHILIPS_CREATOR)[_PHILIPS_SCALE_SLOPE].value)
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(scale) and scale != 0:
            return scale
    raise InputError(f"{frame.name}: has no Philips scale slope (2005,100E); export private tags too, or change scaling"
                     " in the DICOM rules")  # fmt: skip


def _real_world(frame: Frame, rule: Rule) -> tuple[float, float]:
    """The only Real World Value Mapping of a frame."""
    sequence = "RealWorldValueMappingSequence"
    items = next((g.get(sequence) for g in [*frame.groups, frame.dataset] if g.get(sequence)), None)
    if items is None:
        raise InputError(f"{frame.name}: has no {sequence} {Tag(sequence)}; change scaling in the DICOM rules")
    if len(items) != 1:
        raise InputError(f"{frame.name}: has {len(items)} real world mappings; export one, or change the DICOM rules")
    found = [items[0].get(tag) for tag in ("RealWorldValueSlope", "RealWorldValueIntercept")]
    if None in found or not np.isfinite(found).all() or found[0] == 0:
        raise InputError(f"{frame.name}: its real world mapping has no slope and intercept; change the DICOM rules")
    for unit in items[0].get("MeasurementUnitsCodeSequence") or []:
        _check_unit(frame, text(unit.get("CodeValue")), rule)
    return float(found[0]), float(found[1])


def _check_unit(frame: Frame, said: str, rule: Rule) -> None:
    """Refuse a file that names another unit than the rule. Words that are no unit, as `US` and `normalized`, say
    nothing."""
    written = re.sub(r"[\[\]{}^ ]", "", said.casefold())
    unit = _WRITTEN_UNITS.get(written)
    parts = [part for part in re.split(r"[/.*0-9+-]+", written) if part]
    if unit is None and written != "us" and parts and all(_UNIT.fullmatch(part) for part in parts):
        unit = written
    if unit is not None and unit != rule.unit:
        raise InputError(f"{frame.name}: says that its unit is {said}, the rule says {rule.unit}; correct the DICOM"
                         " rules, or give the series of this map")  # fmt: skip
