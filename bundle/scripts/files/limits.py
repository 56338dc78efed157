"""How much one file may hold once it is unpacked: the config key `largest_file`, for a whole process."""

import os
import re
from pathlib import Path

from scripts.errors import InputError

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", re.IGNORECASE)
#: JSON, tables and other text larger than this are no files of a cohort, bytes.
LARGEST_TEXT = 256 * 10**6


def bytes_of(size: str) -> int:
    """`4 GB` as a number of bytes.

    Raises:
        InputError: not a number with KB, MB, GB or TB.
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None or float(found[1]) == 0:
        raise InputError(f"largest_file: {size!r} is no size; write a number and KB, MB, GB or TB, e.g. '4 GB'")
    return int(float(found[1]) * _UNITS[found[2].upper()])


_largest = bytes_of("4 GB")


def set_largest_file(size: str | int) -> None:
    """Let this process read files up to a size, as the config key `largest_file` says it, or in bytes.

    Raises:
        InputError: see `bytes_of`.
    """
    global _largest
    _largest = size if isinstance(size, int) else bytes_of(size)


def largest_file() -> int:
    """Bytes up to which this process reads files: to be set in others that work for it."""
    return _largest


def words(size: float) -> str:
    """A number of bytes as people say it: `3.2 GB`."""
    unit = next((name for name in ("TB", "GB", "MB") if size >= _UNITS[name]), "KB")
    return f"{size / _UNITS[unit]:.3g} {unit}"


def check_plain(path: str | os.PathLike) -> None:
    """Refuse pipes, sockets and devices, which would be waited for or read without an end.

    Raises:
        InputError: it is one.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is a pipe or device and no file; give a plain file")


def check_size(path: str | os.PathLike, size: float, what: str) -> None:
    """Refuse what would take more memory than `largest_file` allows.

    Args:
        path: for the message.
        size: bytes.
        what: what takes them, e.g. `has`, `its header claims 512 x 512 x 300 voxels,`.

    Raises:
        InputError: too large.
    """
    if size > _largest:
        raise InputError(
            f"{path}: {what} {words(size)}, and more than {words(_largest)} are not read;"
            " check the file, or raise --largest_file"
        )
