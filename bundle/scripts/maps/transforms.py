"""From maps on disk to the network's input `[C, H, W, S]`.

Channels are QSM, R2*, T1W and further maps, until `SelectMapsd` leaves those that the network sees. H runs from
anterior to posterior, W from right to left, S from foot to head, so a slice drawn row by row looks as radiologists
expect. Everything here is deterministic and done once a scan; what is random is in `augment.py`.
"""

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import MetaTensor, NibabelReader
from monai.transforms import (
    Compose,
    Crop,
    InvertibleTransform,
    LoadImage,
    MapTransform,
    Transform,
)

from scripts.anatomy.axes import oriented_box
from scripts.errors import InputError, input_error_in, reason
from scripts.files import nifti
from scripts.maps import plausibility
from scripts.maps.bids import RESAMPLE_T1W, check_affine, check_grid
from scripts.maps.scan import MAPS, network_maps, number_word, scan_maps
from scripts.maps.units import factor_to_unit
from scripts.registration.t1w_grid import moved, register, same_grid

#: How boxes can be had; `full` is another word for `whole`.
CHOICES = ("auto", "annotated", "whole", "full")

LOGGER = logging.getLogger(__name__)


class CheckedReader(NibabelReader):
    """MONAI's reader of NIfTI files, over our own: sizes, completeness and orientation are checked."""

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> nib.Nifti1Image:
        self.filenames = (data,) if isinstance(data, (str, bytes)) or not isinstance(data, Sequence) else data
        (path,) = self.filenames
        return nifti.read(path)  # MONAI's would take another orientation than ours checked, where voxel sizes differ


class LoadImageMapsd(MapTransform):
    """Load `[QSM, R2*, T1W, further maps]` given as 3D NIfTI files, as one 4D file whose last axis holds them, or as a
    DICOM study (`scripts.dicom.study.DicomStudy`).

    The item's value becomes a MetaTensor `[C, I, J, K]` (float32, axes as stored), C maps in the order of
    `scripts.maps.scan.scan_maps`, in their units. With `resample_t1w: rigid` a T1W on another grid is
    registered to R2*, and the metadata hold `t1w_registration` (JSON, see `registration.t1w_grid`). `unit_flags` says
    (JSON, lines) of which map nothing but its values told the unit.

    Args:
        keys: entries of paths.
        resample_t1w: one of RESAMPLE_T1W.
        maps: what the network sees.

    Raises:
        InputError: a file that `scripts.files.nifti` refuses, or on another grid than its fellows; a study that is
            refused; see `factor_to_unit`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        resample_t1w: str = "refuse",
        maps: Sequence[str] = MAPS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if resample_t1w not in RESAMPLE_T1W:
            raise InputError(f"resample_t1w is {resample_t1w!r}; use {' or '.join(RESAMPLE_T1W)}")
        self.resample_t1w = resample_t1w
        self.maps = scan_maps(maps)
        self.load = LoadImage(reader=CheckedReader(), image_only=True, ensure_channel_first=True)
        self.load.readers = self.load.readers[-1:]  # MONAI would try its others on a file that ours refuses
        logging.getLogger("LoadImage").setLevel(logging.WARNING)  # it would log whole paths, which may name patients

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            if hasattr(data[key], "load"):  # a study loads itself, so that only DICOM needs pydicom
                data[key] = data[key].load(self.resample_t1w)
                continue
            paths = (
                [data[key]] if isinstance(data[key], (str, bytes)) or not isinstance(data[key], Sequence) else data[key]
            )
            paths = [str(path) for path in paths]
            if len(paths) > 1:
                check_grid(paths, self.resample_t1w, self.maps)
            with ThreadPoolExecutor(len(paths)) as pool:  # decompression, most of the time, runs side by side
                data[key] = self.in_units(self.stacked(list(pool.map(self.load_one, paths)), paths), paths)
            check_affine(np.asarray(data[key].affine), paths[0])
        return data

    @staticmethod
    def stacked(maps: list[MetaTensor], paths: list[str]) -> MetaTensor:
        """Maps `[C, I, J, K]` as one; a T1W on another grid is registered, and the metadata say how well. Further maps
        on its grid go with it."""
        affines = [np.asarray(image.affine, float) for image in maps]
        if len(maps) < len(MAPS) or same_grid(maps[0].shape, affines[0], maps[2].shape, affines[2]):
            return cast(MetaTensor, torch.cat([*maps]))
        qsm, r2star, t1w = (image[0].numpy() for image in maps[: len(MAPS)])
        found = register(t1w, affines[2], qsm, r2star, affines[0], paths[2])
        others = [
            image
            if same_grid(image.shape, affine, maps[0].shape, affines[0])
            else torch.from_numpy(moved(image[0].numpy(), affine, found.pose, qsm.shape, affines[0])[0])[None]
            for image, affine in zip(maps[3:], affines[3:], strict=True)
        ]
        stack = cast(MetaTensor, torch.cat([*maps[:2], torch.from_numpy(found.t1w)[None], *others]))
        stack.meta["t1w_registration"] = json.dumps(found.quality)
        return stack

    def in_units(self, image: MetaTensor, paths: list[str]) -> MetaTensor:
        """Maps in their units, whatever unit they came in."""
        flags = []
        for channel, suffix in enumerate(self.maps[: len(image)]):
            path = paths[channel] if len(paths) > 1 else paths[0]
            factor, flag = factor_to_unit(suffix, image[channel].numpy(), path, len(paths) > 1)
            flags += flag
            if factor != 1:
                image[channel] *= factor
        if flags:
            image.meta["unit_flags"] = json.dumps(flags)
        return image

    def load_one(self, path: str) -> MetaTensor:
        """One file as `[C, I, J, K]`."""
        nifti.check_ending(path)
        try:
            return self.load(path)
        except Exception as error:
            if (bad_input := input_error_in(error)) is not None:  # MONAI wraps what its readers raise
                raise bad_input from error
            nifti.read(path)  # says it itself, where MONAI has kept the text alone
            raise InputError(f"{path}: cannot be read ({reason(error)}); export or copy it again") from error


class CheckMapsd(MapTransform):
    """Refuse a stack of maps that the network would misread. Passes good data through unchanged.

    Args:
        keys: entries `[C, I, J, K]`.
        maps: what the network sees; C maps in the order of `scripts.maps.scan.scan_maps` are due.

    Raises:
        InputError: another number of maps, a non-finite or constant map, or an impossible one (`plausibility`).
    """

    def __init__(self, keys: KeysCollection, maps: Sequence[str] = MAPS, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.maps = scan_maps(maps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            image = data[key]
            names = source_names(image, data, self.maps)
            if image.ndim != 4 or image.shape[0] != len(self.maps):
                count = number_word(len(self.maps))
                raise InputError(
                    f"{names[0]}: has shape {tuple(image.shape)} where {count} 3D maps are due;"
                    f" give {', '.join(self.maps)} as {count} files or stacked along the last axis of one"
                )
            for channel, suffix, name in zip(image, self.maps, names, strict=True):
                low, high = (float(v) for v in torch.aminmax(torch.as_tensor(channel)))
                if not np.isfinite([low, high]).all():
                    raise InputError(
                        f"{name}: the {suffix} holds NaN or infinite values; set them to 0 outside the brain"
                    )
                if low == high:
                    raise InputError(f"{name}: the {suffix} is {low:g} everywhere; export it again")
            plausibility.check_grid_size(image.shape[1:], np.asarray(image.affine, float), names[0])
            plausibility.check_maps(torch.as_tensor(image).numpy(), names, self.maps)
        return dict(data)


def source_names(image: torch.Tensor, data: Mapping[Hashable, Any], maps: Sequence[str] = MAPS) -> list[str]:
    """A name for each channel to put in messages: its file, or the scan's id where there is no file."""
    path = image.meta.get("filename_or_obj", "") if isinstance(image, MetaTensor) else ""
    name = str(path or data.get("scan_id", "the scan"))
    return [name.replace(f"_{MAPS[0]}.", f"_{suffix}.") for suffix in maps]


class FlagMapsd(MapTransform):
    """Say what is unlikely about a scan's maps (`scripts.maps.plausibility`); the image passes unchanged.

    Its metadata get `flags`: a list of lines as JSON, because metadata are stacked and taken apart on their way.

    Args:
        keys: entries `[C, I, J, K]` (MetaTensor), axes as stored, localised as far as they will be.
        warn: also log each flag, with the scan's name: where nobody writes them down.
        maps: what the network sees.
    """

    def __init__(
        self, keys: KeysCollection, warn: bool = False, maps: Sequence[str] = MAPS, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.warn = warn
        self.maps = scan_maps(maps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image: MetaTensor = data[key]
            flags = plausibility.region_flags(image.numpy(), data.get("box"), self.maps)
            flags += json.loads(image.meta.get("box_flags", "[]")) + json.loads(image.meta.get("unit_flags", "[]"))
            image.meta["flags"] = json.dumps(flags)
            for flag in flags if self.warn else ():
                LOGGER.warning("%s: %s", data.get("scan_id", "the scan"), flag)
        return data


class NoteScand(MapTransform):
    """Give an item `notes`, what is to be said of the scan, as JSON: what its image's metadata hold of `box_source`,
    `box_confidence`, `box_voxels`, `t1w_registration` and `flags`. Metadata do not outlive a cache on disk; this does.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            meta = data[key].meta
            notes = {name: meta[name] for name in ("box_source", "box_confidence") if name in meta}
            notes |= {
                name: json.loads(meta[name]) for name in ("box_voxels", "t1w_registration", "flags") if name in meta
            }
            data["notes"] = json.dumps(notes)
        return data


class CropBasalGangliad(MapTransform, InvertibleTransform):
    """Keep the axial slices that hold the basal ganglia and, for `cropped`, their box (paper, Data Preparation).

    Reads the item's `box`: half-open voxel ranges along the axes of the file as stored, whatever its orientation.

    Args:
        keys: which entries to crop, each a MetaTensor `[C, H, W, S]` oriented as AXCODES.
        region: `full` keeps whole slices, `cropped` keeps the in-plane box.
        localise: `whole` (or `full`) takes the whole volume as it is, for scans cut to the basal ganglia; all else
            needs a box, annotated or found by LocaliseBasalGangliad.

    The metadata then say where the box came from: `box_source` is `annotated`, `found` or `whole`; and but for the
    last, `box_voxels` as JSON: the item's `box`.

    Raises:
        InputError: no box, a box outside the image, or fewer than two slices.
    """

    def __init__(self, keys: KeysCollection, region: str, localise: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if region not in ("full", "cropped"):
            raise InputError(f"region {region!r} is unknown; use full or cropped")
        if localise not in CHOICES:
            raise InputError(f"localise {localise!r} is unknown; use {', '.join(CHOICES)}")
        self.region = region
        self.localise = localise
        self.cropper = Crop()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key]
            name = source_names(image, data)[0]
            ranges = self.ranges(image, data.get("box"), name)
            if ranges[2][1] - ranges[2][0] < 2:
                raise InputError(
                    f"{name}: only {ranges[2][1] - ranges[2][0]} basal ganglia slice; Q-Net reads at least 2"
                )
            cropped = cast(MetaTensor, self.cropper(image, slices=tuple(slice(low, high) for low, high in ranges)))
            if self.localise in ("whole", "full"):
                cropped.meta["box_source"] = "whole"
            else:
                cropped.meta["box_source"] = "found" if "box_confidence" in image.meta else "annotated"
                cropped.meta["box_voxels"] = json.dumps([[int(edge) for edge in pair] for pair in data["box"]])
            data[key] = cropped
        return data

    def ranges(self, image: MetaTensor, box: Sequence[Sequence[int]] | None, name: str) -> list[list[int]]:
        """Half-open index ranges of the crop along H, W and S of an oriented image."""
        shape = list(image.shape[1:])
        if self.localise in ("whole", "full"):
            return [[0, size] for size in shape]
        if box is None:
            raise InputError(
                f"{name}: no basal ganglia box; add derivatives/basalganglia/.../*_desc-basalganglia_box.json,"
                " or use --localise auto to find it, or --localise whole for a scan cut to them"
            )
        ranges = oriented_box(box, np.asarray(image.meta["original_affine"]), np.asarray(image.affine))
        if any(low < 0 or high > size for (low, high), size in zip(ranges, shape, strict=True)):
            raise InputError(
                f"{name}: the basal ganglia box {[list(r) for r in box]} reaches outside the image; correct it"
            )
        plausibility.check_box_size(ranges, np.asarray(image.affine), name)
        if self.region == "full":
            ranges[:2] = [[0, shape[0]], [0, shape[1]]]
        return ranges

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            data[key] = self.cropper.inverse(data[key])
        return data


class SelectMapsd(MapTransform):
    """Leave the maps that the network sees, in the order of its channels; `maps` of the metadata names them (JSON).

    Args:
        keys: entries `[C, H, W, S]` (MetaTensor), maps in the order of `scripts.maps.scan.scan_maps`.
        maps: what the network sees.
    """

    def __init__(self, keys: KeysCollection, maps: Sequence[str] = MAPS, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.maps = network_maps(maps)
        due = scan_maps(maps)
        self.channels = [due.index(suffix) for suffix in self.maps]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key]
            if self.channels != list(range(len(image))):
                left = torch.as_tensor(image)[self.channels]
                image = MetaTensor(left, meta=image.meta, applied_operations=image.applied_operations)
            image.meta["maps"] = json.dumps(self.maps)
            data[key] = image
        return data


class StretchHistogramd(MapTransform):
    """Histogram stretching (paper, Data Augmentation): each slice of each channel to 0..1 between two percentiles.

    Args:
        keys: entries `[C, H, W, S]`.
        lower, upper: percentiles (0-100) that become 0 and 1; values beyond are clipped.

    A slice without contrast becomes 0. The metadata get `stretch` `[2, C, S]`: what became 0, and the span to 1.
    """

    def __init__(self, keys: KeysCollection, lower: float, upper: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise InputError(f"stretch percentiles {lower}, {upper} do not rise; give two within 0 to 100")
        self.quantiles = (lower / 100, upper / 100)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key]
            pixels = torch.as_tensor(image).flatten(1, 2)
            low, high = quantiles(pixels, self.quantiles)[:, :, None, None]  # each [C, 1, 1, S]
            span = high - low
            stretched = ((torch.as_tensor(image) - low) / span.clamp_min(torch.finfo(span.dtype).tiny)).clamp(0, 1) * (
                span > 0
            )
            meta = {**image.meta, "stretch": torch.stack([low, span])[:, :, 0, 0]}
            data[key] = MetaTensor(stretched, meta=meta, applied_operations=image.applied_operations)
        return data


def quantiles(values: torch.Tensor, wanted: Sequence[float]) -> torch.Tensor:
    """`torch.quantile(values, wanted, dim=1)` of `[C, N, S]`, to the bit, in a fifth of its time.

    Returns:
        `[len(wanted), C, S]`.
    """
    # the pixels of a slice next to each other: numpy selects along memory, where torch sorts
    rows = np.ascontiguousarray(values.cpu().numpy().swapaxes(1, 2))
    found = np.quantile(rows, np.asarray(wanted, rows.dtype), axis=-1)
    return torch.from_numpy(found.astype(rows.dtype, copy=False)).to(values.device)


@cache
def reading(resample_t1w: str = "refuse") -> Transform:
    """The first two steps of `preprocessing`, files to checked maps `[3, I, J, K]`; made once, for many scans."""
    return Compose([LoadImageMapsd(keys="image", resample_t1w=resample_t1w), CheckMapsd(keys="image")])
