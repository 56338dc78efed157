"""Cross-validation by subject: which folds there are, how each is trained and tested, and how a run goes on.

A fold is `train.yaml` with `evaluate.yaml` and `cross_validation_fold.yaml` on top, for one input region, repeat and
held-out fold. It trains stage 1 once, which serves ResNet, ResNetSWA and Q-Net. It is finished when its
`evaluation.json` is there.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from tqdm import tqdm

from scripts.cohort import labelled_scans, split
from scripts.engines import Engine
from scripts.errors import InputError, input_error_in
from scripts.provenance import (
    bundle_version,
    check_output_dir,
    cohort_fingerprint,
    write_aside,
    write_json,
)

#: Keys of train.yaml and its overlays that the cross-validation itself sets for every fold.
MANAGED = ("bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "device", "region", "fold", "repeat", "cache_dir")
#: Keys that do not change the numbers; a run may go on with others.
HARMLESS = (*MANAGED, "imports", "num_workers", "evaluation_dir", "evidence_dir", "evidence_scans", "figures_dir")
#: Bytes of checkpoints and weights that a fold holds while it runs.
FOLD_BYTES = 500e6


@dataclass(frozen=True)
class Fold:
    """One training and test: which input, which repeat (its seed is the run's plus `repeat`), which held-out fold."""

    region: str
    repeat: int
    fold: int

    @property
    def name(self) -> str:
        return f"{self.region}/repeat-{self.repeat}/fold-{self.fold:02d}"


@dataclass(frozen=True)
class Setup:
    """What all folds of a run share.

    Attributes:
        config_files: train.yaml, the user's overlays, evaluate.yaml and cross_validation_fold.yaml.
        settings: values of keys for every fold.
        output_dir: of the cross-validation.
        seed: of repeat 0.
        keep_weights: whether a finished fold keeps its weights.
    """

    config_files: tuple[str, ...]
    settings: Mapping[str, Any]
    output_dir: str
    seed: int
    keep_weights: bool

    def folder(self, fold: Fold) -> Path:
        return Path(self.output_dir) / "folds" / fold.name

    def finished(self, fold: Fold) -> bool:
        return (self.folder(fold) / "evaluation.json").exists()

    def keys(self, fold: Fold, device: str) -> dict[str, Any]:
        """Values of config keys for one fold."""
        folder = self.folder(fold)
        keys = {
            **self.settings,
            "region": fold.region,
            "repeat": fold.repeat,
            "fold": fold.fold,
            "seed": self.seed + fold.repeat,
            "device": f"$torch.device({device!r})",
            "output_dir": str(folder),
            "evaluation_dir": str(folder),
            "ckpt_dir": str(folder / "models"),
            "evidence_dir": str(Path(self.output_dir) / "evidence" / fold.region),
            "figures_dir": str(Path(self.output_dir) / "figures"),
        }
        # one evidence map a subject is enough to look at: that of the first repeat
        return keys | ({"evidence_scans": "$@val_datalist"} if fold.repeat == 0 else {})


def run_folds(
    bundle_root: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    cache_dir: str | os.PathLike,
    regions: Sequence[str],
    num_repeats: int,
    training: Mapping[str, Any],
    overlays: Sequence[str],
    engine: Engine,
    keep_weights: bool,
) -> None:
    """Train and test all folds that are not finished, then write the predictions table of all.

    Args:
        bundle_root: holds configs/.
        dataset_dir: the cohort.
        output_dir: gets `folds/`, `evidence/`, `cross_validation.json` (what this run is), and at the end
            `predictions.csv` with its record `predictions.json`.
        cache_dir: gets the preprocessed scans.
        regions: `full`, `cropped` or both.
        num_repeats: how many cross-validations, each with another seed.
        training: values of train.yaml's keys for every fold.
        overlays: config files between train.yaml and evaluate.yaml.
        engine: runs the folds, see `scripts.engines`.
        keep_weights: whether a finished fold keeps its weights.

    Raises:
        InputError: a key that does not exist, a cohort that cannot be split, an output folder of another run, or what a
            fold raises.
    """
    if num_repeats < 1 or not regions or set(regions) - {"full", "cropped"} or len(set(regions)) < len(regions):
        raise InputError(f"regions {regions}, num_repeats {num_repeats}: take full, cropped or both; repeats from 1 on")
    files = config_files(bundle_root, overlays)
    config = merged_config(files, training)
    refuse_stray_keys(sys.argv, config)
    setup = Setup(
        files,
        {**training, "bundle_root": str(bundle_root), "dataset_dir": str(dataset_dir), "cache_dir": str(cache_dir)},
        str(output_dir),
        config["seed"],
        keep_weights,
    )
    scans = labelled_scans(dataset_dir)
    for repeat in range(num_repeats):
        split(scans, config["num_folds"], 0, config["seed"] + repeat)
    check_same_run(Path(output_dir), config, dataset_dir)

    # repeat by repeat and both inputs side by side, so that a run that is stopped early can be looked at
    folds = [
        Fold(region, repeat, fold)
        for repeat in range(num_repeats)
        for fold in range(config["num_folds"])
        for region in regions
    ]
    open_folds = [fold for fold in folds if not setup.finished(fold)]
    if open_folds:
        check_output_dir(output_dir, FOLD_BYTES * (len(open_folds) if keep_weights else 4))
        for region in {fold.region: None for fold in open_folds}:
            fold_workflow(setup, Fold(region, 0, 0), "cpu", "fill_cache").run()
        fold_workflow(setup, open_folds[0], "cpu", "draw_augmentation").run()
        with Progress(setup, folds, config["image_epochs"] + config["scan_epochs"]) as progress:
            engine.run(run_fold, [(setup, fold) for fold in open_folds], progress.update)
    collect(setup, folds, dataset_dir)


def config_files(bundle_root: str | os.PathLike, overlays: Sequence[str]) -> tuple[str, ...]:
    """The config files of a fold. An overlay's path counts from here or from the bundle.

    Raises:
        InputError: an overlay that is in neither place.
    """
    root = Path(bundle_root)
    found = []
    for overlay in overlays:
        places = [place for place in (Path(overlay), root / overlay) if place.is_file()]
        if not places:
            raise InputError(f"{overlay}: no such overlay; give a path from here or from the bundle's folder")
        found.append(str(places[0]))
    own = [str(root / "configs" / f"{name}.yaml") for name in ("train", "evaluate", "cross_validation_fold")]
    return (own[0], *found, *own[1:])


def merged_config(files: Sequence[str], training: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a fold as it stands in the files, with the user's values in place.

    Raises:
        InputError: `training` has a key that does not exist or that the cross-validation sets, or a count in it is no
            whole number.
    """
    parser = ConfigParser(ConfigParser.load_config_files(list(files)))
    for key in training:
        if key not in parser.config and key.replace("::", "#").split("#")[0] not in parser.config:
            raise InputError(f"training has the key {key!r}, which train.yaml does not know; correct --training#{key}")
        if key in MANAGED:
            raise InputError(f"training sets {key!r}, which the cross-validation sets for each fold; leave it out")
    parser.update(dict(training))
    for key in ("num_folds", "seed", "image_epochs", "scan_epochs"):
        if not isinstance(parser.config[key], int):
            raise InputError(f"{key} is {parser.config[key]!r}; give a whole number as --training#{key}")
    return parser.config


def refuse_stray_keys(arguments: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse a training key on the command line that lacks `training#`: nothing would read it.

    Args:
        arguments: of the command line.
        config: a fold's config.

    Raises:
        InputError: it names the key and how to give it.
    """
    own = {"bundle_root", "dataset_dir", "output_dir", "cache_dir", "imports", "training", "cross_validation"}
    for argument in arguments:
        key = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and key.replace("::", "#").split("#")[0] in config.keys() - own:
            raise InputError(f"--{key} is a key of training; write --training#{key}")


def check_same_run(output_dir: Path, config: Mapping[str, Any], dataset_dir: str | os.PathLike) -> None:
    """Write down what this run is; refuse an output folder that holds another run's folds.

    Raises:
        InputError: names the first setting that differs.
    """
    run = {
        "version": bundle_version(),
        "cohort": cohort_fingerprint(dataset_dir)["sha256"],
        "training": {key: value for key, value in sorted(config.items()) if key not in HARMLESS},
    }
    path = output_dir / "cross_validation.json"
    if path.exists():
        try:
            begun = json.loads(path.read_text())
            before = {**begun["training"], "bundle version": begun["version"], "cohort": begun["cohort"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the record of a cross-validation; use another --output_dir") from error
        now = {**run["training"], "bundle version": run["version"], "cohort": run["cohort"]}
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise InputError(
                    f"{output_dir}: holds a cross-validation with {key} {before.get(key)!r:.80}, not"
                    f" {now.get(key)!r:.80}; go on with its settings, or use another --output_dir"
                )
    else:
        check_output_dir(output_dir, FOLD_BYTES)
        write_json(path, run)


def fold_workflow(setup: Setup, fold: Fold, device: str, run_id: str) -> ConfigWorkflow:
    """The workflow of one fold, ready to run."""
    workflow = ConfigWorkflow(
        config_file=list(setup.config_files),
        logging_file=False,
        run_id=run_id,
        **setup.keys(fold, device),
    )
    workflow.initialize()
    return workflow


def run_fold(job: tuple[Setup, Fold], device: str) -> None:
    """Train and test one fold; what it prints goes into `log.txt` in its folder.

    Raises:
        InputError: as training and evaluation do, with the fold's name in front.
    """
    setup, fold = job
    folder = setup.folder(fold)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with printing_to(folder / "log.txt"):
            fold_workflow(setup, fold, device, "train_and_test").run()
    except Exception as error:
        bad_input = input_error_in(error)
        if bad_input is None:
            raise
        raise InputError(f"{fold.name}: {bad_input}") from error
    for checkpoint in folder.glob("*_checkpoint.pt"):
        checkpoint.unlink()
    if not setup.keep_weights:
        shutil.rmtree(folder / "models")


@contextlib.contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Standard output and errors of this process go to a file meanwhile."""
    with path.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


class Progress:
    """One bar for all folds, in epochs, read from the learning curves that they write."""

    def __init__(self, setup: Setup, folds: Sequence[Fold], epochs: int) -> None:
        self.setup = setup
        self.folds = folds
        self.epochs = epochs

    def __enter__(self) -> "Progress":
        before = sum(self.epochs_of(fold) for fold in self.folds)
        self.bar = tqdm(total=self.epochs * len(self.folds), initial=before, desc="training", unit="epoch")
        self.update()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def epochs_of(self, fold: Fold) -> int:
        if self.setup.finished(fold):
            return self.epochs
        curves = [self.setup.folder(fold) / f"{stage}_level.csv" for stage in ("image", "scan")]
        return sum(max(0, len(path.read_text().splitlines()) - 1) for path in curves if path.exists())

    def update(self) -> None:
        """Look at the learning curves and move the bar."""
        self.bar.n = sum(self.epochs_of(fold) for fold in self.folds)
        done = sum(self.setup.finished(fold) for fold in self.folds)
        self.bar.set_postfix_str(f"{done} of {len(self.folds)} folds done")


def collect(setup: Setup, folds: Sequence[Fold], dataset_dir: str | os.PathLike) -> None:
    """Join the folds' predictions into one table, `predictions.csv`, and their records into `predictions.json`.

    Raises:
        InputError: two folds were made with different settings, software or data.
    """
    output_dir = Path(setup.output_dir)
    records = {fold: json.loads((setup.folder(fold) / "evaluation.json").read_text()) for fold in folds}
    first_fold, first = next(iter(records.items()))
    may_differ = {*HARMLESS, "seed", "spatial_size", "embedding_weights", "weights", "models"}
    for fold, record in records.items():
        for part, same in (("settings", first["settings"]), ("software", first["software"]), ("input", first["input"])):
            for key in {**same, **record[part]}:
                if key not in may_differ and same.get(key) != record[part].get(key):
                    raise InputError(
                        f"{setup.folder(fold)}: was made with {key} {record[part].get(key)!r}, {first_fold.name} with"
                        f" {same.get(key)!r}; delete the folds of one of them and run again"
                    )
    lines: list[str] = []
    for fold in folds:
        table = (setup.folder(fold) / "predictions.csv").read_text().splitlines()
        lines += table if not lines else table[1:]
    write_aside(output_dir / "predictions.csv", lambda part: Path(part).write_text("\n".join(lines) + "\n"))
    write_json(
        output_dir / "predictions.json",
        {
            "software": first["software"],
            "settings": {k: v for k, v in first["settings"].items() if k not in may_differ},
            "seed": setup.seed,
            "input": first["input"],
            "folds": [{**asdict(fold), "weights": record["weights"]} for fold, record in records.items()],
        },
    )
    print(f"\n{output_dir / 'predictions.csv'}: {len(lines) - 1} predictions of {len(folds)} folds")


def analyse(bundle_root: str | os.PathLike, output_dir: str | os.PathLike, keys: Mapping[str, Any]) -> None:
    """Run `analyse.yaml` on the predictions of a cross-validation.

    Args:
        bundle_root: holds configs/.
        output_dir: of the cross-validation.
        keys: values of analyse.yaml's keys.

    Raises:
        InputError: a key that analyse.yaml does not have, or see `scripts.analysis.analyse`.
    """
    path = str(Path(bundle_root) / "configs" / "analyse.yaml")
    unknown = keys.keys() - ConfigParser.load_config_file(path).keys()
    if unknown:
        key = sorted(unknown)[0]
        raise InputError(f"analysis has the key {key!r}, which analyse.yaml does not know; correct --analysis#{key}")
    folder = Path(output_dir)
    given = {"predictions": str(folder / "predictions.csv"), "output_dir": str(folder), **keys}
    workflow = ConfigWorkflow(config_file=path, logging_file=False, bundle_root=str(bundle_root), **given)
    workflow.initialize()
    workflow.run()
