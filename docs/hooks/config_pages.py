"""The reference of the configs: a page a YAML file, from its comments, and tables of single keys in other pages.

A line that names keys and where they are explained ("... explained in [FILE.yaml](...): `key`, `key`.") of any page is
followed by a table of these keys: whoever reads the page as a file has their names at least.
"""

import re
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import cache
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from navigation import fill

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.settings.comments import Config, Key, explanations, read_comments  # noqa: E402

CONFIGS = BUNDLE / "configs"
FOLDER = "reference/configs/"
#: In which order configs are listed; then the others. The first that explains a key explains it for those that do not.
ORDER = ("train", "inference", "cross_validation", "reconstruct", "localise", "nuclei", "simulate", "simulate_raw")
#: No configs to run: rules about the others, which stand in their pages.
LEFT_OUT = ("allowed",)
_TABLE = re.compile(r"^(.*, explained in \[(\w+)\.yaml\]\([^)]*\)): ((?:`[\w#]+`(?:, )?)+)\.$", re.MULTILINE)
_CODE = re.compile(r"(`[^`]*`)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation."""
    pages = [{path.name: f"{FOLDER}{path.stem}.md"} for path in _paths()]
    config.nav = fill(config.nav, FOLDER, [f"{FOLDER}index.md", *pages])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path in _paths():
        files.append(File.generated(config, f"{FOLDER}{path.stem}.md", content=_content(path)))
    files.append(File.generated(config, f"{FOLDER}index.md", content=_index()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables of keys where a page asks for them."""
    return _TABLE.sub(lambda match: f"{match[1]}:\n\n{_chosen(match[2], re.findall('`(.*?)`', match[3]))}", markdown)


def _paths() -> list[Path]:
    paths = [path for path in CONFIGS.glob("*.yaml") if path.stem not in LEFT_OUT]
    return sorted(paths, key=lambda path: (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.stem))


@cache
def _read(path: Path) -> Config:
    return read_comments(path)


@cache
def _explained() -> dict[str, str]:
    return explanations(*_paths())


@cache
def _rules() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((CONFIGS / "allowed.yaml").read_text(encoding="utf-8"))


def _may_be(config: str, key: str) -> str:
    """The rule of `allowed.yaml` for a key, as Markdown."""
    for part in (config, "everywhere"):
        for pattern, rule in _rules().get(part, {}).items():
            if fnmatch(key, pattern):
                return _rule(rule)
    return ""


def _rule(rule: Any) -> str:
    if isinstance(rule, dict):
        if "words" in rule:
            return text(rule["words"])
        if "rising" in rule:
            return f"{_rule(rule['rising'])}, rising"
        if "each" in rule:
            return f"list of: {_rule(rule['each'])}" + (f", at most {rule['most']}" if "most" in rule else "")
        return " or ".join(_rule(choice) for choice in rule["either"])
    return code(str(rule).replace("'", "") if isinstance(rule, list) else str(rule))


def code(words: str) -> str:
    """Code in a cell of a table."""
    return f"<code>{_escaped(words)}</code>" if words else ""


def text(words: str) -> str:
    """A comment's words as Markdown: what is in backticks is code, and no other sign has a meaning."""
    return "".join(code(part[1:-1]) if _CODE.fullmatch(part) else _escaped(part) for part in _CODE.split(words))


def _escaped(words: str) -> str:
    """Text of which Markdown, HTML and tables see no sign."""
    return re.sub(r"[^\w\s.,:;()/'\"=+%?!-]|_|::", lambda sign: "".join(f"&#{ord(c)};" for c in sign[0]), words)


def _words(key: Key, children: Iterable[Key] = ()) -> str:
    """What a key does: its own comment, or that of the first config that has one."""
    own = key.words or ("" if key.note else _explained().get(key.name, ""))
    target = next((child.words for child in children if child.name == f"{key.name}#_target_"), "")
    return "; ".join(text(words) for words in (own, target) if words)


def _default(key: Key, children: Iterable[Key] = ()) -> str:
    """A default as a reader wants it: a path below another key, the class of a component, or the value."""
    target = next((child.default for child in children if child.name == f"{key.name}#_target_"), "")
    if target:
        return _component(target)
    if not key.default and not children:
        return "a list, see the file below"
    value = key.default.strip("\"'")
    if path := re.fullmatch(r"\$@(\w+) \+ '(/[^']*)'?", value):
        return f"<code><em>{_escaped(path[1])}</em>{_escaped(path[2])}</code>"
    if re.fullmatch(r"@\w+", value):
        return f"<code><em>{_escaped(value[1:])}</em></code>"
    return f"computed: {code(value[1:])}" if value.startswith("$") else code(value)


def _component(target: str) -> str:
    """A class or function that a config names, with a link to its page where it is ours."""
    name = _escaped(target.rsplit(".", 1)[-1])
    return f"[<code>{name}</code>][{target}]" if target.startswith("scripts.") else f"<code>{name}</code>"


def _table(config: str, keys: list[Key]) -> str:
    """Keys with default, what they may be, and what they do."""
    rows = []
    for key in keys:
        if key.name.endswith("#_target_") or (key.default.strip("'").startswith("@") and not key.words):
            continue
        children = [other for other in _read(CONFIGS / f"{config}.yaml").keys if other.name.startswith(f"{key.name}#")]
        shown = "#<wbr>".join(_escaped(part) for part in key.name.split("#"))
        cells = (
            f'<code id="{key.name.replace("#", "-")}">{shown}</code>',
            _default(key, children),
            _may_be(config, key.name),
            _words(key, children),
        )
        rows.append(cells)
    heads = ("key", "default", "may be", "what it does")
    filled = [column for column in range(len(heads)) if any(cells[column] for cells in rows)]
    lines = [f"| {' | '.join(cells[column] for column in filled)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(['<div class="keys" markdown>', "", *lines, "", "</div>", ""])


def _chosen(config: str, names: list[str]) -> str:
    """A table of some keys, with a link to the whole page.

    Raises:
        KeyError: a key that the config does not have.
    """
    keys = {key.name: key for key in _read(CONFIGS / f"{config}.yaml").keys}
    return _table(config, [keys[name] for name in names])


def _head(words: str) -> str:
    """The comment at the top of a config: its indented lines are commands or lists, the others text."""
    parts = []
    for indented, lines in groupby(words.split("\n"), key=lambda line: line.startswith("  ")):
        block = dedent("\n".join(lines))
        parts.append(f"```text\n{block}\n```" if indented else text(block))
    return "\n\n".join(parts)


def _content(path: Path) -> str:
    """The page of a config."""
    config, name = _read(path), path.stem
    shown = [key for key in config.keys if key.for_users and not key.steps]
    parts = [f"# {path.name}", _head(config.head)]
    for section, of_section in groupby(shown, key=lambda key: key.section):
        if section:
            parts.append(f"## {_escaped(section[0].upper() + section[1:])}")
        for note, keys in groupby(of_section, key=lambda key: key.note):
            parts += [text(note)] * bool(note) + [_table(name, list(keys))]
    runs = [f"| {code(key.name)} | {text(key.words)} |" for key in config.keys if key.steps and key.words]
    if runs:
        parts += ["## What can be run", "\n".join(["| run id | what it does |", "| --- | --- |", *runs])]
    inner = [key for key in config.keys if not key.for_users and not key.steps and "#" not in key.name]
    if inner:
        parts += ["## Put together from these keys", _made(path, inner)]
    parts += ["## The whole file { data-search-exclude }", "```yaml\n" + path.read_text(encoding="utf-8") + "```", ""]
    return "\n\n".join(parts)


def _made(path: Path, keys: list[Key]) -> str:
    """What a config makes of its keys, and by which class or function."""
    targets = {key.name: key.default for key in _read(path).keys}
    rows = []
    for key in keys:
        target = targets.get(f"{key.name}#_target_", "")
        if called := re.match(r"(?:[\"']?\$|\{_target_: )(scripts(?:\.\w+)+)[(,]", key.default):
            target = called[1]
        rows.append(f"| {code(key.name)} | {_component(target) if target else ''} | {text(key.words)} |")
    return "\n".join(["| name | made by | what it is |", "| --- | --- | --- |", *rows])


def _index() -> str:
    """All configs, with the first sentence of each."""
    rows = []
    for path in _paths():
        first = re.split(r"(?<=[.:])\s", _read(path).head.split("\n  ")[0].replace("\n", " "))[0].rstrip(":")
        rows.append(f"| [{path.name}]({path.stem}.md) | {text(first)} |")
    return "\n".join(
        [
            "# Configs",
            "",
            "Every key of every config, as the comments in the files explain it. `a#b` is key `b` in `a`; on the"
            " command line `--a#b value`. [How to set keys](../../how_to/settings.md).",
            "",
            "| config | what it does |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )
