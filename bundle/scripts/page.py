"""A self-contained HTML page: sections with a table of contents, tables, pictures, and nothing that needs a network."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.markup import fixed

MIME = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}
#: What the browser is told to refuse: everything that is not inside the page.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; font-src data:;"
    " script-src 'unsafe-inline' blob:; worker-src blob: data:; connect-src data: blob:"
)
STYLE = """
:root{--ink:#1d2733;--faint:#5d6b7a;--line:#d9dfe6;--wash:#f5f7f9;--accent:#1f5f99}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{font:15px/1.55 system-ui,"Segoe UI",Helvetica,Arial,sans-serif;color:var(--ink);margin:0;background:#fff}
header{padding:1.6em 2em 1.2em;background:var(--ink);color:#fff}
header h1{margin:0 0 .3em;font-size:26px;font-weight:600}
header .note{margin:0;color:#ffd98a}
.layout{display:grid;grid-template-columns:190px minmax(0,1fr);gap:2em;max-width:1320px;margin:0 auto;padding:0 1.5em}
nav{position:sticky;top:0;align-self:start;padding:1.6em 0;font-size:14px;max-height:100vh;overflow:auto}
nav a{display:block;padding:.25em .6em;color:var(--faint);text-decoration:none;border-left:3px solid var(--line)}
nav a:hover{color:var(--accent);border-color:var(--accent)}
main{min-width:0;padding-bottom:4em}
section{padding-top:1.2em}
h2{font-size:21px;font-weight:600;margin:.6em 0;padding-bottom:.25em;border-bottom:1px solid var(--line)}
h3{font-size:16px;margin:1.4em 0 .4em}
a{color:var(--accent)}
figure{margin:1.2em 0;break-inside:avoid}
figure img{max-width:100%;border:1px solid var(--line);border-radius:4px;background:#fff}
figcaption,.caption{font-size:13.5px;color:var(--faint);max-width:80ch;margin:.3em 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;margin:.6em 0;font-variant-numeric:tabular-nums}
th,td{padding:.28em .6em;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{background:var(--wash);font-weight:600}
table.sortable th{cursor:pointer}
table.sortable th::after{content:" \\2195";color:#a9b4c0}
td.number{text-align:right}
td.short{white-space:nowrap}
td.wrong{background:#fdeaea}
.message{background:var(--wash);border-left:3px solid #d7a33b;padding:.5em .9em;margin:1em 0}
.headline{display:flex;flex-wrap:wrap;gap:1em;margin:1em 0}
.headline div{border:1px solid var(--line);border-radius:6px;padding:.7em 1.1em;min-width:150px}
.headline b{display:block;font-size:23px;font-weight:600}
.headline span{font-size:13px;color:var(--faint)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;background:var(--wash);padding:1em}
code{font-size:12.5px;overflow-wrap:anywhere}
@media (max-width:900px){.layout{display:block}nav{position:static}}
@media print{nav,.screen{display:none}.layout{display:block;padding:0}header{background:none;color:var(--ink);padding:0}
header .note{color:#8a5a00}body{font-size:11px}section{break-inside:auto}figure img{border:none;max-height:22cm}
table{font-size:10px}.scroll{overflow:visible}}
"""
SORTING = """
for (const table of document.querySelectorAll('table.sortable')) {
  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {
    const rising = head.dataset.rising !== 'yes', body = table.tBodies[0];
    head.dataset.rising = rising ? 'yes' : 'no';
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => (a - b) || String(a).localeCompare(String(b), undefined, {numeric: true});
    const rows = [...body.rows].sort((a, b) => order(value(a), value(b)));
    body.append(...(rising ? rows : rows.reverse()));
  }));
}
"""


class Section(NamedTuple):
    """A part of the page: `name` for links, `title`, and `body`, HTML."""

    name: str
    title: str
    body: str


class Cell(NamedTuple):
    """A table's cell that needs more than text: HTML, a class, and the value that it is sorted by."""

    content: str
    kind: str = ""
    value: str = ""


def page(title: str, note: str, sections: Sequence[Section], scripts: str = "") -> str:
    """The whole page as HTML text.

    Args:
        title: of the page.
        note: below the title, on every printed first page: what the numbers may be used for.
        sections: in order; the table of contents lists them.
        scripts: `<script>` elements for the end of the page.
    """
    contents = "".join(f'<a href="#{section.name}">{text(section.title)}</a>' for section in sections)
    body = "".join(f'<section id="{s.name}"><h2>{text(s.title)}</h2>{s.body}</section>' for s in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{text(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f'<header><h1>{text(title)}</h1><p class="note">{text(note)}</p></header>'
        f'<div class="layout"><nav>{contents}</nav><main>{body}</main></div>'
        f"<script>{SORTING}</script>{scripts}</body></html>\n"
    )


def note(simulated: bool) -> str:
    """What every page says first."""
    words = "Research use only, not for clinical use."
    if simulated:
        words += " Every number and picture on this page comes from a simulated cohort, not from patients."
    return words


def text(value: Any) -> str:
    """Any value as HTML text."""
    return html.escape(str(value))


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], sortable: bool = False) -> str:
    """A table; numbers are set to the right, a Cell stands as it is, empty where there is nothing to show."""
    head = "".join(f"<th>{text(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, Cell):
        order = f' data-value="{text(value.value)}"' if value.value else ""
        return f'<td class="{value.kind}"{order}>{value.content}</td>'
    if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        return f"<td>{text(value)}</td>"
    shown = "n/a" if value != value else fixed(value, 3) if isinstance(value, float) else text(value)
    return f'<td class="number">{shown}</td>'


def markdown_tables(source: str) -> str:
    """Titles, tables and notes of a Markdown file that `scripts.markup` wrote, as HTML."""
    parts, rows = [], []
    for line in [*source.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
            continue
        if rows:
            parts.append(table(rows[0], [[Cell(text(cell), "short") for cell in row] for row in rows[2:]]))
            rows = []
        plain_line = re.sub(r"\\(.)", r"\1", line.strip())
        if plain_line.startswith("**"):
            parts.append(f"<h3>{text(plain_line[2:-2])}</h3>")
        elif plain_line:
            parts.append(paragraph(plain_line, "caption"))
    return "".join(parts)


def key_values(values: Mapping[str, Any], headings: Sequence[str] = ("key", "value")) -> str:
    """A table of names and plain values."""
    rows = [(Cell(f"<code>{text(key)}</code>"), Cell(f"<code>{text(plain(v))}</code>")) for key, v in values.items()]
    return table(headings, rows)


def plain(value: Any) -> str:
    """A setting as it would be written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def picture(path: Path, caption: str) -> str:
    """A picture inside the page, with its caption below."""
    return f"<figure>{image(path.read_bytes(), path.suffix, caption)}<figcaption>{text(caption)}</figcaption></figure>"


def image(data: bytes, suffix: str, description: str) -> str:
    """An `<img>` that holds its own bytes."""
    source = f"data:{MIME[suffix]};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{text(description)}" src="{source}">'


def indented(record: Mapping[str, Any]) -> str:
    """A record as indented JSON."""
    return json.dumps(record, indent=1, ensure_ascii=False)
