"""Writing aside, then renaming: a reader never sees half a file."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.files.limits import check_plain
from scripts.files.parts import part_file
from scripts.files.table import table_text


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as hex.

    Raises:
        InputError: a pipe or device.
        OSError: it cannot be read.
    """
    check_plain(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_aside(path: str | os.PathLike, write: Callable[[str], object]) -> None:
    """Let `write(temporary_path)` make a file, then rename it to `path`: a reader never sees half a file.

    The temporary name keeps the full suffix, since writers choose the format by it.
    """
    with part_file(path) as part:
        write(part)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text as UTF-8, aside then renamed."""
    write_aside(path, lambda part: Path(part).write_text(text, encoding="utf-8", newline=""))


def as_json(content: Any) -> str:
    """JSON as all files of ours have it: indented, keys in the given order."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON (`as_json`), aside then renamed."""
    write_text(path, as_json(content))


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a header, aside then renamed: a TSV where the name ends so, else a CSV (see `table_text`)."""
    write_text(path, table_text(columns, rows, tabs=str(path).endswith(".tsv")))


#: Folders that this process made, with the process (a forked one inherits the list): outermost first.
_made: list[tuple[Path, int]] = []


def make_folder(path: str | os.PathLike) -> None:
    """Make an output folder and those above it; `remove_empty` takes away again what stays empty of them.

    Raises:
        OSError: it cannot be made.
    """
    path = Path(os.path.abspath(path))
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    _made.extend((folder, os.getpid()) for folder in reversed(missing))


def remove_empty(ours: Sequence[str] = ()) -> None:
    """Remove the folders of `make_folder` that got nothing, as where a run was refused before any work.

    Args:
        ours: names of files that say something of a folder and are nothing in it.
    """
    while _made:
        folder, process = _made.pop()
        if process != os.getpid():
            continue
        with contextlib.suppress(OSError):
            names = os.listdir(folder)
            if set(names) <= set(ours):
                for name in names:
                    (folder / name).unlink()
                folder.rmdir()


def check_output_dir(path: str | os.PathLike, needed_bytes: float) -> Path:
    """Make an output folder and make sure that results will fit, before any work starts.

    Args:
        path: the folder; it is made if missing.
        needed_bytes: what the run will write at most.

    Raises:
        InputError: the folder cannot be made or written, or its disk has too little space.
    """
    path = Path(path)
    try:
        make_folder(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose another output folder") from error
    free = shutil.disk_usage(path).free
    if free < needed_bytes:
        raise InputError(
            f"{path}: {needed_bytes / 1e6:.0f} MB needed but {free / 1e6:.0f} MB free;"
            " free some space or choose another output folder"
        )
    return path
