"""That scans which test weights did not train them."""

import os
from collections.abc import Sequence

from scripts.errors import InputError
from scripts.maps.bids import read_participants
from scripts.maps.scan import Scan
from scripts.provenance import cohort_fingerprint, record_beside


def check_unseen(
    weights: str | os.PathLike, training_table: str | os.PathLike, dataset_dir: str | os.PathLike, scans: Sequence[Scan]
) -> None:
    """Refuse to test weights on subjects that they were trained on, as far as their record and its table tell it.

    Args:
        weights: of Q-Net; its record lies beside it.
        training_table: `training.tsv` of the training's output folder.
        dataset_dir: the cohort of `scans`; subjects of another cohort are others, whatever they are called.
        scans: what is to be tested.

    Raises:
        InputError: some trained the weights.
    """
    record = record_beside(weights)
    if not record or not os.path.lexists(training_table):
        return
    if record.get("input", {}).get("sha256") != cohort_fingerprint(dataset_dir)["sha256"]:
        return
    trained = read_participants(training_table, ["participant_id"]).keys()
    seen = sorted({scan.participant_id for scan in scans} & trained)
    if seen:
        fold = record.get("settings", {}).get("fold")
        raise InputError(
            f"{weights}: was trained on {len(seen)} of these subjects (first: {seen[0]}), who are no test of it; give"
            f" what was held out (--fold {fold}), or scans of another cohort"
        )
