"""The basal ganglia of a scan that nobody annotated, found on its way to the network."""

import json
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from scripts.errors import InputError
from scripts.localisation.localiser import Localiser
from scripts.maps import plausibility
from scripts.maps.plausibility import LEAST_IRON
from scripts.maps.scan import MAPS
from scripts.maps.transforms import CHOICES, source_names


class LocaliseBasalGangliad(MapTransform):
    """Give a scan without annotation its `box` (half-open voxel ranges along the stored axes).

    For `localise: auto` alone, and only where the item has none; all else passes unchanged. The image's metadata then
    hold `box_confidence`, 0..1, and `box_flags`, what is unlikely about the brain (a list of lines as JSON).

    Args:
        keys: entries `[C, I, J, K]` (MetaTensor), QSM, R2*, T1W first, axes as stored.
        localise: one of CHOICES.
        localiser: finds the box.

    Raises:
        InputError: an unknown choice; as `Localiser`.
    """

    def __init__(
        self, keys: KeysCollection, localise: str, localiser: Localiser | None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if localise not in CHOICES:
            raise InputError(f"localise {localise!r} is unknown; use {', '.join(CHOICES)}")
        if localise == "auto" and localiser is None:
            raise InputError("localise is auto, but nothing finds boxes; give a localiser, or use annotated")
        self.localiser = localiser if localise == "auto" else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image: MetaTensor = data[key]
            if self.localiser is not None and data.get("box") is None:
                found = self.localiser(
                    image.numpy()[: len(MAPS)], np.asarray(image.affine, float), source_names(image, data)[0]
                )
                data["box"] = found.box
                image.meta["box_confidence"] = found.confidence
                image.meta["box_flags"] = json.dumps(plausibility.found_flags(found.measures, LEAST_IRON))
        return data
