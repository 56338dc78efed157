"""How every figure looks and is written: one style a model and a group everywhere, files aside then renamed."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scripts.files.writing import write_aside

matplotlib.rcParams["text.parse_math"] = False  # a name may hold dollar signs, and nothing here is set as a formula


class Style(NamedTuple):
    """How a model or a group is drawn; everything but the colour tells it apart in grey print."""

    colour: str
    line: str | tuple
    marker: str
    hatch: str


#: The paper's models, the same in every figure.
MODEL_STYLE = {
    "ResNet": Style("#4c72b0", (0, (1, 1)), "o", "..."),
    "ResNetSWA": Style("#dd8452", (0, (5, 1.5)), "s", "///"),
    "Q-Net": Style("#c44e52", "-", "^", ""),
}
#: Taken in turn by further models (baselines, variants), which are sorted by name.
FURTHER_STYLES = (
    Style("#55a868", (0, (6, 1.5, 1, 1.5)), "D", "xxx"),
    Style("#8172b3", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "v", "\\\\\\"),
    Style("#937860", (0, (3, 3)), "P", "+++"),
    Style("#da8bc3", (0, (1, 3)), "X", "ooo"),
    Style("#8c8c8c", (0, (9, 3)), "*", "---"),
    Style("#b0a030", (0, (2, 1)), "h", "||"),
    Style("#64b5cd", (0, (7, 2, 2, 2)), "d", "**"),
)
#: The groups, in the colours of the evidence maps: red speaks for HH, blue for HC.
GROUP_STYLE = {"HH": Style("#b2182b", "-", "^", ""), "HC": Style("#2166ac", "--", "o", "///")}

#: Drawn on grey maps: the basal ganglia's box or the brain's mask; and strong evidence for each group.
OUTLINE_COLOUR = "#dd8452"
EVIDENCE_COLOURS = {"HH": "#ff6b5e", "HC": "#7db8ff"}
#: Drawn on black: the box, then nuclei one after the other.
ON_BLACK = ("#ffb000", "#58b5ff", "#7dff8a", "#ff7db8", "#c79bff")
#: Behind a warning; behind the parts of the network's diagram.
WARNING_FILL = "#fff3d6"
NETWORK_FILLS = {
    "input": "#eef1f4",
    "frozen": "#cfe0f1",
    "sequence": "#f6d9c4",
    "head": "#f5e6a9",
    "output": "#ffffff",
}
#: What a figure without images is written as: for the screen, for print, for the page.
VECTOR = (".png", ".pdf", ".svg")


def styles_of(models: Iterable[str]) -> dict[str, Style]:
    """A style for each model of a predictions table, so that figures of one table agree."""
    further = sorted(set(models) - MODEL_STYLE.keys())
    return MODEL_STYLE | {name: FURTHER_STYLES[i % len(FURTHER_STYLES)] for i, name in enumerate(further)}


def titled(text: str, simulated: bool, figure: Figure | None = None) -> str:
    """A figure's title, which says when the cohort is simulated; broken into lines where a figure is given."""
    words = f"{text}, simulated cohort" if simulated else text
    return wrapped(words, figure, 12) if figure else words


def wrapped(text: str, figure: Figure, size: float) -> str:
    """Text in lines that fit the width of a figure, for a font of `size` points."""
    # a letter is about half as wide as its size; 72 points are an inch
    return fill(text, max(20, int(figure.get_figwidth() * 72 / (0.53 * size))))


def footer(figure: Figure, text: str) -> None:
    """A small explanation below a figure, in as many lines as its width asks for."""
    figure.supxlabel("\n" + wrapped(text, figure, 8), fontsize=8, color="0.3")


def save_figure(figure: Figure, output: str | os.PathLike, suffixes: Sequence[str] = (".png", ".pdf")) -> list[Path]:
    """Write a figure once a suffix (.png, .pdf, .svg), aside then renamed; the same figure gives the same bytes.

    Args:
        figure: what to write.
        output: path without suffix; a `.png` at its end is taken off.
        suffixes: which formats.

    Returns:
        The paths, in the order of `suffixes`.
    """
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")  # laid out once is enough for all formats
    metadata = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    paths = [Path(f"{output}".removesuffix(".png") + suffix) for suffix in suffixes]
    with matplotlib.rc_context({"svg.hashsalt": "qnet", "hatch.linewidth": 0.6}):
        for path in paths:
            write_aside(path, partial(figure.savefig, format=path.suffix[1:], dpi=150, metadata=metadata[path.suffix]))
    return paths
