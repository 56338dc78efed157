"""Evidence by nucleus against the truth of simulated subjects: does it point where this subject's HH acts?

    cd bundle
    python -m monai.bundle run --config_file configs/simulate.yaml --output_dir COHORT --size paper --seed 31
    python ../benchmarks/nucleus_evidence.py COHORT --weights A/model.pt B/model.pt

COHORT was not trained on; its latents say what speaks for HH in each nucleus of each subject (the log-likelihood ratio
of that nucleus' own latents). HH acts in the nuclei whose ratio is positive and at least half of the subject's largest.
Of correctly classified HH, the nucleus with the strongest evidence, in standard deviations of the healthy subjects,
should be one of them; chance is the share of nuclei that are. Measured for covering a nucleus, which the report shows,
and for the sum of an evidence map over it; and between both, the correlation over nuclei and subjects; and between
weights of several seeds. Writes `results/nucleus_evidence.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle")]

from tqdm import tqdm  # noqa: E402

from scripts.anatomy.atlas import NUCLEI  # noqa: E402
from scripts.files.table import read_frame  # noqa: E402
from scripts.files.writing import sha256, write_json, write_text  # noqa: E402
from scripts.maps.bids import labelled_scans  # noqa: E402
from scripts.maps.scan import recorded_maps  # noqa: E402
from scripts.model.ensemble import as_trained  # noqa: E402
from scripts.model.evidence import METHODS, Evidence  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.model.nucleus_evidence import by_nucleus, label_file, labels_at  # noqa: E402
from scripts.provenance import read_record, software  # noqa: E402
from scripts.training.preprocessing import preprocessing  # noqa: E402

RESULTS = HERE / "results"
#: Latents that act in one nucleus alone.
OWN = {
    "caudate": ("level_caudate", "caudate_front"),
    "putamen": ("level_putamen", "putamen_posterior"),
    "pallidum": ("level_pallidum", "pallidum_lateral"),
    "thalamus": ("level_thalamus", "pulvinar"),
}
GOAL_POINTING, GOAL_CORRELATION = 0.9, 0.6


def truth_of(cohort: Path) -> dict[str, np.ndarray]:
    """participant -> log-likelihood ratio of each nucleus' own latents, `[4]`."""
    made_by = json.loads((cohort / "dataset_description.json").read_text())["GeneratedBy"][0]["Settings"]
    names = [name for own in OWN.values() for name in own]
    path = cohort / "derivatives" / "groundtruth" / "latents.tsv"
    table = read_frame(path, ["participant_id"], numbers=names).set_index("participant_id")
    found = {}
    for who, row in table.iterrows():
        parts = []
        for own in OWN.values():
            ratio = 0.0
            for name in own:
                latent = made_by["latents"][name]
                z = (row[name] - latent["mean"]) / latent["sd"]
                ratio += latent["effect"] * z - 0.5 * latent["effect"] ** 2
            parts.append(ratio)
        found[str(who)] = np.array(parts)
    return found


def acting(ratios: np.ndarray) -> np.ndarray:
    """Nuclei where a subject's HH acts, `[4]`; the largest alone where none speaks for HH."""
    return (ratios >= 0.5 * ratios.max()) & (ratios > 0) if ratios.max() > 0 else ratios == ratios.max()


def pointing(values: np.ndarray, labels: np.ndarray, right: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Share of correctly classified HH whose strongest nucleus is one where HH acts, raw and against healthy subjects.

    Args:
        values: `[n, 4]`.
        labels: `[n]`, 0 HC or 1 HH.
        right: `[n]`, whether the class is right.
        truth: `[n, 4]`, log-likelihood ratios.
    """
    healthy = values[labels == 0]
    standard = (values - healthy.mean(0)) / healthy.std(0, ddof=1)
    chosen = np.flatnonzero((labels == 1) & right)
    where = np.stack([acting(truth[n]) for n in chosen])
    rows = np.arange(len(chosen))
    return {
        "subjects": len(chosen),
        "against_healthy": float(where[rows, standard[chosen].argmax(1)].mean()),
        "raw": float(where[rows, values[chosen].argmax(1)].mean()),
        "chance": float(where.mean()),
        "correlation_with_truth": float(np.corrcoef(standard[chosen].ravel(), truth[chosen].ravel())[0, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+", default=[HERE.parent / "bundle" / "models" / "model.pt"])
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=["integrated_gradients"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--scans", type=int, help="the first so many of each group; default all")
    parser.add_argument("--output", type=Path, default=RESULTS / "nucleus_evidence", help="path without ending")
    given = parser.parse_args()
    truth = truth_of(given.cohort)
    scans = labelled_scans(given.cohort)
    if given.scans:
        scans = [s for label in (0, 1) for s in [s for s in scans if s.label == label][: given.scans]]
    labels = np.array([scan.label for scan in scans])
    ratios = np.stack([truth[scan.participant_id] for scan in scans])
    found: dict[str, dict[str, np.ndarray]] = {}
    rights: dict[str, np.ndarray] = {}
    for weights in given.weights:
        settings = read_record(weights.with_suffix(".json")).get("settings", {})
        slices, region = settings.get("num_slices", 16), settings.get("region", "cropped")
        reader, count = settings.get("scan_model", "bilstm"), len(recorded_maps(settings))
        network = as_trained(weights, slices, settings.get("hidden_size", 128), reader, num_maps=count)
        load_weights(network, weights)
        seen = ("intensity", "chimap_window", "r2starmap_window", "t1map_window", "maps")
        same = {key: settings[key] for key in seen if key in settings}
        size = settings.get("spatial_size", [128, 128])
        steps = preprocessing(
            region, size, slices, settings.get("stretch_percentiles", [0.5, 99.5]), "annotated", **same
        )
        makers = {name: Evidence(name, given.steps, given.patch, 1) for name in given.methods}
        values: dict[str, list[np.ndarray]] = {"covering": [], **{name: [] for name in makers}}
        right = []
        for scan in tqdm(scans, desc=f"evidence, {sha256(weights)[:8]}", unit="scan"):
            image = steps(scan.item())["image"]
            path = label_file(given.cohort / "derivatives" / "groundtruth", scan.participant_id, scan.scan_id)
            if path is None:
                sys.exit(f"error: {given.cohort}: has no true nuclei of {scan.scan_id}; give a simulated cohort")
            grid = labels_at(path, image)
            plain = image.as_tensor()
            with torch.no_grad():
                logits = network(plain[None])[0]
            right.append(bool(logits[1] > logits[0]) == bool(scan.label))
            values["covering"].append(by_nucleus(network, plain, grid).numpy())
            for name, make in makers.items():
                volume = make(network, plain[None])[0, 0].numpy()
                places = (grid.astype(int) - 1) % len(NUCLEI)
                sums = [float(volume[(grid > 0) & (places == n)].sum()) for n in range(len(NUCLEI))]
                values[name].append(np.array(sums))
        key = sha256(weights)
        found[key] = {name: np.nan_to_num(np.stack(rows)) for name, rows in values.items()}
        rights[key] = np.array(right)
    made: dict[str, Any] = {}
    for key, of_method in found.items():
        made[key] = {name: pointing(rows, labels, rights[key], ratios) for name, rows in of_method.items()}
        for name, rows in of_method.items():
            together = np.corrcoef(rows.ravel(), of_method["covering"].ravel())[0, 1]
            made[key][name]["correlation_with_covering"] = float(together)
    keys = list(found)
    seeds = [
        float(np.corrcoef(found[a]["covering"].ravel(), found[b]["covering"].ravel())[0, 1])
        for place, a in enumerate(keys)
        for b in keys[place + 1 :]
    ]
    content = {
        "software": software(),
        "simulated": True,
        "scans": len(scans),
        "goals": {"pointing": GOAL_POINTING, "correlation_with_covering": GOAL_CORRELATION},
        "weights": made,
        "correlation_between_weights": seeds,
    }
    write_json(given.output.with_suffix(".json"), content)
    lines = [
        "| weights | method | HH, right | points to where HH acts | raw | chance | with covering | with the truth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, rows in made.items():
        for name, row in rows.items():
            lines.append(
                f"| {key[:8]} | {name} | {row['subjects']} | {100 * row['against_healthy']:.0f} % |"
                f" {100 * row['raw']:.0f} % | {100 * row['chance']:.0f} % | {row['correlation_with_covering']:.2f} |"
                f" {row['correlation_with_truth']:.2f} |"
            )
    words = f"Simulated cohort, {len(scans)} scans that were not trained on."
    stable = (
        f"\n\nCorrelation between weights of several seeds: {', '.join(f'{v:.2f}' for v in seeds)}." if seeds else ""
    )
    text = f"# Evidence by nucleus\n\n{words}\n\n" + "\n".join(lines) + stable + "\n"
    write_text(given.output.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
