r"""How many subjects does a study need? Scan AUC on cohorts never seen, by how many subjects trained, recipe by recipe.

    cd bundle
    python -m monai.bundle run --config_file configs/simulate.yaml --output_dir TRAIN --size paper --seed 101 \
        --sizes#paper#hh 250 --sizes#paper#hc 250 --sizes#paper#men 338
    for seed in $(seq 201 220); do   # the same population, other heads
        python -m monai.bundle run --config_file configs/simulate.yaml --output_dir TEST/$seed --size paper \
            --seed $seed --sizes#paper#hh 10 --sizes#paper#hc 10 --sizes#paper#men 13
    done
    python ../benchmarks/learning_curve.py TRAIN WORK --test TEST/*      # goes on where it stopped

A study of n subjects trains on nine tenths of them, as a fold of a cross-validation does; smaller studies are parts of
larger ones. Every recipe gets the same subjects and as many passes: `--passes` subjects in all, at most `--most`
epochs (without ImageNet weights a held-out fold gains nothing after some 900, `results/cross_validation_paper`). All
models are tested on the same subjects, so that DeLong's test between recipes is paired. The oracle knows the latents;
whoever reads all that an image shows without error does not (`scripts.simulation.iron.seen_log_likelihood_ratio`).
Writes `results/learning_curve/`: `predictions.csv`, `learning_curve.json`, `.md`; and the picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
sys.path[:0] = [str(BUNDLE), str(HERE)]

from networks import oracle_of, seen_of, with_interval  # noqa: E402

from scripts.evaluation.auc import Aucs, clustered_delong, compare, delong  # noqa: E402
from scripts.evaluation.predict import predict  # noqa: E402
from scripts.files.table import read_table  # noqa: E402
from scripts.files.writing import sha256, write_json, write_table, write_text  # noqa: E402
from scripts.maps.bids import labelled_scans  # noqa: E402
from scripts.maps.scan import items  # noqa: E402
from scripts.model.networks import load_weights  # noqa: E402
from scripts.provenance import cohort_fingerprint, software  # noqa: E402
from scripts.reporting.style import save_figure, titled  # noqa: E402
from scripts.training.cache import CachedScans  # noqa: E402

RESULTS = HERE / "results" / "learning_curve"
PICTURE = HERE.parent / "docs" / "pictures" / "study_size"
#: Name -> overlays on train.yaml.
RECIPES: dict[str, list[str]] = {"paper": [], "quantities": ["configs/quantities.yaml"]}
#: Readers that no training reaches -> their log odds of a cohort's subjects, and their line in the picture.
CEILINGS: dict[str, tuple[Callable[[Path], tuple[list[str], np.ndarray]], str]] = {
    "oracle": (oracle_of, "--"),
    "all that is seen, and age": (partial(seen_of, age_known=True), "-."),
    "all that is seen": (partial(seen_of, age_known=False), ":"),
}
COLORS = {"paper": "#777777", "quantities": "#b2182b"}


def study(cohort: Path, subjects: int, folder: Path, seed: int) -> Path:
    """A cohort of the first `subjects` of a shuffled one, both groups alike: links to the scans, a table of its own."""
    rows = read_table(cohort / "participants.tsv", ["participant_id", "group"])
    rng = np.random.default_rng(seed)
    chosen: list[dict[str, str]] = []
    for group in ("HH", "HC"):
        members = [row for row in rows if row["group"] == group]
        order = rng.permutation(len(members))  # drawn whole, so that a smaller study is part of a larger one
        chosen += [members[place] for place in order[: subjects // 2]]
    if len(chosen) < subjects:
        sys.exit(f"error: {cohort}: {len(chosen)} subjects of both groups, {subjects} wanted")
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "participants.tsv", list(rows[0]), sorted(chosen, key=lambda row: row["participant_id"]))
    write_text(folder / "dataset_description.json", (cohort / "dataset_description.json").read_text())
    names = {row["participant_id"] for row in chosen}
    for kind in (".", "derivatives/basalganglia"):
        for name in names:
            link = folder / kind / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to((cohort / kind / name).resolve())
    return folder


def keys_of(work: Path, recipe: str, subjects: int, epochs: int) -> dict[str, Any]:
    """What a training is given beside its recipe."""
    run = work / f"{recipe}-{subjects}"
    return {
        "dataset_dir": str(work / "cohorts" / str(subjects)),
        "ckpt_dir": str(run / "models"),
        "output_dir": str(run / "output"),
        "imagenet_weights": "none",
        "precision": "auto",
        "image_epochs": epochs,
        "localise": "annotated",
    }


def train(work: Path, recipe: str, keys: dict[str, Any]) -> None:
    """A whole training by its configs; scans of all trainings of a recipe share one cache."""
    overlay = {"+imports": ["$import scripts.training.cache"]}
    for part, scans in (("train", "@train_datalist"), ("validate", "@val_datalist")):
        overlay[f"{part}#dataset"] = {  # type: ignore[assignment]
            "_target_": "scripts.training.cache.CachedScans",
            "data": f"$scripts.maps.scan.items({scans})",
            "transform": f"@{part}#preprocessing",
            "cache_dir": str(work / "cache"),
        }
    write_text(work / "cache.yaml", yaml.safe_dump(overlay))
    files = ["configs/train.yaml", *RECIPES[recipe], str(work / "cache.yaml")]
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files), *words]
    subprocess.run(command, cwd=BUNDLE, check=True)


def tested(work: Path, recipe: str, trained: dict[int, dict[str, Any]], tests: Sequence[Path]) -> pd.DataFrame:
    """Predictions of a recipe's models for every scan of the test cohorts, each scan read once."""
    config = ConfigParser.load_config_files([str(BUNDLE / path) for path in ("configs/train.yaml", *RECIPES[recipe])])
    parser = ConfigParser(config)
    parser.update({key: value for key, value in trained[max(trained)].items() if key in ("localise", "precision")})
    parser["bundle_root"] = str(BUNDLE)
    network = parser.get_parsed_content("network_def")
    models = {
        f"{recipe}, {subjects}": load_weights(deepcopy(network), f"{keys['ckpt_dir']}/model.pt")
        for subjects, keys in trained.items()
    }
    parts = []
    for fold, cohort in enumerate(tests):
        path = work / "tested" / recipe / f"{cohort.name}.csv"
        if not path.is_file():
            data = items(labelled_scans(cohort))
            scans = CachedScans(data, parser.get_parsed_content("preprocessing"), work / "cache")
            where = {"repeat": 0, "fold": fold, "region": "cropped"}
            rows = predict(scans, models, torch.device("cpu"), where)
            for row in rows:  # cohorts name their subjects alike
                row["participant_id"] = f"{cohort.name}/{row['participant_id']}"
            write_table(path, list(rows[0]), rows)
        parts.append(pd.read_csv(path))
    return pd.concat(parts, ignore_index=True)


def p_of(aucs: Aucs, first: int, other: int) -> float | None:
    """Of DeLong's test; none where it has no answer."""
    p = compare(aucs, first, other).p
    return float(p) if np.isfinite(p) else None


def aligned(table: pd.DataFrame, names: Sequence[str], scan: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels `[n]`, clusters `[n]` and probabilities `[k, 1, n]` of the same cases."""
    part = table[table["slice"].isna() if scan else table["slice"].notna()].fillna({"slice": -1})
    wide = part.pivot(index=["participant_id", "slice", "label"], columns="model", values="probability_HH")
    who = pd.factorize(wide.index.get_level_values(0))[0]
    return wide.index.get_level_values(2).to_numpy(), who, wide[list(names)].to_numpy().T[:, None]


def measured(table: pd.DataFrame, recipes: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    """AUCs by study size, and DeLong's test of each recipe against the first at the same size."""
    names = [f"{recipe}, {size}" for size in sizes for recipe in recipes]
    labels, _, scans = aligned(table, [*names, *CEILINGS], scan=True)
    scan_aucs = delong(labels, scans)
    slice_labels, clusters, slices = aligned(table, names, scan=False)
    slice_aucs = clustered_delong(slice_labels, slices, clusters)
    ceilings = {name: with_interval(scan_aucs, len(names) + place) for place, name in enumerate(CEILINGS)}
    found: dict[str, Any] = {"ceilings": ceilings, "sizes": {}}
    for place, size in enumerate(sizes):
        first = place * len(recipes)
        found["sizes"][str(size)] = {
            recipe: {
                "scan": with_interval(scan_aucs, first + i),
                "image": with_interval(slice_aucs, first + i),
                "p_scan": p_of(scan_aucs, first, first + i) if i else None,
                "p_image": p_of(slice_aucs, first, first + i) if i else None,
            }
            for i, recipe in enumerate(recipes)
        }
    return found


def draw(found: dict[str, Any], recipes: Sequence[str], subjects: int, output: Path) -> None:
    """Scan AUC by study size, with 95 % intervals and the oracle as ceiling."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    sizes = [int(size) for size in found["sizes"]]
    for offset, recipe in zip(np.linspace(-0.012, 0.012, len(recipes)), recipes, strict=True):
        rows = [found["sizes"][str(size)][recipe]["scan"] for size in sizes]
        middle = np.array([row["auc"] for row in rows])
        error = [middle - [row["ci_low"] for row in rows], [row["ci_high"] for row in rows] - middle]
        where = np.array(sizes) * np.exp(offset)
        axes.errorbar(where, middle, error, fmt="o-", capsize=3, color=COLORS.get(recipe), label=recipe)
    for name, (_, line) in CEILINGS.items():
        axes.axhline(found["ceilings"][name]["auc"], color="black", linestyle=line, linewidth=1, label=name)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="subjects of the study (nine tenths train)", ylabel="AUC, scans", ylim=(0.5, 1.0))
    axes.set_title(titled(f"Q-Net on {subjects} subjects never seen", True, figure), fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    axes.grid(color="0.93")
    save_figure(figure, output, (".png",))


def ceilings_of(first: pd.DataFrame, tests: Sequence[Path]) -> list[pd.DataFrame]:
    """What each of CEILINGS says of the subjects of the test cohorts, as a model's rows.

    Args:
        first: one row a subject, as `tested` names them.
        tests: simulated cohorts.
    """
    tables = []
    for name, (reader, _) in CEILINGS.items():
        known = {
            f"{cohort.name}/{who}": 1 / (1 + np.exp(-ratio))
            for cohort in tests
            for who, ratio in zip(*reader(cohort), strict=True)
        }
        tables.append(first.assign(model=name, probability_HH=first["participant_id"].map(known)))
    return tables


def epochs_of(trained: dict[str, dict[int, dict[str, Any]]], size: int) -> int:
    """Epochs of stage 1 that the models of a study had, by their records."""
    found = {
        recipe: json.loads((Path(keys[size]["ckpt_dir"]) / "resnet.json").read_text())["settings"]["image_epochs"]
        for recipe, keys in trained.items()
    }
    if len(set(found.values())) > 1:
        sys.exit(f"error: recipes were trained for different numbers of epochs at {size} subjects: {found}")
    return next(iter(found.values()))


def without_nan(content: Any) -> Any:
    """For JSON: an AUC of 1 has no interval."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and not np.isfinite(content) else content


def as_text(found: dict[str, Any], recipes: Sequence[str], content: dict[str, Any]) -> str:
    readers = [
        f"{name} {row['auc']:.3f} ({row['ci_low']:.3f}-{row['ci_high']:.3f})" for name, row in found["ceilings"].items()
    ]
    lines = [
        f"# Learning curve (simulated, {content['subjects']} test subjects of {content['cohorts']} cohorts)",
        "",
        "AUC of Q-Net (95 % interval over subjects); p: DeLong's paired test against the paper's recipe, same size.",
        f"Ceilings: {'; '.join(readers)}.",
        "",
        "| subjects | epochs of stage 1 | recipe | scans | p | slices | p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size, row in found["sizes"].items():
        for recipe in recipes:
            cells = []
            for level in ("scan", "image"):
                value, p = row[recipe][level], row[recipe][f"p_{level}"]
                cells += [f"{value['auc']:.3f} ({value['ci_low']:.3f}-{value['ci_high']:.3f})"]
                cells += ["" if p is None else f"{p:.2g}"]
            lines.append(f"| {size} | {content['epochs'][size]} | {recipe} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="simulated, at least as large as the largest study")
    parser.add_argument("work", type=Path, help="gets trainings and cache")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="simulated cohorts; none: train only")
    parser.add_argument("--subjects", type=int, nargs="+", default=[500, 250, 120, 60])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--passes", type=int, default=3000, help="subjects times epochs of stage 1")
    parser.add_argument("--most", type=int, default=40, help="epochs of stage 1 at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE, help="path without ending")
    given = parser.parse_args()
    work = given.work.resolve()
    epochs = {size: max(1, min(given.most, round(given.passes / size))) for size in given.subjects}
    trained: dict[str, dict[int, dict[str, Any]]] = {recipe: {} for recipe in given.recipes}
    for size in given.subjects:
        study(given.cohort.resolve(), size, work / "cohorts" / str(size), given.seed)
        for recipe in given.recipes:
            keys = keys_of(work, recipe, size, epochs[size])
            trained[recipe][size] = keys
            if not (Path(keys["ckpt_dir"]) / "model.json").is_file():  # written last
                train(work, recipe, keys)
    if not given.test:
        return
    tables = [tested(work, recipe, trained[recipe], given.test) for recipe in given.recipes]
    first = tables[0][tables[0]["slice"].isna()].drop_duplicates("participant_id")
    tables += ceilings_of(first, given.test)
    table = pd.concat(tables, ignore_index=True)
    sizes = sorted(given.subjects)
    found = measured(table, given.recipes, sizes)
    weights = {
        f"{recipe}, {size}": f"{keys['ckpt_dir']}/model.pt"
        for recipe in trained
        for size, keys in trained[recipe].items()
    }
    content = {
        "software": software(),
        "simulated": True,
        "input": cohort_fingerprint(given.cohort),
        "subjects": len(first),
        "cohorts": len(given.test),
        "epochs": {str(size): epochs_of(trained, size) for size in sizes},
        "weights_sha256": {name: sha256(path) for name, path in weights.items()},
        **found,
    }
    given.output.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.output / "predictions.csv", index=False, float_format="%.5f")
    write_json(given.output / "learning_curve.json", without_nan(content))
    text = as_text(found, given.recipes, content)
    write_text(given.output / "learning_curve.md", text)
    draw(found, given.recipes, len(first), given.picture)
    print(text)


if __name__ == "__main__":
    main()
