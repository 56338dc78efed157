"""What each section of a cross-validation's page says, as HTML."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scripts import page
from scripts.checklist import filled
from scripts.errors import InputError
from scripts.figures import INPUTS
from scripts.gallery import CAPTIONS
from scripts.markup import fixed
from scripts.outcome import Outcome
from scripts.page import Cell
from scripts.predictions import NO_INPUT, REGIONS
from scripts.provenance import BUNDLE_ROOT
from scripts.statistics import THRESHOLD
from scripts.subjects import summary as demographic_summary
from scripts.table_text import design_text

#: After the name of an AUC that compares the cases of all folds.
POOLED = ", folds pooled"
TABLES = ("table1_image_level", "table2_delong", "table3_scan_level")


def summary(outcome: Outcome, same_cohort: bool) -> str:
    """The run in a sentence, and the AUCs of Q-Net."""
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
    cards = ""
    for name, level in (("table1_image_level", "image"), ("table3_scan_level", "scan")):
        for row in aucs(outcome.folder / "tables" / f"{name}.csv"):
            paper = "" if pd.isna(row["paper"]) else f"; paper {fixed(row['paper'], 3)}"
            what = (
                f"AUC of Q-Net, {level} level, {INPUTS[row['region']]}{POOLED if row['within'] else ''}"
                f"<br>95 % interval {interval_text(row)}{paper}"
            )
            if row["within"]:
                what += f"<br>within folds {fixed(row['within']['mean'], 3)}, {interval_text(row['within'])}"
            if level == "scan" and outcome.oracle is not None:
                what += (
                    f"<br>oracle, who knows the truth, on these very subjects: {fixed(outcome.oracle, 3)},"
                    f" {fixed(outcome.oracle - row['mean'], 3)} more"
                )
            cards += f"<div><b>{fixed(row['mean'], 3)}</b><span>{what}</span></div>"
    return page.paragraph(words) + f'<div class="headline">{cards}</div>'


def aucs(path: Path) -> list[dict[str, Any]]:
    """Rows of a table of measures that hold Q-Net's AUC, and in `within` the row of that within folds or None; no rows
    where there is no such table."""
    if not path.exists():
        return []
    table = pd.read_csv(path)
    of_model = table[table["model"] == "Q-Net"]
    within = {r["region"]: r for r in of_model[of_model["measure"] == "auc_within_folds"].to_dict("records")}
    return [r | {"within": within.get(r["region"])} for r in of_model[of_model["measure"] == "auc"].to_dict("records")]


def interval_text(row: Mapping[str, Any]) -> str:
    """The interval of a row of a table of measures."""
    if pd.isna(row["ci_low"]):
        return "not estimable"
    return f"{fixed(row['ci_low'], 2)} to {fixed(row['ci_high'], 2)}"


def cohort(outcome: Outcome) -> str:
    """Numbers of subjects by group, sex and age; or why they are not known."""
    origin = outcome.record["input"]
    words = f"Cohort: {origin.get('name', 'not named')}. "
    words += "Simulated; no patient is in it." if outcome.simulated else "Its origin is the researcher's to describe."
    if outcome.people is None:
        counts = outcome.groups.value_counts()
        rows = [(group, int(counts[group])) for group in ("HH", "HC")]
        return page.paragraph(words) + page.table(("group", "subjects"), rows) + message(outcome.why_not)
    table = demographic_summary(outcome.people)
    return page.paragraph(words) + page.table(list(table.columns), table.astype(str).to_numpy().tolist())


def message(words: str) -> str:
    """Something that the page cannot show, and why."""
    return page.paragraph(f"Left out: {words}", "message")


def configuration(settings: Mapping[str, Any]) -> str:
    """Every setting of the run with what it does, taken from the comments in the configs."""
    notes = comments()
    rows = [
        (
            Cell(f"<code>{page.text(key)}</code>"),
            Cell(f"<code>{page.text(page.plain(value))}</code>"),
            notes.get(key, ""),
        )
        for key, value in settings.items()
        if not key.endswith("_dir") and key != "bundle_root"
    ]
    return page.table(("key", "value", "what it does"), rows)


def comments() -> dict[str, str]:
    """Config key -> its comment, from the bundle's YAML files."""
    found: dict[str, str] = {}
    for name in ("cross_validation.yaml", "train.yaml"):
        path = BUNDLE_ROOT / "configs" / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            if match := re.match(r"(\w+):.*?\s# (.+)", line):
                found.setdefault(match[1], match[2])
    return found


def tables(folder: Path) -> str:
    """The paper's tables with the paper's values beside the run's.

    Raises:
        InputError: none of them is there.
    """
    parts = []
    for name in TABLES:
        path = folder / f"{name}.md"
        if path.exists():
            parts.append(page.markdown_tables(path.read_text(encoding="utf-8")))
    if not parts:
        raise InputError(f"{folder}: holds no table; run the analysis of the cross-validation first")
    return "".join(parts)


def check_figures(folder: Path) -> None:
    """Refuse a folder without the figures of the predictions, before any is drawn from images.

    Raises:
        InputError: no ROC curve is there.
    """
    if not any((folder / f"{name}.svg").exists() for name in ("figure6_roc_models", "roc_models_scan")):
        raise InputError(f"{folder}: holds no ROC curve; run the analysis of the cross-validation first")


def figures(folder: Path, left_out: Mapping[str, str]) -> str:
    """Every figure that was drawn, as vectors where there are such; and why others were not."""
    parts = []
    for name, caption in CAPTIONS.items():
        path = next((p for p in (folder / f"{name}.svg", folder / f"{name}.png") if p.exists()), None)
        if name in left_out:
            parts.append(message(f"{caption} {left_out[name]}"))
        elif path:
            parts.append(page.picture(path, caption))
    return "".join(parts)


def subjects(outcome: Outcome, shown: Sequence[str], strips: Mapping[str, str]) -> str:
    """A sortable table of every held-out subject, then the small pictures of each."""
    columns = list(outcome.probabilities.columns)
    heads = [
        f"{model}{' votes' if model.startswith('ResNet') else ''}{'' if region == NO_INPUT else f', {region}'}"
        for region, model in columns
    ]
    people = ["age", "sex"] if outcome.people is not None else []
    rows = []
    for name, group in outcome.groups.items():
        links = f'<a href="#pictures-{page.text(name)}">pictures</a>'
        if name in shown:
            links += f' · <a href="#viewer" data-viewer="{shown.index(name)}">viewer</a>'
        predicted = outcome.predicted[name]
        row: list[Any] = [Cell(f"<b>{page.text(name)}</b>", "short", name), group, predicted]
        row += ["yes" if predicted == group else "no", Cell(links, "short")]
        if outcome.people is not None:
            age, sex = outcome.people.loc[name, ["age", "sex"]]
            row += ["" if pd.isna(age) else f"{age:g}", {"women": "F", "men": "M"}.get(sex, "")]
        for column in columns:
            probability = outcome.probabilities.loc[name, column]
            wrong = (probability >= THRESHOLD) != (group == "HH")
            shape = f"{probability:.2f}{' ✗' if wrong else ''}"
            row.append(Cell(shape, "number wrong" if wrong else "number", f"{probability}"))
        rows.append(row)
    region, model = outcome.main
    words = (
        f"Probability of HH of every subject while held out, mean over the repeats; for ResNet and ResNetSWA the share"
        f" of slices that voted HH. ✗: on the wrong side of 0.5. Class and correct are those of {model}, {region}"
        " input. Click a heading to sort."
    )
    heads = ["subject", "true group", "class", "correct", "images", *people, *heads]
    pictures = "".join(
        f'<details id="pictures-{page.text(name)}"><summary>{page.text(name)} ({outcome.groups[name]})</summary>'
        f"{content}</details>"
        for name, content in strips.items()
    )
    opening = (
        "<script>addEventListener('hashchange',()=>{const part=document.getElementById(location.hash.slice(1));"
        "if(part?.tagName==='DETAILS')part.open=true})</script>"
    )
    return (
        page.paragraph(words, "caption")
        + page.table(heads, rows, sortable=True)
        + f"<h3>Maps and evidence of every subject</h3>{pictures}{opening}"
    )


def provenance(record: Mapping[str, Any]) -> str:
    """Versions, input and hashes; the whole record below them."""
    return (
        "<h3>Software</h3>"
        + page.key_values(record["software"], ("package", "version"))
        + "<h3>Input</h3>"
        + page.key_values(record["input"])
        + "<h3>Whole record</h3><details><summary>settings, weights of each fold (SHA-256) and all else</summary>"
        + f"<pre>{page.text(page.indented(record))}</pre></details>"
    )


def checklists(outcome: Outcome) -> str:
    """CLAIM and TRIPOD+AI, with what this run knows."""
    words = (
        "What this run knows of itself stands in the middle; an empty cell, and all in the last column, is the"
        " researcher's to fill in. Items are numbered as in CLAIM 2024 (doi 10.1148/ryai.240300) and TRIPOD+AI"
        " (doi 10.1136/bmj-2023-078378) and put in our own words."
    )
    items = filled(facts(outcome))
    parts = [page.paragraph(words, "caption")]
    for name in dict.fromkeys(item.checklist for item in items):
        rows = [(Cell(i.item), i.section, i.topic, i.known, i.left) for i in items if i.checklist == name]
        heads = ("item", "section", "what is asked", "what this run knows", "left to the researcher")
        parts.append(f"<h3>{page.text(name)}</h3>" + page.table(heads, rows))
    return "".join(parts)


def facts(outcome: Outcome) -> dict[str, Any]:
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
    for name, field in (("table1_image_level", "auc_image"), ("table3_scan_level", "auc_scan")):
        rows = aucs(outcome.folder / "tables" / f"{name}.csv")
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
