"""When a kept result is still right: it was made from the same input, by the same settings and code.

One rule for every command. What a result depends on is its *basis*, a small dictionary that is kept with the result.
Files are first compared by size and times, which costs nothing, and by content where those differ, so a copied or
touched cohort is not done again and a changed file never passes for the old one.
"""

import ast
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
#: Modules that say where and in what words, or draw, but decide no result.
NEUTRAL = (
    "scripts.errors",
    "scripts.files.parts",
    "scripts.localisation.picture",
    *(f"scripts.runs.{n}" for n in ("failures", "finished", "former", "outputs", "processes", "engines")),
)
#: The room of pages and figures counts only where these are the result: where a result's own modules name it.
PAGES = "scripts.reporting"
#: How deep the settings of an object are followed into the objects that it is made of.
_DEPTH = 10
#: Larger arrays are told by a hash.
_LARGEST_ARRAY = 64

#: Python 3.11 may fail where two threads parse at a time (SystemError, "AST constructor recursion depth mismatch").
_PARSING = threading.Lock()

#: What a result is made from: a name -> files, in their order.
Files = Mapping[str, Sequence[str | os.PathLike]]


@dataclass(frozen=True)
class Origin:
    """What a result is made from.

    Attributes:
        files: that are read.
        facts: everything else that decides it: settings, and what sidecars and tables say. Anything that `settings_of`
            takes.
        code: modules that make it, as `scripts.maps.transforms`; what they import counts too, and where pages are
            part of the result, `scripts.reporting`.
    """

    files: Files
    facts: Any
    code: Sequence[str]

    def basis(self) -> dict[str, str]:
        """To be kept with the result."""
        return {
            "code": code_of(*self.code),
            "facts": digest_of(self.facts),
            "sizes_and_times": sizes_and_times(self.files),
            "content": content(self.files),
        }

    def made(self, kept: Any) -> bool:
        """Whether a result with this kept basis would be made the same again."""
        if not isinstance(kept, Mapping) or kept.get("code") != code_of(*self.code):
            return False
        if kept.get("facts") != digest_of(self.facts):
            return False
        return of_these(self.files, kept)


def of_these(files: Files, kept: Any) -> bool:
    """Whether a kept basis is of files as they are now, whatever else decided its result."""
    if not isinstance(kept, Mapping):
        return False
    return kept.get("sizes_and_times") == sizes_and_times(files) or kept.get("content") == content(files)


def digest_of(facts: Any) -> str:
    """SHA-256 of plain values, or of what objects are set to (`settings_of`)."""
    return hashlib.sha256(json.dumps(settings_of(facts), sort_keys=True).encode()).hexdigest()


def sizes_and_times(files: Files) -> str:
    """A hash of the files' sizes and of when content and entry changed; a missing file counts as such."""
    state = []
    for name, paths in files.items():
        for path in paths:
            try:
                found = os.stat(path)
                state.append([name, found.st_size, found.st_mtime_ns, found.st_ctime_ns])
            except OSError:
                state.append([name, None])
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def content(files: Files) -> str:
    """A hash of the files' bytes; a file that cannot be read counts as such."""
    state = [[name, content_of_file(path)] for name, paths in files.items() for path in paths]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def content_of_file(path: str | os.PathLike) -> str | None:
    """SHA-256 of a file's bytes, read once a process as long as size and times stay; None where it cannot be read."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            return None
        return _hashed(os.fspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    except OSError:
        return None


def contents(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """Name -> SHA-256 of files that were just written: to be kept with the result."""
    return {name: content_of_file(folder / name) for name in names}


def not_as_written(folder: Path, kept: Any, due: Iterable[str] = ()) -> str | None:
    """The first file that is missing, or is not any more what `contents` kept; None where all are as written.

    A record without contents, as older versions wrote it, or without one of the files that are `due`, is itself what
    is named.
    """
    if not isinstance(kept, Mapping) or not kept.keys() >= set(due):
        return "its record"
    return next(
        (name for name, known in kept.items() if known is None or content_of_file(folder / name) != known), None
    )


@cache
def _hashed(path: str, *state: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_of(*modules: str) -> str:
    """SHA-256 of the source of our modules and of all of ours that they import, however deep."""
    digest = hashlib.sha256()
    with _PARSING:
        names = imported_by(modules)
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + (source_of(name) or b""))
    if PAGES in names:
        for path in sorted(ROOT.joinpath(*PAGES.split("."), "templates").iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def imported_by(modules: Iterable[str]) -> set[str]:
    """The modules themselves and our own modules that they import, read from their source and not by importing them."""
    found: set[str] = set()
    waiting = list(modules)
    pages = PAGES in waiting
    while waiting:
        name = waiting.pop()
        if name in found or name in NEUTRAL or (source := source_of(name)) is None:
            continue
        if name.startswith(PAGES) and not pages:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.startswith("scripts")]
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("scripts"):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def source_of(module: str) -> bytes | None:
    """Source of one of our modules or packages; None where there is no such module."""
    place = ROOT.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path.read_bytes()
    return None


def settings_of(item: Any, depth: int = _DEPTH) -> Any:
    """What an object is set to, as plain JSON values: its class and its public attributes, followed into its parts.

    A path stands for the content of the file that it names, and for nothing where it names none: where things lie
    decides no result.
    """
    if item is None or isinstance(item, (bool, int, float)):
        return item
    if isinstance(item, (str, os.PathLike)):
        text = os.fspath(item)
        if os.path.isabs(text) or (os.sep in text and os.path.isfile(text)):
            return content_of_file(text) if os.path.isfile(text) else None
        return text
    if isinstance(item, (np.ndarray, np.generic, torch.Tensor)):
        values = np.asarray(item)
        if values.size <= _LARGEST_ARRAY:
            return values.tolist()
        return [values.shape, str(values.dtype), hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()]
    if isinstance(item, (type, np.dtype, torch.dtype, torch.device)):
        return str(item)
    if depth == 0:
        return type(item).__name__
    if isinstance(item, Mapping):
        return {str(key): settings_of(value, depth - 1) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [settings_of(value, depth - 1) for value in item]
    parts = {k: v for k, v in getattr(item, "__dict__", {}).items() if not k.startswith("_") and k != "R"}
    return [type(item).__name__, {key: settings_of(value, depth - 1) for key, value in sorted(parts.items())}]
