r"""Which recipe? Variants of training, each judged on subjects of the same simulated cohort that none of them saw.

    python ../benchmarks/recipes.py TRAIN WORK  # from bundle/; goes on where it stopped
    python ../benchmarks/recipes.py SECOND WORK2 --subjects 120 --epochs 20 --only paper pretrained \
        --pretrained pretrained_simulated.pt --output ../benchmarks/results/pretraining

Every variant trains on the same subjects, a study of `learning_curve.py`, and is validated on the rest of the cohort;
the cohorts that `learning_curve.py` tests on stay unseen. `+ flip`: the mean of a scan's and its mirror image's logits.
SECOND is a cohort of `configs/simulate_second.yaml`; its network starts from `configs/pretrain.yaml` on TRAIN.
Writes `recipes.json` and `.md` below `results/recipes/`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from monai.bundle import ConfigParser
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle"), str(HERE)]

from learning_curve import BUNDLE, CEILINGS, aligned, p_of, study, without_nan  # noqa: E402
from networks import with_interval  # noqa: E402

from scripts.evaluation.auc import clustered_delong, delong  # noqa: E402
from scripts.files.table import read_table  # noqa: E402
from scripts.files.writing import sha256, write_json, write_table, write_text  # noqa: E402
from scripts.maps.bids import labelled_scans  # noqa: E402
from scripts.maps.scan import items  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.provenance import cohort_fingerprint, software  # noqa: E402
from scripts.training.cache import CachedScans  # noqa: E402

RESULTS = HERE / "results" / "recipes"
GENTLE = {
    "+augment": {
        "vertical_flip_prob": 0.0,
        "brightness_limit": 0.05,
        "contrast_limit": 0.05,
        "gamma_prob": 0.0,
        "rotate_limit": 15,
    }
}
#: Variant -> keys laid over train.yaml. The first is the paper's.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "gentle augmentation": GENTLE,
    "windows, gentle augmentation, attention": {"intensity": "window", "scan_model": "attention", **GENTLE},
    "pretrained": {},
}


def train(work: Path, cohort: Path, variant: str, epochs: int, start: str) -> Path:
    """Train a variant where it is not trained; return the folder of its weights."""
    run = work / "recipes" / variant.replace(", ", "-").replace(" ", "_")
    models = run / "models"
    if (models / "model.json").is_file():  # written last
        return models
    overlay = {
        "+imports": ["$import scripts.training.cache"],
        "dataset_dir": str(cohort),
        "ckpt_dir": str(models),
        "output_dir": str(run / "output"),
        "imagenet_weights": start if variant == "pretrained" else "none",
        "precision": "auto",
        "localise": "annotated",
        "calibrate_on": "none",
        "image_epochs": epochs,
        **VARIANTS[variant],
    }
    for part, scans in (("train", "@train_datalist"), ("validate", "@val_datalist")):
        overlay[f"{part}#dataset"] = {
            "_target_": "scripts.training.cache.CachedScans",
            "data": f"$scripts.maps.scan.items({scans})",
            "transform": f"@{part}#preprocessing",
            "cache_dir": str(work / "cache"),
        }
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "overlay.yaml", yaml.safe_dump(overlay))
    files = ["configs/train.yaml", str(run / "overlay.yaml")]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files)]
    subprocess.run(command, cwd=BUNDLE, check=True)
    return models


@torch.inference_mode()
def predicted(work: Path, variant: str, models: Path, subjects: list[Any]) -> pd.DataFrame:
    """Probabilities of a variant for every scan and slice, as it is and with its mirror image."""
    path = models.parent / "validated.csv"
    if not path.is_file():
        files = [str(BUNDLE / "configs/train.yaml"), str(models.parent / "overlay.yaml")]
        parser = ConfigParser(ConfigParser.load_config_files(files))
        parser["bundle_root"] = str(BUNDLE)
        network = load_weights(deepcopy(parser.get_parsed_content("network_def")), models / "model.pt").eval()
        scans = CachedScans(items(subjects), parser.get_parsed_content("preprocessing"), work / "cache")
        rows = []
        for index in tqdm(range(len(scans)), desc=variant, unit="scan"):
            item = scans[index]
            image = item["image"].as_tensor()[None]
            scan, slices = network.sequence(network.embed(image))
            other_scan, other_slices = network.sequence(network.embed(image.flip(3)))
            for name, of_scan, of_slices in (
                (variant, scan, slices),
                (f"{variant} + flip", (scan + other_scan) / 2, (slices + other_slices) / 2),
            ):
                who = {"participant_id": item["participant_id"], "label": item["label"], "model": name}
                rows.append({**who, "slice": "", "probability_HH": of_scan[0].softmax(-1)[1].item()})
                rows += [
                    {**who, "slice": s, "probability_HH": p}
                    for s, p in enumerate(of_slices[0].softmax(-1)[:, 1].tolist())
                ]
        write_table(path, list(rows[0]), rows)
    return pd.read_csv(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="simulated")
    parser.add_argument("work", type=Path, help="gets trainings and cache")
    parser.add_argument("--subjects", type=int, default=250, help="that train and set the stages; the rest validates")
    parser.add_argument("--epochs", type=int, default=12, help="of stage 1")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=[name for name in VARIANTS if name != "pretrained"]
    )
    parser.add_argument("--pretrained", default="", help="weights of configs/pretrain.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    work, cohort = given.work.resolve(), given.cohort.resolve()
    part = study(cohort, given.subjects, work / "cohorts" / str(given.subjects), given.seed)
    seen = {row["participant_id"] for row in read_table(part / "participants.tsv", ["participant_id"])}
    rest = [scan for scan in labelled_scans(cohort) if scan.participant_id not in seen]
    tables = []
    for variant in given.only:
        tables.append(predicted(work, variant, train(work, part, variant, given.epochs, given.pretrained), rest))
        report(pd.concat(tables, ignore_index=True), cohort, given)


def report(table: pd.DataFrame, cohort: Path, given: argparse.Namespace) -> None:
    """Write and print the AUCs of the variants so far."""
    names = list(dict.fromkeys(table["model"]))
    first = table[table["slice"].isna() & (table["model"] == names[0])]
    ceilings = []
    for name, (reader, _) in CEILINGS.items():
        known = dict(zip(*reader(cohort), strict=True))
        ceilings.append(first.assign(model=name, probability_HH=first["participant_id"].map(known)))
    table = pd.concat([table, *ceilings], ignore_index=True)
    labels, _, scans = aligned(table, [*names, *CEILINGS], scan=True)
    scan_aucs = delong(labels, scans)
    slice_labels, clusters, slices = aligned(table, names, scan=False)
    slice_aucs = clustered_delong(slice_labels, slices, clusters)
    found = {
        name: {
            "scan": with_interval(scan_aucs, i),
            "image": with_interval(slice_aucs, i),
            "p_scan": p_of(scan_aucs, 0, i) if i else None,
        }
        for i, name in enumerate(names)
    }
    tops = {name: with_interval(scan_aucs, len(names) + i) for i, name in enumerate(CEILINGS)}
    given.output.mkdir(parents=True, exist_ok=True)
    content = {
        "software": software(),
        "simulated": True,
        "input": cohort_fingerprint(cohort),
        "trained": given.subjects,
        "validated": len(first),
        "epochs": given.epochs,
        "pretrained_sha256": sha256(given.pretrained) if given.pretrained else None,
        "ceilings": tops,
        "variants": found,
    }
    write_json(given.output / "recipes.json", without_nan(content))
    lines = [
        f"# Variants of training (simulated; {given.subjects} subjects, {given.epochs} epochs of stage 1;"
        f" {len(first)} subjects that none of them saw)",
        "",
        "Ceilings, scans: " + "; ".join(f"{name} {row['auc']:.3f}" for name, row in tops.items()) + ".",
        "",
        f"| variant | scans, AUC (95 % interval) | p against {names[0]} | slices |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in found.items():
        scan, p = row["scan"], row["p_scan"]
        interval = f"{scan['auc']:.3f} ({scan['ci_low']:.3f}-{scan['ci_high']:.3f})"
        lines.append(f"| {name} | {interval} | {'' if p is None else f'{p:.2g}'} | {row['image']['auc']:.3f} |")
    write_text(given.output / "recipes.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
