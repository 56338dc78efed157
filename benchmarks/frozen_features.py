"""Stage 2 on features computed once a view against embedding all slices anew in every epoch.

Run from anywhere: `python benchmarks/frozen_features.py [--output FILE.json]`; about a minute on two idle cores. One
run of the stage 2 trainer of train.yaml: in a few of its epochs the features are thrown away first, so that these
epochs augment and embed all slices anew; the others find them. Goal: an epoch at least 20 times faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
from ignite.engine import Engine, Events
from toy import device_name, now, workflow

from scripts.model.networks import image_level_model, save_weights

GOAL = 20.0
ANEW_EVERY = 16  # epochs


class EpochTimes:
    """Time a trainer's epochs, s: `anew` where the features are thrown away first, `kept` where they are found.

    Attach after all other handlers.
    """

    def __init__(self, trainer: Engine, features: torch.utils.data.Dataset, device: torch.device) -> None:
        self.features, self.device = features, device
        self.seconds: dict[str, list[float]] = {"anew": [], "kept": []}
        self.clock = 0.0
        trainer.add_event_handler(Events.STARTED, self.started)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        self.clock = now(self.device)

    def completed(self, engine: Engine) -> None:
        anew = engine.state.epoch % ANEW_EVERY == 1
        self.seconds["anew" if anew else "kept"].append(now(self.device) - self.clock)
        if engine.state.epoch % ANEW_EVERY == 0:
            self.features.features = None
        self.clock = now(self.device)


def measure() -> dict:
    """Seconds an epoch with features `kept` and with slices embedded `anew`, and what they were measured on."""
    scans = 88 if torch.cuda.is_available() else 16
    with tempfile.TemporaryDirectory() as folder:
        made = workflow(Path(folder), scans, "scan_level")
        parse = made.parser.get_parsed_content
        save_weights(image_level_model("none", ""), parse("embedding_weights"), torch.float32)
        trainer, features, device = parse("train#trainer"), parse("train#features"), parse("device")
        # an epoch that embeds anew needs one view
        num_views, features.num_views = features.num_views, 1
        features.set_epoch(0)
        times = EpochTimes(trainer, features, device)
        trainer.run()
        epochs = trainer.state.max_epochs
    # the first epoch of each kind warms up
    anew, kept = times.seconds["anew"][1:], times.seconds["kept"][1:]
    return {
        "device": device_name(device),
        "scans": scans,
        "epochs": epochs,
        "num_views": num_views,
        "measured": {"anew": len(anew), "kept": len(kept)},
        "anew_s": median(anew),
        "kept_s": median(kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    output = parser.parse_args().output

    result = measure()
    epochs, views = result["epochs"], result["num_views"]
    view = result["anew_s"] - result["kept_s"]
    runs = {"anew": epochs * result["anew_s"], "kept": views * view + epochs * result["kept_s"]}
    ratio, run_ratio = result["anew_s"] / result["kept_s"], runs["anew"] / runs["kept"]
    print(f"\n{result['scans']} scans of 16 slices 3x128x128, float32, {result['device']}\n")
    print(f"{'':32}{'s/epoch':>10}{'measured':>10}{f's/{epochs} epochs':>14}")
    for key, name in (("anew", "embedded anew in every epoch"), ("kept", f"computed once, {views} views")):
        print(f"{name:32}{result[key + '_s']:10.3f}{result['measured'][key]:10d}{runs[key]:14.1f}")

    result["goals"] = {"epoch_ratio": ratio, "run_ratio": run_ratio, "met": ratio >= GOAL}
    print(
        f"\nThe runs are extrapolated from the epochs measured; {views} views take {views * view:.1f} s of the second."
    )
    print(f"epoch: {ratio:.0f} x faster; goal >= {GOAL:.0f} x: {'met' if ratio >= GOAL else 'NOT met'}")
    print(f"run of {epochs} epochs: {run_ratio:.1f} x faster (at most epochs / views = {epochs / views:.1f} x)")
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
