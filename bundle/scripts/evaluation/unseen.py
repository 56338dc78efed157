"""That scans which test weights did not train them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.errors import InputError
from scripts.maps.bids import read_participants, split
from scripts.maps.scan import LabelledScan, Scan
from scripts.provenance import cohort_fingerprint, record_beside


def check_unseen(
    weights: str | os.PathLike,
    training_table: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    scans: Sequence[Scan],
    cohort: Sequence[LabelledScan],
) -> None:
    """Refuse to test weights on subjects that they were trained on, as far as their record and its table tell it.

    Args:
        weights: of Q-Net, or of several joined; the record lies beside it.
        training_table: `training.tsv` of the training's output folder; without it, and for joined weights, whose
            members each had their own, the record's seed and fold tell who trained them.
        dataset_dir: the cohort of `scans`; subjects of another cohort are others, whatever they are called.
        scans: what is to be tested.
        cohort: all scans of `dataset_dir`.

    Raises:
        InputError: some trained the weights.
    """
    record = record_beside(weights)
    if not record:
        return
    if record.get("input", {}).get("sha256") != cohort_fingerprint(dataset_dir)["sha256"]:
        return
    members = record.get("members", [])
    if os.path.lexists(training_table) and not members:
        trained = {*read_participants(training_table, ["participant_id"])}
    else:
        trained = trained_by(record, cohort)
    seen = sorted({scan.participant_id for scan in scans} & trained)
    if seen:
        others = f"what was held out (--fold {record.get('settings', {}).get('fold')}), or scans of another cohort"
        if members:
            others = "scans of another cohort; members of other seeds held out others of this one"
        raise InputError(
            f"{weights}: was trained on {len(seen)} of these subjects (first: {seen[0]}), who are no test of it; give"
            f" {others}"
        )


def trained_by(record: Mapping[str, Any], cohort: Sequence[LabelledScan]) -> set[str]:
    """Participants of a cohort who trained the weights of a record, or any member of joined ones; empty where the
    record does not say how it was split."""
    own = record.get("settings", {})
    found: set[str] = set()
    for settings in [{**own, **member} for member in record.get("members", [])] or [own]:
        if all(settings.get(key) is not None for key in ("num_folds", "fold", "seed")):
            how = settings["num_folds"], settings["fold"], settings["seed"], settings.get("fold_by", "random")
            training, _ = split(cohort, *how)
            found |= {scan.participant_id for scan in training}
    return found
