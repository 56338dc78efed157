"""From a network input to a scan's result: probability, class, per-slice probabilities and the evidence volume."""

import json
from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn.functional import interpolate

from scripts.errors import InputError
from scripts.maps.bids import GROUPS
from scripts.model.evidence import Evidence
from scripts.model.networks import QNet
from scripts.model.nucleus_evidence import by_nucleus, table_of
from scripts.model.trust import Trust, flag_of

CLASS_NAMES = {index: name for name, index in GROUPS.items()}


class QNetInferer(Inferer):
    """Run Q-Net on preprocessed scans.

    Args:
        evidence: makes the evidence maps.

    Returns:
        `probability` of HH `[B]`, `slice_probability` `[B, S]`, `embedding` `[B, D]` (`embedding_of_scan`), `evidence`
        `[B, 1, H, W, S]`, of an ensemble `members` `[B, M]`, the probability of each, and where the labels of nuclei
        are known `nucleus_evidence` `[B, 4]` (`scripts.model.nucleus_evidence.by_nucleus`). They are plain tensors, the
        form that MONAI Label and MONAI Deploy take apart scan by scan.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    def __call__(  # type: ignore[override]  # of all networks this one alone
        self, inputs: Tensor, network: QNet, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with torch.no_grad():
            embeddings = network.embed(image)
            scan_logits, image_logits = network.sequence(embeddings)
        made = {
            "probability": scan_logits.softmax(-1)[:, 1],
            "slice_probability": image_logits.softmax(-1)[..., 1],
            "embedding": embedding_of_scan(embeddings),
            "evidence": self.evidence(network, image),
        }
        if (of_members := getattr(network, "member_logits", None)) is not None:
            with torch.no_grad():
                made["members"] = of_members(embeddings)[0].softmax(-1)[..., 1].T
        if isinstance(inputs, MetaTensor) and "nuclei_grid" in inputs.meta:
            grids = np.asarray(inputs.meta["nuclei_grid"]).reshape(len(image), *image.shape[2:])
            made["nucleus_evidence"] = torch.stack(
                [by_nucleus(network, scan, labels) for scan, labels in zip(image, grids, strict=True)]
            )
        return made


def embedding_of_scan(embeddings: Tensor) -> Tensor:
    """What the network makes of a scan as one vector, the mean over its slices: `[B, S, D]` -> `[B, D]`."""
    return embeddings.mean(1)


class Resultd(MapTransform):
    """Split what `QNetInferer` gave for one scan: `result`, a plain dictionary, and `pred`, the evidence volume.

    The evidence `[1, H, W, S]` takes over the image's metadata, which says how to bring it back to the input's grid.
    Nuclei that the preprocessing measured (`nuclei.transform`) are `nuclei` of the result, or `nuclei_missing`, the
    reason. `flags` says what is unlikely about the maps, a line each (`maps.plausibility`), or that the weights know
    the scan (`trust`).

    Args:
        keys: the inferer's output.
        image_key: the preprocessed image.
        threshold: probability of HH from which the class is HH.
        evidence: what made the evidence volume; if given, `evidence` of the result says so.
        trust: if given, the result gets what it says of the scan: calibrated probability, answer, familiarity.

    Raises:
        InputError: a probability that is no number, or a scan that `trust` refuses.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        threshold: float = 0.5,
        evidence: Evidence | None = None,
        trust: Trust | None = None,
    ) -> None:
        super().__init__(keys)
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; give a probability, 0 to 1")
        self.image_key = image_key
        self.threshold = threshold
        self.evidence = evidence
        self.trust = trust

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            image, output = data[self.image_key], data[key]
            probability = float(output["probability"])
            if not np.isfinite([probability, *map(float, output["slice_probability"])]).all():
                raise InputError("the network's probability is no number; check the maps, and the weights' training")
            data["result"] = {
                "probability_HH": probability,
                "class": CLASS_NAMES[int(probability >= self.threshold)],
                "threshold": self.threshold,
                "box": used_box(image),
                "slices": [
                    {"slice": index, "input_slice": position, "probability_HH": float(p)}
                    for index, (position, p) in enumerate(
                        zip(input_slices(image), output["slice_probability"], strict=True)
                    )
                ],
            }
            if "nucleus_evidence" in output:
                healthy = self.trust.healthy_nuclei() if self.trust is not None else None
                data["result"]["nucleus_evidence"] = table_of(output["nucleus_evidence"].tolist(), healthy)
            if "members" in output:
                data["result"]["ensemble"] = spread_of(output["members"])
            if self.evidence is not None:
                data["result"]["evidence"] = self.evidence.describe()
            if "nuclei" in image.meta:
                nuclei = json.loads(image.meta["nuclei"])
                data["result"]["nuclei" if isinstance(nuclei, list) else "nuclei_missing"] = nuclei
            if "t1w_registration" in image.meta:
                data["result"]["t1w_registration"] = json.loads(image.meta["t1w_registration"])
            data["result"]["flags"] = json.loads(image.meta.get("flags", "[]"))
            if self.trust is not None:
                embedding = output["embedding"].cpu().numpy() if "embedding" in output else None
                said = self.trust(probability, embedding, json.loads(image.meta.get("appearance", "{}")))
                data["result"] |= said
                data["result"]["flags"] += flag_of(said.get("familiarity", {}))
                data["result"]["flags"] += self.trust.known_scan(str(image.meta.get("filename_or_obj", "")))
            data[key] = MetaTensor(output["evidence"], meta=image.meta, applied_operations=image.applied_operations)
        return data


def spread_of(members: Tensor) -> dict[str, Any]:
    """What the members of an ensemble say, `[M]`: each one's probability of HH, and their standard deviation."""
    values = [float(value) for value in members]
    return {"probabilities_HH": values, "sd": float(np.std(values, ddof=1))}


def used_box(image: MetaTensor) -> dict[str, Any]:
    """Where the basal ganglia's box came from: `source` (`annotated`, `found` or `whole`), `confidence` if found, and
    `voxels`, its half-open ranges along the axes of the file as stored.

    Empty where the preprocessing did not say.
    """
    known = {"source": image.meta.get("box_source"), "confidence": image.meta.get("box_confidence")}
    known["voxels"] = json.loads(image.meta.get("box_voxels", "null"))
    return {key: value for key, value in known.items() if value is not None}


def input_slices(image: MetaTensor) -> list[int]:
    """For each of the network's slices, the nearest slice of the input file, counted from 0 along its slice axis."""
    size = image.shape[1:]
    centres = np.array([[(size[0] - 1) / 2, (size[1] - 1) / 2, s, 1] for s in range(size[2])]).T
    world = image.affine.numpy() @ centres
    stored = np.linalg.solve(np.asarray(image.meta["original_affine"], dtype=np.float64), world)[:3]
    axis = int(np.argmax(np.ptp(stored, axis=1)))
    return [int(v) for v in np.rint(stored[axis])]


class ToInputGridd(MapTransform):
    """Bring a volume from the network's grid back to the grid of the input file; 0 outside the network's crop.

    Does what `Invertd` over the preprocessing does, but in one pass and from metadata alone: it shares no state with
    the preprocessing, which reads further scans in other threads at the same time.

    Args:
        keys: MetaTensors `[C, H, W, S]` with the metadata of the preprocessed image; become `[C, I, J, K]`.
        network_key: if given, the volume on the network's grid is kept under this name.
    """

    def __init__(self, keys: KeysCollection, network_key: str | None = None) -> None:
        super().__init__(keys)
        self.network_key = network_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            if self.network_key:
                data[self.network_key] = data[key].as_tensor()
            data[key] = to_input_grid(data[key])
        return data


def to_input_grid(volume: MetaTensor) -> MetaTensor:
    """`[C, H, W, S]` on the network's grid -> `[C, I, J, K]` on the input's, interpolated (see ToInputGridd)."""
    stored_affine = np.asarray(volume.meta["original_affine"], dtype=np.float64)
    shape = [int(size) for size in volume.applied_operations[0]["orig_size"]]
    # voxel of the network's grid -> voxel of the file: a scale, a flip and a permutation of axes
    step = np.linalg.solve(stored_affine, volume.affine.cpu().numpy().astype(np.float64))
    axes = [int(axis) for axis in np.abs(step[:3, :3]).argmax(axis=0)]  # the file's axis of H, W, S
    size = volume.shape[1:]
    ends = [step[:3, :3] @ corner + step[:3, 3] for corner in ([-0.5] * 3, [n - 0.5 for n in size])]
    box = np.rint(np.sort(ends, axis=0) + 0.5).astype(int)  # half-open ranges of the crop in the file
    part = interpolate(
        volume.as_tensor()[None], [int(box[1][a] - box[0][a]) for a in axes], mode="trilinear", align_corners=False
    )[0]
    part = part.flip([1 + n for n in range(3) if step[axes[n], n] < 0])
    part = part.permute(0, *(1 + axes.index(axis) for axis in range(3)))
    full = torch.zeros(volume.shape[0], *shape, dtype=part.dtype, device=part.device)
    full[(slice(None), *(slice(low, high) for low, high in box.T))] = part
    return MetaTensor(full, affine=torch.from_numpy(stored_affine), meta={"original_affine": stored_affine})


def save_nifti(volume: MetaTensor, path: str) -> None:
    """Write `[1, I, J, K]` as a float32 NIfTI on its own grid."""
    nib.save(nib.Nifti1Image(volume[0].cpu().numpy().astype(np.float32), volume.affine.cpu().numpy()), path)
