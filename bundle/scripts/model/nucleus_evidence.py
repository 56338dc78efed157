"""What each nucleus says for HH: by how much the output falls when nothing can be seen of it.

A nucleus of both sides is covered with what lies around it in the same slice, so that its contrast is gone and the rest
stays. Unlike a map, that is a number for a place with a name, faithful by construction to any network, and it can be
compared with the same number in healthy people.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from scripts.anatomy.atlas import NUCLEI
from scripts.files.nifti import read_voxels
from scripts.model.evidence import margin, slice_means
from scripts.model.networks import QNet

#: Pixels of the network's input that a nucleus is covered beyond its edge, and how far what lies around it reaches.
RIM, AROUND = 1, 4
#: Pixels around a nucleus in a slice from which their mean is taken; with fewer, that of the slice.
LEAST_AROUND = 10


def on_grid(labels: np.ndarray, stored: np.ndarray, shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Labels `[I, J, K]` at the voxels of another grid, uint8 `[H, W, S]`; 0 outside.

    Args:
        labels: on the grid of the file.
        stored: voxel to world of the file.
        shape: of the other grid.
        affine: voxel to world of the other grid.
    """
    step = np.linalg.solve(stored, np.asarray(affine, dtype=float))
    return ndimage.affine_transform(labels, step[:3, :3], step[:3, 3], tuple(shape), order=0, prefilter=False)


def label_file(nuclei_dir: str | os.PathLike, participant_id: str, scan_id: str) -> str | None:
    """The label image that configs/nuclei.yaml wrote of a scan; None where there is none."""
    path = Path(nuclei_dir) / participant_id / "anat" / f"{scan_id}_desc-nuclei_dseg.nii.gz"
    return str(path) if path.is_file() else None


def labels_at(path: str | os.PathLike, image: MetaTensor) -> np.ndarray:
    """The labels of a file at the voxels of a scan, uint8 `[H, W, S]`.

    Args:
        path: from `label_file`.
        image: `[C, H, W, S]`, the network's input, with its affine.
    """
    labels, stored = read_voxels(path)
    return on_grid(labels.astype(np.uint8), stored, image.shape[1:], image.affine.numpy())


def covered(image: Tensor, labels: np.ndarray, nucleus: int) -> Tensor | None:
    """A scan of which a nucleus cannot be seen; None where it lies outside of the network's input.

    Args:
        image: `[C, H, W, S]`, the network's input.
        labels: `[H, W, S]` on the same grid: 0, or of `scripts.anatomy.atlas.LABELS`.
        nucleus: place in NUCLEI.
    """
    numbers = (labels.astype(int) - 1) % len(NUCLEI)
    own = (labels > 0) & (numbers == nucleus)
    if not own.any():
        return None
    plane = ndimage.generate_binary_structure(2, 1)[..., None]  # in the slice alone
    mask = ndimage.binary_dilation(own, plane, iterations=RIM)
    around = ndimage.binary_dilation(own, plane, iterations=AROUND)
    around &= ~ndimage.binary_dilation(labels > 0, plane, iterations=RIM)
    means, hidden = slice_means(image[None])[0], image.clone()
    for index in range(labels.shape[2]):
        here = torch.from_numpy(mask[..., index])
        if not mask[..., index].any():
            continue
        ring = torch.from_numpy(around[..., index])
        fill = image[:, ring, index].mean(1) if int(ring.sum()) >= LEAST_AROUND else means[:, 0, 0, index]
        hidden[:, here, index] = fill[:, None].to(hidden)
    return hidden


def by_nucleus(network: QNet, image: Tensor, labels: np.ndarray) -> Tensor:
    """By how much the scan's logit of HH minus that of HC falls without each nucleus of NUCLEI, `[4]`; NaN without it.

    Args:
        network: any with the output of QNet.
        image: `[C, H, W, S]` (0..1).
        labels: see `covered`.
    """
    found = torch.full((len(NUCLEI),), float("nan"))
    there: list[int] = []
    scans = [image]
    for place in range(len(NUCLEI)):
        hidden = covered(image.cpu(), labels, place)
        if hidden is not None:
            there.append(place)
            scans.append(hidden.to(image))
    with torch.no_grad():
        margins = torch.cat([margin(network)(scan[None]) for scan in scans])  # one by one: memory stays that of a scan
    found[there] = (margins[0] - margins[1:]).cpu()
    return found


def table_of(values: Sequence[float], healthy: Mapping[str, Mapping[str, float]] | None) -> list[dict[str, Any]]:
    """A row a nucleus that was seen: `nucleus`, `evidence` (logit), and of healthy controls `low` and `high` (5th and
    95th percentile), where known.

    Args:
        values: `[4]`, from `by_nucleus`.
        healthy: from `healthy_range`.
    """
    rows = []
    for nucleus, value in zip(NUCLEI, values, strict=True):
        if np.isfinite(value):
            known = (healthy or {}).get(nucleus, {})
            usual = {key: known[key] for key in ("low", "high") if key in known}
            rows.append({"nucleus": nucleus, "evidence": float(value), **usual})
    return rows


#: Controls in which a nucleus was seen, below which it gets no healthy range.
LEAST_CONTROLS = 12


def healthy_range(values: np.ndarray) -> dict[str, dict[str, float]]:
    """5th and 95th percentile, mean and SD of each nucleus' evidence in healthy controls.

    Args:
        values: `[n, 4]`, NaN where a nucleus was not seen. A nucleus seen in fewer than LEAST_CONTROLS is left out.
    """
    made = {}
    for nucleus, column in zip(NUCLEI, values.T, strict=True):
        column = column[np.isfinite(column)]
        if len(column) >= LEAST_CONTROLS:
            low, high = np.percentile(column, (5, 95))
            made[nucleus] = {
                "low": float(low),
                "high": float(high),
                "mean": float(column.mean()),
                "sd": float(column.std(ddof=1)),
                "controls": len(column),
            }
    return made
