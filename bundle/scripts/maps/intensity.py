"""How grey values become the network's input: each slice between its own percentiles, or quantities on one scale."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from scripts.errors import InputError
from scripts.maps.scan import KNOWN_MAPS, MAPS, network_maps
from scripts.maps.transforms import StretchHistogramd, quantiles, source_names

#: What the key `intensity` may be.
INTENSITIES = ("stretch", "window")


class WindowIntensityd(MapTransform):
    """Quantities between fixed values, the same for every scan; a map without a unit between percentiles of its scan.

    QSM and R2* measure iron. The paper's stretching of each slice (`StretchHistogramd`) keeps their pattern and loses
    their level, this keeps both.

    Args:
        keys: entries `[C, H, W, S]`.
        windows: of each channel what becomes 0 and 1, in its unit; None takes the percentiles of the whole scan.
        lower, upper: these percentiles, 0-100. Values beyond a window are clipped.
        maps: BIDS suffixes of the channels, for messages.

    A channel without a window that has no contrast in its scan becomes 0. The metadata get `stretch` `[2, C, S]`, as
    of `StretchHistogramd`.

    Raises:
        InputError: a window does not rise, or all values of a scan lie on one side of it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        windows: Sequence[Sequence[float] | None],
        lower: float,
        upper: float,
        maps: Sequence[str] = MAPS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.maps = list(maps)
        for window in windows:
            if window is not None and not (len(window) == 2 and window[0] < window[1]):
                raise InputError(f"window {list(window)} does not rise; give what becomes 0 and what becomes 1")
        if not 0 <= lower < upper <= 100:
            raise InputError(f"stretch percentiles {lower}, {upper} do not rise; give two within 0 to 100")
        self.windows = [None if window is None else (float(window[0]), float(window[1])) for window in windows]
        self.quantiles = (lower / 100, upper / 100)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key]
            values = torch.as_tensor(image)
            if values.shape[0] != len(self.windows):
                raise InputError(f"{values.shape[0]} maps but {len(self.windows)} windows; give one a map")
            for suffix, channel, window in zip(self.maps, values, self.windows, strict=False):
                if window is not None:
                    self.check(source_names(image, data)[0], suffix, channel, window)
            ends = torch.stack([self.ends(*pair) for pair in zip(values, self.windows, strict=True)])
            low, span = ends[:, 0], ends[:, 1] - ends[:, 0]
            shape = (-1, 1, 1, 1)
            scaled = (values - low.view(shape)) / torch.where(span > 0, span, torch.ones_like(span)).view(shape)
            stretch = torch.stack([low, span])[:, :, None].expand(-1, -1, values.shape[-1])
            meta = {**image.meta, "stretch": stretch.clone()}
            scaled = scaled.clamp(0, 1) * (span > 0).view(shape)
            data[key] = MetaTensor(scaled, meta=meta, applied_operations=image.applied_operations)
        return data

    @staticmethod
    def check(name: str, suffix: str, channel: torch.Tensor, window: tuple[float, float]) -> None:
        """Refuse a window that would make a map the same everywhere.

        Raises:
            InputError: it names the values that are there.
        """
        low, high = (float(value) for value in torch.aminmax(channel))
        if high <= window[0] or low >= window[1]:
            raise InputError(
                f"{name}: no voxel of the {suffix} lies in the window {window[0]:g} to {window[1]:g}, but all from"
                f" {low:.3g} to {high:.3g}; give a --{suffix.lower()}_window that holds them"
            )

    def ends(self, channel: torch.Tensor, window: tuple[float, float] | None) -> torch.Tensor:
        """What becomes 0 and 1 of a channel `[H, W, S]`."""
        if window is not None:
            return channel.new_tensor(window)
        return quantiles(channel.reshape(1, -1, 1), self.quantiles)[:, 0, 0]


class LeaveOutMapsd(MapTransform):
    """Maps of weights of version 0.6 that were 0 throughout in their training (`leave_out` of their record).

    Later ones never get the maps that they shall not see: `maps` of their record.

    Args:
        keys: entries `[C, H, W, S]`.
        maps: BIDS suffixes of MAPS; none changes nothing.

    Raises:
        InputError: another name, or all of them.
    """

    def __init__(self, keys: KeysCollection, maps: Sequence[str] = (), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        unknown = [name for name in maps if name not in MAPS]
        if unknown:
            raise InputError(f"--leave_out {unknown[0]!r} is no map; use {', '.join(MAPS)}")
        if set(maps) == set(MAPS):
            raise InputError("--leave_out names all maps; leave one in")
        self.channels = [MAPS.index(name) for name in maps]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            if self.channels:
                image = data[key].clone()
                image[self.channels] = 0
                data[key] = image
        return data


def scaling(
    intensity: str,
    percentiles: Sequence[float],
    chimap_window: Sequence[float],
    r2starmap_window: Sequence[float],
    t1map_window: Sequence[float] = (0.3, 2.5),
    maps: Sequence[str] = MAPS,
) -> MapTransform:
    """The step that brings `image` `[C, H, W, S]` to 0..1.

    Args:
        intensity: `stretch`: each slice of each map between `percentiles` (paper, Data Augmentation); `window`: maps
            with a unit, as QSM (ppm) and R2* (1/s), between fixed values, others, as T1W, between `percentiles` of the
            scan.
        percentiles: lower and upper, 0-100.
        chimap_window, r2starmap_window, t1map_window: what becomes 0 and 1.
        maps: what the network sees, in the order of its channels.

    Raises:
        InputError: another word, or numbers that do not rise.
    """
    if intensity == "stretch":
        return StretchHistogramd(keys="image", lower=percentiles[0], upper=percentiles[1])
    if intensity == "window":
        of_maps = {"Chimap": chimap_window, "R2starmap": r2starmap_window, "T1map": t1map_window}
        windows = [of_maps[suffix] if KNOWN_MAPS[suffix].unit else None for suffix in network_maps(maps)]
        return WindowIntensityd("image", windows, percentiles[0], percentiles[1], maps)
    raise InputError(f"intensity {intensity!r} is unknown; use {' or '.join(INTENSITIES)}")
