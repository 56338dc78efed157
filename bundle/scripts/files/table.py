"""Tables: tab-separated as BIDS has it (TSV, without quoting), and comma-separated (CSV)."""

import csv
import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

from scripts.errors import InputError, reason
from scripts.files.text import read_text

#: Cells that a spreadsheet would run as a formula, with any quotes that were put before them.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf|nan", re.IGNORECASE)
#: What Excel takes a first line for, and what parts cells by it.
_EXCEL = re.compile(r'"?sep=(.)"?[ \t,;]*(?:\r\n|\n|\r|$)', re.IGNORECASE)
_QUOTED = re.compile(r'\s*"[^"]*"\s*')
Row = dict[str, str]
#: What parts cells: of a CSV, of a TSV.
SIGNS = (",", "\t")
#: A table with more columns is none of a cohort; such a header took seconds to minutes to be refused.
_MOST_COLUMNS = 10_000
#: Among so many lines a header is looked for that does not stand at the top.
_LINES_OF_TITLE = 20
#: Cells that hold nothing.
MISSING = ("", "n/a")


def read_table(
    path: str | os.PathLike,
    columns: Sequence[str],
    *,
    unique: Sequence[str] = (),
    cure: str = "correct the table",
    may_end_torn: bool = False,
) -> list[Row]:
    """Rows of a table, see `read_frame`."""
    return read_frame(path, columns, unique=unique, cure=cure, may_end_torn=may_end_torn).to_dict("records")


def read_frame(
    path: str | os.PathLike,
    columns: Sequence[str],
    *,
    numbers: Collection[str] = (),
    unique: Sequence[str] = (),
    cure: str = "correct the table",
    may_end_torn: bool = False,
) -> pd.DataFrame:
    """A table; commas or tabs by the file's ending (`.csv`, `.tsv`).

    Quotes around cells are read in a CSV, and in a TSV whose header has them around every cell (R writes such). Spaces
    around cells are dropped, empty lines and Excel's `sep=,` at the top passed over, and quotes that
    `for_spreadsheet` added taken away.

    Args:
        path: the file.
        columns: columns that must be there; others come along.
        numbers: columns that hold numbers, with NaN for `n/a` and empty cells; all others are text.
        unique: columns whose values together name a row, so they may not come twice.
        cure: end of the message about a table that is refused.
        may_end_torn: the file is a log, and whoever writes it may be within the last line, or was stopped there: that
            line is passed over, and a log without a whole line has no rows.

    Raises:
        InputError: no such file, no text, lines above the header, a column that is missing or there twice, a row of
            another length than the header, two rows for one thing, or a number that is none or not finite.
    """
    tabs = str(path).endswith(".tsv")
    separated = "tab-separated" if tabs else "comma-separated"
    text = read_text(path, f"save it as UTF-8, {separated}")
    if may_end_torn and not text.endswith(("\n", "\r")):
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
    if may_end_torn and not text:
        return pd.DataFrame(columns=list(columns), dtype=object)
    if text.lstrip()[:1] == "<":
        raise InputError(f"{path}: is a web page or XML, not a table; open it in a spreadsheet and save it {separated}")
    # the header is the first line with words
    empty = found[0] if (found := re.match(rf"(?:[ {SIGNS[tabs]}]*(?:\r\n|\n|\r))*", text)) else ""
    if excel := _EXCEL.match(text, len(empty)):
        if excel[1] != SIGNS[tabs]:
            raise InputError(f"{path}: its first line says that {excel[1]!r} parts its cells; save it {separated}")
        empty += excel[0]
    first = re.split(r"\r|\n", text[len(empty) :], maxsplit=1)[0]
    quoted = not tabs or all(_QUOTED.fullmatch(cell) for cell in first.split(SIGNS[tabs]))  # as R's write.table does
    widths = [1 + line.count(SIGNS[tabs]) for line in re.split(r"\r|\n", text[len(empty) :])]
    if widths[0] > _MOST_COLUMNS:
        raise InputError(
            f"{path}: its header has {widths[0]} cells, and more than {_MOST_COLUMNS} are not read; {cure}, {separated}"
        )
    try:
        cells = pd.read_csv(
            StringIO(text, newline=""),  # U+2028 and its like end no line of a table
            sep=SIGNS[tabs],
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            header=None,
            names=range(min(max(widths), 2 * widths[0] + 8)),  # room for rows that are longer, and told so below
            skiprows=len(re.findall(r"\r\n|\n|\r", empty)),
            skip_blank_lines=False,
            dtype=object,
            keep_default_na=False,
            engine="python",  # the other one fills a row that ends early with empty cells
        )
    except pd.errors.ParserError as error:
        raise InputError(f"{path}: {reason(error)}; {cure}, {separated}") from error
    cells.index += 1 + len(re.findall(r"\r\n|\n|\r", empty))  # lines of a TSV; of a CSV, whose cells have lines, rows
    # spreadsheets leave empty columns at the end, of the header too; where one row alone is longer, a cell may be amiss
    due = [n for n in cells.columns if cells[n].head(1).isna().any() or not (cells[n].isna() | cells[n].eq("")).all()]
    cells = cells.loc[:, : max(due, default=0)]
    lengths = cells.notna().sum(axis="columns")
    cells = cells.map(lambda cell: from_spreadsheet(cell.strip()), na_action="ignore").astype(object)
    head = list(cells.iloc[0].dropna()) if len(cells) else []
    if any(name not in head for name in columns):
        for place, row in cells.iloc[1:_LINES_OF_TITLE].iterrows():
            if set(columns) <= set(row.dropna()):
                raise InputError(
                    f"{path}: its header is {'line' if tabs else 'row'} {place}, below other words; take away what"
                    " stands above it"
                )
    check_head(path, head, columns, separated)
    cells = cells.iloc[1:]
    cells = cells[~(cells.isna() | cells.eq("")).all(axis="columns")]
    line, lengths = "line" if tabs else "row", lengths[cells.index]
    wrong = lengths[lengths != len(head)]
    if len(wrong):
        gaps = {"the header": head, f"{line} {wrong.index[0]}": list(cells.loc[wrong.index[0]].iloc[: wrong.iloc[0]])}
        where = next((name for name, row in gaps.items() if "" in row[:-1] and tabs), None)
        twice = f"; tabs follow each other in {where}, and each begins a cell" if where else ""
        if not where and wrong.iloc[0] > len(head) and gaps[f"{line} {wrong.index[0]}"][-1] == "":
            twice = "; its last is empty, since a separator stands at its end"
        raise InputError(
            f"{path}: {line} {wrong.index[0]} has {wrong.iloc[0]} cells where the header has {len(head)}{twice};"
            f" {cure}, {separated}"
        )
    cells = cells.iloc[:, : len(head)].set_axis(head, axis="columns")
    twice = cells.duplicated(list(unique)) if unique else lengths.ne(len(head))
    if twice.any():
        place = twice.idxmax()
        same = cells[list(unique)].eq(cells.loc[place, list(unique)]).all(axis="columns").idxmax()
        raise InputError(
            f"{path}: {unique[-1]} {cells.loc[place, unique[-1]]!r} has more than one row, in {line}s {same} and"
            f" {place}; keep one"
        )
    for name in [name for name in head if name in numbers]:
        values = cells[name].map(_number).astype(float)
        wrong = cells[name][~np.isfinite(values) & ~cells[name].isin(MISSING)]
        if len(wrong):
            raise InputError(f"{path}: {line} {wrong.index[0]}, column {name!r} is no finite number; {cure}")
        cells[name] = values
    return cells.reset_index(drop=True)


def _number(cell: str) -> float:
    """A cell as a number, NaN where it is none: what Python alone would take, such as `1_000`, is none."""
    return float(cell) if _NUMBER.fullmatch(cell) else math.nan


def check_head(path: str | os.PathLike, head: Sequence[str], columns: Sequence[str], separated: str) -> None:
    """Refuse a header without a column that is needed, or with one twice.

    Raises:
        InputError: see above.
    """
    counts = Counter(head)
    twice = next((name for name in head if counts[name] > 1), None)
    if twice == "":
        places = " and ".join(str(place) for place, name in enumerate(head, 1) if not name)
        raise InputError(
            f"{path}: columns {places} of its header have no name, as where separators follow each other; keep one"
            " between two cells, in all lines"
        )
    if twice is not None:
        raise InputError(f"{path}: has two columns {twice!r}; keep one")
    missing = [name for name in columns if name not in head]
    if missing:
        other = next((sign for sign in ";,|" if len(head) == 1 and sign in head[0]), None)
        between = re.match(r"\w+(\W+)\w", head[0]) if len(head) == 1 else None
        if between and missing[0] in head[0].split(between[1]):  # spaces, say
            other = between[1]
        near = near_column(missing[0], head)
        if other:
            seems = f"but its columns seem to be separated by {other!r}; save it "
        else:
            seems = f"and has {near!r}, which must be called {missing[0]!r}; save it " if near else ""
        raise InputError(
            f"{path}: no column {' and no column '.join(map(repr, missing))}; it needs {' and '.join(columns)}"
            f", {seems}{separated}"
        )


#: Other words for a column, in tables of other programs and countries; the names of ours stand for themselves.
_OTHER_WORDS = {
    "age": {"ages", "alter", "edad", "eta", "leeftijd", "wiek"},
    "group": {"groups", "gruppe", "diagnosis", "diagnose", "dx", "class", "label"},
    "participant_id": {"participant", "subject", "proband", "id"},
    "sex": {"gender", "geschlecht", "sexe", "sexo"},
}


def near_column(name: str, head: Collection[str]) -> str | None:
    """A column called nearly as one that is missing (`Age`, `age_years`, `Alter` for `age`), or None."""
    wanted = name.replace("_", "")
    for column in head:
        words = re.findall(r"[^\W\d_]+", column.casefold())
        joined = "".join(words)
        close = difflib.SequenceMatcher(None, joined, wanted).ratio() >= 0.8 and joined[:1] == wanted[:1]
        if joined == wanted or name in words or close or _OTHER_WORDS.get(name, set()) & {*words, joined}:
            return column
    return None


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], tabs: bool, head: bool = True) -> str:
    """A table as text, with nothing in it that a spreadsheet would run as a formula.

    Args:
        columns: the header, and what is taken of each row.
        rows: values by column. What is missing stays empty in a CSV and is `n/a` in a TSV, as BIDS has it.
        tabs: TSV, without quoting (tabs and line ends within cells become spaces; floats get six significant digits);
            else CSV.
        head: whether the header comes first.
    """
    shown = _bids_cell if tabs else _cell
    cells = [[shown(row.get(name)) for name in columns] for row in rows]
    return pd.DataFrame(cells, columns=[shown(name) for name in columns], dtype=object).to_csv(
        sep=SIGNS[tabs],
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        index=False,
        header=head,
        lineterminator="\n",
    )


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))


def _cell(value: object) -> object:
    return "" if _missing(value) else for_spreadsheet(value)


def _bids_cell(value: object) -> object:
    if _missing(value):
        return "n/a"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return for_spreadsheet(re.sub(r"[\t\r\n]+", " ", text))


def for_spreadsheet(cell: object) -> object:
    """A cell as it is written: text that a spreadsheet would run as a formula gets a quote in front; numbers stay."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def from_spreadsheet(cell: str) -> str:
    """The cell that `for_spreadsheet` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
