"""Brain extraction by depth: what lies deeper in bright tissue than any bridge to scalp, eyes and muscles is thick.

Skull is dark at every echo, and thin bridges through it (veins, optic nerves, partial volume) are all that joins brain
and scalp. The tissue is cut back until its largest part keeps clear of the head's surface, and grown again by as much.
The idea is that of Hohne and Hanson, J Comput Assist Tomogr 1992, 16:285, with distances in mm instead of voxels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from scripts.reconstruction.progress import Progress, ignore_progress

#: Voxels are averaged to about this size: the surface is smooth, and its edge is cut back anyway.
_WORK_MM = 2.0
#: Signal above which a voxel belongs to the head, as a share of the way from the dark to the bright percentile.
_HEAD = 0.1
#: Standard deviation of the local mean that takes out the receive bias, mm.
_BIAS_MM = 20.0
#: Depths that are tried, mm, and how much of the core may lie so near to the head's surface, mm.
_DEPTHS_MM, _SURFACE_MM, _NEAR_SURFACE = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12), 7.0, 0.002
#: Least thickness of scalp and skull, mm: so much farther from the surface is the brain than it is thick.
_SKULL_MM = 5.0


class Morphology:
    """The brain as the part of the bright tissue that stays in one piece, away from the scalp, when cut back.

    Args:
        tissue: signal over its local mean above which a voxel is tissue, 0..1; higher gives a smaller brain.
        closing_mm: gaps up to twice as wide (sulci, vessels, ventricles at the surface) are closed.
    """

    def __init__(self, tissue: float, closing_mm: float) -> None:
        self.tissue = tissue
        self.closing_mm = closing_mm

    def __call__(
        self, image: np.ndarray, spacing_mm: Sequence[float], progress: Progress = ignore_progress
    ) -> np.ndarray:
        """Find the brain.

        Args:
            image: magnitude `[X, Y, Z]`, any unit.
            spacing_mm: voxel size.
            progress: told how far the work is.

        Returns:
            Bool `[X, Y, Z]`; all False where nothing is thick enough.
        """
        factors = [max(1, int(np.floor(_WORK_MM / d + 0.35))) for d in spacing_mm]
        coarse = averaged(image, factors)
        spacing = np.asarray(spacing_mm, float) * factors
        brain = self.extract(coarse, spacing, progress)
        fine = torch.from_numpy(brain.astype(np.float32))[None, None]
        size = [n * f for n, f in zip(coarse.shape, factors, strict=True)]
        fine = torch.nn.functional.interpolate(fine, size=size, mode="trilinear", align_corners=False)[0, 0] > 0.5
        progress(1.0)
        return fine[tuple(slice(0, n) for n in image.shape)].numpy()

    def extract(self, image: np.ndarray, spacing: np.ndarray, progress: Progress) -> np.ndarray:
        """The brain on the working grid."""
        dark, bright = np.percentile(image, (2, 98))
        level = dark + _HEAD * (bright - dark)
        # A crop from within the head has no dark end.
        if dark > 0.2 * bright:
            level = 0.2 * float(np.median(image))
        seen = image > level
        head = ndimage.binary_fill_holes(closed(largest(seen), 2 * spacing.max(), spacing))
        surface = inner_distance(head, spacing)
        lit = np.where(image > 2.5 * level, image, 0.0)
        sigma = _BIAS_MM / spacing
        local = ndimage.gaussian_filter(lit, sigma, truncate=2) / np.maximum(
            ndimage.gaussian_filter((lit > 0).astype(np.float32), sigma, truncate=2), 0.02
        )
        tissue = seen & head & (image > self.tissue * local)
        depth = inner_distance(tissue, spacing)
        progress(0.3)
        reach, core = 0.0, np.zeros_like(tissue)
        for number, deeper in enumerate(_DEPTHS_MM):
            part = largest(depth > deeper)
            if not part.any():
                break
            reach, core = float(deeper), part
            progress(0.3 + 0.5 * (number + 1) / len(_DEPTHS_MM))
            # Cut back, eyes lie deeper too: what reaches the surface at all must still be told from the brain.
            if (part & (surface < max(_SURFACE_MM, _SKULL_MM + deeper))).sum() <= _NEAR_SURFACE * part.sum():
                break
        if not core.any():
            return core
        grown = largest(tissue & (ndimage.distance_transform_edt(~core, spacing) <= reach + 1.0))
        return ndimage.binary_fill_holes(closed(grown, self.closing_mm, spacing))


def averaged(volume: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Mean over blocks of voxels; blocks that the grid does not fill are filled with its edge. float32."""
    short = [-n % f for n, f in zip(volume.shape, factors, strict=True)]
    padded = np.pad(volume, [(0, n) for n in short], mode="edge")
    (x, y, z), (a, b, c) = padded.shape, factors
    return padded.reshape(x // a, a, y // b, b, z // c, c).mean((1, 3, 5), dtype=np.float32)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a bool mask."""
    labels, count = ndimage.label(mask)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count > 1 else mask


def inner_distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance (mm) of each voxel of a mask to the nearest outside it; the image's faces are no edge."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, spacing)


def closed(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """A bool mask with gaps closed: grown by a distance and cut back again."""
    around = [(int(radius_mm / d) + 2,) * 2 for d in spacing]
    # Beyond the image the mask goes on, so that slabs keep their end slices.
    near = inner_distance(~np.pad(mask, around, mode="edge"), spacing) <= radius_mm
    kept = inner_distance(near, spacing) > radius_mm
    return kept[tuple(slice(a, -b) for a, b in around)] | mask
