"""Which folds a cross-validation has, where each lies, and what the config of each is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.evaluation.contributions import RECORD
from scripts.files.json_file import read_json
from scripts.settings.values import literal

#: Keys of train.yaml and its overlays that the cross-validation itself sets for every fold.
MANAGED = (
    "bundle_root",
    "dataset_dir",
    "ckpt_dir",
    "output_dir",
    "device",
    "region",
    "fold",
    "repeat",
    "cache_dir",
    "scans_table",
    "calibrate_on",
    "familiarity",
    "contributions_dir",
    "nuclei_dir",
    "bootstrap_samples",
)
#: Keys that experiment tracking adds.
TRACKED = ("experiment_name", "run_name", "tracking_uri", "save_execute_config", "is_not_rank0", "tensorboard_dir")
#: Keys of contributions.yaml that decide what is measured of a trained fold.
MEASURED_BY = ("draws", "neighbours")
#: Keys that do not change the numbers; a run may go on with others.
HARMLESS = (
    *(*MANAGED, *TRACKED, "imports", "num_workers", "largest_file"),
    *("evaluation_dir", "evidence_dir", "evidence_scans", "figures_dir"),
    *("calibration_method", "inner_folds", "flagged_share", "refuse_beyond", *MEASURED_BY),
)


#: Where a fold whose weights are kept notes what its training scans are like, until the scores of all folds are there.
FAMILIARITY = "familiarity.json"


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
        config_files: train.yaml, the user's overlays, contributions.yaml, evaluate.yaml and cross_validation_fold.yaml.
        settings: values of keys for every fold; with contributions also those of MEASURED_BY.
        output_dir: of the cross-validation.
        num_folds: of each repeat.
        seed: of repeat 0.
        keep_weights: whether a finished fold keeps its weights.
        tracking: MONAI's arguments for experiment tracking, if any.
        fold_by: `random` or `site`, see `scripts.maps.bids.split`.
        contributions: whether each fold measures what maps and nuclei contribute.
    """

    config_files: tuple[str, ...]
    settings: Mapping[str, Any]
    output_dir: str
    num_folds: int
    seed: int
    keep_weights: bool
    tracking: Mapping[str, Any] = field(default_factory=dict)
    fold_by: str = "random"
    contributions: bool = False

    def folder(self, fold: Fold) -> Path:
        return Path(self.output_dir) / "folds" / fold.name

    def finished(self, fold: Fold) -> bool:
        """Whether all that a fold makes is there; that it is of this run, `crossval.check_same_run` has made sure."""
        return all((self.folder(fold) / name).exists() for name in ("evaluation.json", "predictions.csv"))

    def contributions_dir(self, fold: Fold) -> Path:
        return self.folder(fold) / "contributions"

    def open_runs(self, fold: Fold) -> list[str]:
        """The run ids of a fold's config that are still to be run.

        Raises:
            InputError: contributions are wanted of a finished fold whose weights are gone, or were measured otherwise.
        """
        runs = [] if self.finished(fold) else ["train_and_test"]
        if not self.contributions:
            return runs
        record = self.contributions_dir(fold) / RECORD
        if record.exists():
            used = read_json(record, "evaluation", "delete its folder")["settings"]
            for key in MEASURED_BY:
                if used.get(key) != self.settings[key]:
                    raise InputError(
                        f"{record.parent}: was measured with {key} {used.get(key)}, not {self.settings[key]}; give"
                        f" --training#{key} {used.get(key)}, or another --output_dir"
                    )
            return runs
        if not runs and not (self.folder(fold) / "models" / "model.pt").exists():
            raise InputError(
                f"{self.folder(fold)}: is finished without contributions, and its weights were not kept; give"
                " --contributions false, or another --output_dir"
            )
        return [*runs, "measure_contributions"]

    def keys(self, fold: Fold, device: str) -> dict[str, Any]:
        """Values of config keys for one fold."""
        folder = self.folder(fold)
        keys = {
            **literal(self.settings),
            "region": fold.region,
            "repeat": fold.repeat,
            "fold": fold.fold,
            "seed": self.seed + fold.repeat,
            "device": f"$torch.device({device!r})",
            "output_dir": literal(folder),
            "evaluation_dir": literal(folder),
            "ckpt_dir": literal(folder / "models"),
            "contributions_dir": literal(self.contributions_dir(fold)),
            "evidence_dir": literal(Path(self.output_dir) / "evidence" / fold.region),
            "figures_dir": literal(Path(self.output_dir) / "figures"),
            "familiarity": literal(folder / FAMILIARITY) if self.keep_weights else None,
        }
        # one evidence map a subject is enough to look at: that of the first repeat
        return keys | ({"evidence_scans": "$@val_datalist"} if fold.repeat == 0 else {})
