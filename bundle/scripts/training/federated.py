"""Federated learning: what `configs/fl_*_level.yaml` need beside train.yaml, and how their weights become a model.

MONAI's client (`monai.fl.client.MonaiAlgo`) trains `train#trainer` and tests `validate#evaluator` on weights that a
server averages, so both must hold the network that travels: ResNet18 in stage 1, Q-Net's `sequence` in stage 2.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scripts.errors import InputError
from scripts.model.networks import (
    QNet,
    check_answers,
    check_trained,
    load_embedding,
    load_state_dict,
    save_weights,
)

_SERVER = "the server's weights"


class Unchanged:
    """In place of augmentation, for features of scans that are tested on."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __call__(self, images: Tensor) -> Tensor:
        """`[N, C, H, W, S]` as they are."""
        return images


def with_embedding(network: QNet, weights: str | os.PathLike) -> QNet:
    """Q-Net with the embedding of stage 1, which all sites must share before stage 2 begins.

    Args:
        network: whose embedding is loaded.
        weights: of the federated stage 1, as the server's last round left them (`write_stage_1`).

    Raises:
        InputError: there are none, or they are another network's.
    """
    if not os.path.isfile(weights):
        raise InputError(
            f"embedding_weights: {weights} is not there; federate stage 1 first (configs/fl_image_level.yaml), and give"
            " its weights to every site"
        )
    load_embedding(network, weights)
    return network


def write_stage_1(weights: Mapping[str, Tensor], network: torch.nn.Module, path: str | os.PathLike) -> None:
    """Write the server's weights of stage 1 as stage 2 reads them.

    Args:
        weights: name -> value, of the last round.
        network: a network of that kind, `image#network_def`.
        path: the file.

    Raises:
        InputError: they are another network's, or no weights that a training leaves.
    """
    load_state_dict(network, _tensors(weights), _SERVER)
    save_weights(network, path, torch.float32)


def write_model(
    weights: Mapping[str, Tensor], network: QNet, stage_1: str | os.PathLike, path: str | os.PathLike
) -> None:
    """Write stage 1 and the server's weights of stage 2 as one model, for inference.yaml.

    Args:
        weights: name -> value, of `network.sequence`, of the last round.
        network: Q-Net, `network_def`.
        stage_1: from `write_stage_1`.
        path: the file.

    Raises:
        InputError: weights of another network, or such that no training leaves.
    """
    with_embedding(network, stage_1)
    load_state_dict(network.sequence, _tensors(weights), _SERVER)
    check_answers(network.eval(), _SERVER)
    save_weights(network, path, torch.float32)


def _tensors(weights: Any) -> dict[str, Tensor]:
    """The server's weights, whatever arrays they are, as a training leaves them.

    Raises:
        InputError: no names with arrays of numbers, or values that no training leaves (`check_trained`).
    """
    if not isinstance(weights, Mapping) or not weights:
        raise InputError(f"{_SERVER}: are no name -> array, but {type(weights).__name__}; give those of its last round")
    found = {}
    for name, value in weights.items():
        try:
            found[name] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{_SERVER}: {name!r} is no array of numbers; give those of its last round") from error
        check_trained(str(name), found[name], _SERVER)
    return found
