"""The API reference: a page a module of `bundle/scripts`, found in the tree, and what its docstrings say."""

import ast
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from navigation import fill

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "bundle" / "scripts"
FOLDER = "reference/api/"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation."""
    config.nav = fill(config.nav, FOLDER, [f"{FOLDER}index.md", *_entries(SCRIPTS)])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path in [SCRIPTS, *(path for path in SCRIPTS.rglob("*") if _is_shown(path))]:
        files.append(File.generated(config, _page(path), content=_content(path)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave source code out of the search."""
    return html.replace(
        '<details class="mkdocstrings-source"', '<details data-search-exclude class="mkdocstrings-source"'
    )


def _is_shown(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").exists()
    return path.suffix == ".py" and path.stem != "__init__"


def _inside(folder: Path) -> list[Path]:
    """Packages and modules of a package; those of `scripts` in the order of the rule on imports, others by name."""
    found = sorted((path for path in folder.iterdir() if _is_shown(path)), key=lambda path: (path.is_file(), path.name))
    return sorted(found, key=lambda path: _layers().index(path.stem)) if folder == SCRIPTS else found


def _layers() -> list[str]:
    """Packages and modules of `scripts`, each importing only from those behind it (pyproject.toml)."""
    (rule,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return [name for layer in rule["layers"] for name in layer.split(" | ")]


def _page(path: Path) -> str:
    inner = path / "index.md" if path.is_dir() else path.with_suffix(".md")
    return FOLDER + inner.relative_to(SCRIPTS).as_posix()


def _name(path: Path) -> str:
    return ".".join(["scripts", *(part.removesuffix(".py") for part in path.relative_to(SCRIPTS).parts)])


def _entries(folder: Path) -> list[Any]:
    return [{path.stem: [_page(path), *_entries(path)] if path.is_dir() else _page(path)} for path in _inside(folder)]


def _docstring(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


def _content(path: Path) -> str:
    if path.is_file():
        return f"# {_name(path)}\n\n::: {_name(path)}\n"
    rows = []
    for inner in _inside(path):
        link = f"{inner.name}/index.md" if inner.is_dir() else f"{inner.stem}.md"
        first = _docstring(inner).split("\n\n")[0].replace("\n", " ").replace("|", r"\|")
        rows.append(f"| [{inner.stem}]({link}) | {first} |")
    words = "From top to bottom: each imports only from those below it." if path == SCRIPTS else ""
    own = f"::: {_name(path)}\n    options:\n      members: false\n      show_root_toc_entry: false\n"
    return "\n".join([f"# {_name(path)}", "", own, words, "", "| | what it holds |", "| --- | --- |", *rows, ""])
