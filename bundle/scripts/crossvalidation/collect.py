"""Many folds' results as one predictions table, with the ROI baseline trained and tested on the same folds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.crossvalidation.folds import FAMILIARITY, HARMLESS, Fold, Setup
from scripts.crossvalidation.roi_baseline import age_and_sex, age_and_sex_rows, roi_baseline_rows, roi_features
from scripts.errors import InputError
from scripts.evaluation.contributions import SCAN_COLUMNS, SCANS
from scripts.evaluation.predictions import PREDICTION_COLUMNS
from scripts.evaluation.subgroups import SUBJECT_COLUMNS, SUBJECTS, sex_of
from scripts.files.json_file import read_json
from scripts.files.table import read_table
from scripts.files.writing import sha256, write_json, write_table
from scripts.maps.bids import read_participants, split
from scripts.maps.scan import LabelledScan
from scripts.model.calibration import LEAST_SUBJECTS
from scripts.model.trust import set_aside_former, write_calibration
from scripts.nuclei.current import check_current
from scripts.provenance import read_record, software
from scripts.runs.former import keep_changed
from scripts.training.calibrate import calibration_of, note_in_record, scores_of_rows


class Baselines(NamedTuple):
    """What is learned from tables alone, and so before any network is trained: a fault in a table is told then.

    Attributes:
        rows: of the predictions table.
        people: rows of `subjects.tsv`.
        nuclei_table_sha256: of the table that the ROI baseline is of; None where there is none.
    """

    rows: list[dict[str, Any]]
    people: list[dict[str, str]]
    nuclei_table_sha256: str | None


def baselines(
    setup: Setup,
    folds: Sequence[Fold],
    scans: Sequence[LabelledScan],
    nuclei_table: str | os.PathLike | None,
    roi_sides: str,
    roi_harmonise: str = "none",
) -> Baselines:
    """Train and test the rivals that see no image, on the same folds.

    Args:
        setup, folds: of the run.
        scans: from `scripts.maps.bids.labelled_scans`.
        nuclei_table: `nuclei.tsv` of configs/nuclei.yaml; where it exists, the ROI baseline joins the models; None:
            without.
        roi_sides, roi_harmonise: see `scripts.crossvalidation.roi_baseline`.

    Raises:
        InputError: a table is of other maps (`check_current`), or lacks or says what cannot be, see
            `scripts.crossvalidation.roi_baseline`.
    """
    rows, digest = [], None
    if nuclei_table is None:
        print("no ROI baseline: nuclei_table is null")
    elif Path(nuclei_table).exists():
        check_current(nuclei_table, scans)
        digest = sha256(nuclei_table)
        rows += roi_rows(setup, folds, scans, nuclei_table, roi_sides, roi_harmonise)
    else:
        print(f"no ROI baseline: there is no {nuclei_table}; run configs/nuclei.yaml on the cohort, then this again")
    people = people_of(Path(setup.settings["dataset_dir"]) / "participants.tsv", scans)
    rows += demographic_rows(setup, folds, scans, people)
    return Baselines(rows, people, digest)


def collect(setup: Setup, folds: Sequence[Fold], known: Baselines) -> None:
    """Join the folds' predictions into one table, `predictions.csv`, and their records into `predictions.json`. A table
    that somebody added rows to is kept, see `keep_changed`.

    Args:
        setup, folds: of the run.
        known: from `baselines`.

    Raises:
        InputError: two folds were made with different settings, software or data.
    """
    output_dir = Path(setup.output_dir)
    cure = "delete that fold's folder and run again"
    records = {fold: read_json(setup.folder(fold) / "evaluation.json", "evaluation", cure) for fold in folds}
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
    rows: list[dict[str, Any]] = []
    for fold in folds:
        rows += read_table(setup.folder(fold) / "predictions.csv", PREDICTION_COLUMNS, cure=cure)
    if setup.keep_weights:
        calibrate_folds(setup, folds, rows, first["settings"].get("calibration_method", "platt"))
    rows += known.rows
    if setup.contributions:
        join_contributions(setup, folds)
    table, joined = output_dir / "predictions.csv", output_dir / "predictions.json"
    keep_changed(table, read_record(joined).get("table_sha256"))
    write_table(table, PREDICTION_COLUMNS, rows)
    write_table(output_dir / SUBJECTS, SUBJECT_COLUMNS, known.people)
    write_json(
        joined,
        {
            "software": first["software"],
            "settings": {k: v for k, v in first["settings"].items() if k not in may_differ},
            "seed": setup.seed,
            "rows": len(rows),
            "table_sha256": sha256(table),
            "input": first["input"],
            "nuclei_table_sha256": known.nuclei_table_sha256,
            "folds": [{**asdict(fold), "weights": record["weights"]} for fold, record in records.items()],
        },
    )
    print(f"\n{table}: {len(rows)} predictions of {len(folds)} folds")


def join_contributions(setup: Setup, folds: Sequence[Fold]) -> None:
    """Join what hiding maps and nuclei did in each fold into one table, SCANS beside the predictions."""
    rows: list[dict[str, Any]] = []
    for fold in folds:
        rows += read_table(setup.contributions_dir(fold) / SCANS, SCAN_COLUMNS, cure="delete that fold and run again")
    write_table(Path(setup.output_dir) / SCANS, SCAN_COLUMNS, rows)


def calibrate_folds(setup: Setup, folds: Sequence[Fold], rows: Sequence[Mapping[str, Any]], method: str) -> None:
    """Calibrate the kept weights of each fold by the scores of the other folds of its repeat, never by its own.

    Args:
        setup, folds: of the run.
        rows: of the predictions table.
        method: of `scripts.model.calibration.METHODS`.
    """
    for fold in folds:
        weights = setup.folder(fold) / "models" / "model.pt"
        others = [
            row
            for row in rows
            if row["region"] == fold.region and int(row["repeat"]) == fold.repeat and int(row["fold"]) != fold.fold
        ]
        labels, scores, people = scores_of_rows(others)
        if not weights.is_file() or len(labels) < LEAST_SUBJECTS or np.bincount(labels, minlength=2).min() < 2:
            continue
        noted = setup.folder(fold) / FAMILIARITY
        known = read_json(noted, "familiarity") if noted.is_file() else {"familiarity": None}
        content = calibration_of(labels, scores, method, "the other folds of the cross-validation", people)
        if content is None:
            set_aside_former(weights)
            continue
        note_in_record(weights, write_calibration(weights, {**content, **known, "software": software()}))


def roi_rows(
    setup: Setup,
    folds: Sequence[Fold],
    scans: Sequence[LabelledScan],
    nuclei_table: str | os.PathLike,
    roi_sides: str,
    roi_harmonise: str = "none",
) -> list[dict[str, Any]]:
    """Scan-level rows of the ROI baseline for every fold, see `scripts.crossvalidation.roi_baseline`.

    The nuclei do not depend on the input region; each region gets the same rows, so that every table shows them.
    """
    features = roi_features(nuclei_table, Path(setup.settings["dataset_dir"]) / "participants.tsv", roi_sides)
    if any(scan["patterns"] is None for scan in features):
        print(f"no ROI-patterns: {nuclei_table} has not all slopes; run configs/nuclei.yaml again, then this")
    rows = []
    for fold in folds:
        seed = setup.seed + fold.repeat
        trained, held_out = sides(setup, fold, scans)
        rows += roi_baseline_rows(features, trained, held_out, asdict(fold), seed, roi_harmonise)
    return rows


def demographic_rows(
    setup: Setup, folds: Sequence[Fold], scans: Sequence[LabelledScan], people: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Scan-level rows of what age and sex alone tell, for every fold; none where not everybody's are known."""
    if any("n/a" in (person["age"], person["sex"]) for person in people):
        print("no baseline of age and sex: participants.tsv does not say both of everybody")
        return []
    features = age_and_sex(people)
    rows = []
    for fold in folds:
        rows += age_and_sex_rows(features, *sides(setup, fold, scans), asdict(fold))
    return rows


def sides(setup: Setup, fold: Fold, scans: Sequence[LabelledScan]) -> tuple[set[str], set[str]]:
    """Participants of a fold that are trained on, and those that are held out."""
    train, test = split(scans, setup.num_folds, fold.fold, setup.seed + fold.repeat, setup.fold_by)
    return {scan.participant_id for scan in train}, {scan.participant_id for scan in test}


def people_of(table: Path, scans: Sequence[LabelledScan]) -> list[dict[str, str]]:
    """SUBJECT_COLUMNS of every participant, `n/a` where participants.tsv says nothing."""
    said = read_participants(table, ["participant_id", "group"])
    found = []
    for name in sorted({scan.participant_id for scan in scans}):
        row = {key: said[name].get(key) or "n/a" for key in SUBJECT_COLUMNS}
        found.append({**row, "sex": sex_of(row["sex"])})
    return found
