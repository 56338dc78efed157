"""Studies that were labelled in MONAI Label, as scans for stage 2 (see fine_tuning.yaml)."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import CacheDataset

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.writing import sha256, write_json
from scripts.maps.bids import GROUPS, checked_box
from scripts.provenance import record


class LabelledStudies(CacheDataset):
    """The scans of labelled studies, preprocessed and kept in memory.

    Args:
        data: see `labelled_studies`.
        keywords: of `CacheDataset`.
    """

    def __init__(self, data: Sequence[Mapping[str, str]], **keywords: Any) -> None:
        super().__init__(labelled_studies(data), **keywords)


def labelled_studies(items: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Turn the server's list into scans with labels.

    Args:
        items: one a study: `image`, a 4D NIfTI (last axis QSM, R2*, T1W), and `label`, a JSON file
            `{"group": "HH"}` or `"HC"`, with `"box"` beside it where the scan is not cut to the basal ganglia.

    Returns:
        scans as `scripts.maps.bids.labelled_scans` gives them, in the order of their names.

    Raises:
        InputError: a label file of another form, or studies of fewer than two groups.
    """
    scans = []
    for item in sorted(items, key=lambda item: item["image"]):
        name = Path(item["image"]).name.removesuffix(".gz").removesuffix(".nii")
        scans.append({"participant_id": name, "scan_id": name, "image": item["image"], **read_label(item["label"])})
    if {scan["label"] for scan in scans} != set(GROUPS.values()):
        raise InputError(
            f"{len(scans)} labelled studies do not hold both {' and '.join(GROUPS)}; label studies of both groups"
        )
    return scans


def read_label(path: str | os.PathLike) -> dict[str, Any]:
    """The `label` (0 HC, 1 HH) and, where it is given, the `box` in a study's label file.

    Raises:
        InputError: another form.
    """
    content = read_json(path, "label", 'write {"group": "HH"} or {"group": "HC"}')
    label = {"label": GROUPS[content["group"]]}
    if "box" in content:
        label["box"] = checked_box(content["box"], path)
    return label


def write_fine_tuning_record(
    weights: str | os.PathLike, start_sha256: str, scans: Sequence[Mapping[str, Any]], resolved: Mapping[str, Any]
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
    files = hashlib.sha256("".join(sha256(scan["image"]) for scan in scans).encode()).hexdigest()
    made["input"] = {
        "name": "studies labelled in MONAI Label",
        "studies": {name: sum(scan["label"] == index for scan in scans) for name, index in GROUPS.items()},
        "sha256": files,
    }
    write_json(path.with_suffix(".json"), {**made, "fine_tuned_from": start_sha256})
