"""What held-out predictions give: table, figures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.data import Dataset

from scripts.evaluation.predict import write_predictions
from scripts.evaluation.predictions import LEVELS, read_predictions
from scripts.evaluation.statistics import summarise
from scripts.evaluation.trust import trust_table
from scripts.files.writing import write_aside, write_table, write_text
from scripts.reporting.figures import roc_models
from scripts.reporting.markup import fixed, markdown, markdown_table
from scripts.reporting.style import VECTOR, save_figure
from scripts.reporting.table_text import cohort_text, trust_sections


def evaluate(
    output_dir: str | os.PathLike,
    scans: Dataset,
    models: Mapping[str, torch.nn.Module],
    device: torch.device,
    where: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Evaluate the held-out scans: `write_predictions`, then `metrics.csv`, `metrics.md`, `calibration_and_abstention`
    (CSV, Markdown; where there are enough scans, each judged by others) and `roc` (PNG, PDF, SVG)."""
    folder = Path(output_dir)
    rows = write_predictions(folder, scans, models, device, where, record)
    summary = summarise(rows)
    write_table(folder / "metrics.csv", list(summary[0]), summary)
    simulated = bool(record["input"]["simulated"])
    text = metrics_markdown(summary, simulated)
    write_aside(folder / "metrics.md", lambda part: Path(part).write_text(text))
    panels = [(where["region"], level) for level in LEVELS]
    table = read_predictions(folder / "predictions.csv")
    trust = trust_table(table, "platt", 0.1)
    if not trust.empty:
        name = "calibration_and_abstention"
        write_table(folder / f"{name}.csv", list(trust), trust.to_dict("records"))
        sections = list(trust_sections(trust, cohort_text(table, simulated)))
        write_text(folder / f"{name}.md", "\n".join(markdown(s.title, s.note, s.cells) for s in sections))
    figure = roc_models(table, panels, simulated)
    save_figure(figure, folder / "roc", VECTOR)
    print(text)


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
