"""Data, inferer and loss of both training stages. The engines themselves are MONAI's, put together in `train.yaml`."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import Dataset as Scans
from monai.engines import PrepareBatch
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from scripts.errors import InputError
from scripts.model.image_level import slices_of
from scripts.model.networks import QNet
from scripts.runs.bars import Bar
from scripts.training.augment import BatchAugment

Batch = dict[str, Tensor]
#: A training that other code began is not gone on with.
CODE = (
    "scripts.training.data",
    "scripts.training.handlers",
    "scripts.training.preprocessing",
    "scripts.localisation.localiser",
    "scripts.maps.bids",
)


def stack_scans(scans: Scans) -> tuple[Tensor, Tensor]:
    """All preprocessed scans of a dataset: images `[N, C, H, W, S]` and labels `[N]`."""
    items = [scans[i] for i in range(len(scans))]
    images = torch.stack([item["image"].as_tensor() for item in items])
    return images, torch.tensor([item["label"] for item in items])


class Samples(Dataset):
    """Stage 1's samples, all on the training device.

    A whole batch is gathered at once (`__getitems__`), because taking samples one by one costs more than a small
    network's training step.

    Args:
        images: `[N, ...]`.
        labels: `[N]`, 0 or 1.
        device: where both stay.
    """

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device) -> None:
        self.images, self.labels = images.to(device), labels.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Tensor) -> Batch:
        return {"image": self.images[index], "label": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch `{"image": [B, ...], "label": [B]}`."""
        return self[torch.tensor(indices, device=self.labels.device)]


class SliceDataset(Samples):
    """Every slice of every scan on its own, `[C, H, W]`, with its scan's label (paper, Image-Level Model).

    Args:
        scans: dataset of preprocessed scans, items `{"image": [C, H, W, S], "label": 0 or 1}`.
        device: where the slices stay.
    """

    def __init__(self, scans: Scans, device: torch.device) -> None:
        images, labels = stack_scans(scans)
        super().__init__(slices_of(images).contiguous(), labels.repeat_interleave(images.shape[-1], dim=0), device)


class VolumeDataset(Samples):
    """Every scan, `[C, H, W, S]`, with its label, for a network that reads whole scans.

    Args:
        scans, device: as of `SliceDataset`.
    """

    def __init__(self, scans: Scans, device: torch.device) -> None:
        images, labels = stack_scans(scans)
        super().__init__(images, labels, device)
        self.slices_a_sample = images.shape[-1]


def image_level_dataset(scans: Scans, device: torch.device, network: nn.Module) -> Dataset:
    """Stage 1's samples as its network reads them: `SliceDataset`, or `VolumeDataset`."""
    return (VolumeDataset if network.reads_volumes else SliceDataset)(scans, device)


#: By how much the networks with batch normalisation shorten a side until their last maps.
_SHORTENED = 32


def check_batches(image_model: str, size: Sequence[int], slices: int, batch_size: int, scans: int) -> None:
    """Refuse batches of stage 1 of which one would hold a single value a channel: nothing can be normalised by it.

    Args:
        image_model: a key of `scripts.model.image_level.IMAGE_MODELS`.
        size: H, W of a slice, pixels.
        slices: S, of a scan.
        batch_size: slices a batch.
        scans: that are trained on.

    Raises:
        InputError: that.
    """
    reads_volumes = image_model in ("resnet18_3d", "densenet_3d")
    if image_model == "vit" or max(size) > _SHORTENED or reads_volumes and slices > 1:
        return
    samples = -(-scans * slices // idist.get_world_size())  # a process's share
    if (batch_size if samples % batch_size == 0 else samples % batch_size) == 1:
        which = "every batch" if batch_size == 1 else f"the last batch of {samples} slices"
        raise InputError(
            f"image_batch_size is {batch_size}, so {which} would hold one slice, whose last maps are one pixel at"
            f" {size[0]} x {size[1]} pixels, and batch normalisation needs two values; give another"
            " image_batch_size"
        )


class FeatureDataset(Dataset):
    """Stage 2's samples: the frozen embeddings of a scan's slices, computed once a view instead of once an epoch.

    A view is one augmentation of a scan, the same for all its slices. Each epoch takes one view of every scan.

    Args:
        scans: dataset of preprocessed scans.
        network: Q-Net, whose embedding must be loaded before the first sample is taken.
        augment: what makes a view.
        num_views: how many views are computed, at least 1.
        seed: of the augmentation and of the choice of views.
        device: where embedding happens and features stay.
        precision: see `AutocastInferer`.
    """

    def __init__(
        self,
        scans: Scans,
        network: QNet,
        augment: BatchAugment,
        num_views: int,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.scans = scans
        self.network = network
        self.augment = augment
        self.num_views = num_views
        self.seed = seed
        self.device = device
        self.infer = AutocastInferer(device, precision)
        self.features: Tensor | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the view of every scan for an epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        self.view = torch.randint(self.num_views, (len(self.scans),), generator=generator)

    def embed(self) -> Tensor:
        """Compute the features `[num_views, N, S, 512]` of all scans, and keep them."""
        images, labels = stack_scans(self.scans)
        self.augment.generator.manual_seed(self.seed)
        size = self.scans_at_once(images)
        views = []
        with Bar(total=self.num_views * len(images), desc="embedding views", unit="scan") as bar, torch.no_grad():
            for _ in range(self.num_views):
                parts = []
                for part in images.split(size):
                    parts.append(self.infer(self.augment(part.to(self.device)), self.network.embed))
                    bar.update(len(part))
                views.append(torch.cat(parts))
        self.features = torch.stack(views)
        self.labels = labels.to(self.device)
        return self.features

    @staticmethod
    def scans_at_once(images: Tensor) -> int:
        """Scans in a forward pass: about 128 slices, which fills a device without much memory."""
        return max(1, 128 // images.shape[-1])

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> Batch:
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch `{"image": [B, S, 512], "label": [B]}`."""
        features = self.embed() if self.features is None else self.features
        chosen = torch.tensor(indices)
        return {
            "image": features[self.view[chosen].to(self.device), chosen.to(self.device)],
            "label": self.labels[chosen.to(self.device)],
        }


class Batches(DataLoader):
    """The whole batches that a dataset gives at once (`__getitems__`), in its order.

    Args:
        dataset: `SliceDataset`, `VolumeDataset` or `FeatureDataset`.
        batch_size: samples; of volumes slices, so a batch has as many scans as hold so many, at least 1.
        order: which samples, in which order; None: all, one after the other.
    """

    def __init__(self, dataset: Dataset, batch_size: int, order: Sampler | None = None) -> None:
        samples = max(1, batch_size // getattr(dataset, "slices_a_sample", 1))
        super().__init__(dataset, samples, sampler=order, collate_fn=_as_it_is)


class ShuffledBatches(Batches):
    """Batches in an order that seed and epoch decide, new in every epoch; each process of a run gets its share.

    Args:
        dataset, batch_size: see `Batches`.
        seed: of the order.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int) -> None:
        order: Sampler = DistributedSampler(dataset, idist.get_world_size(), idist.get_rank(), shuffle=True, seed=seed)
        super().__init__(dataset, batch_size, order)


def _as_it_is(batch: Any) -> Any:
    return batch


class AugmentedBatch(PrepareBatch):
    """Augment a batch on the device that trains, in the memory order that its convolutions like.

    Args:
        augment: applied to `[B, C, H, W]`, or to scans `[B, C, H, W, S]`, in 0..1.
    """

    def __init__(self, augment: BatchAugment) -> None:
        self.augment = augment

    def __call__(
        self, batchdata: Batch, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        images = self.augment(batchdata["image"].to(device, non_blocking=non_blocking))
        labels = batchdata["label"].to(device, non_blocking=non_blocking)
        order = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
        return images.contiguous(memory_format=order), labels


def used_precision(precision: str, device: torch.device) -> str:
    """`float32` or `bfloat16`: what the key `precision` means on a device.

    `auto` takes bfloat16 where the device computes in it (Intel's AVX512-BF16 and AMX, ARM's BF16, NVIDIA from Ampere
    on), since it is far slower where it is only imitated.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    known = torch.cpu.get_capabilities()
    return "bfloat16" if any(value is True and name.endswith("bf16") for name, value in known.items()) else "float32"


class AutocastInferer(Inferer):
    """Run a network at a chosen precision and return float32.

    Args:
        device: the device that runs it.
        precision: `float32`, or `bfloat16` for matrix products and convolutions in bfloat16.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision {precision!r} is unknown; use float32 or bfloat16")
        self.device_type = torch.device(device).type
        self.enabled = precision == "bfloat16"

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            outputs = network(inputs, *args, **kwargs)
        return tuple(o.float() for o in outputs) if isinstance(outputs, tuple) else outputs.float()


def check_loss_weights(scan_weight: float, image_weight: float) -> None:
    """Refuse weights of the loss by which nothing would be learned, or the opposite.

    Raises:
        InputError: both are 0, or one is negative.
    """
    if min(scan_weight, image_weight) < 0 or scan_weight == image_weight == 0:
        raise InputError(
            f"scan_loss_weight is {scan_weight:g} and image_loss_weight {image_weight:g}, by which nothing would be"
            " learned; give numbers from 0, at least one of them above"
        )


class ScanLoss(nn.Module):
    """Stage 2's loss: cross-entropy of the scan plus mean cross-entropy of its slices, each with a weight.

    Raises:
        InputError: see `check_loss_weights`.
    """

    def __init__(self, scan_weight: float, image_weight: float) -> None:
        check_loss_weights(scan_weight, image_weight)
        super().__init__()
        self.scan_weight = scan_weight
        self.image_weight = image_weight

    def forward(self, logits: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Scan logits `[B, 2]` and image logits `[B, S, 2]`, labels `[B]` -> scalar."""
        scan_logits, image_logits = logits
        slice_labels = labels[:, None].expand(image_logits.shape[:2])
        return self.scan_weight * nn.functional.cross_entropy(
            scan_logits, labels
        ) + self.image_weight * nn.functional.cross_entropy(image_logits.flatten(0, 1), slice_labels.flatten())


class ProbabilityOfHHd(MapTransform):
    """A batch's logits `[B, 2]` -> probabilities of HH `[B]`; of a pair of logits the first, the scan's, counts."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        for key in self.key_iterator(data):
            logits = data[key][0] if isinstance(data[key], (tuple, list)) else data[key]
            data[key] = logits.detach().softmax(dim=1)[:, 1]
        return data


def cosine_annealing(first: float, last: float, epochs: int) -> Callable[[int], float]:
    """Factor on the first learning rate by epoch: cosine from `first` to `last` over `epochs`, then constant.

    The constant part is the modified schedule along which SWA averages (Izmailov et al., UAI 2018).
    """

    def factor(epoch: int) -> float:
        progress = min(epoch / max(epochs, 1), 1)
        return (last + (first - last) * (1 + math.cos(math.pi * progress)) / 2) / first

    return factor


def swa_start_epoch(epochs: int, swa: bool, fraction: float) -> int:
    """Epochs before averaging starts; all of them without SWA."""
    return min(math.ceil(epochs * fraction), epochs - 1) if swa else epochs
