"""The CLAIM 2024 and TRIPOD+AI checklists, filled with what a run knows of itself; the rest is the researcher's.

CLAIM: Tejani et al., Radiol Artif Intell 2024, doi 10.1148/ryai.240300. TRIPOD+AI: Collins et al., BMJ 2024,
doi 10.1136/bmj-2023-078378. Items are numbered as there and put in our own words; see the sources for theirs.
"""

from collections.abc import Mapping
from string import Formatter
from typing import Any, NamedTuple

from scripts.files.table import read_table
from scripts.provenance import BUNDLE_ROOT

ITEMS = BUNDLE_ROOT / "docs" / "checklist.csv"


class Item(NamedTuple):
    """One item: what is asked, what this run knows of it (may be empty) and what only the researcher can say."""

    checklist: str
    item: str
    section: str
    topic: str
    known: str
    left: str


def filled(facts: Mapping[str, Any]) -> list[Item]:
    """The items of both checklists, with the named fields of `known` put in.

    Args:
        facts: name of a field -> value. An item with a field that is missing, None or empty stays blank.
    """
    items = [Item(**row) for row in read_table(ITEMS, Item._fields)]
    return [item._replace(known=fill(item.known, facts)) for item in items]


def fill(template: str, facts: Mapping[str, Any]) -> str:
    """A template with all of its fields, or nothing."""
    fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    if any(facts.get(name) in (None, "") for name in fields):
        return ""
    return template.format_map(facts)
