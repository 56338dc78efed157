"""Predict the held-out scans with the three models, and write the predictions table, the measures and the pictures."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.transforms import Compose, Transform
from torch.utils.data import Dataset
from tqdm import tqdm

from scripts.evaluation.predictions import LEVELS, PREDICTION_COLUMNS, read_predictions
from scripts.evaluation.statistics import summarise, vote
from scripts.model.evidence import Evidence
from scripts.model.networks import QNet, load_weights, resnet, slices_of
from scripts.model.outputs import QNetInferer, Resultd, ToInputGridd, save_nifti
from scripts.provenance import write_aside, write_json, write_table
from scripts.reporting.figures import roc_models
from scripts.reporting.markup import fixed, markdown_table
from scripts.reporting.style import VECTOR, save_figure


def load_models(ckpt_dir: str | os.PathLike, network: QNet, swa: bool) -> dict[str, Callable]:
    """The trained models by the paper's names: `ResNet`, `ResNetSWA` (where trained) and `Q-Net`."""
    folder = Path(ckpt_dir)
    models = {"ResNet": load_weights(resnet(feed_forward=True), folder / "resnet.pt")}
    if swa:
        models["ResNetSWA"] = load_weights(resnet(feed_forward=True), folder / "resnet_swa.pt")
    models["Q-Net"] = load_weights(network, folder / "model.pt")
    return models


def predict(
    scans: Dataset, models: Mapping[str, torch.nn.Module], device: torch.device, where: Mapping[str, Any]
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
        for index in tqdm(range(len(scans)), desc="evaluation", unit="scan"):
            item = scans[index]
            image = item["image"].as_tensor()[None].to(device)
            who = {**where, "participant_id": item["participant_id"], "label": item["label"]}
            for name, network in networks.items():
                if isinstance(network, QNet):
                    scan_logits, image_logits = network.sequence(network.embed(image))
                    slices = image_logits[0].softmax(-1)[:, 1].tolist()
                    scan = scan_logits[0].softmax(-1)[1].item()
                else:
                    slices = network(slices_of(image)).softmax(-1)[:, 1].tolist()
                    scan = vote(slices)
                rows.append({**who, "model": name, "slice": "", "probability_HH": scan})
                rows += [{**who, "model": name, "slice": s, "probability_HH": p} for s, p in enumerate(slices)]
    return rows


def write_predictions(
    output_dir: str | os.PathLike,
    scans: Dataset,
    models: Mapping[str, torch.nn.Module],
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


def evaluate(
    output_dir: str | os.PathLike,
    scans: Dataset,
    models: Mapping[str, torch.nn.Module],
    device: torch.device,
    where: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Evaluate the held-out scans: `write_predictions`, then `metrics.csv`, `metrics.md` and `roc` (PNG, PDF, SVG)."""
    folder = Path(output_dir)
    rows = write_predictions(folder, scans, models, device, where, record)
    summary = summarise(rows)
    write_table(folder / "metrics.csv", list(summary[0]), summary)
    simulated = bool(record["input"]["simulated"])
    text = metrics_markdown(summary, simulated)
    write_aside(folder / "metrics.md", lambda part: Path(part).write_text(text))
    panels = [(where["region"], level) for level in LEVELS]
    figure = roc_models(read_predictions(folder / "predictions.csv"), panels, simulated)
    save_figure(figure, folder / "roc", VECTOR)
    print(text)


def write_evidence(
    output_dir: str | os.PathLike,
    scans: Sequence[Mapping[str, Any]],
    preprocessing: Transform,
    models: Mapping[str, torch.nn.Module],
    device: torch.device,
    evidence: Mapping[str, Evidence],
) -> None:
    """Write evidence volumes of each scan on its own grid, `<participant>/<scan>_<name>.nii.gz`.

    Args:
        output_dir: gets the files.
        scans: items of `scripts.maps.bids.labelled_scans`; none writes nothing.
        preprocessing: from files to the network's input.
        models: from `load_models`; the evidence is Q-Net's.
        device: what runs the network.
        evidence: name of a volume -> what makes it.
    """
    to_result = Compose([Resultd(keys="pred"), ToInputGridd(keys="pred")])
    network = models["Q-Net"].to(device).eval()
    for scan in tqdm(scans, desc="evidence", unit="scan"):
        item = dict(preprocessing(dict(scan)))
        stem = Path(output_dir) / item["participant_id"] / item["scan_id"]
        for name, method in evidence.items():
            output = QNetInferer(method)(item["image"][None].to(device), network)
            made = to_result({**item, "pred": {key: value[0].cpu() for key, value in output.items()}})
            write_aside(f"{stem}_{name}.nii.gz", partial(save_nifti, made["pred"]))


def metrics_markdown(summary: Sequence[Mapping[str, Any]], simulated: bool) -> str:
    """The measures as a Markdown table, counts beside rates; it says when the cohort is simulated."""
    heads = ["level", "model", "accuracy", "sensitivity", "specificity", "F1 (weighted)", "AUC"]
    rows = []
    for row in summary:
        positives, negatives = row["tp"] + row["fn"], row["tn"] + row["fp"]
        rows.append(
            [
                row["level"],
                row["model"],
                f"{fixed(row['accuracy'], 3)} ({row['tp'] + row['tn']}/{positives + negatives})",
                f"{fixed(row['sensitivity'], 3)} ({row['tp']}/{positives})",
                f"{fixed(row['specificity'], 3)} ({row['tn']}/{negatives})",
                fixed(row["f1"], 3),
                fixed(row["auc"], 3),
            ]
        )
    words = f"Held-out scans{' of a simulated cohort' if simulated else ''}; HH is the positive class."
    return f"{words}\n\n{markdown_table(pd.DataFrame(rows, columns=heads))}\n"
