"""One page that shows what a run made: pictures, measures and files."""

import base64
import csv
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.cohort import find_scans, read_participants
from scripts.errors import InputError
from scripts.figures import evidence_overlays, example_maps, learning_curves
from scripts.provenance import write_aside


def report(
    report_dir: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    evaluation_dir: str | os.PathLike,
    inference_dir: str | os.PathLike,
    examples: int,
) -> None:
    """Draw a run's pictures, put them on one self-contained HTML page with the measures, and print where all is.

    Args:
        report_dir: gets `index.html` and the pictures.
        dataset_dir: the cohort, with participants.tsv and boxes.
        output_dir: of training; holds the learning curves and augmented samples.
        evaluation_dir: of evaluation; holds metrics.csv and roc.png.
        inference_dir: of inference; holds predictions.csv.
        examples: subjects of each group to show.

    Raises:
        InputError: one of the runs is missing.
    """
    folder, training = Path(report_dir), Path(output_dir)
    evaluation, inference = Path(evaluation_dir), Path(inference_dir)
    needed = [training / "scan_level.csv", evaluation / "evaluation.json", inference / "predictions.csv"]
    for path in needed:
        if not path.exists():
            raise InputError(f"{path}: no such file; run training, evaluate.yaml and inference.yaml first")
    record = json.loads((evaluation / "evaluation.json").read_text())
    simulated = record["input"]["simulated"]
    cohort = "simulated cohort" if simulated else "cohort"

    group_of = {
        name: row["group"]
        for name, row in read_participants(Path(dataset_dir) / "participants.tsv", ["participant_id", "group"]).items()
    }
    with (inference / "predictions.csv").open(newline="") as file:
        results = [row for row in csv.DictReader(file) if row["status"] == "ok" and not row["slice"]]
    done = {row["scan_id"] for row in results}
    scans = [scan for scan in find_scans(dataset_dir) if scan["scan_id"] in done and "box" in scan]
    shown = [
        s for group in ("HH", "HC") for s in [s for s in scans if group_of[s["participant_id"]] == group][:examples]
    ]

    def inferred(scan: Mapping[str, Any], ending: str) -> Path:
        return inference / scan["participant_id"] / f"{scan['scan_id']}_{ending}"

    pairs = {f"{group_of[s['participant_id']]} {s['scan_id']}": s for s in (shown[0], shown[-1])}
    pictures = [
        ("Two subjects", example_maps(pairs, folder / "example_maps", f"One subject of each group, {cohort}")[0]),
        ("What augmentation does", training / "augmentation_samples.png"),
        (
            "How training went",
            learning_curves(
                {
                    "stage 1, image level": training / "image_level.csv",
                    "stage 2, scan level": training / "scan_level.csv",
                },
                folder / "learning_curves",
            )[0],
        ),
        ("How well held-out scans are told apart", evaluation / "roc.png"),
        (
            "What speaks for HH (red) and for HC (blue)",
            evidence_overlays(
                shown,
                [f"true {group_of[s['participant_id']]}" for s in shown],
                [json.loads(inferred(s, "prediction.json").read_text()) for s in shown],
                [str(inferred(s, "evidence.nii.gz")) for s in shown],
                folder / "evidence",
                f"Evidence on QSM, held-out scans, {cohort}",
            )[0],
        ),
    ]
    with (evaluation / "metrics.csv").open(newline="") as file:
        metrics = list(csv.DictReader(file))
    tables = [("Measures on the held-out scans", metrics), ("Each held-out scan", predictions(results, group_of))]
    page = folder / "index.html"
    text = page_html(f"Q-Net on a {cohort}", simulated, pictures, tables, record)
    write_aside(page, lambda part: Path(part).write_text(text))

    print(f"\nSee {page}")
    print("pictures", *(f"  {path}" for _, path in pictures), sep="\n")
    print("tables", f"  {evaluation / 'metrics.md'}", f"  {evaluation / 'predictions.csv'}", f"  {needed[2]}", sep="\n")
    print(
        "per scan", f"  {inferred(shown[0], 'prediction.json')}", f"  {inferred(shown[0], 'evidence.nii.gz')}", sep="\n"
    )


def predictions(results: Sequence[Mapping[str, str]], group_of: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows for the page: a scan's true group beside what was predicted."""
    return [
        {
            "scan": row["scan_id"],
            "true group": group_of[row["participant_id"]],
            "class": row["class"],
            "probability of HH": f"{float(row['probability_HH']):.3f}",
        }
        for row in results
    ]


STYLE = """body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
img{max-width:100%}table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px;border-bottom:1px solid #ccc;
text-align:left}.note{background:#fff3d6;padding:.6em 1em}pre{white-space:pre-wrap;font-size:12px}"""


def page_html(
    title: str,
    simulated: bool,
    pictures: Sequence[tuple[str, Path]],
    tables: Sequence[tuple[str, Sequence[Mapping[str, str]]]],
    record: Mapping[str, Any],
) -> str:
    """The page; pictures are inside it, so it can be moved and mailed."""
    note = "Research use only, not for clinical use."
    if simulated:
        note += " Every number and picture on this page comes from a simulated cohort, not from patients."
    parts = [f"<h1>{html.escape(title)}</h1><p class=note>{note}</p>"]
    for caption, path in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(
            f'<h2>{html.escape(caption)}</h2><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        )
    for caption, rows in tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(short(value))}</td>" for value in row.values()) + "</tr>"
            for row in rows
        )
        parts.append(f"<h2>{html.escape(caption)}</h2><table><tr>{head}</tr>{body}</table>")
    parts.append(f"<h2>What made this</h2><pre>{html.escape(json.dumps(record, indent=1))}</pre>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def short(value: str) -> str:
    """A number with three decimals; anything else as it is."""
    try:
        return value if value.isdigit() else f"{float(value):.3f}"
    except ValueError:
        return value
