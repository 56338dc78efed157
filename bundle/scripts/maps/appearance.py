"""What a scan's maps look like around the basal ganglia, in a few dozen numbers that need no network.

They tell a scan of another scanner, sequence, unit or head from those that a model was trained on
(`scripts.model.familiarity`): levels and spread in the maps' units, noise, sharpness, symmetry, likeness of the maps,
voxel size and extent. Nothing is learned from labels, so scans that set limits are as any other.
"""

import json
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from scripts.maps.scan import KNOWN_MAPS, MAPS, network_maps

#: Distances over which a map is compared with itself, mm: finer and coarser than a nucleus' edge.
LAGS_MM = (2.0, 6.0, 14.0)
#: Side of the square whose mean is the strongest spot, mm.
SPOT_MM = 12.0
#: What scans of one protocol and scanner differ by at least, by what a number's name holds: a cohort of one scanner has
#: one voxel size, and another is no surprise of infinite size. The first that fits counts.
LEAST_SPREAD = {
    "voxels: ": 0.1,
    "QSM: middle": 0.003,
    "R2*: middle": 0.5,
    "T1: middle": 0.02,
    "likeness": 0.01,
    "symmetry": 0.02,
    "": 0.03,
}


#: How H, W and S of the maps run in a head.
WAYS = {"height": "front to back", "width": "left to right", "depth": "foot to head"}


def in_words(name: str) -> str:
    """The name of a number of `appearance` as one would say it: `QSM: noise` is `noise of QSM`."""
    of, colon, what = name.partition(": ")
    if what in WAYS:
        return f"size of {'a voxel' if of == 'voxels' else 'the region read'}, {WAYS[what]}"
    what, over, how_far = what.partition(" over ")
    return f"{what} of {of}{over}{how_far}" if colon else name


def least_spread(name: str) -> float:
    """Standard deviation that a number of `appearance` is taken to have at least."""
    return next(value for part, value in LEAST_SPREAD.items() if part in name)


class DescribeMapsd(MapTransform):
    """Note what the maps look like (`appearance`), as JSON in the image's metadata and in the item's `appearance`.

    Args:
        keys: entries `[C, H, W, S]` (MetaTensor), oriented as AXCODES and cut to the basal ganglia's slices or box, in
            their units. They pass unchanged.
        maps: which they are, in BIDS: those that the network sees.
    """

    def __init__(self, keys: KeysCollection, maps: Sequence[str] = MAPS, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.maps = network_maps(maps)

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key]
            assert isinstance(image, MetaTensor)
            spacing = np.linalg.norm(np.asarray(image.affine, float)[:3, :3], axis=0)
            text = json.dumps(appearance(image.numpy(), spacing, self.maps))
            image.meta["appearance"] = data["appearance"] = text
        return data


def appearance(maps: np.ndarray, spacing: np.ndarray, suffixes: Sequence[str] = MAPS) -> dict[str, float]:
    """What maps look like, by name; all numbers are finite.

    Args:
        maps: `[C, H, W, S]`, in their units; W runs from right to left or back.
        spacing: of voxels along H, W, S, mm.
        suffixes: of the C maps, in BIDS.

    Returns:
        see the module; logarithms where a factor is what tells scans apart.
    """
    kinds = [KNOWN_MAPS[suffix] for suffix in suffixes]
    names = [kind.name for kind in kinds]
    found: dict[str, float] = {}
    plain = []
    for kind, values in zip(kinds, maps.astype(np.float64), strict=True):
        name = kind.name
        low, middle, high = np.percentile(values, (2, 50, 98))
        span = max(high - low, 1e-9)
        values = (np.clip(values, low, high) - middle) / span  # outliers would be all that is seen
        plain.append(values)
        if kind.unit:  # levels can be compared between scans
            found |= {f"{name}: middle": middle, f"{name}: span": float(np.log(span))}
        deviation = max(float(values.std()), 1e-6)
        found[f"{name}: contrast"] = float(np.log(deviation))
        found[f"{name}: balance"] = float(values.mean() / deviation)
        rough = values - ndimage.uniform_filter(values, (3, 3, 1), mode="nearest")
        found[f"{name}: noise"] = float(np.log(np.median(np.abs(rough)) / deviation + 1e-4))
        for axis, way in ((0, "front to back"), (1, "left to right")):
            for lag in LAGS_MM:
                found[f"{name}: likeness over {lag:g} mm, {way}"] = _likeness(values, axis, lag / spacing[axis])
        found[f"{name}: likeness of neighbouring slices"] = _likeness(values, 2, 1.0)
        found[f"{name}: symmetry"] = _correlation(values, values[:, ::-1])
        size = [max(1, int(round(SPOT_MM / mm))) for mm in spacing[:2]]
        spots = ndimage.uniform_filter(values, (*size, 1), mode="nearest")
        found[f"{name}: strongest spot"] = float(np.log(np.abs(spots - spots.mean()).max() / deviation + 1e-3))
        found[f"{name}: difference of the sides"] = float(
            np.log(np.abs(spots - spots[:, ::-1]).max() / deviation + 1e-3)
        )
        levels = values.std(axis=(0, 1))
        found[f"{name}: evenness of the slices"] = float(np.log(levels.std() / deviation + 1e-3))
    for first in range(len(plain)):
        for second in range(first):
            name = f"{names[second]} and {names[first]}: likeness"
            found[name] = _correlation(plain[second], plain[first])
    for way, mm, voxels in zip(WAYS, spacing, maps.shape[1:], strict=True):
        found[f"voxels: {way}"] = float(np.log(mm))
        found[f"region: {way}"] = float(np.log(mm * voxels))
    return {name: float(np.nan_to_num(value)) for name, value in found.items()}


def _likeness(values: np.ndarray, axis: int, lag: float) -> float:
    """Correlation of a map with itself so many voxels further; between whole voxels on a line."""
    low = int(lag)
    parts = []
    for step in (low, low + 1):
        step = min(max(step, 0), values.shape[axis] - 2)
        count = values.shape[axis] - step
        parts.append(
            _correlation(np.take(values, range(count), axis), np.take(values, range(step, step + count), axis))
        )
    return parts[0] + (lag - low) * (parts[1] - parts[0])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if min(a.std(), b.std()) < 1e-9:
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
