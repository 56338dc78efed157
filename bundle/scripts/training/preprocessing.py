"""A cohort's scans to the network's input, before augmentation."""

from collections.abc import Mapping, Sequence

import torch
from monai.transforms import Compose, Orientationd, Resized, Transform

from scripts.anatomy.axes import AXCODES
from scripts.localisation.localiser import Localiser
from scripts.localisation.transform import LocaliseBasalGangliad
from scripts.maps.appearance import DescribeMapsd
from scripts.maps.intensity import scaling
from scripts.maps.scan import MAPS, Scan
from scripts.maps.transforms import (
    CheckMapsd,
    CropBasalGangliad,
    FlagMapsd,
    LoadImageMapsd,
    NoteScand,
    SelectMapsd,
)


def preprocessing(
    region: str,
    spatial_size: Sequence[int],
    num_slices: int,
    stretch_percentiles: Sequence[float],
    localise: str,
    localiser: Localiser | None = None,
    resample_t1w: str = "refuse",
    intensity: str = "stretch",
    chimap_window: Sequence[float] = (-0.1, 0.3),
    r2starmap_window: Sequence[float] = (0.0, 120.0),
    t1map_window: Sequence[float] = (0.3, 2.5),
    maps: Sequence[str] = MAPS,
) -> Transform:
    """The steps from files to network input, as `inference.yaml` also lists them.

    Args:
        region: `full` or `cropped` (see CropBasalGangliad).
        spatial_size: H and W of the network's input, pixels.
        num_slices: S of the network's input; the basal ganglia's slices are resampled evenly to this number.
        stretch_percentiles: lower and upper percentile of the histogram stretching, 0-100.
        localise: `auto`, `annotated` or `whole` (see LocaliseBasalGangliad and CropBasalGangliad).
        localiser: finds the boxes that `auto` lacks; other choices need none.
        resample_t1w: `refuse` or `rigid`: what is done with a T1W on another grid.
        intensity, chimap_window, r2starmap_window, t1map_window: see `scripts.maps.intensity.scaling`.
        maps: what the network sees, BIDS suffixes in the order of its channels (`scripts.maps.scan.KNOWN_MAPS`).

    Returns:
        A transform from `{"image": paths, "box": ranges, ...}` to `{"image": [C, H, W, S] in 0..1, "notes": see
        NoteScand, "appearance": see DescribeMapsd, ...}`.
    """
    return Compose(
        [
            LoadImageMapsd(keys="image", resample_t1w=resample_t1w, maps=maps),
            CheckMapsd(keys="image", maps=maps),
            LocaliseBasalGangliad(keys="image", localise=localise, localiser=localiser),
            FlagMapsd(keys="image", warn=True, maps=maps),
            Orientationd(keys="image", axcodes=AXCODES, labels=None),
            CropBasalGangliad(keys="image", region=region, localise=localise),
            NoteScand(keys="image"),
            SelectMapsd(keys="image", maps=maps),
            DescribeMapsd(keys="image", maps=maps),
            Resized(keys="image", spatial_size=[*spatial_size, num_slices], mode="trilinear"),
            scaling(intensity, stretch_percentiles, chimap_window, r2starmap_window, t1map_window, maps),
        ]
    )


def middle_images(scan: Scan, steps: Mapping[str, Transform]) -> dict[str, torch.Tensor]:
    """The middle slice `[C, H, W]` of one scan after each of several preprocessings, by their names."""
    images = {name: transform(scan.item())["image"].as_tensor() for name, transform in steps.items()}
    return {name: image[..., image.shape[-1] // 2] for name, image in images.items()}
