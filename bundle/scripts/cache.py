"""Preprocessed scans kept on disk, so that the folds of a cross-validation share them instead of making them anew."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, PersistentDataset
from monai.transforms import Compose
from tqdm import tqdm

from scripts import transforms
from scripts.provenance import sha256

#: How deep the settings of a transform are followed into the objects that it is made of.
_DEPTH = 10


class CachedScans(PersistentDataset):
    """A dataset of preprocessed scans, each computed once and then read from `cache_dir`.

    A cached scan is found by what made it: the size and time of its files, its box, every setting of the transform,
    and the code of `scripts.transforms`. A change in any of these makes another entry, never a wrong hit. What the
    items say beside the image (label, participant) is not cached.

    Args:
        data: items of `scripts.cohort.labelled_scans`.
        transform: the preprocessing, `{"image": paths, ...} -> {"image": [3, H, W, S], ...}`; deterministic.
        cache_dir: folder of the entries; made if missing. Processes may share it.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Compose, cache_dir: str | os.PathLike) -> None:
        made_by = {"transform": settings_of(transform), "code": sha256(transforms.__file__)}
        super().__init__(data, transform, cache_dir, hash_func=partial(scan_key, made_by))

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        image = super()._cachecheck(item_transformed)["image"]
        return {**item_transformed, "image": MetaTensor(image)}  # whether it comes from the disk or is new


def scan_key(made_by: Mapping[str, Any], item: Mapping[str, Any]) -> bytes:
    """Name of a scan's cache entry, hex digits: a hash of `made_by`, the box and the files' sizes and times."""
    paths = [item["image"]] if isinstance(item["image"], (str, os.PathLike)) else item["image"]
    files = [(str(p), os.stat(p).st_size, os.stat(p).st_mtime_ns) for p in paths]
    text = json.dumps([made_by, item.get("box"), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest().encode()


def settings_of(item: Any, depth: int = _DEPTH) -> Any:
    """What a transform is set to, as plain JSON values: its class and its attributes, followed into its parts."""
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return np.asarray(item).tolist()
    if isinstance(item, (type, np.dtype, torch.dtype)):
        return str(item)
    if depth == 0:
        return type(item).__name__
    if isinstance(item, Mapping):
        return {str(key): settings_of(value, depth - 1) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [settings_of(value, depth - 1) for value in item]
    parts = {k: v for k, v in getattr(item, "__dict__", {}).items() if not k.startswith("_") and k != "R"}
    return [type(item).__name__, {key: settings_of(value, depth - 1) for key, value in sorted(parts.items())}]


def fill(scans: CachedScans, what: str, num_workers: int) -> None:
    """Preprocess all scans that the cache lacks, with a progress bar.

    Args:
        scans: the dataset.
        what: what the bar says, e.g. the region.
        num_workers: threads.
    """
    with ThreadPool(num_workers) as pool:
        done = pool.imap_unordered(scans.__getitem__, range(len(scans)))
        for _ in tqdm(done, total=len(scans), desc=f"preprocessing, {what}", unit="scan"):
            pass
