"""One DICOM series as a volume on a grid: frames put in order by their geometry, numbers scaled to their unit.

What would have to be guessed is refused. Axes of a volume: columns, rows, slices (along the slices' normal).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from scripts.anatomy.axes import LPS_RAS
from scripts.dicom.files import Header, read_dataset
from scripts.dicom.frames import ACQUISITION_TAGS, Frame
from scripts.dicom.identity import text
from scripts.dicom.pixels import check_pixels, decode
from scripts.dicom.rules import Rule, Rules
from scripts.dicom.scaling import check_one_meaning, scaled
from scripts.errors import InputError


@dataclass(frozen=True)
class Volume:
    """A series' numbers `[columns, rows, slices]` (float32) and affine `[4, 4]` from voxels to RAS+ mm."""

    values: np.ndarray
    affine: np.ndarray
    frame_of_reference: str


def read_volume(headers: Sequence[Header], rule: Rule, rules: Rules) -> Volume:
    """Read the series that these files make up.

    Args:
        headers: its files, without copies.
        rule: what its numbers mean.
        rules: with the tolerance of positions and the limits.

    Raises:
        InputError: anything that keeps the series from being one volume of known numbers; see docs/dicom.md.
    """
    return volume_of([frame for header in headers for frame in read_frames(header)], rule, rules)


def read_frames(header: Header) -> list[Frame]:
    """The frames of one file with their pixels, checked but not decoded.

    Raises:
        InputError: a damaged file, or one whose pixels or frames are not as its header says.
    """
    dataset = read_dataset(header.path, header.where, pixels=True)
    try:
        if header.burned_in:
            raise InputError(f"{header.label}: has annotations burned into the image; export the map itself")
        count = check_pixels(dataset, header.label)
        frames = frames_of(dataset, header.label)
    except InputError:
        raise
    except Exception as error:  # values that pydicom parses late
        raise InputError(f"{header.where}: is damaged ({type(error).__name__}); export or send it again") from error
    if len(frames) != count:
        raise InputError(f"{header.label}: a file holds {count} frames without saying where each lies; export it again")
    return frames


def frames_of(dataset: Dataset, name: str) -> list[Frame]:
    """The frames of one file, its pixels read or not.

    Args:
        dataset: the file.
        name: how messages call its series.

    Raises:
        InputError: a multi-frame file that describes fewer frames than it holds.
    """
    if "PerFrameFunctionalGroupsSequence" in dataset:
        count = int(dataset.get("NumberOfFrames") or len(dataset.PerFrameFunctionalGroupsSequence))
        return [Frame(dataset, name, index) for index in range(count)]
    return [Frame(dataset, name, None)]


def volume_of(frames: Sequence[Frame], rule: Rule, rules: Rules) -> Volume:
    """Frames, from `read_frames`, as one volume.

    Args:
        frames: all of the volume, of one file or several; a file may hold others too.
        rule: what their numbers mean.
        rules: with the tolerance of positions and the limits.

    Raises:
        InputError: anything that keeps them from being one volume of known numbers; see docs/dicom.md.
    """
    name = frames[0].name
    try:
        _check_alike(frames)
        check_one_meaning(frames)
        order, affine = _geometry(frames, rules.position_tolerance_mm)
        columns, rows = frames[0].size
        _check_memory(name, columns * rows * len(frames), rules)
        values = np.empty((columns, rows, len(order)), np.float32)
        place = {id(frames[index]): slot for slot, index in enumerate(order)}
        by_file: dict[int, list[Frame]] = defaultdict(list)
        for frame in frames:
            by_file[id(frame.dataset)].append(frame)
        for of_file in by_file.values():
            dataset = of_file[0].dataset
            whole = decode(dataset, name) if len(of_file) == int(dataset.get("NumberOfFrames") or 1) else None
            for frame in of_file:
                stored = decode(dataset, name, frame.index)[0] if whole is None else whole[frame.index or 0]
                values[:, :, place[id(frame)]] = scaled(stored, frame, rule).T
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: is damaged ({type(error).__name__}); export it again") from error
    return Volume(values, affine, text(frames[0].dataset.get("FrameOfReferenceUID")))


def _check_memory(name: str, voxels: int, rules: Rules) -> None:
    if voxels * 4 > rules.max_study_bytes:
        raise InputError(f"{name}: its {voxels / 1e9:.1f} billion voxels are too many; raise limits: study_gb in the"
                         " DICOM rules")  # fmt: skip


def _check_alike(frames: Sequence[Frame]) -> None:
    """All frames have one size, spacing, orientation and frame of reference, and none is tilted."""
    first = frames[0]
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    products = [along_row @ along_row, along_column @ along_column, along_row @ along_column]
    if not np.allclose(products, [1, 1, 0], atol=1e-3):
        raise InputError(
            f"{first.name}: ImageOrientationPatient is not two directions at a right angle; export it again"
        )
    if min(first.spacing) <= 0 or min(first.size) < 1:
        raise InputError(f"{first.name}: PixelSpacing, Rows or Columns is not above 0; export it again")
    for frame in frames:
        if not text(frame.dataset.get("FrameOfReferenceUID")):
            raise InputError(f"{first.name}: has no FrameOfReferenceUID {Tag('FrameOfReferenceUID')}; export it again")
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
    _check_one_acquisition(frames, steps, tolerance_mm)
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
    affine[:3] = LPS_RAS @ affine[:3]
    return order, affine


def _check_one_acquisition(frames: Sequence[Frame], steps: np.ndarray, tolerance_mm: float) -> None:
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
