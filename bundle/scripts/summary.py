"""One page about a batch of scans: how many, how the probabilities spread, what failed, how fast it went."""

import html
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ignite.distributed as idist

from scripts.batch import RunFolder
from scripts.files.table import read_table
from scripts.provenance import write_aside

BINS = 20
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:1.5em auto;padding:0 1em;color:#222}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.5em}.note{background:#fff3d6;padding:.5em 1em;
border-left:4px solid #e0a800}table{border-collapse:collapse;font-size:14px}
td,th{padding:3px 14px 3px 0;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
.counts{display:flex;flex-wrap:wrap;gap:2em}.counts b{display:block;font-size:1.8em}.failed{color:#b2182b}
.HH{color:#b2182b}.HC{color:#2166ac}"""


def scan_rows(table: str | os.PathLike) -> Iterator[dict[str, str]]:
    """The rows of `predictions.csv` that are of scans, one by one."""
    rows = read_table(table, ["scan_id", "status", "slice"], cure="run inference.yaml again")
    yield from (row for row in rows if not row["slice"])


def histogram(counts: Mapping[int, int], threshold: float | None) -> str:
    """Number of scans by probability of HH, as SVG."""
    width, height, left, bottom = 640, 200, 40, 34
    most = max(counts.values(), default=1)
    step = (width - left) / BINS
    parts = []
    for index in range(BINS):
        count = counts.get(index, 0)
        tall = (height - 20) * count / most
        low, high = index / BINS, (index + 1) / BINS
        colour = "#999" if threshold is None else "#b2182b" if low >= threshold else "#2166ac"
        parts.append(
            f'<rect x="{left + index * step + 1:.1f}" y="{height - tall:.1f}" width="{step - 2:.1f}"'
            f' height="{tall:.1f}" fill="{colour}"><title>{low:.2f} to {high:.2f}: {count} scans</title></rect>'
        )
    for value in (0, 0.25, 0.5, 0.75, 1):
        x = left + value * (width - left)
        anchor = "end" if value == 1 else "middle"
        parts.append(f'<text x="{x:.0f}" y="{height + 14}" font-size="12" text-anchor="{anchor}">{value:g}</text>')
    parts.append(
        f'<text x="{(width + left) / 2:.0f}" y="{height + 30}" font-size="12" text-anchor="middle">P(HH)</text>'
    )
    parts.append(f'<text x="{left - 6}" y="26" font-size="12" text-anchor="end">{most}</text>')
    parts.append(f'<text x="{left - 6}" y="{height}" font-size="12" text-anchor="end">0</text>')
    parts.append(f'<path d="M{left} {height}H{width}M{left} 12V{height}" stroke="#888" fill="none"/>')
    return (
        f'<svg viewBox="0 0 {width} {height + bottom}" width="{width}" role="img"'
        f' aria-label="Number of scans by probability of HH">{"".join(parts)}</svg>'
    )


def write_summary(
    page: str | os.PathLike, table: str | os.PathLike, run: RunFolder, model: Mapping[str, Any], note: str
) -> None:
    """Write the batch's page beside its table, aside then renamed. It is computed from the table alone, row by row.

    Args:
        page: the HTML file; links to the scans' reports are relative to it.
        table: `predictions.csv`.
        run: the output folder: its settings, when it started, and how many scans were done before.
        model: from `scripts.results.model_info`.
        note: the warning on top.
    """
    classes: Counter[str] = Counter()
    bins: Counter[int] = Counter()
    flagged = 0
    for row in scan_rows(table):
        classes[row["class"] if row["status"] == "ok" else "failed"] += 1
        flagged += bool(row.get("flags"))
        if row["status"] == "ok":
            bins[min(int(float(row["probability_HH"]) * BINS), BINS - 1)] += 1
    seconds = time.perf_counter() - run.started
    total, failed = classes.total(), classes["failed"]
    title = f"Q-Net: {total} scan{'' if total == 1 else 's'}"
    earlier = run.resumed
    fresh = total - failed - earlier
    processes = f"{idist.get_world_size()} process{'es' if idist.get_world_size() > 1 else ''}"
    resumed = f"; {earlier} were done by an earlier run" if earlier else ""

    def write(part: str) -> None:
        with open(part, "w", encoding="utf-8") as file:
            file.write(
                f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
                f"<style>{STYLE}</style><h1>{title}</h1><p class=note>{html.escape(note)}</p>"
                f"<div class=counts><div><b>{total}</b>scans</div><div class=HH><b>{classes['HH']}</b>HH</div>"
                f"<div class=HC><b>{classes['HC']}</b>HC</div><div class=failed><b>{failed}</b>failed</div>"
                f"<div><b>{flagged}</b>with unlikely maps</div></div>"
                f"<h2>Probability of HH</h2>{histogram(bins, run.settings.get('threshold'))}"
                f"<p>{fresh} scan{'' if fresh == 1 else 's'} in {seconds:.0f} s"
                f" ({fresh / seconds:.2f} scans/s, {processes}){resumed}."
                f" All numbers: <a href='{quote(Path(table).name)}'>{html.escape(Path(table).name)}</a>, settings:"
                f" <a href='run.json'>run.json</a>.</p>"
            )
            if failed:
                file.write("<h2>Failed</h2><table><tr><th>scan<th>why")
                for row in scan_rows(table):
                    if row["status"] != "ok":
                        file.write(f"<tr><td>{html.escape(row['scan_id'])}<td>{html.escape(row['message'])}\n")
                file.write("</table>")
            file.write("<h2>Scans</h2><table><tr><th>scan<th>class<th>P(HH)<th>files<th>unlikely maps")
            for row in scan_rows(table):
                if row["status"] == "ok":
                    file.write(scan_line(row, run.path))
            weights = f"{model['name']} {model['version']}, weights sha256 {model['sha256']}"
            file.write(f"</table><h2>What made this</h2><p>{html.escape(weights)}</p></html>\n")

    write_aside(page, write)


def scan_line(row: Mapping[str, str], folder: Path) -> str:
    """A scan's row, with links to its files in `folder`, its reports first."""
    start = f"{row['scan_id']}_"
    endings = [path.name.removeprefix(start) for path in (folder / row["participant_id"]).glob("*_*")
               if path.name.startswith(start)]  # fmt: skip
    shown = [
        f"<a href='{quote(row['participant_id'])}/{quote(start + ending)}'>{html.escape(ending)}</a>"
        for ending in sorted(endings, key=lambda ending: (not ending.startswith("report"), ending))
    ]
    return (
        f"<tr><td>{html.escape(row['scan_id'])}<td class={row['class']}>{row['class']}"
        f"<td>{float(row['probability_HH']):.3f}<td>{' '.join(shown)}"
        f"<td>{'<br>'.join(html.escape(flag) for flag in (row.get('flags') or '').split('; ') if flag)}\n"
    )
