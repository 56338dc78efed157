"""The stage 1 trainer of train.yaml against its bare compute step, and against a plain MONAI pipeline.

Run from anywhere: `python benchmarks/training_step.py [--precision bfloat16] [--output FILE.json]`; about a minute on
two idle cores. The trainer has everything in: loading, augmentation, metrics, handlers, checkpoint. The bare step is
the same network, loss and optimiser on a batch already in place. The plain pipeline is the same step behind MONAI's
dictionary transforms, image by image in the worker processes of a DataLoader. All take turns in one run, so read the
ratio; where others use the machine too, its spread turn by turn says how far to trust it. Goal: at least 0.9 of the
bare step's speed on a CPU, 0.8 on a GPU, with the end of an epoch (AUC, averaging, learning curve, checkpoint) spread
over the steps of a cohort of 88 training scans; and on a GPU at least 10 times the images/s of the plain pipeline.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from augmentation import monai_transforms
from ignite.engine import Engine, Events
from monai.data import Dataset
from timing import seconds
from torch.utils.data import DataLoader
from toy import device_name, now, workflow

from scripts.model.networks import image_level_model
from scripts.training.data import AutocastInferer

BATCH = 64
EPOCH_STEPS = 22  # 88 scans of 16 slices
GOALS = {"cpu": 0.9, "cuda": 0.8}
GOAL_OVER_PLAIN = 10.0  # on a GPU; on a CPU the network itself takes nearly all of the time


def step_on(device: torch.device, precision: str, learning_rate: float) -> Callable[[torch.Tensor], None]:
    """One step of the network, the loss and Adam on a batch."""
    network = image_level_model("none", "").to(device, memory_format=torch.channels_last).train()
    labels = torch.arange(BATCH, device=device) % 2
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    infer, loss = AutocastInferer(device, precision), torch.nn.CrossEntropyLoss()

    def step(images: torch.Tensor) -> None:
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss(infer(images, network), labels).backward()
        optimizer.step()

    return step


def plain_batches(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Endless batches as a plain MONAI training loads them: transformed image by image in worker processes."""
    items = [{"image": image.contiguous()} for image in images.cpu()]
    loader = DataLoader(
        Dataset(items, monai_transforms(stretch=True)), BATCH, shuffle=True, drop_last=True,
        num_workers=os.cpu_count() or 1, persistent_workers=True,
    )  # fmt: skip
    for _ in itertools.count():
        yield from (batch["image"].as_tensor() for batch in loader)


class Turns:
    """Let the trainer and other work take turns: after every `block` steps of the trainer, `block` calls of each other.

    Attach after all other handlers. The times, s: `trainer`, `others` per block, `epoch_end` per epoch.
    """

    def __init__(self, trainer: Engine, device: torch.device, block: int, others: dict[str, Callable]) -> None:
        self.device, self.block, self.calls = device, block, others
        self.trainer: list[float] = []
        self.epoch_end: list[float] = []
        self.others: dict[str, list[float]] = {name: [] for name in others}
        trainer.add_event_handler(Events.STARTED, self.start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=block), self.steps_done)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_done)

    def start(self) -> None:
        self.clock = now(self.device)

    def steps_done(self) -> None:
        self.trainer.append(now(self.device) - self.clock)
        for name, call in self.calls.items():
            self.others[name].append(seconds(lambda call=call: [call() for _ in range(self.block)]))
        self.clock = now(self.device)

    def epoch_done(self) -> None:
        self.epoch_end.append(now(self.device) - self.clock)
        self.clock = now(self.device)


def measure(precision: str) -> dict:
    """Times of one step, s: `trainer`, `bare`, `augmentation`; `epoch_end`, s an epoch; the ratio `turn_by_turn`."""
    cuda = torch.cuda.is_available()
    steps, epochs, block = (EPOCH_STEPS, 10, EPOCH_STEPS // 2) if cuda else (4, 2, 1)
    with tempfile.TemporaryDirectory() as folder:
        made = workflow(
            Path(folder),
            scans=steps * BATCH // 16,
            run_id="image_level",
            image_epochs=epochs,
            image_batch_size=BATCH,
            swa_start=0.0,
            precision=precision,
        )
        parse = made.parser.get_parsed_content
        trainer, device, augment = parse("image#trainer"), parse("device"), parse("augment")
        images = parse("image#dataset").images[:BATCH]
        assert trainer.state.epoch_length == steps
        bare, plain = (step_on(device, precision, parse("image_learning_rate")) for _ in range(2))
        in_place = images.to(device).contiguous(memory_format=torch.channels_last)
        bare(in_place)
        batches = plain_batches(parse("image#dataset").images)
        others = {
            "bare": lambda: bare(in_place),
            "plain_monai": lambda: plain(next(batches)),
            "augmentation": lambda: augment(images),
        }
        turns = Turns(trainer, device, block, others)
        trainer.run()
    # the first blocks warm up
    warm = 2 if cuda else 1
    times = {"trainer": turns.trainer, **turns.others}
    result = {name: median(taken[warm:]) / block for name, taken in times.items()}
    pairs = [bare / trainer for trainer, bare in zip(turns.trainer[warm:], turns.others["bare"][warm:], strict=True)]
    spread = {"lowest": min(pairs), "median": median(pairs), "highest": max(pairs)}
    return {"device": device_name(device), **result, "epoch_end": median(turns.epoch_end), "turn_by_turn": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()

    result = measure(arguments.precision)
    steps = {
        "bare step": result["bare"],
        "trainer, steps alone": result["trainer"],
        "trainer, with the end of an epoch": result["trainer"] + result["epoch_end"] / EPOCH_STEPS,
        "plain MONAI pipeline": result["plain_monai"],
    }
    print(f"\nResNet18, {BATCH} slices 3x128x128 a step, {arguments.precision}, {result['device']}\n")
    print(f"{'':36}{'ms/step':>9}{'steps/s':>9}{'images/s':>10}{'ratio':>8}")
    for name, taken in steps.items():
        ratio = result["bare"] / taken
        print(f"{name:36}{taken * 1e3:9.1f}{1 / taken:9.2f}{BATCH / taken:10.0f}{ratio:8.3f}")

    ratio = result["bare"] / steps["trainer, with the end of an epoch"]
    goal = GOALS["cuda" if torch.cuda.is_available() else "cpu"]
    share = result["augmentation"] / result["trainer"]
    faster = result["plain_monai"] / steps["trainer, with the end of an epoch"]
    print(f"\ntrainer: {faster:.2f} times the plain MONAI pipeline; goal on a GPU: at least {GOAL_OVER_PLAIN:g}")
    print("steps alone, turn by turn: ", end="")
    print(", ".join(f"{name} {value:.2f}" for name, value in result["turn_by_turn"].items()))
    print(f"end of an epoch: {result['epoch_end'] * 1e3:.0f} ms, spread over {EPOCH_STEPS} steps; no held-out scans")
    print(f"augmentation: {result['augmentation'] * 1e3:.1f} ms, {share:.1%} of the trainer's step")
    print(f"trainer: {ratio:.2f} of the bare step's speed; goal >= {goal}: {'met' if ratio >= goal else 'NOT met'}")
    if arguments.output:
        result |= {"precision": arguments.precision, "ratio": ratio, "goal": goal, "met": ratio >= goal}
        result |= {"augmentation_share": share, "over_plain_monai": faster}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
