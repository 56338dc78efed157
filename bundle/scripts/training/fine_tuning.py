"""Studies that were labelled in MONAI Label, as scans for stage 2 (see fine_tuning.yaml)."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.evaluation.unseen import trained_by
from scripts.files.json_file import read_json
from scripts.files.writing import sha256, write_json
from scripts.maps.bids import GROUPS, checked_box
from scripts.maps.copies import check_no_copies
from scripts.maps.scan import Box, LabelledScan, items
from scripts.model.trust import set_aside_former
from scripts.provenance import read_record, record
from scripts.training.cache import ScansInMemory


class LabelledStudies(ScansInMemory):
    """The scans of labelled studies, preprocessed and kept in memory.

    Args:
        data: see `labelled_studies`; the scans that it gives are `scans`.
        keywords: of `ScansInMemory`.
    """

    def __init__(self, data: Sequence[Mapping[str, str]], **keywords: Any) -> None:
        self.scans = labelled_studies(data)
        super().__init__(items(self.scans), **keywords)


def labelled_studies(studies: Sequence[Mapping[str, str]]) -> list[LabelledScan]:
    """Turn the server's list into scans with labels.

    Args:
        studies: of each `image`, a 4D NIfTI (last axis QSM, R2*, T1W), and `label`, a JSON file
            `{"group": "HH"}` or `"HC"`, with `"box"` beside it where the scan is not cut to the basal ganglia.

    Returns:
        the scans, in the order of their names.

    Raises:
        InputError: a list or a label file of another form, a study that is listed twice, whether by its name or by its
            voxels, or studies of fewer than two groups.
    """
    _check_form(studies)
    scans: list[LabelledScan] = []
    for study in sorted(studies, key=lambda study: os.fspath(study["image"])):
        name = Path(study["image"]).name.removesuffix(".gz").removesuffix(".nii")
        label, box = read_label(study["label"])
        if any(scan.scan_id == name for scan in scans):
            raise InputError(f"{study['image']}: a study of this name is listed twice; list each once, or rename one")
        scans.append(
            LabelledScan(participant_id=name, scan_id=name, maps=(os.fspath(study["image"]),), box=box, label=label)
        )
    if {scan.label for scan in scans} != set(GROUPS.values()):
        raise InputError(
            f"{len(scans)} labelled studies do not hold both {' and '.join(GROUPS)}; label studies of both groups"
        )
    check_no_copies(scans)
    return scans


def _check_form(studies: Any) -> None:
    """Refuse what is no list of studies.

    Raises:
        InputError: says which entry.
    """
    due = "give a list of {'image': 'STUDY.nii.gz', 'label': 'STUDY.json'}"
    if isinstance(studies, (str, bytes, Mapping)) or not isinstance(studies, Sequence):
        raise InputError(f"train#dataset#data: is {type(studies).__name__}, no list of labelled studies; {due}")
    for number, study in enumerate(studies, 1):
        for key in ("image", "label"):
            said = study.get(key) if isinstance(study, Mapping) else None
            if not isinstance(said, (str, os.PathLike)) or not os.fspath(said):
                raise InputError(f"train#dataset#data: study {number} has no path as its {key}; {due}")


def read_label(path: str | os.PathLike) -> tuple[int, Box | None]:
    """The label (0 HC, 1 HH) and, where it is given, the box in a study's label file.

    Raises:
        InputError: another form.
    """
    content = read_json(path, "label", 'write {"group": "HH"} or {"group": "HC"}')
    return GROUPS[content["group"]], checked_box(content["box"], path) if "box" in content else None


def write_fine_tuning_record(
    weights: str | os.PathLike, start_sha256: str, scans: Sequence[LabelledScan], resolved: Mapping[str, Any]
) -> None:
    """Write the record beside fine-tuned weights: which weights they started from, and on how many studies.

    Args:
        weights: the new weights; their record has the same name and ends in `.json`.
        start_sha256: of the weights at the start.
        scans: from `labelled_studies`.
        resolved: see `scripts.provenance.settings`.
    """
    path = Path(weights)
    made = record([str(path)], path.parent, resolved)
    files = hashlib.sha256("".join(sha256(scan.maps[0]) for scan in scans).encode()).hexdigest()
    made["input"] = {
        "name": "studies labelled in MONAI Label",
        "studies": {name: sum(scan.label == index for scan in scans) for name, index in GROUPS.items()},
        "sha256": files,
    }
    before = read_record(path.with_suffix(".json")).get("trained_by", ())  # of what was fine-tuned
    made["trained_by"] = sorted({*before, *trained_by(scans)})
    write_json(path.with_suffix(".json"), {**made, "fine_tuned_from": start_sha256})
    set_aside_former(path)
