"""Half-made files and folders: named so that everybody sees whose they are, and removed when their maker is gone."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.errors import InputError

#: What the name of everything half-made begins with. Only this is ever cleaned up.
PREFIX = ".part-qnet-"
#: Read once, since asking for it sets it for the whole process for a moment.
UMASK = os.umask(0)
os.umask(UMASK)


@contextmanager
def part_file(path: str | os.PathLike) -> Iterator[str]:
    """A temporary file beside `path`, which becomes `path` when the block ends well and is gone when it does not.

    Its name keeps the full suffix, since writers choose the format by it. Permissions are those of any new file.

    Raises:
        InputError: a folder lies there.
    """
    path = Path(path)
    check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=PREFIX, suffix="".join(path.suffixes), dir=path.parent)
    try:
        hold(handle)
        yield part
        os.chmod(part, 0o666 & ~UMASK)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def check_no_folder(path: Path) -> None:
    """Refuse to write a file where a folder lies.

    Raises:
        InputError: that.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder where a file must be written; move it away")


@contextmanager
def part_folder(parent: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder in `parent`; the block renames it or what is in it, and what is left is removed."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    os.chmod(part, 0o777 & ~UMASK)
    handle = os.open(part, os.O_RDONLY)
    try:
        hold(handle)
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(handle)


def hold(handle: int) -> bool:
    """Mark an open file or folder as being worked on, until it is closed or this process ends, however it ends.

    Returns:
        False where another process holds it, or where the file system cannot tell.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(folder: str | os.PathLike) -> int:
    """Remove what killed runs left half-made below a folder; what a living process holds stays. Returns how many."""
    removed = 0
    for root, folders, files in os.walk(os.fspath(folder)):
        for name in [*folders, *files]:
            if name.startswith(PREFIX):
                removed += remove_if_left(Path(root) / name)
        folders[:] = [name for name in folders if not name.startswith(PREFIX)]
    return removed


def remove_if_left(path: Path) -> bool:
    """Remove one half-made file or folder unless a living process holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not hold(handle):
            return False
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
