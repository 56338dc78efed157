"""HTML pages from the templates in `reporting/templates`: one file each, without a network, every text escaped."""

import base64
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scripts.files.writing import write_aside
from scripts.provenance import RESEARCH_ONLY
from scripts.reporting.markup import fixed
from scripts.reporting.style import GROUP_STYLE

TEMPLATES = Path(__file__).parent / "templates"
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}


@cache
def environment() -> Environment:
    """What the templates are read with."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"embedded": embedded, "plain": plain, "shown": shown, "indented": indented}
    return made


def render(template: str, beside: bool = False, **content: Any) -> str:
    """A page as text.

    Args:
        template: its name in `reporting/templates`.
        beside: whether the page shows pictures that lie beside it, too many to be inside.
        content: what the template names; all pages need `title` and `note`, what the numbers may be used for.

    Raises:
        jinja2.UndefinedError: the template names something that is not in `content`.
    """
    colours = {group: style.colour for group, style in GROUP_STYLE.items()}
    return environment().get_template(template).render(beside=beside, colours=colours, **content)


def write_page(path: str | os.PathLike, template: str, **content: Any) -> None:
    """Write a page, aside then renamed; see `render`."""
    text = render(template, **content)
    write_aside(path, lambda part: Path(part).write_text(text, encoding="utf-8"))


def note(simulated: bool) -> str:
    """What every page says first."""
    words = RESEARCH_ONLY
    if simulated:
        words += " Every number and picture on this page comes from a simulated cohort, not from patients."
    return words


def embedded(picture: Path | bytes, suffix: str = "") -> str:
    """A picture file, or its bytes and their suffix, as the `src` of an `<img>` that holds it."""
    data, suffix = (picture, suffix) if isinstance(picture, bytes) else (picture.read_bytes(), picture.suffix)
    return f"data:{MIME[suffix]};base64,{base64.b64encode(data).decode()}"


def plain(value: Any) -> str:
    """A setting as it would be written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def shown(value: Any) -> Any:
    """A cell: a float with three digits, `n/a` where there is none."""
    if isinstance(value, float):
        return "n/a" if value != value else fixed(value, 3)
    return value


def indented(record: Mapping[str, Any]) -> str:
    """A record as indented JSON."""
    return json.dumps(record, indent=1, ensure_ascii=False)


def script(source: str) -> Markup:
    """Somebody else's JavaScript, so that nothing in it ends the `<script>` that it is put into."""
    return Markup(re.sub("</(?=script)", r"<\\/", source, flags=re.IGNORECASE))  # noqa: S704
