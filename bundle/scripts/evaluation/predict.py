"""Predict the held-out scans with the three models, and write the predictions table, the measures and the pictures."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from monai.data import Dataset
from monai.transforms import Compose, Transform
from torch import nn

from scripts.evaluation.predictions import PREDICTION_COLUMNS
from scripts.evaluation.statistics import vote
from scripts.files.writing import write_aside, write_json, write_table
from scripts.maps.scan import Scan
from scripts.model.ensemble import Ensemble
from scripts.model.evidence import Evidence
from scripts.model.image_level import IMAGE_MODELS
from scripts.model.networks import QNet, load_weights
from scripts.model.outputs import QNetInferer, Resultd, ToInputGridd, save_nifti
from scripts.runs.bars import Bar

LOGGER = logging.getLogger(__name__)


def load_models(ckpt_dir: str | os.PathLike, network: QNet, swa: bool) -> dict[str, nn.Module]:
    """The trained models by the paper's names: `ResNet`, `ResNetSWA` (where trained) and `Q-Net`.

    Where stage 1 is another network (`image_model`), its name stands for ResNet's. Q-Net holds its embedding, so it is
    there alone where stage 1's own files are not, as beside the weights that the bundle ships; a warning says so.
    """
    folder = Path(ckpt_dir)
    name = IMAGE_MODELS[network.image_model].name
    wanted = {name: "resnet.pt"} | ({f"{name}SWA": "resnet_swa.pt"} if swa else {})
    used = {Path(path).name for path in model_files(ckpt_dir, swa)}
    there = {model: file for model, file in wanted.items() if file in used}
    if missing := [file for file in wanted.values() if file not in used]:
        LOGGER.warning("%s: not there, so Q-Net is tested without its stage 1 alone", " and ".join(missing))
    models: dict[str, nn.Module] = {
        model: load_weights(network.image_level(), folder / file) for model, file in there.items()
    }
    models["Q-Net"] = load_weights(network, folder / "model.pt")
    return models


def model_files(ckpt_dir: str | os.PathLike, swa: bool) -> list[str]:
    """The weights that `load_models` reads: those of stage 1 that are there, and Q-Net's."""
    stage_1 = [Path(ckpt_dir, name) for name in ("resnet.pt", *(["resnet_swa.pt"] if swa else []))]
    return [str(path) for path in stage_1 if path.exists()] + [str(Path(ckpt_dir, "model.pt"))]


def predict(
    scans: Dataset, models: Mapping[str, nn.Module], device: torch.device, where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of the predictions table for every scan, model and slice.

    Args:
        scans: preprocessed scans with `image`, `label`, `participant_id`.
        models: from `load_models`. ResNet and ResNetSWA vote for the scan; Q-Net has its own scan-level output.
        device: what runs the networks.
        where: `repeat`, `fold` and `region` of the rows.
    """
    rows = []
    networks = {name: network.to(device).eval() for name, network in models.items()}
    with torch.inference_mode():
        for index in Bar(range(len(scans)), desc="evaluation", unit="scan"):
            item = scans[index]
            image = item["image"].as_tensor()[None].to(device)
            who = {**where, "participant_id": item["participant_id"], "label": item["label"]}
            for name, network in networks.items():
                if isinstance(network, (QNet, Ensemble)):
                    scan_logits, image_logits = network.sequence(network.embed(image))
                    slices = image_logits[0].softmax(-1)[:, 1].tolist()
                    scan = scan_logits[0].softmax(-1)[1].item()
                else:
                    slices = network.slice_logits(image)[0].softmax(-1)[:, 1].tolist()  # type: ignore[operator]
                    scan = vote(slices)
                rows.append({**who, "model": name, "slice": "", "probability_HH": scan})
                rows += [{**who, "model": name, "slice": s, "probability_HH": p} for s, p in enumerate(slices)]
    return rows


def write_predictions(
    output_dir: str | os.PathLike,
    scans: Dataset,
    models: Mapping[str, nn.Module],
    device: torch.device,
    where: Mapping[str, Any],
    record: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Predict scans into `predictions.csv`, then write what made it as `evaluation.json`; return the table's rows.

    Args:
        output_dir: gets the files.
        scans, models, device, where: see `predict`.
        record: from `scripts.provenance.record`.
    """
    folder = Path(output_dir)
    rows = predict(scans, models, device, where)
    write_table(folder / "predictions.csv", PREDICTION_COLUMNS, rows)
    write_json(folder / "evaluation.json", dict(record))
    return rows


def write_evidence(
    output_dir: str | os.PathLike,
    scans: Sequence[Scan],
    preprocessing: Transform,
    models: Mapping[str, nn.Module],
    device: torch.device,
    evidence: Mapping[str, Evidence],
) -> None:
    """Write evidence volumes of each scan on its own grid, `<participant>/<scan>_<name>.nii.gz`.

    Args:
        output_dir: gets the files.
        scans: from `scripts.maps.bids.labelled_scans`; none writes nothing.
        preprocessing: from files to the network's input.
        models: from `load_models`; the evidence is Q-Net's.
        device: what runs the network.
        evidence: name of a volume -> what makes it.
    """
    to_result = Compose([Resultd(keys="pred"), ToInputGridd(keys="pred")])
    network = cast(QNet, models["Q-Net"]).to(device).eval()
    for scan in Bar(scans, desc="evidence", unit="scan"):
        item = dict(preprocessing(scan.item()))
        stem = Path(output_dir) / scan.participant_id / scan.scan_id
        for name, method in evidence.items():
            output = QNetInferer(method)(item["image"][None].to(device), network)
            made = to_result({**item, "pred": {key: value[0].cpu() for key, value in output.items()}})
            write_aside(f"{stem}_{name}.nii.gz", partial(save_nifti, made["pred"]))
