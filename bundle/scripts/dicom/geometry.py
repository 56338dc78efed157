"""Where the planes of DICOM series lie, so that results computed on a NIfTI-like grid find their source images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from scripts.anatomy.axes import LPS_RAS
from scripts.dicom.frames import Frame
from scripts.dicom.identity import decimals


@dataclass(frozen=True)
class Plane:
    """Where one image plane of a series lies.

    Attributes:
        dataset: the instance that holds it.
        number: its frame number from 1 in an enhanced instance; None in a classic one.
        affine: `[4, 4]`, (column, row, 0, 1) -> mm in RAS; the third axis is the plane's normal, 1 mm.
    """

    dataset: Dataset
    number: int | None
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return int(self.dataset.Rows), int(self.dataset.Columns)


def planes_of(datasets: Sequence[Dataset]) -> list[Plane]:
    """All planes of a series, by their place along its normal.

    Raises:
        InputError: an instance does not say where it lies.
    """
    planes = []
    for dataset in datasets:
        count = len(dataset.get("PerFrameFunctionalGroupsSequence") or [])
        for index in range(count) if count else (None,):
            frame = Frame(dataset, "a source image", index)
            planes.append(Plane(dataset, None if index is None else index + 1, plane_affine(frame)))
    normal = planes[0].affine[:3, 2]
    return sorted(planes, key=lambda plane: float(plane.affine[:3, 3] @ normal))


def fill_places(sources: Sequence[Dataset]) -> None:
    """Give each image of a series what a list of images says of every one: where it lies, of a multi-frame file where
    its first frame lies, and how thick it is, where no header says it as far as the images are apart.

    Raises:
        InputError: an instance does not say where it lies.
    """
    planes = planes_of(sources)
    heights = [float(plane.affine[:3, 3] @ planes[0].affine[:3, 2]) for plane in planes]
    apart = float(np.median(np.abs(np.diff(heights)))) if len(heights) > 1 else 0.0
    for plane in planes:
        frame = Frame(plane.dataset, "a source image", None if plane.number is None else plane.number - 1)
        for keyword, value in (
            ("ImagePositionPatient", frame.position),
            ("ImageOrientationPatient", frame.orientation),
            ("PixelSpacing", frame.spacing[::-1]),
        ):
            if keyword not in plane.dataset:
                setattr(plane.dataset, keyword, decimals(value))
        if "SliceThickness" not in plane.dataset:
            told = frame.get("SliceThickness", "PixelMeasuresSequence")
            plane.dataset.SliceThickness = decimals([apart if told is None else told])[0]


def plane_affine(frame: Frame) -> np.ndarray:
    """`Plane.affine` from a frame's headers.

    Raises:
        InputError: position, orientation or pixel spacing are missing or no numbers.
    """
    along_row, along_column = frame.orientation.reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * frame.spacing[0], along_column * frame.spacing[1]
    affine[:3, 2], affine[:3, 3] = np.cross(along_row, along_column), frame.position
    affine[:3] = LPS_RAS @ affine[:3]
    return affine


def sampled(volume: np.ndarray, affine: np.ndarray, plane: Plane) -> np.ndarray:
    """A volume `[I, J, K]` at the pixels of a plane, `[rows, columns]` float32; 0 outside the volume.

    Linear interpolation; where the plane is one of the volume's own grid, the voxels come out as they are.

    Args:
        volume: the values.
        affine: `[4, 4]`, its voxel -> mm in RAS.
        plane: where.
    """
    rows, columns = plane.shape
    step = np.linalg.solve(affine, plane.affine)
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    points = step[:3, [0]] * column.ravel() + step[:3, [1]] * row.ravel() + step[:3, [3]]
    near = np.rint(points)
    if np.abs(points - near).max() < 0.02:  # one grid: no interpolation, no blur by rounding
        index = near.astype(np.int64)
        inside = np.all((index >= 0) & (index < np.array(volume.shape)[:, None]), axis=0)
        values = np.zeros(rows * columns, np.float32)
        values[inside] = volume[tuple(index[:, inside])]
        return values.reshape(rows, columns)
    from scipy.ndimage import map_coordinates

    return map_coordinates(volume, points, order=1, output=np.float32).reshape(rows, columns)


def nearest_plane(planes: Sequence[Plane], point: np.ndarray) -> Plane:
    """The plane that lies nearest to a point (mm, RAS)."""
    return min(planes, key=lambda plane: abs(float((point - plane.affine[:3, 3]) @ plane.affine[:3, 2])))
