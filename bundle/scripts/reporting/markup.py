"""Numbers as text, and a table of short texts as HTML, as Markdown or as LaTeX (booktabs), all by pandas."""

from decimal import ROUND_HALF_UP, Decimal

import pandas as pd
from markupsafe import Markup

#: What LaTeX reads as a command, and signs of ours that it sets otherwise.
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",  # after a line break a bare one would be an option
        "]": "{]}",
        "*": "{*}",  # likewise
        "±": r"$\pm$",
        "–": "--",
        "≤": r"$\leq$",
        "→": r"$\rightarrow$",
    }
)
#: What Markdown reads as markup inside a table cell.
MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_`<["})


def fixed(value: float, digits: int) -> str:
    """A number with so many digits; a half goes up, so that 0.7175 is 0.718 whichever way it was computed."""
    exact = Decimal(f"{value:.12f}")  # what floating point adds beyond is no information
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def html(cells: pd.DataFrame) -> Markup:
    """A table of text as HTML, escaped."""
    return Markup(cells.to_html(index=False, border=0, justify="left", classes="paper"))  # noqa: S704


def markdown_table(cells: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    shown = cells.map(_markdown).rename(columns=_markdown)
    return shown.to_markdown(index=False, disable_numparse=True)  # a number is text here, with its last zeros


def markdown(title: str, note: str, cells: pd.DataFrame) -> str:
    """A table of text as Markdown between its title and a note."""
    return f"**{_markdown(title)}**\n\n{markdown_table(cells)}\n\n{_markdown(note)}\n"


def latex(title: str, note: str, label: str, cells: pd.DataFrame) -> str:
    r"""A table of text to `\input` into a LaTeX document that loads booktabs, the title above, the note below.

    A row whose first cell is filled begins a group, and stands a little apart.
    """
    first = cells.columns[0]
    begins = cells.index[cells[first].ne("") & (cells.index > 0) & cells[first].eq("").any()]
    shown = cells.style.hide(axis="index").format(_latex).format_index(_latex, axis="columns")
    shown.format(lambda cell: rf"\addlinespace {_latex(cell)}", subset=(begins, [first]))
    table = shown.to_latex(hrules=True, column_format=f"@{{}}{'l' * len(cells.columns)}@{{}}")
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_latex(title)}}}",
            rf"\label{{{label}}}",
            table + r"\par\smallskip",
            rf"\parbox{{\linewidth}}{{\raggedright {_latex(note)}}}",
            r"\end{table}",
            "",
        ]
    )


def _markdown(text: str) -> str:
    return text.translate(MARKDOWN)


def _latex(text: str) -> str:
    return text.translate(LATEX)
