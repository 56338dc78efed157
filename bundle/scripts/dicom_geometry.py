"""Where the frames of DICOM series lie, so that results computed on a NIfTI-like grid find their source images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from scripts.errors import InputError

#: DICOM's patient axes run to left and posterior, the affines of this bundle to right and anterior.
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Frame:
    """One image plane of a series.

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


def frames_of(datasets: Sequence[Dataset]) -> list[Frame]:
    """All frames of a series, by their place along its normal.

    Raises:
        InputError: an instance does not say where it lies.
    """
    frames = []
    for dataset in datasets:
        try:
            if "PerFrameFunctionalGroupsSequence" not in dataset:
                where = (dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
                frames.append(Frame(dataset, None, _affine(*where)))
                continue
            shared = dataset.SharedFunctionalGroupsSequence[0]
            for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
                position = own.PlanePositionSequence[0].ImagePositionPatient
                plane = own if "PlaneOrientationSequence" in own else shared
                measures = own if "PixelMeasuresSequence" in own else shared
                orientation = plane.PlaneOrientationSequence[0].ImageOrientationPatient
                spacing = measures.PixelMeasuresSequence[0].PixelSpacing
                frames.append(Frame(dataset, number, _affine(position, orientation, spacing)))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                "a source image lacks position, orientation or pixel spacing; export the series with all attributes"
            ) from error
    normal = frames[0].affine[:3, 2]
    return sorted(frames, key=lambda frame: float(frame.affine[:3, 3] @ normal))


def _affine(position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float]) -> np.ndarray:
    along_row, along_column = np.array(orientation, dtype=np.float64).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = along_row * float(spacing[1])
    affine[:3, 1] = along_column * float(spacing[0])
    affine[:3, 2] = np.cross(along_row, along_column)
    affine[:3, 3] = np.array(position, dtype=np.float64)
    return TO_RAS @ affine


def sampled(volume: np.ndarray, affine: np.ndarray, frame: Frame) -> np.ndarray:
    """A volume `[I, J, K]` at the pixels of a frame, `[rows, columns]` float32; 0 outside the volume.

    Linear interpolation; where the frame is a plane of the volume's own grid, the voxels come out as they are.

    Args:
        volume: the values.
        affine: `[4, 4]`, its voxel -> mm in RAS.
        frame: the plane.
    """
    rows, columns = frame.shape
    step = np.linalg.solve(affine, frame.affine)
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


def nearest_frame(frames: Sequence[Frame], point: np.ndarray) -> Frame:
    """The frame whose plane lies nearest to a point (mm, RAS)."""
    return min(frames, key=lambda frame: abs(float((point - frame.affine[:3, 3]) @ frame.affine[:3, 2])))
