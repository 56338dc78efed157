"""What a command replaces beside weights is kept: a long training is lost by no second one."""

import os
import shutil
from pathlib import Path

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.parts import part_folder
from scripts.files.writing import sha256, write_aside

#: Folder beside weights for those that lay there before them.
FOLDER = "earlier"


def keep_earlier(path: str | os.PathLike, new: str | os.PathLike) -> None:
    """Keep finished weights that are about to be replaced by others: a copy of all that their record names, with the
    record.

    Weights without such a record are what a killed run left, and are not kept.

    They go into `earlier/` beside them, into a folder named after the first 12 digits of the record's SHA-256.

    Args:
        path: of the weights.
        new: what will replace them; the same content replaces nothing.
    """
    path = Path(path)
    if not path.is_file() or (digest := sha256(path)) == sha256(new):
        return
    for record in sorted(path.parent.glob("*.json")):
        named = _named_by(record)
        if named.get(path.name) != digest:
            continue
        kept = path.parent / FOLDER / sha256(record)[:12]
        if not kept.exists():
            with part_folder(kept.parent) as part:
                for name, wanted in named.items():
                    file = path.with_name(name)
                    if file.is_file() and sha256(file) == wanted:
                        shutil.copy2(file, part / name)
                shutil.copy2(record, part / record.name)
                part.rename(kept)
            print(f"{path.name} was there, of another training: it is kept in {FOLDER}/{kept.name} beside it")
        return


def keep_file(path: str | os.PathLike, new: bytes) -> None:
    """Keep a file that is about to be replaced by another content, as `keep_earlier` keeps weights."""
    path = Path(path)
    if not path.is_file() or path.read_bytes() == new:
        return
    kept = path.parent / FOLDER / sha256(path)[:12] / path.name
    if not kept.exists():
        write_aside(kept, lambda part: shutil.copy2(path, part))
    print(f"{path.name} was there, of another run: it is kept in {FOLDER}/{kept.parent.name} beside it")


def _named_by(record: Path) -> dict[str, str]:
    """The files that a record of weights names, each with its SHA-256; nothing where it is none."""
    try:
        named = read_json(record, "record").get("weights")
    except InputError:
        return {}
    named = named if isinstance(named, dict) else {}
    return {name: digest for name, digest in named.items() if Path(name).name == name}
