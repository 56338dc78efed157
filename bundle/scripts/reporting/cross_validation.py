"""One page for a whole cross-validation: tables, figures, cohort, every subject, a viewer, settings and checklists."""

import os
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.evaluation.predictions import at_level
from scripts.evaluation.statistics import THRESHOLD
from scripts.files.writing import write_aside
from scripts.maps.scan import Scan, recorded_maps
from scripts.model.evidence import METHODS
from scripts.provenance import cohort_fingerprint
from scripts.reporting import contributions, page, sections, subgroups
from scripts.reporting.architecture import architecture
from scripts.reporting.outcome import Outcome, read_outcome
from scripts.reporting.pictures import Explained, evidence_overlays, example_maps, place_shown
from scripts.reporting.style import VECTOR, save_figure, titled
from scripts.reporting.subjects import cohort_figure
from scripts.reporting.tables import read_tables
from scripts.reporting.viewer import niivue_script, viewer
from scripts.runs.bars import Bar


def cross_validation_report(
    report_dir: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    examples: int = 3,
    viewer_subjects: int = 2,
    page_limit_mb: float = 25.0,
) -> Path:
    """Write one self-contained HTML page for a cross-validation, and the figures that need images.

    Args:
        report_dir: gets `index.html`.
        dataset_dir: the cohort, with participants.tsv and images.
        output_dir: of the cross-validation: predictions.csv and .json, `tables/`, `figures/`, `evidence/`. Figures from
            images are written into `figures/` too.
        examples: subjects of each group in the pictures of evidence.
        viewer_subjects: subjects of each group whose volumes are put into the page; 0 leaves the viewer out.
        page_limit_mb: largest size of the page, MB.

    Returns:
        The page.

    Raises:
        InputError: a file of the run is missing, the cohort is another one, or the page would be too large.
    """
    limit, script = int(page_limit_mb * 1e6), niivue_script() if viewer_subjects else ""
    if len(script) >= limit:
        raise InputError(
            f"page_limit_mb is {page_limit_mb:g}, but the viewer alone takes {len(script) / 1e6:.1f} MB; raise it"
        )
    outcome = read_outcome(output_dir, dataset_dir)
    measured = read_tables(outcome.folder / "tables")
    sections.check_figures(outcome.folder / "figures")
    same_cohort = cohort_fingerprint(dataset_dir)["sha256"] == outcome.record["input"]["sha256"]
    left_out = draw_images(outcome, examples)
    in_viewer = outcome.chosen(viewer_subjects)
    strips = {}
    for name, scans in Bar(outcome.scans.items(), desc="pictures of subjects", unit="subject"):
        strips[name] = [sections.strip(outcome, scan, report_dir) for scan in scans]
    parts: dict[str, Any] = {
        "title": f"Q-Net cross-validation on a {'simulated cohort' if outcome.simulated else 'cohort'}",
        "note": page.note(outcome.simulated),
        "summary": sections.summary(outcome, measured, same_cohort),
        "tables": [
            *sections.tables(outcome, measured),
            *subgroups.section(outcome.folder / "tables", outcome.simulated),
            *contributions.section(outcome.folder / "tables", outcome.simulated),
        ],
        "figures": sections.figures(outcome.folder / "figures", left_out, place_shown(one_of_each(outcome).values())),
        "cohort": sections.cohort(outcome),
        "subjects": sections.subjects(outcome, in_viewer, strips),
        "viewer": None,
        "configuration": sections.configuration(outcome.record["settings"]),
        "record": outcome.record,
        "checklists": sections.checklists(outcome, measured),
    }
    template = "cross_validation.html"
    if in_viewer:
        spent = len(page.render(template, **parts).encode())
        entries = [volume_entry(outcome, name) for name in in_viewer]
        parts["viewer"] = viewer(entries, script, limit - spent - 10_000)
    content = page.render(template, **parts).encode()
    if len(content) > limit:
        raise InputError(
            f"the page takes {len(content) / 1e6:.1f} MB, page_limit_mb is {page_limit_mb:g}; raise --page_limit_mb"
        )
    path = Path(report_dir) / "index.html"
    write_aside(path, lambda part: Path(part).write_bytes(content))
    print(f"\nSee {path} ({len(content) / 1e6:.1f} MB)")
    return path


def draw_images(outcome: Outcome, examples: int) -> dict[str, str]:
    """Draw the figures that need the cohort; returns those that could not be drawn, and why."""
    folder, simulated, left_out = outcome.folder / "figures", outcome.simulated, {}
    examples_of_maps = example_maps(one_of_each(outcome), titled("One subject of each group", simulated))
    save_figure(examples_of_maps, folder / "figure1_example_maps")
    if outcome.people is None:
        left_out["figure2_cohort"] = outcome.why_not
    else:
        save_figure(cohort_figure(outcome.people, simulated), folder / "figure2_cohort", VECTOR)
    settings = outcome.record["settings"]
    if {"num_slices", "hidden_size"} <= settings.keys():
        size = settings.get(f"{outcome.main[0]}_size", (128, 128))
        reader = settings.get("scan_model", "bilstm")  # runs that do not say had no other
        embedder = settings.get("image_model", "resnet18")
        sizes = (settings["num_slices"], settings["hidden_size"], tuple(size))
        diagram = architecture(*sizes, reader, embedder, recorded_maps(settings))
        save_figure(diagram, folder / "figure4_architecture", VECTOR)
    own = METHODS[settings.get("evidence_method", "class_activation")].name  # runs that do not say had no other
    paper = METHODS["class_activation"].name
    pictures = {
        "evidence_full": ("full", "evidence", own),
        "evidence_cropped": ("cropped", "evidence", own),
        "figure9_evidence_full": ("full", "activation", paper),
        "figure10_evidence_cropped": ("cropped", "activation", paper),
    }
    names = outcome.chosen(examples)
    for name, (region, kind, method) in pictures.items():
        there = [n for n in names if region in outcome.evidence(outcome.scans[n][0], kind)]
        found = [explained(outcome, n, region, kind) for n in there]
        if found:
            save_figure(evidence_overlays(found, region, simulated, method), folder / name)
        else:
            left_out[name] = f"{outcome.folder / 'evidence' / region} holds no {kind} map of these subjects"
    return left_out


def one_of_each(outcome: Outcome) -> dict[str, Scan]:
    """Row title -> scan of the first subject of each group, whose maps are shown."""
    first = [outcome.groups.index[outcome.groups == group][0] for group in ("HH", "HC")]
    return {f"{outcome.groups[name]}, {name}": outcome.scans[name][0] for name in first}


def explained(outcome: Outcome, name: str, region: str, kind: str) -> Explained:
    """A subject's first scan with its evidence, and its probability in the first repeat, which the evidence is from."""
    rows = at_level(outcome.table, "scan")
    rows = rows[(rows["participant_id"] == name) & (rows["region"] == region) & (rows["model"] == "Q-Net")]
    probability = float(rows.sort_values("repeat")["probability_HH"].iloc[0])
    scan, predicted = outcome.scans[name][0], "HH" if probability >= THRESHOLD else "HC"
    return Explained(scan, outcome.evidence(scan, kind)[region], outcome.groups[name], predicted, probability)


def volume_entry(outcome: Outcome, name: str) -> dict[str, Any]:
    """What the viewer needs of a subject."""
    (region, model), group, predicted = outcome.main, outcome.groups[name], outcome.predicted[name]
    about = (
        f"{name}: true {group}; {model}, {region} input: P(HH) {outcome.probabilities.loc[name, outcome.main]:.2f},"
        f" {predicted}, {'correct' if predicted == group else 'WRONG'}"
    )
    scan = outcome.scans[name][0]
    evidence = dict(sorted(outcome.evidence(scan).items(), key=lambda item: item[0] != region))  # the main one first
    return {"title": f"{name} ({group})", "about": about, "scan": scan, "evidence": evidence}
