"""Trainings with several seeds as one network: its output is their mean, their spread says how much is luck."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.writing import sha256, write_json
from scripts.maps.scan import MAPS
from scripts.model.networks import QNet, check_fits, load_weights, read_state_dict, write_tensors
from scripts.model.trust import set_aside_former
from scripts.provenance import record_beside, software, trained_with

#: How the parameters of a member begin in the ensemble's weights.
PREFIX = "members."
#: Settings in which all members must agree.
DECISIVE = (
    *("region", "spatial_size", "num_slices", "intensity", "stretch_percentiles", "chimap_window", "r2starmap_window"),
    *("t1map_window", "maps", "leave_out", "image_model", "scan_model", "hidden_size"),
    *("localise", "localise_margin_mm", "annotated_margin_mm"),  # what of the head the boxes leave in view
)
#: Settings that each member has of its own.
OWN = ("seed", "fold")
#: How all parameters of `QNet` begin.
_OF_QNET = ("embedding.", "sequence.")


class Ensemble(nn.Module):
    """Several networks of one kind, asked together; it has all that a single one has (`scripts.model.networks.QNet`).

    Logits are means over the members, so that evidence is too. Embeddings of a slice stand side by side.

    Args:
        members: at least two, of the same sizes.
    """

    def __init__(self, members: Sequence[QNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.reads_volumes = bool(members[0].reads_volumes)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` (0..1) -> scan logits `[B, 2]` (HC, HH)."""
        return self.sequence(self.embed(image))[0]

    @torch.jit.export
    def embed(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` -> embeddings `[B, S, D]`, those of the members side by side."""
        parts: list[Tensor] = []
        for member in self.members:
            parts.append(member.embed(image))  # type: ignore[operator]
        return torch.cat(parts, dim=-1)

    @torch.jit.export
    def member_logits(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, D]` -> scan logits `[M, B, 2]` and image logits `[M, B, S, 2]` of each of M members."""
        parts = embeddings.chunk(len(self.members), dim=-1)
        scans: list[Tensor] = []
        images: list[Tensor] = []
        for index, member in enumerate(self.members):
            scan, image = member.sequence(parts[index])  # type: ignore[operator]
            scans.append(scan)
            images.append(image)
        return torch.stack(scans), torch.stack(images)

    @torch.jit.export
    def sequence(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, D]` -> scan logits `[B, 2]` and image logits `[B, S, 2]`."""
        scans, images = self.member_logits(embeddings)
        return scans.mean(0), images.mean(0)

    @torch.jit.export
    def image_logits(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` -> logits of each slice `[B, S, 2]`."""
        return self.sequence(self.embed(image))[1]

    @torch.jit.export
    def class_activation(self, image: Tensor) -> Tensor:
        """`[B, C, H, W, S]` -> mean of the members' class activation maps `[B, 1, H, W, S]`."""
        maps: list[Tensor] = []
        for member in self.members:
            maps.append(member.class_activation(image))  # type: ignore[operator]
        return torch.stack(maps).mean(0)


def members_of(state: Mapping[str, Tensor], path: str | os.PathLike) -> list[dict[str, Tensor]]:
    """The state dict of each member that weights hold; of a single network it is the only one.

    Args:
        state: of the file.
        path: of the file, for the message.

    Raises:
        InputError: some names are of an ensemble and others not, or members are not numbered from 0 on.
    """
    if not any(name.startswith(PREFIX) for name in state):
        return [dict(state)]
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        place, _, own = name.removeprefix(PREFIX).partition(".")
        parts.setdefault(place if name.startswith(PREFIX) else "none", {})[own] = value
    numbers = [str(place) for place in range(len(parts))]
    if odd := sorted(parts.keys() - set(numbers)):
        raise InputError(
            f"{path}: holds parameters of member {odd[0]:.20}, but the members of an ensemble are numbered from 0 on;"
            " give the file as configs/ensemble.yaml wrote it"
        )
    return [parts[number] for number in numbers]


def as_trained(
    weights: str | os.PathLike,
    num_slices: int = 16,
    hidden_size: int = 128,
    scan_model: str = "bilstm",
    image_model: str = "resnet18",
    spatial_size: Sequence[int] = (128, 128),
    num_maps: int = 3,
) -> QNet | Ensemble:
    """A network of the form that a weights file has: a single one, or an ensemble.

    Args:
        weights: the file.
        num_slices, hidden_size, scan_model, image_model, spatial_size, num_maps: see `scripts.model.networks.QNet`.

    Raises:
        InputError: an ensemble's file holds a member that is no such network; others are checked when they are loaded.
    """
    first = QNet(num_slices, hidden_size, scan_model, image_model, num_maps, spatial_size)
    states = members_of(read_state_dict(weights), weights) if Path(weights).is_file() else []
    if len(states) < 2:
        return first
    for state in states:  # before one of them is built
        check_fits(first.state_dict(), state, weights)
    return Ensemble([first, *(copy.deepcopy(first) for _ in states[1:])])


def network_of(settings: Mapping[str, Any]) -> QNet:
    """A single network of the form that a training record's settings tell; what they leave out is as in train.yaml."""
    forms = {
        key: settings[key]
        for key in ("num_slices", "hidden_size", "scan_model", "image_model", "spatial_size")
        if key in settings
    }
    return QNet(**forms, num_maps=len(settings.get("maps", MAPS)))


def join(members: Sequence[str | os.PathLike], weights: str | os.PathLike) -> None:
    """Write several weights files as one, with a record beside it that names them by their SHA-256.

    Args:
        members: at least two, trained alike but for the seed.
        weights: the file that is written.

    Raises:
        InputError: fewer than two, the same weights twice, an ensemble among them, weights and records that do not fit
            each other, what `load_weights` refuses, or another training where the file would be written.
    """
    if len(members) < 2:
        raise InputError(f"members: {len(members)} given; an ensemble has at least two, as ['a/model.pt','b/model.pt']")
    _check_replaces_ensemble(Path(weights))
    states = [_in_half(read_state_dict(path)) for path in members]
    digests = [sha256(path) for path in members]
    for place, path in enumerate(members):
        if foreign := next((name for name in states[place] if not name.startswith(_OF_QNET)), None):
            raise InputError(
                f"{path}: holds {foreign!r:.80}, which no single Q-Net has; name the model.pt of each training, also of"
                " those that are joined already"
            )
        if any(_alike(state, states[place]) for state in states[:place]):
            raise InputError(f"{path}: holds the same weights as another member; give each training once")
    records = [record_beside(path) for path in members]
    trained = [trained_with(path) for path in members]
    for path, record, settings in zip(members, records, trained, strict=True):
        for key in DECISIVE:
            if key not in trained[0] or key not in settings:  # of a version before it
                continue
            first, other = trained[0][key], settings[key]
            if first != other:
                raise InputError(
                    f"{path}: was trained with {key} {other}, {members[0]} with {first}; join trainings of one kind"
                )
        cohorts = [one.get("input", {}).get("sha256") for one in (records[0], record)]
        if None not in cohorts and cohorts[0] != cohorts[1]:
            raise InputError(f"{path}: was trained on another cohort than {members[0]}; join trainings of one kind")
        load_weights(network_of(settings), path)
    joined = {f"{PREFIX}{place}.{name}": value for place, state in enumerate(states) for name, value in state.items()}
    write_tensors(weights, joined)
    write_json(
        Path(weights).with_suffix(".json"),
        {
            "software": software(),
            "settings": {key: value for key, value in records[0]["settings"].items() if key not in OWN},
            "weights": {Path(weights).name: sha256(weights)},
            "input": records[0].get("input", {}),
            **_trained_by(records),
            "members": [
                {"sha256": digest, **{key: record["settings"].get(key) for key in OWN}}
                for digest, record in zip(digests, records, strict=True)
            ],
        },
    )
    set_aside_former(weights)
    print(f"{weights}: {len(members)} members; calibrate it with configs/calibrate.yaml")


def _trained_by(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The scans that trained any of the members (`scripts.evaluation.unseen.trained_by`); nothing where one's record
    does not say."""
    if not all("trained_by" in record for record in records):
        return {}
    return {"trained_by": sorted(set().union(*(record["trained_by"] for record in records)))}


def _in_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two networks are one, however their files were written."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _check_replaces_ensemble(weights: Path) -> None:
    """Refuse to write over weights that are not joined ones, or over the record of such.

    Raises:
        InputError: names the file.
    """
    record = weights.with_suffix(".json")
    for path in (weights, record):
        if os.path.lexists(path) and not (os.path.lexists(record) and "members" in read_json(record, "record")):
            raise InputError(
                f"{path}: is of another training, which would be replaced; choose another --ckpt_dir for the ensemble"
            )
