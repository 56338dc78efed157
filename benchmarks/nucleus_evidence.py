r"""Evidence by nucleus against the truth of simulated subjects: does it point where this subject's HH acts?

    cd bundle
    for seed in $(seq 201 220); do
        python -m monai.bundle run --config_file configs/simulate.yaml --output_dir COHORTS/$seed --size paper \
            --seed $seed --sizes#paper#hh 10 --sizes#paper#hc 10 --sizes#paper#men 13
    done
    python ../benchmarks/nucleus_evidence.py COHORTS/* --weights A/model.pt B/model.pt [--keep FOLDER]

The cohorts were not trained on; their latents say what speaks for HH in each nucleus of each subject (the
log-likelihood ratio of that nucleus' own latents). HH acts in the nuclei whose ratio is positive and at least half of
the subject's largest. Of correctly classified HH, the nucleus whose evidence is most above the mean of healthy subjects
should be one of them. Beside it: chance, the share of nuclei that are; and the one nucleus that is it most often, named
for everybody. Measured for covering a nucleus, which the report shows, and for the sum of an evidence map over it; and
between both, the correlation over nuclei and subjects; and between weights of several seeds. `--keep` keeps what was
measured of each cohort, and goes on with it. Writes `results/nucleus_evidence.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle")]

from tqdm import tqdm  # noqa: E402

from scripts.anatomy.atlas import NUCLEI  # noqa: E402
from scripts.files.table import read_frame  # noqa: E402
from scripts.files.writing import sha256, write_json, write_text  # noqa: E402
from scripts.maps.bids import labelled_scans  # noqa: E402
from scripts.maps.scan import LabelledScan, recorded_maps  # noqa: E402
from scripts.model.ensemble import as_trained  # noqa: E402
from scripts.model.evidence import METHODS, Evidence  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.model.nucleus_evidence import by_nucleus, label_file, labels_at  # noqa: E402
from scripts.provenance import cohort_fingerprint, read_record, software  # noqa: E402
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


def share(hits: np.ndarray) -> dict[str, float]:
    """A share with its 95 % interval (Wilson)."""
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"share": float(hits.mean()), "ci_low": float(low), "ci_high": float(high)}


def pointing(values: np.ndarray, labels: np.ndarray, right: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """How often the strongest nucleus of correctly classified HH is one where HH acts, by each way to say strongest.

    Args:
        values: `[n, 4]`.
        labels: `[n]`, 0 HC or 1 HH.
        right: `[n]`, whether the class is right.
        truth: `[n, 4]`, log-likelihood ratios.
    """
    healthy = values[labels == 0]
    above = values - healthy.mean(0)
    chosen = np.flatnonzero((labels == 1) & right)
    where = np.stack([acting(truth[n]) for n in chosen])
    rows = np.arange(len(chosen))
    ways = {"above_healthy": above, "in_healthy_sds": above / healthy.std(0, ddof=1), "raw": values}
    always = int(where.mean(0).argmax())
    return {
        "subjects": len(chosen),
        **{name: share(where[rows, value[chosen].argmax(1)]) for name, value in ways.items()},
        "chance": float(where.mean()),
        "one_nucleus_for_all": {"nucleus": NUCLEI[always], **share(where[:, always])},
        "correlation_with_truth": float(np.corrcoef(above[chosen].ravel(), truth[chosen].ravel())[0, 1]),
    }


class Measure:
    """What every nucleus of a scan says for HH, by every method.

    Args:
        weights: with their record.
        methods: of maps that are summed over nuclei.
        steps, patch: of `Evidence`.
    """

    def __init__(self, weights: Path, methods: Sequence[str], steps: int, patch: int) -> None:
        settings = read_record(weights.with_suffix(".json")).get("settings", {})
        slices, reader = settings.get("num_slices", 16), settings.get("scan_model", "bilstm")
        count = len(recorded_maps(settings))
        self.network = as_trained(weights, slices, settings.get("hidden_size", 128), reader, num_maps=count)
        load_weights(self.network, weights)
        seen = ("intensity", "chimap_window", "r2starmap_window", "t1map_window", "maps")
        self.preprocessing = preprocessing(
            settings.get("region", "cropped"), settings.get("spatial_size", [128, 128]), slices,
            settings.get("stretch_percentiles", [0.5, 99.5]), "annotated",
            **{key: settings[key] for key in seen if key in settings},
        )  # fmt: skip
        self.makers = {name: Evidence(name, steps, patch, 1) for name in methods}
        self.of = {"weights_sha256": sha256(weights), "methods": list(methods), "steps": steps, "patch": patch}

    def scan(self, scan: LabelledScan, cohort: Path) -> dict[str, Any]:
        """`margin` of a scan (logit of HH minus that of HC), and of each method the values `[4]`."""
        path = label_file(cohort / "derivatives" / "groundtruth", scan.participant_id, scan.scan_id)
        if path is None:
            sys.exit(f"error: {cohort}: has no true nuclei of {scan.scan_id}; give a simulated cohort")
        image = self.preprocessing(scan.item())["image"]
        grid, plain = labels_at(path, image), image.as_tensor()
        with torch.no_grad():
            logits = self.network(plain[None])[0]
        found = {"margin": float(logits[1] - logits[0])}
        found["covering"] = np.nan_to_num(by_nucleus(self.network, plain, grid).numpy()).tolist()
        places = (grid.astype(int) - 1) % len(NUCLEI)
        for name, make in self.makers.items():
            volume = make(self.network, plain[None])[0, 0].numpy()
            found[name] = [float(volume[(grid > 0) & (places == n)].sum()) for n in range(len(NUCLEI))]
        return found

    def cohort(self, cohort: Path, most: int | None, keep: Path | None) -> list[dict[str, Any]]:
        """`scan` of every scan, with its `label` and `truth`; of a kept file, where it is of the same."""
        of = {**self.of, "most": most, "cohort": cohort_fingerprint(cohort)["sha256"], "software": software()}
        kept = keep and keep / f"{self.of['weights_sha256'][:12]}-{of['cohort'][:12]}.json"
        if kept and (known := read_record(kept)).get("of") == of:
            return known["scans"]
        truth, scans = truth_of(cohort), labelled_scans(cohort)
        if most:
            scans = [s for label in (0, 1) for s in [s for s in scans if s.label == label][:most]]
        rows = [
            {"label": scan.label, "truth": truth[scan.participant_id].tolist(), **self.scan(scan, cohort)}
            for scan in tqdm(scans, desc=f"{cohort.name}, weights {self.of['weights_sha256'][:8]}", unit="scan")
        ]
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"of": of, "scans": rows})
        return rows


def attainable(margins: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """What the network makes of the nuclei, without any method: its margins regressed on the truth of the nuclei.

    Args:
        margins: `[n]`, logit of HH minus that of HC.
        labels: `[n]`.
        truth: `[n, 4]`, log-likelihood ratios.

    Returns:
        `weights` of the nuclei, `explained` variance, and `pointing`: how often evidence that is just each nucleus'
        part of that regression would be right.
    """
    given = np.column_stack([np.ones(len(truth)), truth])
    fitted = np.linalg.lstsq(given, margins, rcond=None)[0]
    parts = truth * fitted[1:]
    found = pointing(parts, labels, (margins > 0) == (labels == 1), truth)
    return {
        "weights": dict(zip(NUCLEI, fitted[1:].tolist(), strict=True)),
        "explained": float(1 - np.var(margins - given @ fitted) / np.var(margins)),
        "pointing": found["above_healthy"],
    }


def summary(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """`pointing` of every method, with its correlation with covering."""
    labels, margins, truth = (np.array([row[key] for row in rows]) for key in ("label", "margin", "truth"))
    right = (margins > 0) == (labels == 1)
    values = {name: np.array([row[name] for row in rows]) for name in methods}
    made = {
        name: {
            **pointing(of, labels, right, truth),
            "correlation_with_covering": float(np.corrcoef(of.ravel(), values["covering"].ravel())[0, 1]),
        }
        for name, of in values.items()
    }
    return {"methods": made, "attainable": attainable(margins, labels, truth)}


def as_text(content: dict[str, Any]) -> str:
    """The figures as Markdown."""

    def cell(row: dict[str, Any]) -> str:
        return f"{100 * row['share']:.0f} % ({100 * row['ci_low']:.0f}-{100 * row['ci_high']:.0f})"

    lines = [
        "# Evidence by nucleus",
        "",
        f"**Simulated** cohorts, {content['scans']} scans that were not trained on. Of HH that were classified rightly,"
        " how often the strongest nucleus is one where this subject's HH acts (95 % interval): strongest above the mean"
        " of healthy subjects, in their standard deviations, or as it is. Chance is the share of nuclei where HH acts;"
        " one nucleus for all is the best that can be said without a look at the scan.",
        "",
        "| weights | method | HH, right | above healthy | in healthy SDs | as it is | chance | one nucleus for all |"
        " correlation with covering | with the truth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, found in content["weights"].items():
        for name, row in found["methods"].items():
            cells = [cell(row[way]) for way in ("above_healthy", "in_healthy_sds", "raw")]
            one = row["one_nucleus_for_all"]
            lines.append(
                f"| {key[:8]} | {name.replace('_', ' ')} | {row['subjects']} | {' | '.join(cells)} |"
                f" {100 * row['chance']:.0f} % | {one['nucleus']} {cell(one)} |"
                f" {row['correlation_with_covering']:.2f} | {row['correlation_with_truth']:.2f} |"
            )
    for key, found in content["weights"].items():
        could = found["attainable"]
        lines += [
            "",
            f"{key[:8]}: the truth of the nuclei explains {100 * could['explained']:.0f} % of the variance of the"
            f" network's output; evidence in exact proportion to it would be right in {cell(could['pointing'])}.",
        ]
    seeds = content["correlation_between_weights"]
    if seeds:
        lines += ["", f"Correlation of covering between weights: {', '.join(f'{value:.2f}' for value in seeds)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, nargs="+", default=[HERE.parent / "bundle" / "models" / "model.pt"])
    parser.add_argument("--methods", nargs="*", choices=sorted(METHODS), default=["integrated_gradients"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--scans", type=int, help="the first so many of each group of a cohort; default all")
    parser.add_argument("--keep", type=Path, help="folder for what was measured of each cohort")
    parser.add_argument("--output", type=Path, default=RESULTS / "nucleus_evidence", help="path without ending")
    given = parser.parse_args()
    methods = ["covering", *given.methods]
    found: dict[str, list[dict[str, Any]]] = {}
    for weights in given.weights:
        measure = Measure(weights, given.methods, given.steps, given.patch)
        found[measure.of["weights_sha256"]] = [
            row for cohort in given.cohorts for row in measure.cohort(cohort, given.scans, given.keep)
        ]
    covering = [np.array([row["covering"] for row in rows]).ravel() for rows in found.values()]
    content = {
        "software": software(),
        "simulated": True,
        "cohorts": len(given.cohorts),
        "scans": len(next(iter(found.values()))),
        "goals": {"pointing": GOAL_POINTING, "correlation_with_covering": GOAL_CORRELATION},
        "weights": {key: summary(rows, methods) for key, rows in found.items()},
        "correlation_between_weights": [float(np.corrcoef(a, b)[0, 1]) for a, b in combinations(covering, 2)],
    }
    write_json(given.output.with_suffix(".json"), content)
    text = as_text(content)
    write_text(given.output.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
