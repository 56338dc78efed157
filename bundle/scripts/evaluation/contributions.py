"""What each map contributes to a trained network: another subject's map in its place, and what that costs.

Permutation importance (Breiman, Machine Learning 2001; Fisher et al., JMLR 2019) of whole maps in held-out scans: no
network is trained again. The other subject is one of like age, since iron rises with age in everybody.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from tqdm import tqdm

from scripts.errors import InputError
from scripts.evaluation.auc import bootstrap_aucs, delong
from scripts.maps.scan import MAPS
from scripts.model.networks import QNet

#: Columns of `contributions.csv`.
COLUMNS = ("map", "auc", "auc_without", "drop", "ci_low", "ci_high", "mean_change")


def donors(ages: np.ndarray, people: np.ndarray, draws: int, neighbours: int, seed: int) -> np.ndarray:
    """For each scan, whose map it is given: `[draws, n]`, never one of its own subject.

    Args:
        ages: `[n]`, years; NaN (unknown) for any or all: then any subject may be taken.
        people: `[n]`, number 0.. of each scan's subject, who may have several.
        draws: how often one is drawn.
        neighbours: among how many subjects of the nearest age.
        seed: of the draw.
    """
    rng, count = np.random.default_rng(seed), len(ages)
    distance = np.abs(ages[:, None] - ages[None])
    distance = np.where(np.isfinite(distance), distance, 0.0)  # unknown: as near as anybody
    distance = distance + rng.random((count, count)) * 1e-6  # ties are broken by chance
    distance[people[:, None] == people[None]] = np.inf
    others = int(np.isfinite(distance).sum(1).min())
    if others == 0:
        raise InputError("contributions: one held-out subject alone; take fewer folds or more scans")
    nearest = np.argsort(distance, axis=1)[:, : min(neighbours, others)]
    return nearest[np.arange(count), rng.integers(0, nearest.shape[1], (draws, count))]


def probabilities(
    scans: Dataset, network: QNet, device: torch.device, given: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Probability of HH of each scan, `[n]`, and with each map taken from others, map -> `[draws, n]`.

    Args:
        scans: preprocessed scans with `image` `[3, H, W, S]`.
        network: trained.
        device: what runs it.
        given: from `donors`.
    """
    network = network.to(device).eval()

    def probability(image: torch.Tensor) -> float:
        return float(network(image[None].to(device)).softmax(-1)[0, 1])

    whole = np.zeros(len(scans))
    swapped = {name: np.zeros(given.shape) for name in MAPS}
    with torch.inference_mode():
        for index in tqdm(range(len(scans)), desc="contributions", unit="scan"):
            image = scans[index]["image"].as_tensor()
            whole[index] = probability(image)
            for draw, other in enumerate(given[:, index]):
                foreign = scans[int(other)]["image"].as_tensor()
                for channel, name in enumerate(MAPS):
                    mixed = image.clone()
                    mixed[channel] = foreign[channel]
                    swapped[name][draw, index] = probability(mixed)
    return whole, swapped


def contributions(
    labels: np.ndarray,
    people: np.ndarray,
    whole: np.ndarray,
    swapped: Mapping[str, np.ndarray],
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A row a map, COLUMNS: the scans' AUC, that without the map (mean over draws), the difference with its bootstrap
    interval (95 %, over subjects), and the mean absolute change of the probability.

    Args:
        labels: `[n]`, 0 HC, 1 HH.
        people: `[n]`, see `donors`.
        whole, swapped: from `probabilities`.
        samples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two subjects of a group.
    """
    if min(len(set(people[labels == label])) for label in (0, 1)) < 2:
        raise InputError("contributions: fewer than two held-out subjects of a group; take fewer folds or more scans")
    rows = []
    for name, without in swapped.items():
        # both in one call, so that they are resampled alike; the draws of a map take the place of repeats
        pair = np.stack([np.broadcast_to(whole, without.shape), without])
        auc, auc_without = map(float, delong(labels, pair).values)
        resampled = bootstrap_aucs(labels, pair, people, samples, seed)
        low, high = np.quantile(resampled[:, 0] - resampled[:, 1], [0.025, 0.975])
        rows.append(
            {
                "map": name,
                "auc": auc,
                "auc_without": auc_without,
                "drop": auc - auc_without,
                "ci_low": float(low),
                "ci_high": float(high),
                "mean_change": float(np.abs(without - whole).mean()),
            }
        )
    return rows


def ages_of(scans: Sequence[Any], known: Mapping[str, float]) -> np.ndarray:
    """Ages in years of scans, NaN where unknown: `[n]`."""
    return np.array([known.get(scan.participant_id, np.nan) for scan in scans], float)
