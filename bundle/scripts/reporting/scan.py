"""One page about one scan, as HTML and as PDF: the finding, the pictures, and how far to trust it.

Both are made from one `ReportContent` and one set of drawing functions.
"""

import json
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from monai.data import MetaTensor

from scripts.files.writing import write_aside
from scripts.maps.scan import KNOWN_MAPS, MAPS
from scripts.model.calibration import METHODS
from scripts.model.trust import flags_and_notes
from scripts.provenance import DO_NOT_RELY
from scripts.reporting import page
from scripts.reporting.style import GROUP_STYLE, WARNING_FILL
from scripts.reporting.trust import draw_places

PLOT_HEIGHT = 2.1  # inches
HH_COLOUR, HC_COLOUR = GROUP_STYLE["HH"].colour, GROUP_STYLE["HC"].colour
#: Of an answer that is none.
UNDECIDED_COLOUR = "#555555"
#: Of the line that says not to rely on it; no group's colour.
DOUBT_COLOUR = "#9a5b00"
#: What a reader must know before believing the number (bundle/docs/README.md, Model card).
LIMITS = (
    "Only HH against healthy was learned; other causes of iron are put into one of the two classes.",
    "Scanner, field strength, echo times and QSM method change the maps; test the model on your site first.",
    "Evidence shows what the network used, not where the disease is. Its colours are shares of the strongest evidence"
    " shown, so weak evidence looks as strong as any.",
)
#: How the scan's probability and those of its slices go together.
SLICES = (
    "Bars: the network's own P(HH) of each slice judged alone, coloured by its side of the threshold. The line is what"
    " the network makes of all slices read together, before any calibration; it is no mean of the bars, and may lie"
    " above or below all of them."
)
#: What must be known of the probability, with and without a calibration beside the weights.
CALIBRATED = (
    "The probability is calibrated on scans like those of the training: at another site, scanner or share of HH it"
    " holds less, or not at all."
)
NOT_CALIBRATED = "The probability is not calibrated: it ranks scans, it is no risk of disease."
#: What stands in place of the weights' measures where there are none, and where they say nothing of the scan.
NOT_MEASURED = (
    "not told here",
    "no measures are kept with these weights; what held-out scans showed of them stands on the page of their training",
)
OF_OTHER_SCANS = ("Of this scan", "not known: how well the model does was measured on scans like those of its training")
#: What the evidence of a nucleus is, and why there may be nothing to compare it with.
COVERED = (
    "By how much the output for HH falls when a nucleus, both sides, is covered with what lies around it. It says what"
    " the network used."
)
NO_RANGE = (
    "Not known: what healthy controls have is kept with the calibration of the weights (model_calibration.json), which"
    " is not there or was made without it. Measure the nuclei of the training cohort (configs/nuclei.yaml), then"
    " calibrate (configs/calibrate.yaml); a nucleus needs 12 controls."
)
Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page that is text; `pairs` of name and value where a table is meant. `doubt` stands under the
    headline where that is not to be relied on."""

    title: str
    headline: str
    doubt: str
    colour: str
    warning: str
    facts: Rows
    performance: Rows
    evidence: str
    slices: str
    nuclei: Sequence[Sequence[str]]
    nuclei_caption: str
    limits: Sequence[str]
    made_by: Rows


def report_content(result: Mapping[str, Any], model: Mapping[str, Any], age: float | None) -> ReportContent:
    """The page's text.

    Args:
        result: the content of a scan's prediction JSON.
        model: from `scripts.inference.results.model_info`.
        age: years, where known.
    """
    probability = result.get("calibrated_probability_HH", result["probability_HH"])
    kind = "Calibrated" if "calibrated_probability_HH" in result else "Network's (not calibrated)"
    answer = result.get("answer")
    strange = bool(result.get("familiarity", {}).get("flagged"))
    flags, notes = flags_and_notes(result.get("flags", ()))
    highest = max(result["slices"], key=lambda row: row["probability_HH"])
    facts = [
        *(("Take care", flag) for flag in flags),  # first, lest the headline is believed without them
        *(("Note", note) for note in notes),
        ("Scan", result["scan_id"]),
        *((f"Patient {key}", str(value)) for key, value in result.get("patient", {}).items()),
        *([("Age", f"{age:g} years")] if age is not None else []),
        *([("Nuclei", f"not measured: {result['nuclei_missing']}")] if "nuclei_missing" in result else []),
        *_trust_facts(result),
        *_ensemble_facts(result.get("ensemble")),
        ("Class at threshold", f"{result['class']} (the network's P(HH) from {result['threshold']:g} on is HH)"),
        ("Slices at or above it", f"{_above(result)} of {len(result['slices'])}"),
        (
            "Highest slice",
            f"{highest['slice']} (input slice {highest['input_slice']}), network's P(HH)"
            f" {rounded(highest['probability_HH'])}",
        ),
        *_box_facts(result.get("box", {})),
        *_age_facts(result.get("age_z_scores", {})),
    ]
    performance = (
        []
        if strange
        else [
            (name.replace("_simulated", ", simulated").replace("_", " ").replace("auc", "AUC"), f"{value:.3f}")
            for name, value in model["performance"].items()
        ]
    )
    if performance and model.get("performance_of"):
        performance.append(("Measured", model["performance_of"]))
    # numbers of other scans beside an answer that is not to be relied on would be relied on
    lacking = OF_OTHER_SCANS if strange else NOT_MEASURED
    with_version, trained_on = (model[key] or "not recorded" for key in ("trained_with", "trained_on"))
    nuclei = _nucleus_rows(result.get("nucleus_evidence", ()))
    software = result["provenance"]["software"]
    made_by = [
        ("Model", f"{model['name']}, trained with version {with_version} on: {trained_on}"),
        ("Weights", f"sha256 {model['sha256']}"),
        *((f"Input {name}", f"sha256 {digest}") for name, digest in result.get("input", {}).items()),
        (
            "Software",
            ", ".join(
                [f"{model['name']} bundle {model['version']}"]
                + [f"{name} {software[name]}" for name in ("torch", "monai", "numpy") if name in software]
            ),
        ),
    ]
    return ReportContent(
        title=f"Q-Net report: {result['scan_id']}",
        headline=f"{kind} probability of hereditary hemochromatosis (HH): {rounded(probability)}"
        + (f"; answer: {answer}" if answer else ""),
        doubt=f"{DO_NOT_RELY}." if strange else "",
        # a strange scan's answer has no group's colour: it would look as sure as any other
        colour={"HH": HH_COLOUR, "HC": HC_COLOUR}.get("" if strange else answer or result["class"], UNDECIDED_COLOUR),
        warning=result["note"],
        facts=facts,
        performance=performance or [lacking],
        evidence=evidence_caption(result.get("evidence")),
        slices=SLICES,
        nuclei=nuclei,
        nuclei_caption=COVERED if all(where for *_, where in nuclei) else f"{COVERED} {NO_RANGE}",
        limits=(CALIBRATED if answer else NOT_CALIBRATED, *LIMITS),
        made_by=made_by,
    )


def rounded(probability: float) -> str:
    """A probability in two decimals; at the ends `< 0.01` and `> 0.99`, because no scan is sure."""
    if probability < 0.005:
        return "< 0.01"
    return "> 0.99" if probability > 0.995 else f"{probability:.2f}"


def _trust_facts(result: Mapping[str, Any]) -> Rows:
    """What calibrated the probability, how the answer came about, and how familiar the scan is."""
    if "trust" not in result:
        reason = result.get("calibration_missing")
        return [("Not calibrated", reason)] if reason else []
    trust = result["trust"]
    counts = " and ".join(f"{count} {group}" for group, count in trust["calibrated_on"].items())
    share = trust["prevalence_from"]
    if trust["prevalence"] is not None:
        share = f"{trust['prevalence']:.3g} ({share})"
    facts = [
        ("Calibrated", f"{METHODS[trust['method']]}, on {counts} ({trust['scores_from']})"),
        ("At a share of HH of", share),
        (
            f"Answer, error {trust['conformal_error']:g}",
            f"{result['answer']} (p of HH {trust['p_HH']:.2g}, of HC {trust['p_HC']:.2g})",
        ),
        ("The network's own P(HH)", rounded(result["probability_HH"])),
    ]
    if "familiarity" in result:
        times = result["familiarity"]["strangeness"]
        how = f"{max(times, 0):.2f} of the limit" if times <= 1 else f"beyond the limit, {times:.1f} times"
        facts.append(("Strangeness", how))
    return facts


def _nucleus_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Nucleus, what it says for HH, the healthy range, and how it lies to that."""
    made = []
    for row in rows:
        usual, where = "not known", ""
        if "low" in row:
            usual = f"{row['low']:+.2f} to {row['high']:+.2f}"
            where = "above" if row["evidence"] > row["high"] else "below" if row["evidence"] < row["low"] else "within"
        made.append((row["nucleus"], f"{row['evidence'] + 0:+.2f}", usual, where))
    return made


def _ensemble_facts(ensemble: Mapping[str, Any] | None) -> Rows:
    """What the members of an ensemble say, each on its own."""
    if ensemble is None:
        return []
    values = ensemble["probabilities_HH"]
    spread = f"{min(values):.2f} to {max(values):.2f}, SD {ensemble['sd']:.2f}"
    return [(f"P(HH) of the {len(values)} networks", spread)]


def evidence_caption(method: Mapping[str, str] | None) -> str:
    """What the evidence is, in a sentence or two.

    Args:
        method: `evidence` of the prediction JSON (`Evidence.describe`); None where it does not say.
    """
    colours = "Evidence: red speaks for HH, blue for HC"
    return f"{colours}. {method['name'].capitalize()}: {method['says']}." if method else f"{colours}."


def _box_facts(box: Mapping[str, Any]) -> Rows:
    """Where the box came from, and how sure that is."""
    if box.get("source") == "found":
        return [("Basal ganglia box", f"found by registration, confidence {box['confidence']:.2f}")]
    words = {"annotated": "annotated", "whole": "none, the whole scan was read"}
    return [("Basal ganglia box", words[box["source"]])] if box.get("source") in words else []


def _age_facts(scores: Mapping[str, Any]) -> Rows:
    """z-scores of the nuclei against healthy controls of the same age, a line a map."""
    names = {"Chimap": "z of QSM", "R2starmap": "z of R2*"}
    told = [(s["map"], f"{s['nucleus']} {round(s['z'], 1) + 0:+.1f}") for s in scores.get("nuclei", ())]  # no -0.0
    rows = [(words, ", ".join(text for name, text in told if name == suffix)) for suffix, words in names.items()]
    rows = [(words, text) for words, text in rows if text]
    beyond = ", extrapolated beyond their ages" if scores.get("extrapolated") else ""
    made = "simulated " if scores.get("simulated") else ""
    whom = scores.get("controls", f"{made}healthy controls")
    return [*rows, ("z", f"SD from what {whom} have at this age{beyond}")] if rows else []


def _above(result: Mapping[str, Any]) -> int:
    return sum(row["probability_HH"] >= result["threshold"] for row in result["slices"])


def write_scan_report(
    html_path: str | os.PathLike,
    pdf_path: str | os.PathLike,
    result: Mapping[str, Any],
    image: MetaTensor,
    evidence: torch.Tensor,
    model: Mapping[str, Any],
    nuclei: Iterable[Mapping[str, Any]] | None = None,
    age: float | None = None,
    curves: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> None:
    """Write one scan's page as self-contained HTML and as one page of PDF (A4).

    Args:
        html_path, pdf_path: the files; each is written aside, then renamed.
        result: the content of the scan's prediction JSON.
        image: `[C, H, W, S]`, the network's input; its metadata holds which maps they are and what the histogram
            stretching did.
        evidence: `[1, H, W, S]`, on the same grid.
        model: from `scripts.inference.results.model_info`.
        nuclei: rows with `nucleus`, optionally `side`, and `Chimap` (mean susceptibility, ppm).
        age: years.
        curves: nucleus -> `age` (years), `mean` and `sd` (ppm) of healthy people.
    """
    content = report_content(result, model, age)
    nuclei = [row for row in nuclei or () if row.get("Chimap") not in (None, "")]
    familiar = bool(model.get("training_places")) and "familiarity" in result
    maps = display_maps(image)
    aspect = pixel_aspect(image)
    names = json.loads(image.meta["maps"]) if "maps" in image.meta else MAPS
    windows = grey_windows(maps, "stretch" in image.meta, names)
    heat = evidence[0].cpu().numpy()
    # three rows of pictures, one more than there are maps
    maps_height = 3 * min(7.8 / (len(maps) + 1), 2.6) * min(aspect * maps.shape[1] / maps.shape[2], 1.25) + 0.4

    def pictures(figure: SubFigure | Figure) -> None:
        top, bottom = figure.subfigures(2, 1, height_ratios=[maps_height, PLOT_HEIGHT], squeeze=False)[:, 0]
        draw_slices(top, maps, windows, heat, aspect, result)
        widths = [1.3, *([1.0] if nuclei else []), *([0.8] if familiar else [])]
        first, *others = bottom.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        draw_probabilities(first, result)
        if nuclei:
            simulated = result.get("age_z_scores", {}).get("simulated", False)
            draw_nuclei(others[0], nuclei, age, curves or {}, simulated)
        if familiar:
            draw_familiarity(others[-1], model["training_places"], result["familiarity"])

    write_aside(pdf_path, lambda part: write_pdf(part, content, pictures))
    picture = page.embedded(png(pictures, maps_height + PLOT_HEIGHT), ".png")
    page.write_page(html_path, "scan.html", title=content.title, note=content.warning, content=content, picture=picture,
                    maps=[KNOWN_MAPS[suffix].name for suffix in names])  # fmt: skip


def display_maps(image: MetaTensor) -> np.ndarray:
    """The maps `[C, H, W, S]` in their own units, as far as the histogram stretching kept them; else 0..1."""
    values = image.as_tensor().cpu().numpy()
    stretch = image.meta.get("stretch")
    if stretch is None:
        return values
    low, span = (np.asarray(part)[:, None, None, :] for part in np.asarray(stretch).reshape(2, *values.shape[::3]))
    return low + values * span


def pixel_aspect(image: MetaTensor) -> float:
    """Height of a pixel over its width, so that a resized crop is drawn in its true shape."""
    height, width = np.linalg.norm(image.affine.cpu().numpy()[:3, :2], axis=0)
    return float(height / width)


def grey_windows(maps: np.ndarray, in_units: bool, suffixes: Sequence[str] = MAPS) -> list[tuple[str, float, float]]:
    """Title, black and white of each map: fixed windows where a map has a unit, so that scans can be compared."""
    windows = []
    for suffix, values in zip(suffixes, maps, strict=True):
        kind = KNOWN_MAPS[suffix]
        name, limits = kind.name, kind.shown
        if not in_units:
            windows.append((f"{name}, stretched", 0.0, 1.0))
        elif limits:
            windows.append((f"{name}, {limits[0]:g} to {limits[1]:g} {kind.unit}", *limits))
        else:
            low, high = np.percentile(values, (1, 99.5))
            windows.append((name, float(low), float(high)))
    return windows


def draw_slices(
    figure: SubFigure,
    maps: np.ndarray,
    windows: Sequence[tuple[str, float, float]],
    heat: np.ndarray,
    aspect: float,
    result: Mapping[str, Any],
    rows: int = 3,
) -> None:
    """Slices from head (top) to foot: maps, and evidence on the first of them, as a share of the strongest shown."""
    size = maps.shape[-1]
    chosen = sorted({int((n + 0.5) * size / rows) for n in range(rows)}, reverse=True)
    limit = float(np.abs(heat[..., chosen]).max()) or 1.0
    titles = [name for name, _, _ in windows] + [f"Evidence, on {windows[0][0].split(',')[0]}"]
    grid = figure.subplots(len(chosen), len(titles), squeeze=False)
    for axes_row, index in zip(grid, chosen, strict=True):
        for axes, channel in zip(axes_row, (*range(len(maps)), 0), strict=True):
            _, low, high = windows[channel]
            axes.imshow(maps[channel, ..., index], cmap="gray", vmin=low, vmax=high, aspect=aspect)
            axes.set(xticks=[], yticks=[])
        plane = heat[..., index]
        strength = np.clip(1.4 * np.abs(plane) / limit, 0, 0.7)
        shown = axes_row[-1].imshow(plane, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=strength, aspect=aspect)
        row = result["slices"][index]
        axes_row[0].set_ylabel(
            f"slice {row['slice']} (input {row['input_slice']})\nnetwork's P(HH) {rounded(row['probability_HH'])}",
            fontsize=8,
        )
    grid[0, 0].text(0.03, 0.97, "R", color="white", fontsize=8, va="top", transform=grid[0, 0].transAxes)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8, pad=3)
    bar = figure.colorbar(ScalarMappable(shown.norm, shown.cmap), ax=list(grid[:, -1]), shrink=0.8, pad=0.03, aspect=30)
    bar.set_ticks([-limit, 0, limit], labels=["for HC", "0", "for HH"], fontsize=7)


def draw_probabilities(axes: Axes, result: Mapping[str, Any]) -> None:
    """The network's P(HH) of each slice, from foot to head, with the scan's and the threshold."""
    slices = [row["slice"] for row in result["slices"]]
    values = np.array([row["probability_HH"] for row in result["slices"]])
    colours = [HH_COLOUR if value >= result["threshold"] else HC_COLOUR for value in values]
    axes.bar(slices, values, color=colours, width=0.8, alpha=0.8)
    axes.axhline(
        result["threshold"], color="0.4", linewidth=0.8, linestyle=":", label=f"threshold {result['threshold']:g}"
    )
    axes.axhline(
        result["probability_HH"], color="black", linewidth=1.2, label=f"scan {rounded(result['probability_HH'])}"
    )
    axes.set(ylim=(0, 1), ylabel="P(HH)", xticks=slices)
    axes.set_xlabel(
        "slice, from foot to head (bars: each judged alone;\nline: all read together, which may lie beyond them)",
        fontsize=7,
    )
    axes.set_title("Network's P(HH)", fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.legend(
        fontsize=7,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.2,
        ncols=2,
        handlelength=1,
        columnspacing=0.6,
    )
    axes.spines[["top", "right"]].set_visible(False)


def draw_nuclei(
    axes: Axes,
    nuclei: Sequence[Mapping[str, Any]],
    age: float | None,
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    simulated: bool = False,
) -> None:
    """Mean susceptibility of each nucleus, and the band (2 SD) of healthy people of the same age where known."""
    markers = {"left": "<", "right": ">"}
    names = list(dict.fromkeys(str(row["nucleus"]) for row in nuclei))
    for position, name in enumerate(names):
        if age is not None and name in curves:
            curve = curves[name]
            mean, sd = (float(np.interp(age, curve["age"], curve[key])) for key in ("mean", "sd"))
            axes.fill_between([position - 0.35, position + 0.35], mean - 2 * sd, mean + 2 * sd, color="0.85")
            axes.plot([position - 0.35, position + 0.35], [mean, mean], color="0.5", linewidth=1)
        for row in nuclei:
            if row["nucleus"] == name:
                marker = markers.get(str(row.get("side", "")), "o")
                axes.plot(position, float(row["Chimap"]), marker, color=HH_COLOUR, markersize=5)
    axes.set_title("Nuclei, QSM (ppm)", fontsize=9, loc="left")
    for side in [side for side in markers if any(row.get("side") == side for row in nuclei)]:
        axes.plot([], [], markers[side], color=HH_COLOUR, markersize=5, label=side)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2,
            columnspacing=0.8, handletextpad=0.1,
        )  # fmt: skip
    axes.set_xlim(-0.6, len(names) - 0.4)  # the outer names stay on the page
    if age is not None and curves:
        who = "simulated healthy controls" if simulated else "healthy controls"
        axes.set_xlabel(f"grey: {who} at {age:g} years, mean and 2 SD", fontsize=7)
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=20, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw_familiarity(axes: Axes, places: Sequence[Sequence[float]], familiarity: Mapping[str, Any]) -> None:
    """Where the scan lies, a star, among the training scans, in their groups' colours."""
    draw_places(axes, places, [familiarity])
    handles, names = axes.get_legend_handles_labels()
    shown = {"training, HC": "HC", "training, HH": "HH (training)", "unlike the training scans": "this scan"}
    axes.legend(
        handles, [shown.get(name, name) for name in names], fontsize=7, frameon=False, loc="lower right",
        bbox_to_anchor=(1.02, 1), borderaxespad=0.2, ncols=3, columnspacing=0.5, handletextpad=0.1,
    )  # fmt: skip
    axes.xaxis.label.set_fontsize(7)
    axes.yaxis.label.set_fontsize(7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _in_words(nuclei: Sequence[Sequence[str]]) -> str:
    """The table of nuclei as a sentence."""
    parts = [
        f"{name} {value} (healthy {usual})" if where else f"{name} {value}" for name, value, usual, where in nuclei
    ]
    unknown = "" if all(where for *_, where in nuclei) else " Where no healthy range stands, the calibration has none."
    return f"Evidence by nucleus, logit for HH: {', '.join(parts)}.{unknown}"


def png(pictures: Any, height: float) -> bytes:
    """The pictures alone, for the HTML page; `height` in inches."""
    figure = Figure(figsize=(8.6, height), layout="constrained")
    FigureCanvasAgg(figure)
    pictures(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def write_pdf(path: str, content: ReportContent, pictures: Any) -> None:
    """One A4 page: text above and below the pictures."""
    figure = Figure(figsize=(8.27, 11.69), layout="constrained")
    FigureCanvasAgg(figure)
    rows = [textwrap.fill(f"{name}: {value}", 60, subsequent_indent="    ") for name, value in content.facts]
    columns = ["\n".join(part) for part in (rows[: (len(rows) + 1) // 2], rows[(len(rows) + 1) // 2 :])]
    lines = max(3, *(column.count("\n") + 1 for column in columns))
    headline_lines = textwrap.wrap(content.headline, 72)
    above = 0.24 * (len(headline_lines) + bool(content.doubt) - 1)  # inches, of lines that most pages do not have
    height = 1.3 + above + 0.15 * lines  # inches: title, headline, note, and the facts' lines
    head, middle, foot = figure.subfigures(3, 1, height_ratios=[height, 8.85 - height, 2.85], squeeze=False)[:, 0]
    places = (0.12, 0.49, 0.63 + above, 0.87 + above, 1.25 + above)
    left, title, headline, doubt, note, facts = 0.04, *(1 - inches / height for inches in places)
    head.text(left, title, content.title, fontsize=13, weight="bold", va="top", parse_math=False)
    head.text(left, headline, "\n".join(headline_lines), fontsize=13, color=content.colour, weight="bold", va="top")
    if content.doubt:
        head.text(left, doubt, content.doubt, fontsize=12, color=DOUBT_COLOUR, weight="bold", va="center")
    head.text(
        left, note, "\n".join(textwrap.wrap(content.warning, 118)), fontsize=8, va="top",
        bbox={"facecolor": WARNING_FILL, "edgecolor": "none", "pad": 4},
    )  # fmt: skip
    for place, column in zip((left, 0.47), columns, strict=True):
        head.text(place, facts, column, fontsize=8, va="top", parse_math=False)
    pictures(middle)
    foot.text(left, 0.97, "How well the model did", fontsize=9, weight="bold", va="top")
    measures = [textwrap.fill(f"{name}: {value}", 46) for name, value in content.performance]
    foot.text(left, 0.89, "\n".join(measures), fontsize=8, va="top")
    foot.text(0.40, 0.97, "Limits", fontsize=9, weight="bold", va="top")
    told = [*content.limits, content.evidence, *([_in_words(content.nuclei)] if content.nuclei else [])]
    limits = [textwrap.fill(text, 84, initial_indent="- ", subsequent_indent="  ") for text in told]
    foot.text(0.40, 0.89, "\n".join(limits), fontsize=7.5, va="top")
    foot.text(left, 0.45, "What made this", fontsize=9, weight="bold", va="top")
    foot.text(
        left, 0.37, "\n".join(f"{name}: {value}" for name, value in content.made_by),
        fontsize=6.5, va="top", family="monospace",
    )  # fmt: skip
    figure.savefig(path, format="pdf", metadata={"CreationDate": None, "Title": content.title})
