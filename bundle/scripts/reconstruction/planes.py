"""Three planes and a histogram of every intermediate, kept while a scan is reconstructed, for its QC page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

#: Most values that go into a histogram.
_VALUES = 50_000


@dataclass
class Picture:
    """One intermediate.

    Attributes:
        name: what it is.
        unit: of the values, or "".
        planes: sagittal, coronal and axial, each `[up, right]` as drawn.
        aspects: height over width of a pixel, a plane each.
        outlines: mask in the planes, or None.
        limits: grey range.
        values: sample of the values inside the mask.
    """

    name: str
    unit: str
    planes: list[np.ndarray]
    aspects: list[float]
    outlines: list[np.ndarray] | None
    limits: tuple[float, float]
    values: np.ndarray


class Planes:
    """Collects pictures through the middle of the brain.

    Args:
        brain: bool `[X, Y, Z]` on the grid of all volumes that will be added.
        spacing_mm: voxel size.
    """

    def __init__(self, brain: np.ndarray, spacing_mm: Sequence[float]) -> None:
        self.centre = [int(round(float(c))) for c in np.argwhere(brain).mean(0)]
        self.spacing_mm = list(spacing_mm)
        self.pictures: list[Picture] = []

    def cut(self, volume: np.ndarray) -> list[np.ndarray]:
        """The three planes, third axis (or second, for the last plane) upwards."""
        x, y, z = self.centre
        return [np.flipud(plane.T) for plane in (volume[x], volume[:, y], volume[:, :, z])]

    def add(
        self,
        name: str,
        volume: torch.Tensor,
        unit: str,
        limits: tuple[float, float] | None = None,
        mask: torch.Tensor | None = None,
        outline: torch.Tensor | None = None,
    ) -> None:
        """Keep one volume's planes.

        Args:
            name, unit: for the caption.
            volume: `[X, Y, Z]`.
            limits: grey range; None takes the 1st and 99th percentile.
            mask: bool; what the histogram counts.
            outline: bool, drawn as a line; counted where there is no mask.
        """
        array = volume.detach().cpu().numpy()
        counted = outline if mask is None else mask
        values = array.ravel() if counted is None else array[counted.cpu().numpy()]
        values = values[:: max(1, len(values) // _VALUES)].astype(np.float32)
        if limits is None:
            low, high = (float(v) for v in np.percentile(values, (1, 99)))
            limits = (low, high if high > low else low + 1.0)
        dx, dy, dz = self.spacing_mm
        outlines = None if outline is None else self.cut(outline.cpu().numpy())
        planes = [plane.astype(np.float32) for plane in self.cut(array)]
        self.pictures.append(Picture(name, unit, planes, [dz / dy, dz / dx, dy / dx], outlines, limits, values))
