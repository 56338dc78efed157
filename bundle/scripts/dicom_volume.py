"""One DICOM series as a volume on a grid: frames put in order by their geometry, numbers scaled to their unit.

What would have to be guessed is refused. Axes of a volume: columns, rows, slices (along the slices' normal).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from scripts.dicom_files import Header, quiet, read_dataset, text
from scripts.dicom_pixels import check_pixels, decode
from scripts.dicom_rules import Rule, Rules
from scripts.errors import InputError, reason

#: What tells two images of one place apart, in the order in which it is looked at.
ACQUISITION_TAGS = ("AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "FlipAngle",
                    "ImageType")  # fmt: skip
_PHILIPS_CREATOR, _PHILIPS_GROUP, _PHILIPS_SCALE_SLOPE = "Philips MR Imaging DD 001", 0x2005, 0x0E
_PHILIPS_FRAME_CREATOR, _PHILIPS_FRAME_SEQUENCE = "Philips MR Imaging DD 005", 0x0F
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """A series' numbers `[columns, rows, slices]` (float32) and affine `[4, 4]` from voxels to RAS+ mm.

    `frames`: for each slice its file, SOP Instance UID and frame number (from 1; None in single-frame files).
    """

    values: np.ndarray
    affine: np.ndarray
    frame_of_reference: str
    frames: tuple[tuple[str, str, int | None], ...]


class Frame:
    """One image plane: where its headers are, whether in the file itself or in its functional groups."""

    def __init__(self, dataset: Dataset, header: Header, index: int | None) -> None:
        self.dataset, self.header, self.index = dataset, header, index
        self.name = header.label
        self.groups: list[Dataset] = []
        if index is not None:
            per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
            if len(per_frame) <= index:
                raise InputError(f"{self.name}: describes {len(per_frame)} of its frames only; export it again")
            self.groups = [per_frame[index], *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]]

    def get(self, keyword: str, sequence: str = "") -> Any:
        """A header's value or None: in a multi-frame file from the functional group `sequence`, if it is there."""
        for group in self.groups:
            for item in (group.get(sequence) or [])[:1] if sequence else ():
                if keyword in item:
                    return item.get(keyword)
        return self.dataset.get(keyword)

    def numbers(self, keyword: str, sequence: str, count: int) -> np.ndarray:
        """A header's numbers. Raises InputError if it is missing or does not hold `count` finite ones."""
        value = self.get(keyword, sequence)
        if value is None or value == "":
            raise InputError(f"{self.name}: has no {keyword} {Tag(keyword)}; export it again")
        try:
            found = np.array(value, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            found = np.array([])
        if len(found) != count or not np.isfinite(found).all():
            raise InputError(f"{self.name}: {keyword} {Tag(keyword)} is not {count} numbers; export it again")
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.numbers("Columns", "", 1)[0]), int(self.numbers("Rows", "", 1)[0])

    @property
    def spacing(self) -> np.ndarray:
        """Distance of columns and of rows, mm."""
        return self.numbers("PixelSpacing", "PixelMeasuresSequence", 2)[::-1]

    @property
    def orientation(self) -> np.ndarray:
        return self.numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6)

    @property
    def position(self) -> np.ndarray:
        return self.numbers("ImagePositionPatient", "PlanePositionSequence", 3)

    def acquisition(self, keyword: str) -> str:
        """What a tag of ACQUISITION_TAGS says of this frame; empty if it says nothing."""
        where = {
            "AcquisitionNumber": ("FrameAcquisitionNumber", "FrameContentSequence"),
            "EchoTime": ("EffectiveEchoTime", "MREchoSequence"),
            "TemporalPositionIdentifier": ("TemporalPositionIndex", "FrameContentSequence"),
            "FlipAngle": ("FlipAngle", "MRTimingAndRelatedParametersSequence"),
            "ImageType": ("FrameType", "MRImageFrameTypeSequence"),
        }.get(keyword)
        value = self.get(*where) if where else None
        return text(self.dataset.get(keyword) if value is None else value)


def read_volume(headers: Sequence[Header], rule: Rule, rules: Rules) -> Volume:
    """Read the series that these files make up.

    Args:
        headers: its files, without copies.
        rule: what its numbers mean.
        rules: with the tolerance of positions and the limits.

    Raises:
        InputError: anything that keeps the series from being one volume of known numbers; see docs/dicom.md.
    """
    name = headers[0].label
    frames: list[Frame] = []
    for header in headers:
        dataset = read_dataset(header.path, header.where, pixels=True)
        try:
            with quiet():
                frames += _frames(dataset, header)
        except InputError:
            raise
        except Exception as error:  # values that pydicom parses late
            raise InputError(f"{header.where}: is damaged ({type(error).__name__}); export or send it again") from error
    try:
        with quiet():
            _check_alike(frames, rules)
            order, affine = _geometry(frames, rules.position_tolerance_mm)
            columns, rows = frames[0].size
            _check_memory(name, columns * rows * len(frames), rules)
            values = np.empty((columns, rows, len(order)), np.float32)
            place = {id(frames[index]): slot for slot, index in enumerate(order)}
            by_file: dict[str, list[Frame]] = defaultdict(list)
            for frame in frames:
                by_file[frame.header.path].append(frame)
            for of_file in by_file.values():
                stored = decode(of_file[0].dataset, name)
                for frame, plane in zip(of_file, stored, strict=True):
                    values[:, :, place[id(frame)]] = _scaled(plane, frame, rule).T
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name}: is damaged ({type(error).__name__}: {reason(error)[:80]}); export it again"
        ) from error
    return Volume(
        values,
        affine,
        text(frames[0].dataset.get("FrameOfReferenceUID")),
        tuple(
            (f.header.path, f.header.sop_instance_uid, None if f.index is None else f.index + 1)
            for f in (frames[index] for index in order)
        ),
    )


def _frames(dataset: Dataset, header: Header) -> list[Frame]:
    """The frames of one file, its pixel description checked."""
    if header.burned_in:
        raise InputError(f"{header.label}: has annotations burned into the image; export the map itself")
    count = check_pixels(dataset, header.label)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return [Frame(dataset, header, index) for index in range(count)]
    if count != 1:
        raise InputError(f"{header.label}: a file holds {count} frames without saying where each lies; export it again")
    return [Frame(dataset, header, None)]


def _check_memory(name: str, voxels: int, rules: Rules) -> None:
    if voxels * 4 > rules.max_study_bytes:
        raise InputError(f"{name}: its {voxels / 1e9:.1f} billion voxels are too many; raise limits: study_gb in the"
                         " DICOM rules")  # fmt: skip


def _check_alike(frames: Sequence[Frame], rules: Rules) -> None:
    """All frames have one size, spacing, orientation and frame of reference, and none is tilted."""
    first = frames[0]
    if not text(first.dataset.get("FrameOfReferenceUID")):
        raise InputError(f"{first.name}: has no FrameOfReferenceUID {Tag('FrameOfReferenceUID')}; export it again")
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    products = [along_row @ along_row, along_column @ along_column, along_row @ along_column]
    if not np.allclose(products, [1, 1, 0], atol=1e-3):
        raise InputError(
            f"{first.name}: ImageOrientationPatient is not two directions at a right angle; export it again"
        )
    if min(first.spacing) <= 0 or min(first.size) < 1:
        raise InputError(f"{first.name}: PixelSpacing, Rows or Columns is not above 0; export it again")
    for frame in frames:
        if frame.size != first.size:
            raise InputError(f"{first.name}: holds images of {first.size} and of {frame.size} columns and rows; export"
                             " one series a map")  # fmt: skip
        if not np.allclose(frame.spacing, first.spacing, rtol=1e-4):
            raise InputError(f"{first.name}: holds images of two pixel spacings; export one series a map")
        if not np.allclose(frame.orientation, first.orientation, atol=1e-3):
            raise InputError(f"{first.name}: holds images of two orientations; export one series a map")
        if text(frame.dataset.get("FrameOfReferenceUID")) != text(first.dataset.get("FrameOfReferenceUID")):
            raise InputError(f"{first.name}: holds images of two frames of reference; export one series a map")
        if (tilt := frame.get("GantryDetectorTilt")) and abs(float(tilt)) > 1e-3:
            raise InputError(f"{first.name}: was taken with a gantry tilt of {float(tilt):g} degrees; resample it")


def _geometry(frames: Sequence[Frame], tolerance_mm: float) -> tuple[list[int], np.ndarray]:
    """Order of the frames along their normal, and the affine to RAS+ mm."""
    first = frames[0]
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(along_row, along_column)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    if len(order) < 2:
        raise InputError(f"{first.name}: holds one slice; Q-Net reads at least 2")
    steps = np.diff(heights[order])
    _check_one_acquisition(frames, heights, steps, tolerance_mm)
    step = float(np.median(steps))
    for index in np.flatnonzero(np.abs(steps - step) > tolerance_mm):
        missing = round(steps[index] / step) - 1
        if missing >= 1 and abs(steps[index] - (missing + 1) * step) <= tolerance_mm * (missing + 1):
            raise InputError(f"{first.name}: {missing} of its slices {'is' if missing == 1 else 'are'} missing after"
                             f" slice {index + 1} of {len(order)}; send the series again")  # fmt: skip
        raise InputError(f"{first.name}: its slices are {steps.min():.3g} to {steps.max():.3g} mm apart; resample it"
                         " evenly")  # fmt: skip
    sorted_positions = positions[order]
    line = (sorted_positions[-1] - sorted_positions[0]) / (len(order) - 1)
    straight = sorted_positions[0] + np.arange(len(order))[:, None] * line
    off_line = np.abs(sorted_positions - straight).max()
    shear = np.linalg.norm(line - (line @ normal) * normal) * (len(order) - 1)
    if off_line > tolerance_mm * 2 or shear > tolerance_mm:
        raise InputError(f"{first.name}: its slices are shifted against each other (gantry tilt); resample it")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * first.spacing[0], along_column * first.spacing[1]
    affine[:3, 2], affine[:3, 3] = line, sorted_positions[0]
    return order, _LPS_TO_RAS @ affine


def _check_one_acquisition(
    frames: Sequence[Frame], heights: np.ndarray, steps: np.ndarray, tolerance_mm: float
) -> None:
    """No place is there twice, and no tag says that the slices come from several acquisitions."""
    name = frames[0].name
    values = {tag: [frame.acquisition(tag) for frame in frames] for tag in ACQUISITION_TAGS}
    # A number that is another for every slice counts slices, not acquisitions.
    differing = {tag: sorted(set(v)) for tag, v in values.items() if 1 < len(set(v)) < len(frames)}
    said = "; ".join(f"{tag} {', '.join(found[:4])}" for tag, found in list(differing.items())[:1])
    twice = int((steps <= tolerance_mm).sum())
    if twice:
        by = f"they differ in {said}" if said else "no header tells them apart"
        raise InputError(f"{name}: holds {len(frames)} images at {len(frames) - twice} places ({by}); export one"
                         " acquisition a series")  # fmt: skip
    if said:
        raise InputError(f"{name}: its slices come from several acquisitions ({said}); export one acquisition a series")


def _scaled(stored: np.ndarray, frame: Frame, rule: Rule) -> np.ndarray:
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


#: Ways to write units in Rescale Type and as UCUM codes.
_WRITTEN_UNITS = {"ppm": "ppm", "[ppm]": "ppm", "ppb": "ppb", "[ppb]": "ppb", "/s": "1/s", "1/s": "1/s", "hz": "1/s",
                  "s-1": "1/s", "/ms": "1/ms", "1/ms": "1/ms"}  # fmt: skip


def _check_unit(frame: Frame, said: str, rule: Rule) -> None:
    """Refuse a file that names another unit than the rule."""
    unit = _WRITTEN_UNITS.get(said.casefold())
    if unit is not None and unit != rule.unit:
        raise InputError(f"{frame.name}: says that its unit is {said}, the rule says {rule.unit}; correct the DICOM"
                         " rules")  # fmt: skip
