"""What bfloat16 and int8 do to a scan's probability on the CPU, and to its time, against float32.

Run from the repository root: `python benchmarks/precision.py --dataset_dir COHORT [--scans 100] [--output FILE.json]`.
A lower precision may be offered only where no scan's probability moves by more than 0.002. bfloat16 is torch's
autocast. int8 is torch's static quantization of the embedding (weights per channel, activations per tensor, ranges
from scans of the same cohort that are not among those compared); the Bi-LSTM stays in float32.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from toy import BUNDLE, device_name
from tqdm import tqdm

from scripts.files.writing import sha256
from scripts.maps.bids import find_scans
from scripts.model.image_level import slices_of
from scripts.model.networks import QNet, load_weights
from scripts.training.preprocessing import preprocessing

LARGEST_CHANGE = 0.002
CALIBRATION = 12  # scans


class Maps(nn.Module):
    """The embedding up to its last feature maps, of slices `[N, 3, H, W]`, in a form that can be quantized."""

    def __init__(self, network: QNet) -> None:
        super().__init__()
        own = network.embedding
        self.steps = nn.Sequential(
            own.conv1, own.bn1, own.act, own.maxpool, own.layer1, own.layer2, own.layer3, own.layer4
        )

    def forward(self, slices: Tensor) -> Tensor:
        return self.steps(slices)


def int8_maps(network: QNet, images: list[Tensor]) -> nn.Module:
    """The embedding in int8, its ranges from some scans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of a package of its own
        prepared = prepare_fx(Maps(network).eval(), get_default_qconfig_mapping("x86"), (slices_of(images[0]),))
        for image in images:
            prepared(slices_of(image))
        return convert_fx(prepared)


def probability(network: QNet, maps: Callable[[Tensor], Tensor], image: Tensor) -> float:
    """Probability of HH of one scan `[1, 3, H, W, S]`, the feature maps by `maps`."""
    embeddings = maps(slices_of(image)).float().mean([2, 3])[None]
    return float(network.sequence(embeddings)[0].softmax(-1)[0, 1])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="a BIDS cohort with boxes")
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument(
        "--bfloat16_scans", type=int, default=10, help="fewer, for processors without it take 30 s each"
    )
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    weights = BUNDLE / "models" / "model.pt"
    network = load_weights(QNet(), weights)
    steps = preprocessing("cropped", [128, 128], 16, [0.5, 99.5], "annotated")
    scans = find_scans(arguments.dataset_dir)[: CALIBRATION + arguments.scans]
    images = [steps(scan.item())["image"].as_tensor()[None] for scan in tqdm(scans, desc="reading", unit="scan")]
    torch.backends.quantized.engine = "x86"
    quantized = int8_maps(network, images[:CALIBRATION])

    maps = Maps(network).eval()

    def bfloat16(slices: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return maps(slices)

    ways: dict[str, Callable[[Tensor], Tensor]] = {"float32": maps, "bfloat16": bfloat16, "int8": quantized}
    found: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number, image in enumerate(tqdm(images[CALIBRATION:], desc="comparing", unit="scan")):
        for name, maps in ways.items():
            if name == "bfloat16" and number >= arguments.bfloat16_scans:
                continue
            start = time.process_time()
            found[name].append(probability(network, maps, image))
            seconds[name].append(time.process_time() - start)
    middle = {name: float(torch.tensor(taken).median()) for name, taken in seconds.items()}
    truth = torch.tensor(found["float32"])
    result: dict = {"goal": LARGEST_CHANGE, "ways": {}}
    for name, values in found.items():
        compared = truth[: len(values)]
        change = (torch.tensor(values) - compared).abs()
        flips = int(((torch.tensor(values) >= 0.5) != (compared >= 0.5)).sum())
        result["ways"][name] = {
            "scans": len(values), "other_class": flips,
            "largest_change": float(change.max()), "mean_change": float(change.mean()),
            "cpu_seconds": middle[name], "times_float32": middle["float32"] / middle[name],
            "met": float(change.max()) < LARGEST_CHANGE,
        }  # fmt: skip
        row = result["ways"][name]
        print(
            f"{name:10} largest change {row['largest_change']:.4f}, mean {row['mean_change']:.4f}, other class"
            f" {flips} of {len(values)}; {row['times_float32']:.2f} times float32's speed"
        )
    result |= {"device": device_name(torch.device("cpu")), "capability": torch.backends.cpu.get_cpu_capability()}
    result |= {"weights": sha256(weights), "cohort": json.loads(
        (arguments.dataset_dir / "dataset_description.json").read_text())["Name"]}  # fmt: skip
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
