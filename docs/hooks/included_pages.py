"""Pages that live elsewhere in the repository are pages of the site too, and links work in both places.

`extra.included` of mkdocs.yml says which page of the site is which file. Links of all pages are written as paths in the
repository, so that they work where the Markdown files are read; here they become links of the site.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
#: A link or picture of Markdown to a path: not to a URL, and not to a place on the same page.
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
#: Folders of the repository, and the site's page of what is in them.
_FOLDERS = {"bundle/configs": "reference/configs/index.md", "bundle/scripts": "reference/api/index.md"}
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    for page, source in config.extra["included"].items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site; not in fenced blocks."""
    included = config.extra["included"]
    here = page.file.src_uri
    source = included.get(here, f"{DOCS}/{here}")
    pages = {path: uri for uri, path in included.items()}

    def link(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[3]))
        uri = pages.get(target) or _FOLDERS.get(target) or target.removeprefix(f"{DOCS}/")
        if (config_page := re.fullmatch(r"bundle/configs/(\w+)\.yaml", target)) is not None:
            uri = f"reference/configs/{config_page[1]}.md"
        if files.get_file_from_path(uri) is None and (ROOT / target).exists():
            return match[2]  # a file of the repository that is no page
        return f"{match[1]}[{match[2]}]({os.path.relpath(uri, posixpath.dirname(here) or '.')}{match[4] or ''})"

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(link, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, markdown[end:])])
