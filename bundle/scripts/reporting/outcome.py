"""What a cross-validation left, read once: its record, its predictions by subject, and where its images lie."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.errors import InputError
from scripts.evaluation.predictions import NO_INPUT, REGIONS, at_level, ordered, read_predictions
from scripts.evaluation.statistics import THRESHOLD
from scripts.files.json_file import read_json
from scripts.maps.bids import GROUPS, find_scans
from scripts.maps.notes import cut_as_noted
from scripts.maps.scan import Scan, recorded_maps
from scripts.reporting.subjects import demographics

NAMES = {index: name for name, index in GROUPS.items()}


@dataclass(frozen=True)
class Outcome:
    """A finished cross-validation.

    Attributes:
        folder: its output folder.
        record: predictions.json.
        simulated: whether the cohort is.
        table: predictions.csv, from `scripts.evaluation.predictions.read_predictions`.
        groups: participant -> HH or HC.
        probabilities: participant x (region, model) -> probability of HH at scan level (of ResNet and ResNetSWA the
            share of slices that voted HH), mean over the repeats. Models that see no image stand in region NO_INPUT.
        people: from `scripts.reporting.subjects.demographics`, or None where participants.tsv lacks a column.
        why_not: the reason where `people` is None.
        scans: participant -> its scans, from `scripts.maps.bids.find_scans`, with the boxes that the folds cut by.
        oracle: scan-level AUC of whoever knows the truth that a cohort was simulated from; None where nobody does.
    """

    folder: Path
    record: Mapping[str, Any]
    simulated: bool
    table: pd.DataFrame
    groups: pd.Series
    probabilities: pd.DataFrame
    people: pd.DataFrame | None
    why_not: str
    scans: Mapping[str, Sequence[Scan]]
    oracle: float | None

    @property
    def main(self) -> tuple[str, str]:
        """The region and model that stand for the run: Q-Net (else the last model), cropped where there is cropped."""
        columns = list(self.probabilities.columns)
        return ([column for column in columns if column[1] == "Q-Net"] or columns)[-1]

    @property
    def predicted(self) -> pd.Series:
        """Participant -> the group that the main column gives."""
        return self.probabilities[self.main].ge(THRESHOLD).map({True: "HH", False: "HC"})

    def evidence(self, scan: Scan, kind: str = "evidence") -> dict[str, Path]:
        """Region -> evidence map of a scan, where there is one; `activation` is the paper's class activation map."""
        paths = {
            region: self.folder / "evidence" / region / scan.participant_id / f"{scan.scan_id}_{kind}.nii.gz"
            for region in REGIONS
        }
        return {region: path for region, path in paths.items() if path.exists()}

    def chosen(self, each: int) -> list[str]:
        """Subjects to look at, see `chosen`."""
        return chosen(self.groups, self.predicted, each)


def chosen(groups: pd.Series, predicted: pd.Series, each: int) -> list[str]:
    """Names to look at, `each` of every group: half of them wrongly classified, as far as there are, by name.

    Args:
        groups: name -> HH or HC, as it is.
        predicted: the same, as it was classified.
        each: of a group, 0 or more.
    """
    right, names = predicted == groups, []
    for group in ("HH", "HC"):
        good, bad = (groups.index[(groups == group) & (right == wanted)] for wanted in (True, False))
        wrong = max(min(each // 2, len(bad)), min(each - len(good), len(bad)), 0)
        names += sorted([*good[: each - wrong], *bad[:wrong]])
    return names


def read_outcome(output_dir: str | os.PathLike, dataset_dir: str | os.PathLike) -> Outcome:
    """Read what a cross-validation left, and find the images of its subjects.

    Raises:
        InputError: the predictions or their record are missing or damaged, a subject has no scan in `dataset_dir`, or
            see `cut_as_noted`.
    """
    folder = Path(output_dir)
    table = read_predictions(folder / "predictions.csv")
    cure = "restore it; it is written with predictions.csv"
    record = read_json(folder / "predictions.json", "predictions record", cure)
    simulated = record["input"]["simulated"]
    groups, probabilities = by_subject(table)
    scans: dict[str, list[Scan]] = {name: [] for name in groups.index}
    for scan in cut_as_noted(folder / "scans.tsv", find_scans(dataset_dir, maps=recorded_maps(record["settings"]))):
        if scan.participant_id in scans:
            scans[scan.participant_id].append(scan)
    absent = [name for name, found in scans.items() if not found]
    if absent:
        raise InputError(f"{dataset_dir}: no scan of {absent[0]!r}, which was predicted; give the evaluated cohort")
    people, why_not = None, ""
    try:
        people = demographics(dataset_dir, list(groups.index))
    except InputError as error:
        why_not = str(error)
    oracle = oracle_auc(dataset_dir) if simulated else None
    return Outcome(folder, record, simulated, table, groups, probabilities, people, why_not, scans, oracle)


def oracle_auc(dataset_dir: str | os.PathLike) -> float | None:
    """AUC of the oracle on a simulated cohort, as configs/simulate.yaml wrote it beside the cohort; None without.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(dataset_dir) / "derivatives" / "groundtruth" / "difficulty.json"
    if not path.exists():
        return None
    return float(read_json(path, "difficulty")["auc"]["oracle_cohort"])


def by_subject(table: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """`groups` and `probabilities` of an Outcome, from the predictions table."""
    scans = at_level(table, "scan")
    groups = scans.groupby("participant_id")["label"].first().map(NAMES)
    means = scans.groupby(["region", "model", "participant_id"])["probability_HH"].mean()
    columns = [(r, m) for r in (*REGIONS, NO_INPUT) for m in ordered(scans[scans["region"] == r]["model"])]
    probabilities = pd.concat({column: means[column] for column in columns}, axis=1)
    probabilities.columns = pd.MultiIndex.from_tuples(columns, names=["region", "model"])
    return groups, probabilities.reindex(groups.index)
