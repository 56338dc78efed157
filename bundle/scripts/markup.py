"""Numbers as text, and a table of short texts as Markdown or as LaTeX (booktabs)."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

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
    }
)
#: What Markdown reads as markup inside a table cell.
MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_`<["})


def fixed(value: float, digits: int) -> str:
    """A number with so many digits; a half goes up, so that 0.7175 is 0.718 whichever way it was computed."""
    exact = Decimal(f"{value:.12f}")  # what floating point adds beyond is no information
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def markdown(title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table between its title and a note. An empty row, which parts groups, is left out."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.translate(MARKDOWN) for cell in cells)} |"

    rule = f"|{' --- |' * len(columns)}"
    table = [line(columns), rule, *(line(row) for row in rows if row)]
    return "\n".join([f"**{title.translate(MARKDOWN)}**", "", *table, "", note.translate(MARKDOWN), ""])


def latex(title: str, note: str, label: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A LaTeX table to `\input` into a document that loads booktabs, the title above, the note below.

    An empty row parts groups.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{title.translate(LATEX)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}",
            r"\toprule",
            line(columns),
            r"\midrule",
            *(line(row) if row else r"\addlinespace" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip",
            rf"\parbox{{\linewidth}}{{\raggedright {note.translate(LATEX)}}}",
            r"\end{table}",
            "",
        ]
    )
