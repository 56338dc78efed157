"""From a network input to what a user keeps: probability, class, per-slice probabilities and the evidence volume."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor
from torch.utils.data import IterableDataset
from tqdm import tqdm

from scripts.cohort import GROUPS
from scripts.errors import InputError, input_error_in
from scripts.networks import QNet
from scripts.provenance import write_aside, write_json, write_table

CLASS_NAMES = {index: name for name, index in GROUPS.items()}


class QNetInferer(Inferer):
    """Run Q-Net on preprocessed scans.

    Returns:
        `probability` of HH `[B]`, `slice_probability` `[B, S]` and `evidence` `[B, 1, H, W, S]` (see `QNet.explain`),
        as plain tensors, the form that MONAI Label and MONAI Deploy take apart scan by scan.
    """

    def __call__(self, inputs: Tensor, network: QNet, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        scan_logits, image_logits, evidence = network.explain(image)
        return {
            "probability": scan_logits.softmax(-1)[:, 1],
            "slice_probability": image_logits.softmax(-1)[..., 1],
            "evidence": evidence,
        }


class Resultd(MapTransform):
    """Split what `QNetInferer` gave for one scan: `result`, a plain dictionary, and `pred`, the evidence volume.

    The evidence takes over the image's metadata, so that `Invertd` can bring it back to the input's own grid.

    Args:
        keys: the inferer's output.
        image_key: the preprocessed image.
        threshold: probability of HH from which the class is HH.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", threshold: float = 0.5) -> None:
        super().__init__(keys)
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; give a probability, 0 to 1")
        self.image_key = image_key
        self.threshold = threshold

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image, output = data[self.image_key], data[key]
            probability = float(output["probability"])
            data["result"] = {
                "probability_HH": probability,
                "class": CLASS_NAMES[int(probability >= self.threshold)],
                "threshold": self.threshold,
                "slices": [
                    {"slice": index, "input_slice": position, "probability_HH": float(p)}
                    for index, (position, p) in enumerate(
                        zip(input_slices(image), output["slice_probability"], strict=True)
                    )
                ],
            }
            data[key] = MetaTensor(output["evidence"], meta=image.meta, applied_operations=image.applied_operations)
        return data


def input_slices(image: MetaTensor) -> list[int]:
    """For each of the network's slices, the nearest slice of the input file, counted from 0 along its slice axis."""
    size = image.shape[1:]
    centres = np.array([[(size[0] - 1) / 2, (size[1] - 1) / 2, s, 1] for s in range(size[2])]).T
    world = image.affine.numpy() @ centres
    stored = np.linalg.solve(np.asarray(image.meta["original_affine"], dtype=np.float64), world)[:3]
    axis = int(np.argmax(np.ptp(stored, axis=1)))
    return [int(v) for v in np.rint(stored[axis])]


class ScanStream(IterableDataset):
    """Preprocessed scans one after the other; a bad one is noted in `failures` and the others go on.

    Args:
        data: items from `scripts.cohort.find_scans`.
        transform: the preprocessing.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable) -> None:
        super().__init__()
        self.data = data
        self.transform = transform
        self.failures: dict[str, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.failures = {}
        for item in tqdm(self.data, desc="inference", unit="scan"):
            try:
                ready = self.transform(item)
            except Exception as error:
                bad_input = input_error_in(error)
                if bad_input is None:
                    raise
                self.failures[item["scan_id"]] = str(bad_input)
                continue
            yield {key: ready[key] for key in ("image", "participant_id", "scan_id")}


class ResultWriter:
    """Write each scan's JSON and evidence NIfTI as it is done, and one CSV for all at the end.

    Args:
        output_dir: gets `<scan_id>_prediction.json`, `<scan_id>_evidence.nii.gz` and `predictions.csv`.
        provenance: called once the engine has started; its result goes into every JSON.
    """

    COLUMNS = ("participant_id", "scan_id", "status", "slice", "input_slice", "probability_HH", "class", "message")

    def __init__(self, output_dir: str | os.PathLike, provenance: dict[str, Any]) -> None:
        self.output_dir = Path(output_dir)
        self.provenance = provenance
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)

    def write(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            result, evidence = output["result"], output["pred"]
            who = {"participant_id": item["participant_id"], "scan_id": item["scan_id"]}
            stem = self.output_dir / item["participant_id"] / item["scan_id"]
            write_aside(f"{stem}_evidence.nii.gz", lambda part, volume=evidence: save_nifti(volume, part))
            write_json(f"{stem}_prediction.json", {**who, **result, "provenance": self.provenance})
            scan = {"probability_HH": result["probability_HH"], "class": result["class"]}
            self.rows.append({**who, "status": "ok", **scan})
            self.rows += [{**who, "status": "ok", **row} for row in result["slices"]]

    def finish(self, stream: ScanStream) -> None:
        """Write the CSV: a row a scan (empty `slice`), a row a slice, and a row for each scan that failed.

        Raises:
            InputError: some scans failed; the CSV says which and why.
        """
        for item in stream.data:
            if item["scan_id"] in stream.failures:
                who = {"participant_id": item["participant_id"], "scan_id": item["scan_id"]}
                self.rows.append({**who, "status": "failed", "message": stream.failures[item["scan_id"]]})
        path = self.output_dir / "predictions.csv"
        write_table(path, self.COLUMNS, self.rows)
        if stream.failures:
            first = next(iter(stream.failures.values()))
            raise InputError(
                f"{len(stream.failures)} of {len(stream.data)} scans failed, the others are done;"
                f" {path} says why (first: {first})"
            )


def save_nifti(volume: MetaTensor, path: str) -> None:
    """Write `[1, I, J, K]` as a float32 NIfTI on its own grid."""
    nib.save(nib.Nifti1Image(volume[0].numpy().astype(np.float32), volume.affine.numpy()), path)
