"""What happens beside the training loop, as MONAI/ignite handlers: resuming, averaging, records and progress."""

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Workflow
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, DistributedSampler

from scripts.errors import InputError
from scripts.files.table import read_table
from scripts.files.tensors import read_tensors
from scripts.files.writing import write_table
from scripts.model.networks import not_finite, save_weights, write_tensors
from scripts.runs.bars import Bar
from scripts.runs.earlier import keep_earlier
from scripts.training.augment import BatchAugment


class EpochSeed:
    """Decide every epoch's random numbers by seed, epoch and rank alone, so that a resumed run repeats them.

    Args:
        seed: of the run.
        augment: whose generator is seeded anew.
        datasets: told the epoch by `set_epoch`.
    """

    def __init__(self, seed: int, augment: BatchAugment | None = None, datasets: Sequence[Any] = ()) -> None:
        self.seed = seed
        self.augment = augment
        self.datasets = datasets

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)

    def start(self, engine: Engine) -> None:
        if self.augment is not None:
            number = (self.seed * 1_000_003 + engine.state.epoch) * 1_009 + idist.get_rank()
            self.augment.generator.manual_seed(number)
        for dataset in self.datasets:
            dataset.set_epoch(engine.state.epoch)


class StochasticWeightAveraging:
    """SWA (Izmailov et al., UAI 2018): the equal average of the weights after each epoch from `start_epoch` on.

    When training ends, the averaged network's batch-norm statistics are recomputed over one epoch of training batches,
    always the last epoch's, so that a run which is resumed after its end writes the same file.

    Args:
        network: the network in training.
        averaged: torch's AveragedModel of it.
        start_epoch: epochs before the first one that counts.
        loader: training batches.
        prepare_batch: what the trainer does with a batch; its first result is the network's input.
        epoch_seed: the trainer's EpochSeed.
        device: of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        averaged: AveragedModel,
        start_epoch: int,
        loader: DataLoader,
        prepare_batch: Callable,
        epoch_seed: EpochSeed,
        device: torch.device,
    ) -> None:
        self.network = network
        self.averaged = averaged
        self.start_epoch = start_epoch
        self.loader = loader
        self.prepare_batch = prepare_batch
        self.epoch_seed = epoch_seed
        self.device = device

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.average)
        engine.add_event_handler(Events.COMPLETED, self.recompute_statistics)

    def average(self, engine: Engine) -> None:
        if engine.state.epoch > self.start_epoch:
            self.averaged.update_parameters(self.network)

    def recompute_statistics(self, engine: Engine) -> None:
        self.epoch_seed.start(engine)
        cast(DistributedSampler, self.loader.sampler).set_epoch(engine.state.epoch)
        batches = Bar(
            self.loader, "batch norm of the averaged network", unit="batch", leave=False, delay=SHORT_EPOCH_S,
            disable=idist.get_rank() > 0,
        )  # fmt: skip
        update_bn((self.prepare_batch(batch, self.device)[0] for batch in batches), self.averaged)


#: A mean cross-entropy beyond it says that the truth got probabilities of e-100: nothing is learned from there.
LARGEST_LOSS = 100.0


class StopDiverging:
    """End a training that has diverged, before its weights or a checkpoint of them are written.

    Comes before the handlers that write.

    Args:
        network: in training.
        key: the learning rate's, for the message.
        unit: the loss that one nat of every cross-entropy makes.

    Raises:
        InputError: after an epoch, if its mean loss is no number or far beyond what any guess costs, or a weight is
            not finite.
    """

    def __init__(self, network: nn.Module, key: str, unit: float = 1.0) -> None:
        self.network = network
        self.key = key
        self.unit = unit
        self.losses: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check)

    def add(self, engine: Engine) -> None:
        self.losses.append(loss_of(engine).detach())

    def check(self, engine: Engine) -> None:
        loss, self.losses = torch.stack(self.losses).mean().item(), []
        why = None if loss <= LARGEST_LOSS * self.unit else f"the mean loss is {loss:.3g}"
        if why is None and (name := not_finite(self.network.state_dict())):
            why = f"{name!r} holds NaN or infinite values"
        if why is not None:
            raise InputError(
                f"{self.key}: training diverged in epoch {engine.state.epoch} ({why}), and its weights are not kept;"
                f" lower --{self.key}"
            )


class SaveWeights:
    """Write a network's weights when the engine has completed; the first process does, the others wait. Other weights
    that they replace are kept, see `keep_earlier`.

    Args:
        network: whose state dict is written.
        path: the file.
        dtype: of floating point values in the file.
    """

    def __init__(self, network: nn.Module, path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
        self.network = network
        self.path = path
        self.dtype = dtype

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            save_weights(self.network, self.path, self.dtype, lambda part: keep_earlier(self.path, part))
        idist.barrier()  # the other processes may read the file next


def loss_of(engine: Engine) -> torch.Tensor:
    """The loss of the batch that MONAI's trainer has just done."""
    return cast(Mapping[str, torch.Tensor], engine.state.output)["loss"]


def key_metric(engine: Engine) -> float | None:
    """The measure that MONAI's engine was told to watch, once it is there."""
    return engine.state.metrics.get(cast(Workflow, engine).state.key_metric_name)


class Resume:
    """Write everything that training needs to go on, after every epoch; take it up again when a run starts.

    Must come last among an engine's handlers, so that it saves what the others did in the epoch.

    Args:
        path: the checkpoint.
        objects: name -> object with `state_dict` and `load_state_dict`.
        settings: name -> plain value of every setting that decides the numbers, by config key where one holds it. A
            checkpoint with others is refused, see `check_resumable`.
    """

    def __init__(self, path: str | os.PathLike, objects: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.objects = objects
        self.settings = flatten(settings)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        if not os.path.lexists(self.path):
            return
        checkpoint = _read_checkpoint(self.path)
        _check_same(self.path, checkpoint["settings"], dict.fromkeys(checkpoint["settings"]) | self.settings)
        for name, item in self.objects.items():
            item.load_state_dict(checkpoint[name])
        engine.state.epoch = checkpoint["epoch"]
        engine.state.iteration = checkpoint["epoch"] * engine.state.epoch_length

    @idist.one_rank_only()
    def save(self, engine: Engine) -> None:
        checkpoint = {name: item.state_dict() for name, item in self.objects.items()}
        checkpoint |= {"epoch": engine.state.epoch, "settings": self.settings}
        write_tensors(self.path, checkpoint)


def check_resumable(path: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Refuse a run that `Resume` would refuse, before scans are read for it.

    Args:
        path: the checkpoint; where there is none, a run begins.
        settings: those of Resume's that are known without reading scans.

    Raises:
        InputError: no checkpoint of this bundle, or one of a run with other settings; it names the key.
    """
    if os.path.lexists(path):
        _check_same(path, _read_checkpoint(path)["settings"], flatten(settings))


def _read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    checkpoint = read_tensors(path, "delete it to start again")
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("settings"), Mapping):
        raise InputError(f"{path}: not a checkpoint of this bundle; delete it to start again")
    for name in ("network", "averaged"):
        if bad := not_finite(checkpoint.get(name) or {}):
            raise InputError(
                f"{path}: {bad!r} holds NaN or infinite values, since its training diverged; delete it and begin again"
                " with a lower learning rate"
            )
    return dict(checkpoint)


#: Names in Resume's settings that are no keys, and what they are.
_NO_KEYS = {
    "code": "the bundle's code",
    "template": "the template",
    "latents": "the table of latents",
    "subjects": "the training scans",
    "embedding": "the embedding of stage 1",
}


def _check_same(path: str | os.PathLike, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose settings are others."""
    for key, value in wanted.items():
        if saved.get(key) == value:
            continue
        anew = "take another --output_dir and --ckpt_dir, or delete the file to begin anew"
        if key in _NO_KEYS or " " in key:
            raise InputError(f"{path}: {_NO_KEYS.get(key, key)} changed since that run began; {anew}")
        raise InputError(
            f"{path}: is of a run with --{key} {saved.get(key)!r:.80}, not {value!r:.80}; give the first to go on,"
            f" {anew}"
        )


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level, inner names kept."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value) if isinstance(value, Mapping) else {key: value}
    return flat


class LearningCurve:
    """Keep a CSV with one row an epoch: learning rate, mean training loss, training AUC, held-out AUC where measured.

    Args:
        path: the CSV.
        optimizer: whose learning rate is recorded.
        evaluator: the engine of the held-out data.
    """

    COLUMNS = ("epoch", "learning_rate", "train_loss", "train_auc", "val_auc")

    def __init__(self, path: str | os.PathLike, optimizer: torch.optim.Optimizer, evaluator: Engine) -> None:
        self.path = Path(path)
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.losses: list[Tensor] = []
        self.measured = False
        evaluator.add_event_handler(Events.COMPLETED, self.mark)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def mark(self, evaluator: Engine) -> None:
        self.measured = True

    def start(self, engine: Engine) -> None:
        self.losses = []
        self.measured = False
        self.learning_rate = self.optimizer.param_groups[0]["lr"]

    def add(self, engine: Engine) -> None:
        self.losses.append(loss_of(engine).detach())

    @idist.one_rank_only()
    def write(self, engine: Engine) -> None:
        rows = [row for row in self.read() if int(row["epoch"]) < engine.state.epoch]
        train_auc = key_metric(engine)
        val_auc = key_metric(self.evaluator) if self.measured else None
        rows.append(
            {
                "epoch": str(engine.state.epoch),
                "learning_rate": f"{self.learning_rate:.6g}",
                "train_loss": f"{torch.stack(self.losses).mean().item():.6f}",
                "train_auc": f"{train_auc:.6f}",
                "val_auc": "" if val_auc is None else f"{val_auc:.6f}",
            }
        )
        write_table(self.path, self.COLUMNS, rows)

    def read(self) -> list[dict[str, str]]:
        """Rows written so far."""
        if not self.path.exists():
            return []
        return read_table(self.path, self.COLUMNS, unique=["epoch"], cure="delete it to start the curve again")


#: An epoch that takes less, s, has no bar of its own.
SHORT_EPOCH_S = 2.0


class Progress:
    """A progress bar over epochs with the latest loss and AUCs, and within a long epoch one over its samples, on the
    first process alone.

    Args:
        description: what is going on.
        evaluator: the engine of the held-out data, if any is held out.
        unit: what a sample is.
    """

    def __init__(self, description: str, evaluator: Engine | None = None, unit: str = "image") -> None:
        self.description = description
        self.evaluator = evaluator
        self.unit = unit
        self.bar: Bar | None = None
        self.within: Bar | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.look)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin_within, "training")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.go_on_within)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.end_within)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.EPOCH_STARTED, self.begin_within, "held-out fold")
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self.go_on_within)
            self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.end_within)

    def begin_within(self, engine: Engine, what: str) -> None:
        self.end_within(engine)
        if idist.get_rank() == 0:
            loader = cast(DataLoader, engine.state.dataloader)
            shown = f"epoch {engine.state.epoch}, {what}" if what == "training" else what
            self.within = Bar(
                total=len(cast(Sized, loader.sampler)), desc=shown, unit=self.unit, leave=False, delay=SHORT_EPOCH_S
            )

    def go_on_within(self, engine: Engine) -> None:
        if self.within is not None:
            left = cast(int, self.within.total) - self.within.n
            drawn = self.within.update(min(cast(int, cast(DataLoader, engine.state.dataloader).batch_size), left))
            if drawn and isinstance(engine.state.output, Mapping) and "loss" in engine.state.output:
                self.within.set_postfix(loss=f"{loss_of(engine).item():.3f}")  # waits for a GPU, so seldom

    def end_within(self, engine: Engine) -> None:
        if self.within is not None:
            self.within.close()
            self.within = None

    def start(self, engine: Engine) -> None:
        if self.bar is None and idist.get_rank() == 0:
            self.bar = Bar(
                total=engine.state.max_epochs, initial=engine.state.epoch - 1, desc=self.description, unit="epoch"
            )

    def look(self, engine: Engine) -> None:
        self.loss = loss_of(engine)

    def update(self, engine: Engine) -> None:
        if self.bar is not None:
            shown = {"loss": f"{self.loss.item():.3f}"}
            shown |= {name: f"{value:.3f}" for name, value in engine.state.metrics.items()}
            if self.evaluator is not None:
                shown |= {name: f"{value:.3f}" for name, value in self.evaluator.state.metrics.items()}
            self.bar.set_postfix(shown)
            self.bar.update()

    def close(self, engine: Engine) -> None:
        self.end_within(engine)
        if self.bar is not None:
            self.bar.close()


class OutputForTrackers:
    """Hand a batch's output on as a list, which MONAI's trackers expect (`--tracking mlflow`). The last of ours.

    With `decollate: false`, `from_engine(["loss"], first=True)` would find a dict and give a tuple.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.wrap)

    def wrap(self, engine: Engine) -> None:
        engine.state.output = [engine.state.output]  # type: ignore[assignment]  # ignite's stub says a number
