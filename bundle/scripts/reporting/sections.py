"""What each section of a cross-validation's page says, for `templates/cross_validation.html`."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from scripts.errors import InputError
from scripts.evaluation.predictions import NO_INPUT, REGIONS
from scripts.evaluation.statistics import THRESHOLD
from scripts.maps.notes import flagged
from scripts.maps.scan import Scan
from scripts.provenance import BUNDLE_ROOT
from scripts.reporting import page
from scripts.reporting.checklist import filled
from scripts.reporting.figures import INPUTS
from scripts.reporting.gallery import CAPTIONS
from scripts.reporting.markup import fixed, html
from scripts.reporting.outcome import Outcome
from scripts.reporting.pictures import subject_strip
from scripts.reporting.subgroups import facts as subgroup_facts
from scripts.reporting.subjects import summary as demographic_summary
from scripts.reporting.table_text import design_text
from scripts.reporting.tables import shown
from scripts.settings.comments import explanations

#: After the name of an AUC that compares the cases of all folds.
POOLED = ", folds pooled"
#: What the page calls the sexes.
SEXES = {"women": "F", "men": "M"}


def summary(outcome: Outcome, measured: Mapping[str, pd.DataFrame], same_cohort: bool) -> dict[str, Any]:
    """The run in a sentence (`words`), and the AUCs of Q-Net (`cards`, each a `value` and `lines` about it).

    Args:
        outcome: of the cross-validation.
        measured: from `scripts.reporting.tables.read_tables`.
        same_cohort: whether the cohort's folder is as it was then.
    """
    table, groups = outcome.table, outcome.groups
    folds = table.groupby("repeat")["fold"].nunique().max()
    tested = (
        f"were each held out once in each of {table['repeat'].nunique()} repeat(s) of a cross-validation with {folds}"
        " folds by subject."
        if folds > 1
        else f"were tested: {design_text(table)}."
    )
    words = (
        f"{len(groups)} {'simulated ' if outcome.simulated else ''}subjects ({(groups == 'HH').sum()} with hereditary"
        f" hemochromatosis, HH, and {(groups == 'HC').sum()} healthy controls, HC) {tested}"
        " HH is the positive class; a probability of 0.5 or more is called HH."
    )
    if not same_cohort:
        words += " The cohort folder has changed since then: its files or participants.tsv are not those of the run."
    cards = []
    for name, level in (("table1_image_level", "image"), ("table3_scan_level", "scan")):
        for row in aucs(measured.get(name)):
            paper = "" if pd.isna(row["paper"]) else f"; paper {fixed(row['paper'], 3)}"
            lines = [
                f"AUC of Q-Net, {level} level, {INPUTS[row['region']]}{POOLED if row['within'] else ''}",
                f"95 % interval {interval_text(row)}{paper}",
            ]
            if row["within"]:
                lines.append(f"within folds {fixed(row['within']['mean'], 3)}, {interval_text(row['within'])}")
            if level == "scan" and outcome.oracle is not None:
                lines.append(
                    f"oracle, who knows the truth, on these very subjects: {fixed(outcome.oracle, 3)},"
                    f" {fixed(outcome.oracle - row['mean'], 3)} more"
                )
            cards.append({"value": row["mean"], "lines": lines})
    return {"words": words, "cards": cards}


def aucs(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows of a table of measures that hold Q-Net's AUC, and in `within` the row of that within folds or None; no rows
    where there is no such table."""
    if table is None:
        return []
    of_model = table[table["model"] == "Q-Net"]
    within = {r["region"]: r for r in of_model[of_model["measure"] == "auc_within_folds"].to_dict("records")}
    return [r | {"within": within.get(r["region"])} for r in of_model[of_model["measure"] == "auc"].to_dict("records")]


def interval_text(row: Mapping[str, Any]) -> str:
    """The interval of a row of a table of measures."""
    if pd.isna(row["ci_low"]):
        return "not estimable"
    return f"{fixed(row['ci_low'], 2)} to {fixed(row['ci_high'], 2)}"


def tables(outcome: Outcome, measured: Mapping[str, pd.DataFrame]) -> list[tuple[str, str, Markup]]:
    """The paper's tables with the paper's values beside the run's: title, note, and the table as HTML."""
    return [
        (section.title, section.note, html(section.cells))
        for name, frame in measured.items()
        for section in shown(name, frame, outcome.table, outcome.simulated)
    ]


def check_figures(folder: Path) -> None:
    """Refuse a folder without the figures of the predictions, before any is drawn from images.

    Raises:
        InputError: no ROC curve is there.
    """
    if not any((folder / f"{name}.svg").exists() for name in ("figure6_roc_models", "roc_models_scan")):
        raise InputError(f"{folder}: holds no ROC curve; run the analysis of the cross-validation first")


def figures(folder: Path, left_out: Mapping[str, str], place: str) -> list[tuple[str, Path | None, str]]:
    """Caption and file of every figure that was drawn, as vectors where there are such; or why it was not.

    Args:
        folder: of the figures.
        left_out: name of a figure that could not be drawn -> why.
        place: what the examples of maps show, see `scripts.reporting.pictures.place_shown`.
    """
    parts: list[tuple[str, Path | None, str]] = []
    for name, template in CAPTIONS.items():
        caption = template.replace("{place}", place)
        path = next((p for p in (folder / f"{name}.svg", folder / f"{name}.png") if p.exists()), None)
        if name in left_out:
            parts.append((caption, None, left_out[name]))
        elif path:
            parts.append((caption, path, ""))
    return parts


def cohort(outcome: Outcome) -> dict[str, Any]:
    """Subjects by group, sex and age: `words`, `table` (heads and rows), and `why_not` where ages are unknown."""
    origin = outcome.record["input"]
    words = f"Cohort: {origin.get('name', 'not named')}. "
    words += "Simulated; no patient is in it." if outcome.simulated else "Its origin is the researcher's to describe."
    if outcome.people is None:
        counts = outcome.groups.value_counts()
        table = ("group", "subjects"), [(group, int(counts[group])) for group in ("HH", "HC")]
        return {"words": words, "table": table, "why_not": outcome.why_not}
    known = demographic_summary(outcome.people)
    return {"words": words, "table": (list(known.columns), known.to_numpy().tolist()), "why_not": ""}


def subjects(
    outcome: Outcome, shown_in_viewer: Sequence[str], strips: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Every held-out subject: `words`, `heads`, `rows`, `pictures` of each, and whose maps are unlikely (`flagged`).

    Args:
        outcome: of the cross-validation.
        shown_in_viewer: subjects that the viewer has, in its order.
        strips: subject -> `strip` of each of its scans.
    """
    columns = list(outcome.probabilities.columns)
    heads = [
        f"{model}{' votes' if model.startswith('ResNet') else ''}{'' if region == NO_INPUT else f', {region}'}"
        for region, model in columns
    ]
    people = ["age", "sex"] if outcome.people is not None else []
    rows = []
    for name, group in outcome.groups.items():
        person = []
        if outcome.people is not None:
            age, sex = outcome.people.loc[name, ["age", "sex"]]
            person = ["" if pd.isna(age) else f"{age:g}", SEXES.get(sex, "")]
        probabilities = [float(outcome.probabilities.loc[name, column]) for column in columns]
        rows.append(
            {
                "name": name,
                "group": group,
                "predicted": outcome.predicted[name],
                "viewer": shown_in_viewer.index(name) if name in shown_in_viewer else None,
                "person": person,
                "probabilities": [(p, (p >= THRESHOLD) != (group == "HH")) for p in probabilities],
            }
        )
    region, model = outcome.main
    words = (
        f"Probability of HH of every subject while held out, mean over the repeats; for ResNet and ResNetSWA the share"
        f" of slices that voted HH. ✗: on the wrong side of 0.5. Class and correct are those of {model}, {region}"
        " input. Click a heading to sort."
    )
    heads = ["subject", "true group", "class", "correct", "images", *people, *heads]
    pictures = [(name, outcome.groups[name], of_scans) for name, of_scans in strips.items()]
    unlikely = flagged(outcome.folder / "scans.tsv")
    return {"words": words, "heads": heads, "rows": rows, "pictures": pictures, "flagged": unlikely}


def strip(outcome: Outcome, scan: Scan, report_dir: str | os.PathLike) -> dict[str, Any]:
    """The small pictures of a `scan` (`source`), and its `evidence` files by region, relative to the page."""
    evidence, buffer = outcome.evidence(scan), BytesIO()
    subject_strip(scan, evidence).savefig(buffer, format="jpeg", dpi=90, pil_kwargs={"quality": 82})
    links = [(region, os.path.relpath(path, report_dir)) for region, path in evidence.items()]
    return {"scan": scan.scan_id, "source": page.embedded(buffer.getvalue(), ".jpg"), "evidence": links}


def configuration(settings: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Every setting of the run with what it does, taken from the comments in the configs."""
    notes = explanations(*(BUNDLE_ROOT / "configs" / f"{name}.yaml" for name in ("cross_validation", "train")))
    return [
        (key, value, notes.get(key, ""))
        for key, value in settings.items()
        if not key.endswith("_dir") and key != "bundle_root"
    ]


def checklists(outcome: Outcome, measured: Mapping[str, pd.DataFrame]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """CLAIM and TRIPOD+AI, each with the rows of its items, and what this run knows."""
    items = filled(facts(outcome, measured))
    return [
        (name, [(i.item, i.section, i.topic, i.known, i.left) for i in items if i.checklist == name])
        for name in dict.fromkeys(item.checklist for item in items)
    ]


def facts(outcome: Outcome, measured: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Fields for the checklists."""
    record, groups, table = outcome.record, outcome.groups, outcome.table
    known: dict[str, Any] = {key: page.plain(value) for key, value in record["settings"].items() if value is not None}
    folds = table.groupby("repeat")["fold"].nunique().max()
    wrong = int((outcome.predicted != groups).sum())
    region, model = outcome.main
    known |= {
        "version": record["software"].get("qnet_hemochromatosis"),
        "software": ", ".join(f"{name} {version}" for name, version in record["software"].items()),
        "subjects": len(groups),
        "hh": int((groups == "HH").sum()),
        "hc": int((groups == "HC").sum()),
        "num_folds": folds,
        "repeats": table["repeat"].nunique(),
        "regions": " and ".join(INPUTS[name] for name in REGIONS if name in outcome.probabilities.columns),
        "training_subjects": round(len(groups) * (folds - 1) / folds),
        "wrong": f"{wrong} of {len(groups)} subjects by {model}, {region} input",
    }
    if outcome.simulated:
        known["data_source"] = f"Simulated: {record['input'].get('name')}. No patient data"
        known["limit"] = "Simulated cohort: the numbers say nothing of patients"
    if outcome.people is not None:
        of_all = demographic_summary(outcome.people).iloc[-1]
        age = of_all["age, mean ± SD (years)"]
        known["demographics"] = f"{of_all['women']} women, {of_all['men']} men; age {age} years"
    known |= subgroup_facts(outcome.folder / "tables")
    for name, field in (("table1_image_level", "auc_image"), ("table3_scan_level", "auc_scan")):
        rows = aucs(measured.get(name))
        known[field] = "; ".join(
            f"{fixed(row['mean'], 3)} ({interval_text(row)}), {row['region']}"
            + (
                f"{POOLED}; within folds {fixed(row['within']['mean'], 3)} ({interval_text(row['within'])})"
                if row["within"]
                else ""
            )
            for row in rows
        )
    return known
