"""Stage 1 learns what only a simulation knows of a head, so that it has something to start from on a small cohort.

Beside its group, each slice is to tell the latents of its head (`scripts.simulation.iron`): how much iron each nucleus
has and where in it, and how the sides differ. The last layer is then left out, as that of ImageNet's weights is.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset as Scans
from monai.transforms import MapTransform
from torch import Tensor, nn

from scripts.errors import InputError
from scripts.files.table import read_frame
from scripts.maps.scan import Scan
from scripts.model.networks import image_level_model
from scripts.model.scan_level import NUM_CLASSES
from scripts.training.data import image_level_dataset

#: Where a simulated cohort keeps what each head was made with.
LATENTS = "derivatives/groundtruth/latents.tsv"


class Latents:
    """What is known of the heads of a simulated cohort, each number between its mean and spread in the training scans.

    Args:
        dataset_dir: the cohort.
        training: scans whose mean and spread count.
        others: scans that are looked at too.

    Raises:
        InputError: the cohort has no table of latents, one without latents, or one that lacks a number of a scan.
    """

    def __init__(self, dataset_dir: str | os.PathLike, training: Sequence[Scan], others: Sequence[Scan] = ()) -> None:
        path = Path(dataset_dir) / LATENTS
        if not path.is_file():
            raise InputError(
                f"{path}: is not there, so nothing is known of these heads; pretrain on a cohort of"
                " configs/simulate.yaml"
            )
        cure = "give the table that simulate wrote"
        self.names = [name for name in read_frame(path, ["participant_id"], cure=cure) if name != "participant_id"]
        if not self.names:
            raise InputError(f"{path}: has no column beside participant_id, so nothing is to be learned of it; {cure}")
        table = read_frame(path, ["participant_id"], numbers=self.names, unique=["participant_id"], cure=cure)
        table = table.set_index("participant_id")
        for scan in (*training, *others):
            if scan.participant_id not in table.index:
                raise InputError(f"{path}: has no row {scan.participant_id}; {cure}")
        gaps = table.loc[sorted({scan.participant_id for scan in (*training, *others)})].isna()
        if gaps.to_numpy().any():
            who, name = gaps.stack().idxmax()
            raise InputError(f"{path}: {name} of {who} is empty, and every latent is learned; {cure}")
        own = table.loc[sorted({scan.participant_id for scan in training}), self.names].to_numpy(float)
        spread = own.std(0)
        values = (table[self.names].to_numpy(float) - own.mean(0)) / np.where(spread > 0, spread, 1)
        self.by_participant = dict(zip(table.index, torch.tensor(values, dtype=torch.float32), strict=True))


def pretraining_model(outputs: int, **kwargs: Any) -> nn.Module:
    """A network of stage 1 with a last layer of two classes and so many numbers more.

    Args:
        outputs: numbers beside the classes.
        kwargs: see `scripts.model.networks.image_level_model`.
    """
    network: Any = image_level_model(**kwargs)
    network.fc = nn.Linear(network.fc.in_features, NUM_CLASSES + outputs)
    return network


class ScansWithLatents(Scans):
    """Preprocessed scans whose label is their group followed by their latents, `[1 + L]`.

    Args:
        scans: items with `label` and `participant_id`.
        latents: of all of them.
    """

    def __init__(self, scans: Scans, latents: Latents) -> None:
        self.scans, self.latents = scans, latents

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        item = self.scans[index]
        known = self.latents.by_participant[item["participant_id"]].tolist()
        return {**item, "label": [float(item["label"]), *known]}


def pretraining_dataset(scans: Scans, latents: Latents, device: torch.device, network: nn.Module) -> Any:
    """Stage 1's samples (`scripts.training.data.image_level_dataset`) with latents."""
    return image_level_dataset(ScansWithLatents(scans, latents), device, network)


class LatentLoss(nn.Module):
    """Cross-entropy of the group plus so many times the mean squared error of the latents.

    Args:
        weight: of the latents.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs `[B, 2 + L]`, targets `[B, 1 + L]` -> scalar."""
        group = nn.functional.cross_entropy(outputs[:, :NUM_CLASSES], targets[:, 0].long())
        return group + self.weight * nn.functional.mse_loss(outputs[:, NUM_CLASSES:], targets[:, 1:])


class GroupOfLatentsd(MapTransform):
    """Of outputs `[B, 2 + L]` and targets `[B, 1 + L]` the group alone: logits `[B, 2]` and labels `[B]`.

    Args:
        keys: of the outputs.
        label_key: of the targets.
    """

    def __init__(self, keys: Hashable, label_key: Hashable = "label") -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            data[key] = data[key][:, :NUM_CLASSES]
        data[self.label_key] = data[self.label_key][:, 0].long()
        return data
