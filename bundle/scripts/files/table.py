"""Tables: tab-separated as BIDS has it (TSV, without quoting), and comma-separated (CSV)."""

import csv
import difflib
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from scripts.errors import InputError, reason
from scripts.files.text import read_text

#: Cells that a spreadsheet would run as a formula, with any quotes that were put before them.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf|nan", re.IGNORECASE)
Row = dict[str, str]


def read_table(
    path: str | os.PathLike,
    columns: Sequence[str],
    *,
    unique: Sequence[str] = (),
    cure: str = "correct the table",
    may_end_torn: bool = False,
) -> list[Row]:
    """Rows of a table; commas or tabs by the file's ending (`.csv`, `.tsv`).

    Spaces around cells are dropped, empty lines passed over, and quotes that `for_spreadsheet` added taken away.

    Args:
        path: the file.
        columns: columns that must be there; others come along.
        unique: columns whose values together name a row, so they may not come twice.
        cure: end of the message about a table that is refused.
        may_end_torn: the file is a log, and whoever wrote it may have been stopped within the last line: that line is
            passed over.

    Raises:
        InputError: no such file, no text, a column that is missing or there twice, a row of another length than the
            header, two rows for one thing.
    """
    tabs = str(path).endswith(".tsv")
    separated = "tab-separated" if tabs else "comma-separated"
    text = read_text(path, f"save it as UTF-8, {separated}")
    if may_end_torn and not text.endswith(("\n", "\r")):
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
    # neither str.splitlines nor universal newlines: letters such as U+2028 end no line of a table
    lines = re.split(r"\r\n|\n|\r", text) if tabs else re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    reader = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        if tabs
        else csv.reader(lines, strict=True)
    )
    head: list[str] | None = None
    rows: list[Row] = []
    seen: dict[tuple[str, ...], int] = {}
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            cells = [from_spreadsheet(cell.strip()) for cell in cells]
            if head is None:
                head = cells
                check_head(path, head, columns, separated)
                continue
            if len(cells) != len(head):
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells where the header has {len(head)}; {cure},"
                    f" {separated}"
                )
            row = dict(zip(head, cells, strict=True))
            key = tuple(row[name] for name in unique)
            if unique and key in seen:
                raise InputError(
                    f"{path}: {unique[-1]} {row[unique[-1]]!r} has more than one row, in lines {seen[key]} and"
                    f" {reader.line_num}; keep one"
                )
            seen[key] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} cannot be read ({reason(error)}); {cure}") from error
    if head is None:
        check_head(path, [], columns, separated)
    return rows


def check_head(path: str | os.PathLike, head: Sequence[str], columns: Sequence[str], separated: str) -> None:
    """Refuse a header without a column that is needed, or with one twice.

    Raises:
        InputError: see above.
    """
    twice = next((name for name in head if head.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: has two columns {twice!r}; keep one")
    missing = [name for name in columns if name not in head]
    if missing:
        other = next((sign for sign in ";,|" if len(head) == 1 and sign in head[0]), None)
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
    lines = [dict(zip(columns, columns, strict=True))] if head else []
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in (*lines, *rows):
        if tabs:
            cells = [re.sub(r"[\t\r\n]+", " ", _bids_cell(row.get(name))) for name in columns]
            text.write("\t".join(str(for_spreadsheet(cell)) for cell in cells) + "\n")
        else:
            writer.writerow(["" if (cell := row.get(name)) is None else for_spreadsheet(cell) for name in columns])
    return text.getvalue()


def _bids_cell(value: object) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def numbers_of(
    path: str | os.PathLike, rows: Iterable[Mapping[str, str]], columns: Collection[str], cure: str
) -> list[dict[str, Any]]:
    """Rows with the cells of some columns as numbers, NaN for `n/a` and empty cells; the others stay text.

    Raises:
        InputError: a cell that is no finite number.
    """
    found = []
    for line, row in enumerate(rows, 2):
        values: dict[str, Any] = {}
        for name, cell in row.items():
            if name not in columns:
                values[name] = cell
                continue
            missing = cell in ("", "n/a")
            values[name] = math.nan if missing or not _NUMBER.fullmatch(cell) else float(cell)
            if not missing and not math.isfinite(values[name]):
                raise InputError(f"{path}: row {line}, column {name!r} is no finite number; {cure}")
        found.append(values)
    return found


def for_spreadsheet(cell: object) -> object:
    """A cell as it is written: text that a spreadsheet would run as a formula gets a quote in front; numbers stay."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def from_spreadsheet(cell: str) -> str:
    """The cell that `for_spreadsheet` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
