"""Preprocessed scans kept: in memory for a training, on disk so that the folds of a cross-validation share them."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from monai.transforms import Compose

from scripts.maps.sidecars import with_sidecars
from scripts.runs.bars import Bar
from scripts.runs.finished import code_of, content, digest_of, settings_of

#: What items say of their maps, JSON each, that is kept with them.
KEPT = ("notes", "appearance")


class ScansInMemory(CacheDataset):
    """MONAI's CacheDataset, whose progress bar says what takes the time.

    Args:
        data: from `scripts.maps.scan.items`.
        localise: `auto`: a scan without a box gets one on the way, which takes far longer than reading it.
        keywords: of `CacheDataset`.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], localise: str, **keywords: Any) -> None:
        lacking = sum(item.get("box") is None for item in data) if localise == "auto" else 0
        self.doing = "reading scans" + (f", finding the basal ganglia of {lacking}" if lacking else "")
        super().__init__(data, **keywords)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        if self.cache_num <= 0:
            return []
        places = range(self.cache_num) if indices is None else indices
        with ThreadPool(self.num_workers) as pool:
            done = pool.imap(self._load_cache_item, places)
            return list(Bar(done, total=len(places), desc=self.doing, unit="scan"))


class CachedScans(PersistentDataset):
    """A dataset of preprocessed scans, each computed once and then read from `cache_dir`.

    A cached scan is found by what made it: the content of its files, its box, every setting of the transform, and the
    code of `preprocessing.py` and all that it imports. A change in any of these makes another entry, never a wrong
    hit. What the items say beside the image (label, participant) is not cached; its affine and KEPT are.

    Args:
        data: from `scripts.maps.scan.items`.
        transform: the preprocessing, `{"image": paths, ...} -> {"image": [C, H, W, S], ...}`; deterministic.
        cache_dir: folder of the entries; made if missing. Processes may share it.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Compose, cache_dir: str | os.PathLike) -> None:
        made_by = digest_of(
            [settings_of(transform), code_of("scripts.training.preprocessing", "scripts.training.cache")]
        )
        super().__init__(data, transform, Path(cache_dir), hash_func=partial(scan_key, made_by))

    def _pre_transform(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        made = super()._pre_transform(item_transformed)
        return {**made, "affine": made["image"].affine}  # what is written of the image has none

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        kept = super()._cachecheck(item_transformed)
        # whether it comes from the disk or is new: a plain tensor, since MONAI warns of an affine that replaces another
        image = MetaTensor(torch.Tensor.as_subclass(kept["image"], torch.Tensor), affine=kept.get("affine"))
        return {**item_transformed, "image": image, **{key: kept.get(key, "{}") for key in KEPT}}


def scan_key(made_by: str, item: Mapping[str, Any]) -> bytes:
    """Name of a scan's cache entry, hex digits: a hash of `made_by`, the box, and the content of the files and of their
    sidecars."""
    paths = [item["image"]] if isinstance(item["image"], (str, os.PathLike)) else item["image"]
    return digest_of([made_by, item.get("box"), content(with_sidecars({"maps": paths}))]).encode()


def fill(scans: CachedScans, what: str, num_workers: int) -> None:
    """Preprocess all scans that the cache lacks, with a progress bar.

    Args:
        scans: the dataset.
        what: what the bar says, e.g. the region.
        num_workers: threads.
    """
    with ThreadPool(num_workers) as pool:
        done = pool.imap_unordered(scans.__getitem__, range(len(scans)))
        for _ in Bar(done, total=len(scans), desc=f"preprocessing, {what}", unit="scan"):
            pass
