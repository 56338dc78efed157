"""Where the other hooks put their pages: an entry of `nav` that names a folder gets a list of pages."""

from typing import Any


def fill(nav: Any, folder: str, pages: list[Any]) -> Any:
    """`nav` with the entry `folder/` replaced by a list.

    Args:
        nav: of mkdocs.yml, or a part of it.
        folder: as it stands there, with the `/` at its end.
        pages: paths of pages, or `{title: path or pages}`.
    """
    if isinstance(nav, list):
        return [fill(entry, folder, pages) for entry in nav]
    if isinstance(nav, dict):
        return {title: fill(entry, folder, pages) for title, entry in nav.items()}
    return pages if nav == folder else nav
