"""Ways to run stage 1's step on a processor, side by side: precision, batch, compiler, optimiser, threads or processes.

Run from anywhere: `python benchmarks/training_on_cpu.py [--output FILE.json]`; some minutes on two cores. All ways take
turns in one run. `images/CPU s` (one thread) holds on a shared machine too; the clock's figures of threads against
processes need an idle one. The last column says what a way changes: the relative distance of its gradient (all
parameters as one vector) from that of float32 on the same 64 images, weights and labels; beside it the distance that
another batch of 64 makes, the noise that training lives with anyway. Compilation needs a C++ compiler and is left out,
with its reason, where there is none.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from toy import BUNDLE  # noqa: F401  (puts the bundle on the path)

from scripts.model.image_level import SliceResNet
from scripts.model.networks import image_level_model
from scripts.training.data import AutocastInferer

SIDE = 128
IMAGES = 256  # of a round: a whole number of every batch below
ROUNDS = 4


@dataclass(frozen=True)
class Way:
    """One way to take a step."""

    name: str
    precision: str = "bfloat16"
    batch: int = 64
    compiled: bool = False
    fused_adam: bool = False


WAYS = (
    Way("float32", precision="float32"),
    Way("bfloat16"),
    Way("bfloat16, batches of 128", batch=128),
    Way("bfloat16, batches of 256", batch=256),
    Way("bfloat16, fused Adam", fused_adam=True),
    Way("bfloat16, torch.compile", compiled=True),
)


class Step:
    """Network, loss and Adam of stage 1 on images in place; called, it makes a pass over `IMAGES` images."""

    def __init__(self, way: Way) -> None:
        torch.manual_seed(0)
        self.way = way
        self.network = image_level_model("none", "").to(memory_format=torch.channels_last).train()
        self.forward: nn.Module = torch.compile(self.network) if way.compiled else self.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-4, fused=way.fused_adam or None)
        self.infer, self.loss = AutocastInferer(torch.device("cpu"), way.precision), nn.CrossEntropyLoss()
        generator = torch.Generator().manual_seed(1)
        # smooth images with something to learn in the middle: the gradient of pure noise is noise in any precision
        images = nn.functional.interpolate(torch.rand(IMAGES, 3, 8, 8, generator=generator), SIDE, mode="bilinear")
        self.labels = torch.arange(way.batch) % 2
        images[1::2, :, SIDE // 3 : SIDE // 2, SIDE // 3 : SIDE // 2] += 0.2
        self.batches = [b.contiguous(memory_format=torch.channels_last) for b in images.split(way.batch)]

    def gradient(self, first: int = 0) -> torch.Tensor:
        """Of the loss of 64 images from `first` on, before any step."""
        self.network.zero_grad(set_to_none=True)
        images = torch.cat(self.batches)[first : first + 64].contiguous(memory_format=torch.channels_last)
        self.loss(self.infer(images, self.forward), self.labels[:64]).backward()
        return torch.cat([parameter.grad.flatten() for parameter in self.network.parameters()])

    def __call__(self) -> None:
        for images in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.infer(images, self.forward), self.labels).backward()
            self.optimizer.step()


def taking_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median images a CPU second and a second by the clock of each call, which pass over `IMAGES` images."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            cpu, clock = time.process_time(), time.perf_counter()
            call()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - clock))
    return {
        name: {
            "images_per_cpu_s": IMAGES / median(cpu for cpu, _ in pairs),
            "images_per_s": IMAGES / median(clock for _, clock in pairs),
        }
        for name, pairs in taken.items()
    }


def one_thread() -> tuple[dict[str, dict], float]:
    """Every way on one core, beside its distance from float32; and the distance of another batch."""
    torch.set_num_threads(1)
    reference, other = Step(WAYS[0]).gradient(), Step(WAYS[0]).gradient(64)
    steps, result = {}, {}
    for way in WAYS:
        step = Step(way)
        try:
            distance = float((step.gradient() - reference).norm() / reference.norm())
            step()  # warms up, and compiles
        except Exception as error:  # a missing compiler shows itself in many ways
            result[way.name] = asdict(way) | {"left_out": type(error).__name__}
            continue
        steps[way.name] = step
        result[way.name] = asdict(way) | {"gradient_distance": distance}
    for name, speed in taking_turns(steps, ROUNDS).items():
        result[name] |= speed
    return result, float((other - reference).norm() / reference.norm())


def folded(network: nn.Module) -> nn.Module:
    """The embedding with every batch norm folded into its convolution."""
    for block in network.modules():
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")):
            if isinstance(getattr(block, conv, None), nn.Conv2d) and isinstance(getattr(block, norm, None), nn.Module):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    return network


@torch.no_grad()
def embedding() -> dict[str, dict]:
    """Stage 2's frozen embedding as it is and with its batch norms folded, on one core in float32."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = SliceResNet(3, feed_forward=False).to(memory_format=torch.channels_last)
    plain.train()(torch.rand(64, 3, SIDE, SIDE))  # statistics that are not the identity
    plain.eval()
    other = SliceResNet(3, feed_forward=False).to(memory_format=torch.channels_last)
    other.load_state_dict(plain.state_dict())
    other = folded(other.eval())
    images = torch.rand(IMAGES, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    distance = float((plain(images[:16]) - other(images[:16])).abs().max())
    speeds = taking_turns({"as it is": lambda: plain(images), "folded": lambda: other(images)}, ROUNDS)
    return speeds | {"folded": speeds["folded"] | {"largest_difference": distance}}


def _worker(threads: int, ready: object, start: object) -> None:
    torch.set_num_threads(threads)
    step = Step(Way("bfloat16"))
    step()
    ready.release()
    start.wait()
    for _ in range(ROUNDS):
        step()


def side_by_side(processes: int, threads: int) -> float:
    """Images a second by the clock of some processes with some threads each, all at the same time."""
    spawn = multiprocessing.get_context("spawn")
    ready, start = spawn.Semaphore(0), spawn.Event()
    workers = [spawn.Process(target=_worker, args=(threads, ready, start)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    clock = time.perf_counter()
    start.set()
    for worker in workers:
        worker.join()
    return processes * ROUNDS * IMAGES / (time.perf_counter() - clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()

    ways, another_batch = one_thread()
    print(f"\nResNet18, one step of stage 1 on 3x{SIDE}x{SIDE}, one thread\n")
    print(f"{'':28}{'images/CPU s':>14}{'to float32':>12}{'gradient':>12}")
    for name, way in ways.items():
        if "left_out" in way:
            print(f"{name:28}left out: {way['left_out']}")
            continue
        ratio = way["images_per_cpu_s"] / ways["float32"]["images_per_cpu_s"]
        print(f"{name:28}{way['images_per_cpu_s']:14.1f}{ratio:12.2f}{way['gradient_distance']:12.1e}")

    print(f"{'another batch of 64, float32':54}{another_batch:12.1e}")

    frozen = embedding()
    ratio = frozen["folded"]["images_per_cpu_s"] / frozen["as it is"]["images_per_cpu_s"]
    print(
        f"\nfrozen embedding, batch norms folded: {ratio:.2f} times, largest difference"
        f" {frozen['folded']['largest_difference']:.1e}"
    )

    cores = os.cpu_count() or 1
    together = {f"1 process, {cores} threads": (1, cores), f"{cores} processes, 1 thread each": (cores, 1)}
    # A B B A, so that a slow moment falls on both
    order = [*together, *reversed(together)]
    clocks: dict[str, list[float]] = {name: [] for name in together}
    for name in order:
        clocks[name].append(side_by_side(*together[name]))
    print(f"\nbfloat16 on {cores} cores, by the clock (meaningful on an idle machine only)")
    for name, speeds in clocks.items():
        print(f"{name:28}{median(speeds):14.1f} images/s   ({', '.join(f'{speed:.1f}' for speed in speeds)})")
    if arguments.output:
        content = {
            "cores": cores,
            "one_thread": ways,
            "another_batch": another_batch,
            "embedding": frozen,
            "cores_shared": clocks,
        }
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
