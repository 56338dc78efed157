"""That scans which test weights did not train them."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scripts.errors import InputError
from scripts.maps.bids import split
from scripts.maps.identity import known_as
from scripts.maps.scan import LabelledScan, Scan
from scripts.model.trust import read_calibration
from scripts.provenance import cohort_fingerprint, read_record, record_beside


def trained_by(scans: Sequence[Scan], *records: str | os.PathLike | None) -> list[str]:
    """Scans that train weights, for their record: these, and those that trained the weights that training begins with.

    Args:
        scans: of this training.
        records: of the weights that it begins with; None, or a file that is not there, names none.

    Returns:
        the first name of each (`scripts.maps.identity.known_as`), sorted.
    """
    before = (read_record(path).get("trained_by", ()) for path in records if path)
    return sorted({known_as(scan.maps[0])[0] for scan in scans}.union(*before))


def check_unseen(
    weights: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    scans: Sequence[Scan],
    cohort: Sequence[LabelledScan],
) -> None:
    """Refuse to test weights on subjects that they were trained on.

    The weights' record names the scans that trained them by their content (`trained_by`), so another name, folder or
    cohort hides none. Of weights from before 0.11.0, the split that their record tells says who trained them, in a
    cohort that is as it was; in another one, their calibration may know a scan.

    Args:
        weights: of Q-Net, or of several joined; the record lies beside it.
        dataset_dir: the cohort of `scans`.
        scans: what is to be tested.
        cohort: all scans of `dataset_dir`.

    Raises:
        InputError: some trained the weights.
    """
    record = record_beside(weights)
    if not record:
        return
    tested = {scan.participant_id for scan in scans}
    others = "scans that the training did not see"
    if (known := record.get("trained_by")) is not None:
        trained = _people(known, tested, [*scans, *cohort])
    elif record.get("input", {}).get("sha256") == cohort_fingerprint(dataset_dir)["sha256"]:
        trained = tested & split_of(record, cohort)
    else:
        calibration = read_calibration(weights)[0] or {}
        trained = _people({*calibration.get("seen", ())} - {*calibration.get("calibrated_by", ())}, tested, scans)
        others += "; or, if they only calibrated the weights, set model_calibration.json aside"
    if trained:
        if record.get("members"):
            others += " (members of other seeds held out others of this cohort)"
        elif (fold := record.get("settings", {}).get("fold")) is not None:
            seed = record["settings"].get("seed")
            others += (
                f" (it held out --fold {fold} of its cohort, dealt with --seed {seed}; evaluate with the same keys)"
            )
        raise InputError(
            f"{weights}: was trained on {len(trained)} of these subjects (first: {min(trained)}), who are no test of"
            f" it; give {others}"
        )


def _people(known: Collection[str], tested: Collection[str], scans: Sequence[Scan]) -> set[str]:
    """Those of the tested people of whom any scan is known."""
    names = {*known}
    asked = [scan for scan in scans if names and scan.participant_id in tested]
    return {scan.participant_id for scan in asked if not names.isdisjoint(known_as(scan.maps[0]))}


def split_of(record: Mapping[str, Any], cohort: Sequence[LabelledScan]) -> set[str]:
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
