"""One page that shows what a training run, its evaluation and an inference run made: pictures, measures and files."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.errors import InputError
from scripts.evaluation.predictions import at_level, ordered, read_predictions
from scripts.evaluation.statistics import THRESHOLD
from scripts.evaluation.trust import too_few
from scripts.files.json_file import read_json
from scripts.files.table import read_table
from scripts.maps.bids import GROUPS, find_scans, read_participants
from scripts.maps.notes import cut_by, flagged
from scripts.maps.scan import Scan, recorded_maps
from scripts.reporting import page
from scripts.reporting.figures import learning_curves
from scripts.reporting.gallery import OF_EVIDENCE, STAGES
from scripts.reporting.markup import fixed
from scripts.reporting.outcome import chosen
from scripts.reporting.pictures import Explained, evidence_overlays, example_maps, place_shown
from scripts.reporting.scan import evidence_caption
from scripts.reporting.style import VECTOR, save_figure, titled
from scripts.reporting.tables import scan_level
from scripts.reporting.trust import abstention, calibrated_reliability, places_figure


def report(
    report_dir: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    evaluation_dir: str | os.PathLike,
    inference_dir: str | os.PathLike,
    calibration: str | os.PathLike,
    examples: int,
) -> None:
    """Draw a run's pictures, put them on one self-contained HTML page with the measures, and print where all is.

    Args:
        report_dir: gets `index.html` and the pictures.
        dataset_dir: the cohort, with participants.tsv.
        output_dir: of training; holds the learning curves and augmented samples.
        evaluation_dir: of evaluation; holds metrics.csv and roc.svg.
        inference_dir: of inference; holds predictions.csv.
        calibration: beside the weights, where they have one: says where the training scans lie.
        examples: subjects of each group to show.

    Raises:
        InputError: one of the runs is missing, or see `check_of_one`.
    """
    folder, training = Path(report_dir), Path(output_dir)
    evaluation, inference = Path(evaluation_dir), Path(inference_dir)
    needed = [training / "scan_level.csv", evaluation / "evaluation.json", inference / "predictions.csv"]
    for path in needed:
        if not path.exists():
            raise InputError(f"{path}: no such file; run training, evaluate.yaml and inference.yaml first")
    record = read_json(evaluation / "evaluation.json", "evaluation", "run evaluate.yaml again")
    simulated = bool(record["input"].get("simulated"))

    participants = read_participants(Path(dataset_dir) / "participants.tsv", ["participant_id", "group"])
    group_of = {name: row["group"] for name, row in participants.items()}
    tested = read_predictions(evaluation / "predictions.csv")
    check_of_one(record, tested, inference / "run.json", group_of)
    shown_first, how_far = finding(tested, simulated), believed(tested)  # refused, if so, before anything is drawn
    held_out = set(tested["participant_id"])
    columns = ["participant_id", "scan_id", "status", "slice", "class", "probability_HH"]
    rows = read_table(inference / "predictions.csv", columns, cure="run inference.yaml again")
    rows = [row for row in rows if row["participant_id"] in held_out]  # of a whole cohort, say
    results = {r["scan_id"]: r for r in rows if r["status"] == "ok" and not r["slice"]}

    def inferred(scan: Scan, ending: str) -> Path:
        return inference / scan.participant_id / f"{scan.scan_id}_{ending}"

    by_name: dict[str, Scan] = {}
    said_of: dict[str, dict[str, Any]] = {}
    for scan in find_scans(dataset_dir, maps=recorded_maps(record["settings"])):
        if scan.scan_id not in results:
            continue
        own = inferred(scan, "prediction.json")
        about = said_of[scan.scan_id] = read_json(own, "prediction", "run inference.yaml again")
        box = about.get("box", {})
        told = "voxels" in box or box.get("source") == "whole"
        by_name[scan.scan_id] = cut_by(scan, box.get("voxels"), own) if told else scan
    true = pd.Series({name: group_of[scan.participant_id] for name, scan in by_name.items()}, dtype=str)
    said = pd.Series({name: results[name]["class"] for name in by_name}, dtype=str)
    shown = [by_name[name] for name in chosen(true, said, examples)]
    if not shown:
        raise InputError(f"{needed[2]}: names no held-out scan of {dataset_dir}; give the cohort that was inferred")

    pairs = {f"{group_of[s.participant_id]}, {s.scan_id}": s for s in (shown[0], shown[-1])}
    curves = {title: [training / name] for name, title in STAGES.items() if (training / name).exists()}
    region = record["settings"]["region"]
    explained = [
        Explained(
            s,
            inferred(s, "evidence.nii.gz"),
            group_of[s.participant_id],
            results[s.scan_id]["class"],
            float(results[s.scan_id]["probability_HH"]),
        )
        for s in shown
    ]
    maps = example_maps(pairs, titled("One subject of each group", simulated))
    went = learning_curves(curves, titled("Learning curves", simulated))
    method = said_of[shown[0].scan_id].get("evidence")
    name = method["name"] if method else "method not recorded"
    evidence = evidence_overlays(explained, region, simulated, name)
    pictures = {
        "subjects": save_figure(maps, folder / "example_maps")[0],
        "augmentation": training / "augmentation_samples.png",
        "curves": save_figure(went, folder / "learning_curves", VECTOR)[-1],
        "roc": evaluation / "roc.svg",
        "evidence": save_figure(evidence, folder / "evidence")[0],
    }
    summary = inference / "summary.html"
    why_not = too_few(tested)
    trust: dict[str, Path] = {}
    if why_not is None:
        for part, draw in (("reliability", calibrated_reliability), ("coverage", abstention)):
            trust[part] = save_figure(draw(tested, "platt", simulated), folder / part, VECTOR)[-1]
    familiar = [one["familiarity"] for one in said_of.values() if "familiarity" in one]
    known = read_json(calibration, "calibration") if familiar and Path(calibration).is_file() else {}
    places = (known.get("familiarity") or {}).get("places", [])
    if places:
        trust["places"] = save_figure(places_figure(places, familiar, simulated), folder / "places", VECTOR)[-1]
    metrics = read_table(evaluation / "metrics.csv", ["level", "model"], cure="run evaluate.yaml again")
    path = folder / "index.html"
    listed = scan_rows(results, group_of, inference, folder)
    page.write_page(
        path,
        "training.html",
        title=f"Q-Net on a {'simulated cohort' if simulated else 'cohort'}",
        note=page.note(simulated),
        finding=shown_first,
        batch=os.path.relpath(summary, folder) if summary.is_file() else "",
        pictures=pictures,
        place=place_shown(pairs.values()),
        of_evidence=f"{evidence_caption(method)} Outlined where it is strong: solid for HH, dashed for HC."
        f" {OF_EVIDENCE}",
        measures=(list(metrics[0]), [[number(cell) for cell in row.values()] for row in metrics]),
        scans=listed,
        answered=Counter(row["answer"] for row in listed) if any(row["answer"] for row in listed) else None,
        unlikely=flagged(training / "scans.tsv"),
        trust=trust,
        why_not=why_not,
        believed=how_far,
        record=record,
    )

    print(f"\nSee {path}")
    print("pictures", *(f"  {picture}" for picture in [*pictures.values(), *trust.values()]), sep="\n")
    print("tables", f"  {evaluation / 'metrics.md'}", f"  {evaluation / 'predictions.csv'}", f"  {needed[2]}", sep="\n")
    print(
        "per scan", f"  {inferred(shown[0], 'prediction.json')}", f"  {inferred(shown[0], 'evidence.nii.gz')}", sep="\n"
    )


def check_of_one(evaluation: Mapping[str, Any], tested: pd.DataFrame, run: Path, group_of: Mapping[str, str]) -> None:
    """Refuse to put on one page what is not of the same weights and labels.

    Args:
        evaluation: its record.
        tested: its predictions.
        run: `run.json` of the inference.
        group_of: participant -> HH or HC, as participants.tsv has it now.

    Raises:
        InputError: the inference is of other weights, or a label changed since the evaluation.
    """
    weights = read_json(run, "run", "run inference.yaml again")["run"].get("weights_sha256")
    if weights not in evaluation["weights"].values():
        raise InputError(
            f"{run}: the inference is of other weights than the evaluation; run inference.yaml with those that were"
            " evaluated (--weights), or give --inference_dir"
        )
    labels = tested.groupby("participant_id")["label"].first()
    changed = [name for name, label in labels.items() if GROUPS.get(group_of.get(str(name), "")) != label]
    if changed:
        raise InputError(
            f"participants.tsv: the group of {changed[0]} is not what it was in the evaluation ({len(changed)} of"
            f" {len(labels)} subjects); run evaluate.yaml again"
        )


def finding(tested: pd.DataFrame, simulated: bool) -> str:
    """What held-out scans showed of the main model, in a sentence or two.

    Args:
        tested: from `scripts.evaluation.predictions.read_predictions`.
        simulated: whether the cohort is.
    """
    model = list(ordered(at_level(tested, "scan")["model"]))[-1]
    measures = scan_level(tested)
    measures = measures[measures["model"] == model].set_index("measure")
    auc, ill, well = (measures.loc[name] for name in ("auc", "sensitivity", "specificity"))
    of = (
        f"{row['count']} of {row['total']} {group} scans {group} ({name} {fixed(row['mean'] / 100, 2)})"
        for group, name, row in (("HH", "sensitivity", ill), ("HC", "specificity", well))
    )
    low, high = fixed(auc["ci_low"], 2), fixed(auc["ci_high"], 2)
    return (
        f"Of {tested['participant_id'].nunique()} held-out subjects{' (simulated, no patients)' if simulated else ''},"
        f" {model} called {' and '.join(of)} at a threshold of {THRESHOLD:g}. AUC of scans: {fixed(auc['mean'], 2)}"
        f"{'' if pd.isna(auc['ci_low']) else f' (95 % interval {low} to {high})'}; 0.5 is chance, 1 perfect."
    )


def believed(tested: pd.DataFrame) -> str:
    """On how many scans it rests how far the model is to be believed, and what that means.

    Args:
        tested: see `finding`.
    """
    labels = at_level(tested, "scan").drop_duplicates("participant_id")["label"]
    count, ill = len(labels), int((labels == 1).sum())
    return (
        f"The next pictures rest on {count} held-out subjects ({ill} HH, {count - ill} HC), each judged by the others."
        f" One of them is {fixed(100 / count, 1)} % of all: a difference of a few subjects says nothing."
    )


def scan_rows(
    results: Mapping[str, Mapping[str, str]], group_of: Mapping[str, str], inference: Path, folder: Path
) -> list[dict[str, Any]]:
    """A scan's true group beside what was predicted, and the link from the report's folder to its own page, where it
    has one: relative, so that both folders can be moved together."""
    found = []
    for name, row in results.items():
        own = inference / row["participant_id"] / f"{name}_report.html"
        found.append(
            {
                "name": name,
                "page": os.path.relpath(own, folder) if own.is_file() else "",
                "group": group_of[row["participant_id"]],
                "class": row["class"],
                "probability": float(row["probability_HH"]),
                "answer": row.get("answer") or "",
            }
        )
    return found


def number(cell: str) -> str | float | int:
    """A cell of a CSV, as a number where it is one."""
    return int(cell) if cell.isdecimal() else float(cell) if re.fullmatch(r"\d+\.\d+", cell) else cell
