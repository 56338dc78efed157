"""Cross-validation by subject: which folds there are, how each is trained and tested, and how a run goes on.

A fold is `train.yaml` with `contributions.yaml`, `evaluate.yaml` and `cross_validation_fold.yaml` on top, for one input
region, repeat and held-out fold. It trains stage 1 once, which serves ResNet, ResNetSWA and Q-Net. It is finished when
its `evaluation.json` is there, and, where contributions are wanted, their record.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from scripts.crossvalidation.collect import baselines, collect
from scripts.crossvalidation.folds import HARMLESS, MANAGED, MEASURED_BY, Fold, Setup
from scripts.errors import InputError, input_error_in, reason
from scripts.files.json_file import read_json
from scripts.files.writing import check_output_dir, write_json
from scripts.maps.bids import labelled_scans, split
from scripts.maps.scan import LabelledScan, Scan, of_scans
from scripts.model.image_level import check_image_model
from scripts.nuclei.table import NUCLEI_TABLE
from scripts.provenance import bundle_version
from scripts.runs.bars import Bar
from scripts.runs.engines import Engine
from scripts.runs.finished import code_of, settings_of
from scripts.runs.outputs import release
from scripts.settings.check import Known, is_ours, overlay_values
from scripts.settings.config_file import read_config
from scripts.settings.values import literal
from scripts.training.data import check_loss_weights

#: Folds that other code trained are not gone on with.
CODE = (
    "scripts.training.data",
    "scripts.training.handlers",
    "scripts.training.preprocessing",
    "scripts.localisation.localiser",
    "scripts.evaluation.predict",
)
#: Bytes of checkpoints and weights that a fold holds while it runs.
FOLD_BYTES = 500e6


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
    nuclei_table: str | os.PathLike | None,
    roi_sides: str,
    roi_harmonise: str = "none",
    tracking: Mapping[str, Any] | None = None,
    contributions: bool = False,
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
        overlays: config files between train.yaml and the others of a fold.
        engine: runs the folds, see `scripts.runs.engines`.
        keep_weights: whether a finished fold keeps its weights.
        nuclei_table, roi_sides: of the ROI baseline, see `scripts.crossvalidation.collect.baselines`.
        roi_harmonise: `none`; or `combat`: sites are taken out of the nuclei, learned from training folds.
        tracking: MONAI's arguments for experiment tracking; each fold is a run of its own.
        contributions: whether each fold measures what maps and nuclei contribute to Q-Net; label images of nuclei lie
            beside `nuclei_table`.

    Raises:
        InputError: a key that does not exist, a cohort that cannot be split or has two scans of one participant, a
            table that the baselines cannot use, an output folder of another run; or, once the others are done, what a
            fold raised.
    """
    if num_repeats < 1 or not regions or set(regions) - {"full", "cropped"} or len(set(regions)) < len(regions):
        raise InputError(f"regions {regions}, num_repeats {num_repeats}: take full, cropped or both; repeats from 1 on")
    files = config_files(bundle_root, overlays)
    training = checked_settings(files, training)
    config = merged_config(files, training)
    setup = Setup(
        files,
        {
            **{key: config[key] for key in MEASURED_BY},
            **training,
            "bundle_root": str(bundle_root),
            "dataset_dir": str(dataset_dir),
            "cache_dir": str(cache_dir),
            "scans_table": str(Path(output_dir) / "scans.tsv"),
            "nuclei_dir": str(Path(nuclei_table or Path(dataset_dir) / NUCLEI_TABLE).parent),
        },
        str(output_dir),
        config["num_folds"],
        config["seed"],
        keep_weights,
        dict(tracking or {}),
        config["fold_by"],
        contributions,
    )
    for region in regions:
        check_image_model(config["image_model"], config[f"{region}_size"], config["imagenet_weights"])
    check_loss_weights(config["scan_loss_weight"], config["image_loss_weight"])
    scans = labelled_scans(dataset_dir, config["resample_t1w"], config["maps"])
    check_one_scan_each(scans)
    for repeat in range(num_repeats):
        split(scans, config["num_folds"], 0, config["seed"] + repeat, config["fold_by"])
    if config["fold_by"] == "site" and num_repeats > 1:
        raise InputError("num_repeats: folds by site are the same in every repeat; give --num_repeats 1")
    if config["fold_by"] == "site" and roi_harmonise == "combat":
        raise InputError(
            "roi_harmonise: ComBat knows nothing of a site that is left out (fold_by site); give --roi_harmonise none"
        )
    # repeat by repeat and both inputs side by side, so that a run that is stopped early can be looked at
    folds = [
        Fold(region, repeat, fold)
        for repeat in range(num_repeats)
        for fold in range(config["num_folds"])
        for region in regions
    ]
    known = baselines(setup, folds, scans, nuclei_table, roi_sides, roi_harmonise)
    check_same_run(Path(output_dir), config, scans)
    open_folds = [fold for fold in folds if setup.open_runs(fold)]
    for fold in folds:
        if fold not in open_folds:
            tidy(setup, fold)  # a run may have been killed before it did
    if open_folds:
        check_output_dir(output_dir, FOLD_BYTES * (len(open_folds) if keep_weights else 4))
        for region in {fold.region: None for fold in open_folds}:
            fold_workflow(setup, Fold(region, 0, 0), "cpu", "fill_cache").run()
        fold_workflow(setup, open_folds[0], "cpu", "draw_augmentation").run()
        if "tracking_uri" in setup.tracking:  # folds that begin together would all want to make the store
            import mlflow

            mlflow.MlflowClient(setup.tracking["tracking_uri"]).search_experiments()
        jobs, failed = {fold.name: fold for fold in open_folds}, dict[str, Exception]()
        with Progress(setup, folds, config["image_epochs"] + config["scan_epochs"]) as progress:
            for name, outcome in engine.each(run_fold, setup, jobs, progress.update):
                if isinstance(outcome, Exception):
                    failed[name] = outcome if input_error_in(outcome) is None else of_fold(name, outcome)
                    Bar.write(f"{reason(failed[name])} (the other folds go on)")
        if failed:  # the same command trains them alone
            raise failed[min(failed)]
    collect(setup, folds, known)


def check_one_scan_each(scans: Sequence[Scan]) -> None:
    """Refuse a cohort in which a participant was scanned more than once: tables have one row a participant.

    Raises:
        InputError: names the first.
    """
    seen: dict[str, str] = {}
    for scan in scans:
        first = seen.setdefault(scan.participant_id, scan.scan_id)
        if first != scan.scan_id:
            raise InputError(
                f"{scan.participant_id}: has two scans, {first} and {scan.scan_id}; a cross-validation tests each"
                " participant once, so keep one"
            )


def config_files(bundle_root: str | os.PathLike, overlays: Sequence[str]) -> tuple[str, ...]:
    """The config files of a fold. An overlay's path counts from here or from the bundle.

    Raises:
        InputError: an overlay that is in neither place, or that is no config.
    """
    root = Path(bundle_root)
    found = []
    for overlay in overlays:
        places = [place for place in (Path(overlay), root / overlay) if place.is_file()]
        if not places:
            raise InputError(f"{overlay}: no such overlay; give a path from here or from the bundle's folder")
        read_config(places[0])
        found.append(str(places[0]))
    names = ("train", "contributions", "evaluate", "cross_validation_fold")
    own = [str(root / "configs" / f"{name}.yaml") for name in names]
    return (own[0], *found, *own[1:])


def checked_settings(files: Sequence[str], training: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that the user sets for every fold, in overlays and in `training`, read as what each key wants.

    Raises:
        InputError: a key that does not exist or that the cross-validation sets, or a value that it cannot have.
    """
    known = Known([path for path in files if is_ours(path)])
    parser = ConfigParser(ConfigParser.load_config_files(list(files)))
    values: dict[str, Any] = {}
    for path in files:
        if path not in known.files:
            values |= overlay_values(path, known, parser)
    every = Known(files)
    for key, value in every.single(training).items():
        if key in MANAGED:
            raise InputError(f"training sets {key!r}, which the cross-validation sets for each fold; leave it out")
        values[key] = every.checked(key.replace("::", "#").split("#"), value, f"--training#{key}")
    return values


def merged_config(files: Sequence[str], training: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a fold as it stands in the files, with the user's values in place."""
    parser = ConfigParser(ConfigParser.load_config_files(list(files)))
    parser.update(dict(training))
    return parser.get()


def check_same_run(output_dir: Path, config: Mapping[str, Any], scans: Sequence[LabelledScan]) -> None:
    """Write down what this run is; refuse an output folder that holds another run's folds.

    Raises:
        InputError: names the first setting, scan or code that differs.
    """
    run = {
        "version": bundle_version(),
        "code": code_of(*CODE),
        "input": of_scans(scans),
        "training": {key: settings_of(value) for key, value in sorted(config.items()) if key not in HARMLESS},
    }
    path = output_dir / "cross_validation.json"
    if path.exists():
        before = all_that_decides(read_json(path, "cross-validation", "use another --output_dir"))
        now = all_that_decides(json.loads(json.dumps(run)))
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise InputError(
                    f"{output_dir}: holds a cross-validation with {key} {before.get(key)!r:.80}, not"
                    f" {now.get(key)!r:.80}; go on with its settings, or use another --output_dir"
                )
    else:
        check_output_dir(output_dir, FOLD_BYTES)
        write_json(path, run)


def all_that_decides(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is, on one level, each entry named as a message names it."""
    return {**run["input"], **run["training"], "bundle version": run["version"], "code": run["code"]}


def fold_workflow(setup: Setup, fold: Fold, device: str, run_id: str) -> ConfigWorkflow:
    """The workflow of one fold, ready to run."""
    workflow = ConfigWorkflow(
        config_file=list(setup.config_files),
        logging_file=False,
        run_id=run_id,
        **setup.keys(fold, device),
        **({**literal(setup.tracking), "run_name": fold.name} if setup.tracking and run_id == "train_and_test" else {}),
    )
    workflow.initialize()
    return workflow


def run_fold(setup: Setup, fold: Fold, device: str) -> None:
    """Train and test one fold; what it prints goes into `log.txt` in its folder.

    Raises:
        InputError: as training and evaluation do, with the fold's name in front.
    """
    folder = setup.folder(fold)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with printing_to(folder / "log.txt"):
            for run_id in setup.open_runs(fold):
                fold_workflow(setup, fold, device, run_id).run()
    except Exception as error:
        if input_error_in(error) is None:
            raise
        raise of_fold(fold.name, error) from error
    finally:
        release(folder)
        release(folder / "models")
    tidy(setup, fold)


def of_fold(name: str, error: Exception) -> InputError:
    """Bad input, or the end of a process, with the fold's name in front."""
    said = str(input_error_in(error))
    return InputError(said if said.startswith(f"{name}: ") else f"{name}: {said}")


def tidy(setup: Setup, fold: Fold) -> None:
    """Remove what a finished fold needs no more: its checkpoints, and its weights unless they are kept."""
    folder = setup.folder(fold)
    used = [folder / f"{stage}_level_checkpoint.pt" for stage in ("image", "scan")]
    if not setup.keep_weights:
        stems = ("resnet", "resnet_swa", "model")
        used += [folder / "models" / f"{stem}{ending}" for stem in stems for ending in (".pt", ".json")]
    for path in used:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or somebody else's file is in it
        (folder / "models").rmdir()


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
        self.bar = Bar(total=self.epochs * len(self.folds), initial=before, desc="training", unit="epoch")
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


def analyse(bundle_root: str | os.PathLike, output_dir: str | os.PathLike, keys: Mapping[str, Any]) -> None:
    """Run `analyse.yaml` on the predictions of a cross-validation.

    Args:
        bundle_root: holds configs/.
        output_dir: of the cross-validation.
        keys: values of analyse.yaml's keys.

    Raises:
        InputError: a key that analyse.yaml does not have, or see `scripts.reporting.analysis.analyse`.
    """
    path = str(Path(bundle_root) / "configs" / "analyse.yaml")
    known = Known([path])
    keys = {key: known.checked([key], value, f"--analysis#{key}") for key, value in keys.items()}
    folder = Path(output_dir)
    given = {"bundle_root": str(bundle_root), "predictions": folder / "predictions.csv", "output_dir": folder, **keys}
    workflow = ConfigWorkflow(config_file=path, logging_file=False, **literal(given))
    workflow.initialize()
    workflow.run()
