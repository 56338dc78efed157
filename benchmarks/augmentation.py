"""Augmentation against the same steps as MONAI dictionary transforms, and its share of a training step.

Run from anywhere: `python benchmarks/augmentation.py [--output FILE.json]`; under a minute on two cores. Everything
is measured in one run, so read the ratios; on a CPU one core is used and its seconds are counted. The paper's histogram
stretch has probability 1, so ours does it once in preprocessing: like is compared with like where the images of the
others were stretched beforehand too. Goals: at least 10 times the same MONAI steps, faster than Albumentations on
OpenCV, both on one core, and at most 10 % of a ResNet18 training step on the device that trains.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import resnet18
from monai.transforms import (
    Compose,
    Lambdad,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGridDistortiond,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRangePercentilesd,
)
from timing import side_by_side

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

BATCH, SIZE = 64, 128
GOAL_SPEED, GOAL_SHARE = 10.0, 0.10
STRETCHING, SAME, OPENCV = "MONAI, with the stretch", "MONAI, stretched beforehand", "Albumentations"


def monai_transforms(stretch: bool) -> Compose:
    """The steps of `BatchAugment` as MONAI dictionary transforms of one image."""
    key = "image"
    steps = [
        RandFlipd(key, prob=0.5, spatial_axis=1),
        RandFlipd(key, prob=0.5, spatial_axis=0),
        RandScaleIntensityd(key, factors=0.2, prob=0.7),
        RandShiftIntensityd(key, offsets=0.2, prob=0.7),
        Lambdad(key, func=lambda image: image.clamp(0, 1)),
        RandAdjustContrastd(key, prob=0.3, gamma=(0.8, 1.2)),
        RandGridDistortiond(key, num_cells=5, prob=0.25, distort_limit=0.3, padding_mode="reflection"),
        RandAffined(
            key,
            prob=0.5,
            rotate_range=np.pi / 4,
            translate_range=0.0625 * SIZE,
            scale_range=0.1,
            padding_mode="reflection",
        ),
    ]
    if stretch:
        steps.insert(0, ScaleIntensityRangePercentilesd(key, 1, 99, 0, 1, clip=True, channel_wise=True))
    return Compose(steps).set_random_state(0)


def monai_pipeline(images: torch.Tensor, stretch: bool) -> Callable[[], object]:
    """A batch through `monai_transforms`, image by image."""
    pipeline = monai_transforms(stretch)
    return lambda: torch.stack([pipeline({"image": image})["image"] for image in images])


def albumentations_pipeline(images: torch.Tensor) -> Callable[[], object] | None:
    """The same steps in Albumentations on OpenCV, or None where it is not installed."""
    # it would otherwise ask the internet for a newer version
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations as A
        import cv2
    except ImportError:
        return None
    pipeline = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomBrightnessContrast(p=0.7),
            A.RandomGamma(p=0.3),
            A.GridDistortion(p=0.25, border_mode=cv2.BORDER_REFLECT_101),
            A.Affine(
                p=0.5,
                translate_percent=(-0.0625, 0.0625),
                scale=(0.9, 1.1),
                rotate=(-45, 45),
                border_mode=cv2.BORDER_REFLECT_101,
            ),
        ],
        seed=0,
    )
    arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]

    def run() -> list[np.ndarray]:
        cv2.setNumThreads(torch.get_num_threads())
        return [pipeline(image=array)["image"] for array in arrays]

    return run


def training_step(images: torch.Tensor) -> Callable[[], object]:
    """One optimiser step of the paper's image-level model."""
    network = resnet18(
        spatial_dims=2,
        n_input_channels=3,
        num_classes=2,
        conv1_t_size=7,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
    ).to(images.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-4)
    labels = torch.arange(len(images), device=images.device) % 2

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return step


def measure() -> dict[str, dict]:
    """`images_per_second` of each way and `training`, the times of the device that trains."""
    torch.manual_seed(0)
    images = torch.rand(BATCH, 3, SIZE, SIZE)
    config = ConfigParser()
    config.read_config(BUNDLE / "configs" / "train.yaml")
    augment = config.get_parsed_content("augment")

    torch.set_num_threads(1)
    albumentations = albumentations_pipeline(images)
    ways = {
        STRETCHING: monai_pipeline(images, stretch=True),
        SAME: monai_pipeline(images, stretch=False),
        OPENCV: albumentations,
        "ours": lambda: augment(images),
    }
    one_core = side_by_side({name: way for name, way in ways.items() if way}, rounds=15, clock=time.process_time)
    speeds = {f"{name}, 1 core": BATCH / taken for name, taken in one_core.items()}

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = images.to(device)
    on_gpu = device.type == "cuda"
    # many steps on a GPU, where one takes milliseconds; on a CPU one core's seconds
    times = side_by_side(
        {"augment_s": lambda: augment(there), "step_s": training_step(there)},
        rounds=50 if on_gpu else 5,
        warm_up=10 if on_gpu else 1,
        clock=time.perf_counter if on_gpu else time.process_time,
    )
    if on_gpu:
        speeds["ours, CUDA"] = BATCH / times["augment_s"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, 1 core"
    return {"images_per_second": speeds, "training": {"device": name, **times}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    output = parser.parse_args().output

    result = measure()
    speeds, training = result["images_per_second"], result["training"]
    base, opencv = speeds[f"{SAME}, 1 core"], speeds.get(f"{OPENCV}, 1 core")
    print(f"{BATCH} images 3x{SIZE}x{SIZE}, float32\n")
    print(f"{'way':40}{'images/s':>10}{'ratio':>8}")
    for name, speed in speeds.items():
        print(f"{name:40}{speed:10.0f}{speed / base:8.1f}")

    ratio = speeds["ours, 1 core"] / base
    share = training["augment_s"] / training["step_s"]
    result["goals"] = {
        "speed_ratio": ratio,
        "speed_met": ratio >= GOAL_SPEED,
        "albumentations_ratio": opencv and speeds["ours, 1 core"] / opencv,
        "albumentations_met": opencv and speeds["ours, 1 core"] > opencv,
        "share_of_step": share,
        "share_met": share <= GOAL_SHARE,
    }
    print(f"\nResNet18 training step, batch {BATCH} on {training['device']}: {training['step_s'] * 1e3:.1f} ms")
    print(f"augmentation of that batch there: {training['augment_s'] * 1e3:.2f} ms\n")
    print(f"speed: {ratio:.1f} x the same MONAI steps; goal >= {GOAL_SPEED:.0f} x: {_verdict(ratio >= GOAL_SPEED)}")
    if opencv:
        faster = result["goals"]["albumentations_ratio"]
        print(f"speed: {faster:.2f} x Albumentations; goal > 1: {_verdict(faster > 1)}")
    print(f"share: {share:.1%} of a training step; goal <= {GOAL_SHARE:.0%}: {_verdict(share <= GOAL_SHARE)}")
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n")


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"


if __name__ == "__main__":
    main()
