"""Recipes, networks and single maps side by side, cross-validated on one cohort with the same folds.

    python benchmarks/networks.py COHORT OUTPUT                       # all; a run that was stopped goes on
    python benchmarks/networks.py COHORT OUTPUT --only paper quantities --training image_epochs=40
    python benchmarks/networks.py COHORT OUTPUT --oracle              # of a simulated cohort: beside the oracle
    python benchmarks/networks.py COHORT OUTPUT --at_once 13          # one large GPU: variants side by side
    python benchmarks/networks.py COHORT OUTPUT --finished_folds      # no training: folds that all variants finished

Each variant is a cross-validation of its own below OUTPUT (`configs/cross_validation.yaml`, cropped input, one
repeat); `OUTPUT/networks.json` and `networks.md` get, for each, parameters, milliseconds a scan on one core, hours of
training (of variants side by side, each as it was slowed by the others), and the scan AUC of Q-Net pooled and within
folds, with DeLong's test against the paper's recipe.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
sys.path.insert(0, str(BUNDLE))
from scripts.evaluation.auc import Aucs, compare, delong, interval, within_folds  # noqa: E402
from scripts.evaluation.predictions import read_predictions, scores  # noqa: E402
from scripts.files.table import read_table  # noqa: E402
from scripts.files.writing import write_json, write_text  # noqa: E402
from scripts.model.networks import QNet  # noqa: E402
from scripts.provenance import cohort_fingerprint, software  # noqa: E402
from scripts.simulation.iron import Latent, log_likelihood_ratio, seen_log_likelihood_ratio  # noqa: E402

RANDOM = {"imagenet_weights": "none"}
OURS = "configs/quantities.yaml"
#: Name -> overlays and keys of training.
VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "paper": ([], RANDOM),
    "quantities": ([OURS], RANDOM),
    **{f"quantities, {name}": ([OURS], RANDOM | {"scan_model": name}) for name in ("bilstm", "mean")},
    **{f"quantities, {n}": ([OURS], RANDOM | {"image_model": n}) for n in ("vit", "resnet18_3d", "densenet_3d")},
    "quantities, without QSM": ([OURS], RANDOM | {"maps": ["R2starmap", "T1w"]}),
    "quantities, without R2*": ([OURS], RANDOM | {"maps": ["Chimap", "T1w"]}),
    "quantities, without T1W": ([OURS], RANDOM | {"maps": ["Chimap", "R2starmap"]}),
    "quantities, QSM alone": ([OURS], RANDOM | {"maps": ["Chimap"]}),
    "quantities, R2* alone": ([OURS], RANDOM | {"maps": ["R2starmap"]}),
    "quantities, T1W alone": ([OURS], RANDOM | {"maps": ["T1w"]}),
}


def folder_of(output: Path, name: str) -> Path:
    return output / name.replace(", ", "-").replace(" ", "_").replace("*", "star")


def cross_validate(cohort: Path, folder: Path, overlays: list[str], keys: dict[str, Any], at_once: int) -> float:
    """Train and test all folds that are not finished; returns the seconds of this call."""
    given = [word for key, value in keys.items() for word in (f"--training#{key}", str(value))]
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "folds", "--config_file", "configs/cross_validation.yaml"),
        *("--dataset_dir", str(cohort.resolve()), "--output_dir", str(folder.resolve()), "--num_repeats", "1"),
        *("--regions", "['cropped']", "--overlays", str(overlays)),
        *("--folds_on_cpu", str(at_once), "--folds_per_gpu", str(at_once), *given),
    ]
    start = time.monotonic()
    subprocess.run(command, cwd=BUNDLE, check=True)
    return time.monotonic() - start


def network_of(overlays: list[str], keys: dict[str, Any]) -> QNet:
    """The network that a variant trains."""
    config = ConfigParser.load_config_files([str(BUNDLE / path) for path in ("configs/train.yaml", *overlays)])
    parser = ConfigParser(config)
    parser.update(keys)
    return parser.get_parsed_content("network_def").eval()


def milliseconds(network: QNet, slices: int) -> float:
    """Of one scan on one core: the least of five."""
    image = torch.rand(1, network.num_maps, *network.spatial_size, slices)
    found = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            network(image)
            found.append(time.perf_counter() - start)
    return 1000 * min(found)


def with_interval(aucs: Aucs, index: int) -> dict[str, float]:
    low, high = interval(aucs.values[index], aucs.covariance[index, index])
    return {"auc": float(aucs.values[index]), "ci_low": low, "ci_high": high}


def latents_of(cohort: Path) -> tuple[list[str], np.ndarray, dict[str, Latent]]:
    """Participants of a simulated cohort, their latent parameters, and how these are distributed, as it says itself."""
    description = json.loads((cohort / "dataset_description.json").read_text())
    settings = description["GeneratedBy"][0]["Settings"]
    latents = {name: Latent(**latent) for name, latent in settings["latents"].items()}
    rows = read_table(cohort / "derivatives" / "groundtruth" / "latents.tsv", ["participant_id", *latents])
    values = np.array([[float(row[name]) for name in latents] for row in rows])
    return [row["participant_id"] for row in rows], values, latents


def oracle_of(cohort: Path) -> tuple[list[str], np.ndarray]:
    """Participants of a simulated cohort, and what whoever knows their latent parameters would score."""
    names, values, latents = latents_of(cohort)
    return names, log_likelihood_ratio(values, latents)


def seen_of(cohort: Path, age_known: bool) -> tuple[list[str], np.ndarray]:
    """Participants, and what whoever reads every nucleus without error would score (`seen_log_likelihood_ratio`)."""
    names, values, latents = latents_of(cohort)
    ages = {
        row["participant_id"]: float(row["age"])
        for row in read_table(cohort / "participants.tsv", ["participant_id", "age"])
    }
    return names, seen_log_likelihood_ratio(values, latents, np.array([ages[name] for name in names]), age_known)


def tested(output: Path, names: list[str], finished_folds: bool) -> list[pd.DataFrame]:
    """Predictions of Q-Net of each variant: of the whole, or of the folds that all finished."""
    folders = [folder_of(output, name) for name in names]
    files = [[folder / "predictions.csv"] for folder in folders]
    if finished_folds:
        done = [{path.parent.name for path in folder.glob("folds/*/*/*/evaluation.json")} for folder in folders]
        shared = sorted(set.intersection(*done))
        files = [[next(folder.glob(f"folds/*/*/{fold}/predictions.csv")) for fold in shared] for folder in folders]
    tables = [pd.concat([read_predictions(path) for path in paths], ignore_index=True) for paths in files]
    return [table[table["model"] == "Q-Net"].assign(model=name) for name, table in zip(names, tables, strict=True)]


def measured(tables: list[pd.DataFrame], oracle: tuple[list[str], np.ndarray] | None) -> dict[str, dict[str, Any]]:
    """Scan AUCs of all variants on the same subjects, pooled and within folds."""
    names = [table["model"].iloc[0] for table in tables]
    if oracle is not None:
        first = tables[0][tables[0]["slice"].isna()]
        known = pd.Series(1 / (1 + np.exp(-oracle[1])), index=oracle[0])
        tables.append(first.assign(model="oracle", probability_HH=known.loc[first["participant_id"]].to_numpy()))
        names = [*names, "oracle"]
    found = scores(pd.concat(tables, ignore_index=True), "cropped", "scan", names)
    pooled = delong(found.labels, found.probabilities)
    within = within_folds(found.labels, found.probabilities, found.clusters, found.folds)
    return {
        name: {
            "pooled": with_interval(pooled, place),
            "within_folds": with_interval(within, place),
            "p_against_first": compare(pooled, 0, place).p if place else None,
        }
        for place, name in enumerate(names)
    }


def as_text(results: dict[str, dict[str, Any]], subjects: str) -> str:
    timed = any(row.get("training_hours") is not None for row in results.values())
    heads = ["variant", "parameters, millions", "ms a scan", *["hours of training"] * timed]
    heads += ["AUC pooled", "AUC within folds", "p"]
    lines = [f"Scan AUC of Q-Net, {subjects}; 95 % interval; p: DeLong against the first row, pooled.", ""]
    lines += [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, row in results.items():
        size = f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else ""
        speed = f"{row['milliseconds']:.0f}" if "milliseconds" in row else ""
        hours = [f"{row['training_hours']:.1f}" if row.get("training_hours") is not None else ""] * timed
        aucs = [f"{r['auc']:.3f} ({r['ci_low']:.2f}-{r['ci_high']:.2f})" for r in (row["pooled"], row["within_folds"])]
        p = "" if row["p_against_first"] is None else f"{row['p_against_first']:.3g}"
        lines.append(f"| {' | '.join([name, size, speed, *hours, *aucs, p])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--training", nargs="*", default=[], metavar="KEY=VALUE", help="keys of train.yaml, of all")
    parser.add_argument("--folds_at_once", type=int, default=1, help="folds of a variant side by side")
    parser.add_argument("--at_once", type=int, default=1, help="variants side by side")
    parser.add_argument("--finished_folds", action="store_true", help="train nothing; compare what all have finished")
    parser.add_argument("--oracle", action="store_true", help="a simulated cohort: the oracle in the last row")
    arguments = parser.parse_args()
    shared = dict(pair.split("=", 1) for pair in arguments.training)
    shared = {key: json.loads(value) if value[0] in "[0123456789" else value for key, value in shared.items()}
    times_file = arguments.output / "seconds.json"
    seconds: dict[str, float] = json.loads(times_file.read_text()) if times_file.exists() else {}

    def train(name: str) -> tuple[str, float]:
        overlays, keys = VARIANTS[name]
        folder = folder_of(arguments.output, name)
        finished = (folder / "predictions.csv").exists()
        took = cross_validate(arguments.cohort, folder, overlays, keys | shared, arguments.folds_at_once)
        return name, 0.0 if finished else took

    if not arguments.finished_folds:
        with ThreadPoolExecutor(arguments.at_once) as pool:
            for name, took in pool.map(train, arguments.only):
                seconds[name] = seconds.get(name, 0.0) + took
                write_json(times_file, seconds)
    torch.set_num_threads(1)
    tables = tested(arguments.output, arguments.only, arguments.finished_folds)
    results = measured(tables, oracle_of(arguments.cohort) if arguments.oracle else None)
    for name in arguments.only:
        overlays, keys = VARIANTS[name]
        network = network_of(overlays, keys | shared)
        results[name] |= {
            "parameters": sum(value.numel() for value in network.parameters()),
            "milliseconds": milliseconds(network, int(shared.get("num_slices", 16))),
            "training_hours": seconds[name] / 3600 if name in seconds else None,
        }
    about = cohort_fingerprint(arguments.cohort)
    first = next(folder_of(arguments.output, arguments.only[0]).glob("folds/*/*/*/evaluation.json"))
    trained_by = json.loads(first.read_text())["software"]
    record = {"software": software(), "trained_by": trained_by, "training": shared, "input": about, "results": results}
    write_json(arguments.output / "networks.json", record)
    text = as_text(results, "simulated cohort" if about["simulated"] else "held-out subjects")
    write_text(arguments.output / "networks.md", text)
    print(text)


if __name__ == "__main__":
    main()
