"""From the numbers that a DICOM file stores to ppm, 1/s, s or the map's own unit: slopes, private scaling, padding."""

import re
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from scripts.dicom.frames import Frame
from scripts.dicom.identity import text
from scripts.dicom.rules import UNITS, Rule
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

#: What says how stored numbers become values, so that all images of a map must say the same. Slopes and intercepts are
#: not among them: they are applied to each image. Nor are windows, VOI LUT and Presentation LUT, which are for display.
_MEANING = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
            "PixelPaddingRangeLimit", "PixelIntensityRelationship", "RescaleType")  # fmt: skip
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TRANSFORMATION, _REAL_WORLD = "PixelValueTransformationSequence", "RealWorldValueMappingSequence"
_MAPPED_UNIT = "MeasurementUnitsCodeSequence"
#: Factor from each unit to the common one of its kind: a file may give its numbers in both.
_FACTORS = {unit: factor for units in UNITS.values() for unit, factor in units.items() if unit != "any"}
#: Share by which two scalings of one number may differ, from rounding.
_ROUNDING = 1e-3


def check_one_meaning(frames: Sequence[Frame]) -> None:
    """Refuse images of one series whose stored numbers do not mean the same; what some do not say counts as the same.

    Args:
        frames: of one map.

    Raises:
        InputError: names the header and two of its values.
    """
    name = frames[0].name
    for keyword in _MEANING:
        said = sorted({text(frame.get(keyword, _TRANSFORMATION)) for frame in frames} - {""})
        if len(said) > 1:
            raise InputError(
                f"{name}: its images differ in {keyword} {Tag(keyword)} ({said[0]}, {said[1]}), so their numbers do not"
                " mean the same; export the map again as one series"
            )
    for what, kinds in (
        (
            "in how they store numbers",
            {keyword for frame in frames for keyword in _PIXEL_DATA if keyword in frame.dataset},
        ),
        (
            f"in whether they have a RescaleSlope {Tag('RescaleSlope')}",
            {text(frame.get("RescaleSlope", _TRANSFORMATION)) != "" for frame in frames},
        ),
    ):
        if len(kinds) > 1:
            raise InputError(f"{name}: its images differ {what}; export the map again as one series")


def scaled(stored: np.ndarray, frame: Frame, rule: Rule) -> np.ndarray:
    """Stored numbers `[rows, columns]` in our unit; what the file calls padding becomes 0."""
    slope, intercept = _scaling(frame, rule)
    if rule.scaling == "real_world":
        _check_mapped(stored, frame)
    values = (stored.astype(np.float64) * slope + intercept) * rule.factor
    values[_padded(stored, frame)] = 0
    return values


def _padded(stored: np.ndarray, frame: Frame) -> np.ndarray:
    """Where stored numbers are what the file calls padding."""
    padding = frame.dataset.get("PixelPaddingValue")
    if padding is None or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    low, high = sorted((int(padding), int(frame.dataset.get("PixelPaddingRangeLimit", padding))))
    return (stored >= low) & (stored <= high)


def _scaling(frame: Frame, rule: Rule) -> tuple[float, float]:
    """Slope and intercept from stored numbers to the unit of the rule."""
    if rule.scaling == "real_world":
        return _real_world(frame, rule)
    _check_linear(frame)
    group, tags = _TRANSFORMATION, ("RescaleSlope", "RescaleIntercept")
    there = [frame.get(tag, group) is not None for tag in tags]
    if any(there) != all(there):
        raise InputError(
            f"{frame.name}: has no {tags[there.index(False)]} {Tag(tags[there.index(False)])}; export it again"
        )
    slope, intercept = (float(frame.numbers(tag, group, 1)[0]) for tag in tags) if all(there) else (1.0, 0.0)
    if slope == 0:
        raise InputError(f"{frame.name}: RescaleSlope is 0; export it again")
    _check_unit(frame, text(frame.get("RescaleType", group)), rule)
    if rule.scaling == "philips":
        scale = _philips_scale_slope(frame)
        slope, intercept = 1 / scale, intercept / (slope * scale)
    _check_mappings_agree(frame, rule, slope, intercept)
    return slope, intercept


def _check_linear(frame: Frame) -> None:
    """Refuse what makes values of stored numbers otherwise than by one slope and intercept.

    Raises:
        InputError: names it.
    """
    if any(place.get("ModalityLUTSequence") for place in [*frame.groups, frame.dataset]):
        raise InputError(
            f"{frame.name}: its numbers are to be looked up in a table (ModalityLUTSequence"
            f" {Tag('ModalityLUTSequence')}), which is not read; export it with RescaleSlope and RescaleIntercept"
        )
    for group in frame.groups:
        if len(group.get(_TRANSFORMATION) or ()) > 1:
            raise InputError(f"{frame.name}: a frame has several {_TRANSFORMATION} items; export it again")
    relation = text(frame.get("PixelIntensityRelationship")).upper()
    if relation not in ("", "LIN"):
        raise InputError(
            f"{frame.name}: PixelIntensityRelationship {Tag('PixelIntensityRelationship')} is {relation}, so its"
            " numbers are not proportional to the map; export the map itself"
        )


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


def _mappings(frame: Frame) -> Sequence[Dataset]:
    """The Real World Value Mappings of a frame."""
    places = [*frame.groups, frame.dataset]
    return next((place.get(_REAL_WORLD) for place in places if place.get(_REAL_WORLD)), ())


def _linear(mapping: Dataset) -> tuple[float, float] | None:
    """Slope and intercept of a Real World Value Mapping, None where it has none or goes by a table."""
    found = [mapping.get(tag) for tag in ("RealWorldValueSlope", "RealWorldValueIntercept")]
    if None in found or not np.isfinite(found).all() or found[0] == 0 or mapping.get("RealWorldValueLUTData"):
        return None
    return float(found[0]), float(found[1])


def _check_mappings_agree(frame: Frame, rule: Rule, slope: float, intercept: float) -> None:
    """Refuse a file whose Real World Value Mapping gives, in a unit of the rule's kind, other values than its scaling.

    Raises:
        InputError: that.
    """
    for mapping in _mappings(frame):
        units = [_WRITTEN_UNITS.get(_plain(text(u.get("CodeValue")))) for u in mapping.get(_MAPPED_UNIT) or []]
        linear = _linear(mapping)
        if linear is None or not units or units[0] is None or rule.unit == "any":
            continue
        factor = _FACTORS[units[0]] / _FACTORS[rule.unit]
        if not np.allclose(
            np.multiply(linear, factor), (slope, intercept), rtol=_ROUNDING, atol=_ROUNDING * abs(slope)
        ):
            raise InputError(
                f"{frame.name}: its real world mapping ({linear[0]:g} x stored + {linear[1]:g} {units[0]}) and its"
                f" scaling ({slope:g} x stored + {intercept:g} {rule.unit}) give two values; change scaling in the"
                " DICOM rules to real_world if that is right, or export it again"
            )


def _check_mapped(stored: np.ndarray, frame: Frame) -> None:
    """Refuse stored numbers that a Real World Value Mapping does not cover, but for padding.

    Raises:
        InputError: that.
    """
    ends = [_mappings(frame)[0].get(f"RealWorldValue{end}ValueMapped") for end in ("First", "Last")]
    if None in ends:
        return
    inside = ~_padded(stored, frame)
    if inside.any() and (stored[inside].min() < float(ends[0]) or stored[inside].max() > float(ends[1])):
        raise InputError(
            f"{frame.name}: its real world mapping covers stored numbers of {ends[0]} to {ends[1]}, and the image holds"
            f" {stored[inside].min()} to {stored[inside].max()}; export it again"
        )


def _real_world(frame: Frame, rule: Rule) -> tuple[float, float]:
    """The only Real World Value Mapping of a frame."""
    sequence, items = _REAL_WORLD, _mappings(frame)
    if not items:
        raise InputError(f"{frame.name}: has no {sequence} {Tag(sequence)}; change scaling in the DICOM rules")
    if len(items) != 1:
        raise InputError(f"{frame.name}: has {len(items)} real world mappings; export one, or change the DICOM rules")
    found = _linear(items[0])
    if found is None:
        raise InputError(f"{frame.name}: its real world mapping has no slope and intercept; change the DICOM rules")
    for unit in items[0].get(_MAPPED_UNIT) or []:
        _check_unit(frame, text(unit.get("CodeValue")), rule)
    return found


def _plain(unit: str) -> str:
    """A unit without brackets, spaces and powers' signs, in small letters."""
    return re.sub(r"[\[\]{}^ ]", "", unit.casefold())


def _check_unit(frame: Frame, said: str, rule: Rule) -> None:
    """Refuse a file that names another unit than the rule. Words that are no unit, as `US` and `normalized`, say
    nothing."""
    written = _plain(said)
    unit = _WRITTEN_UNITS.get(written)
    parts = [part for part in re.split(r"[/.*0-9+-]+", written) if part]
    if unit is None and written != "us" and parts and all(_UNIT.fullmatch(part) for part in parts):
        unit = written
    if unit is not None and unit != rule.unit:
        raise InputError(f"{frame.name}: says that its unit is {said}, the rule says {rule.unit}; correct the DICOM"
                         " rules, or give the series of this map")  # fmt: skip
