"""Where a command writes: never over its input, by one run at a time, and without what killed runs left."""

import atexit
import contextlib
import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.limits import check_plain
from scripts.files.parts import remove_leftovers

LOCK = ".qnet-lock"
#: How the makers begin that dataset_description.json names in derivatives of ours.
OWN_NAMES = ("Q-Net bundle", "qnet_hemochromatosis")
#: Derivatives that hold what users and simulations say about a cohort; all others may be written by our commands.
_GIVEN_DERIVATIVES = ("basalganglia", "groundtruth")
#: Lock files that this process holds: path -> open file, and the process (a forked one inherits the list).
_held: dict[str, tuple[int, int]] = {}

#: Config key -> its folder; config key -> its folder, file or files.
Folders = Mapping[str, str | os.PathLike | None]
Paths = Mapping[str, str | os.PathLike | Sequence[str] | None]


def claim(outputs: Folders, inputs: Paths) -> None:
    """Before any work: refuse outputs that touch inputs, lock the output folders, and remove what killed runs left.

    Of several processes that torchrun started together, the first locks and cleans for all.

    Args:
        outputs: config key -> folder that the command writes; None is passed over.
        inputs: config key -> folder or files that it reads; None is passed over.

    Raises:
        InputError: see `check_apart` and `lock`.
    """
    check_apart(outputs, inputs)
    if int(os.environ.get("RANK", 0)) > 0:
        return
    for key, folder in outputs.items():
        if folder is not None:
            lock(folder, key)
            remove_leftovers(folder)


def check_apart(outputs: Folders, inputs: Paths) -> None:
    """Refuse an output folder that is an input, lies in one, or holds one; links are followed.

    `derivatives/NAME` of a BIDS input is where BIDS wants results, and is no part of the input.

    Raises:
        InputError: names both keys.
    """
    for key, folder in outputs.items():
        if folder is None:
            continue
        output = Path(folder).expanduser()
        for name, paths in inputs.items():
            for path in paths_of(paths):
                found = relation(output, path)
                if found is not None:
                    raise InputError(
                        f"{key}: {output} {found} {path}, which {name} names, so results would mix with your data;"
                        f" give --{key} a folder apart from it"
                    )


def check_own(folder: str | os.PathLike, written: Sequence[str]) -> None:
    """Refuse a derivative's folder that holds files of names that a command writes, made by somebody else.

    A folder is ours where its dataset_description.json says that this bundle generated it.

    Args:
        folder: the derivative's root.
        written: names of files beside the subjects' folders, or patterns of them.

    Raises:
        InputError: names the first such file.
    """
    folder = Path(folder).expanduser()
    description = folder / "dataset_description.json"
    if description.is_file():
        makers = read_json(description, "description", "move it, or choose another output folder").get("GeneratedBy")
        makers = makers if isinstance(makers, list) else [makers]
        names = [str(maker.get("Name")) for maker in makers if isinstance(maker, Mapping)]
        if any(name.startswith(OWN_NAMES) for name in names):
            return
    for path in sorted(path for name in (description.name, *written) for path in folder.glob(name)):
        raise InputError(f"{path}: is there and was not made by this bundle; move it, or choose another output folder")


def paths_of(given: str | os.PathLike | Sequence[str] | None) -> list[Path]:
    """The paths of a key: a folder, a file, a list, or text with commas between."""
    if given is None:
        return []
    if not isinstance(given, (str, os.PathLike)):
        return [path for item in given for path in paths_of(item)]
    text = os.fspath(given)
    parts = [text] if os.path.exists(text) else [part.strip() for part in text.split(",")]
    return [Path(part).expanduser() for part in parts if part]


def relation(output: Path, source: Path) -> str | None:
    """How an output touches an input, in words; None where they lie apart."""
    if not source.exists():
        return None
    if inside(source, output):
        return "is" if inside(output, source) else "holds"
    ancestor = existing_ancestor(output, source)
    if ancestor is None:
        return None
    below = Path(os.path.realpath(output)).relative_to(ancestor).parts
    if len(below) > 1 and below[0] == "derivatives" and below[1] not in _GIVEN_DERIVATIVES:
        return None
    return "lies in"


def inside(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies below it: the same place on disk, whatever it is called."""
    return existing_ancestor(path, folder) is not None


def existing_ancestor(path: Path, folder: Path) -> Path | None:
    """The folder as one of the path and its parents, links resolved; None where it is not among them."""
    real = Path(os.path.realpath(path))
    if not folder.exists():
        target = Path(os.path.realpath(folder))
        return target if target in (real, *real.parents) else None
    return next((p for p in (real, *real.parents) if p.exists() and os.path.samefile(p, folder)), None)


def lock(folder: str | os.PathLike, key: str) -> None:
    """Keep other runs out of a folder until this process ends, however it ends.

    The system drops the lock of a process that was killed, so a lock file that lies there says nothing by itself.
    Where a file system has no locks, the run goes on without.

    Raises:
        InputError: another process works there, or the folder cannot be written.
    """
    path = os.path.realpath(Path(folder).expanduser() / LOCK)
    if path in _held:
        return
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        check_plain(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{folder}: cannot write there ({error.strerror}); choose another output folder") from error
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone: forked workers do not inherit it
    except (BlockingIOError, PermissionError):
        owner = os.pread(handle, 20, 0).decode(errors="replace").strip()
        os.close(handle)
        raise InputError(
            f"{key}: another run (process {owner or 'unknown'}) is working in {folder}; wait for it, or choose another"
            " folder"
        ) from None
    except OSError:
        pass
    if not os.path.exists(path) or os.fstat(handle).st_ino != os.stat(path).st_ino:
        os.close(handle)  # its owner has just ended and taken it away
        return lock(folder, key)
    os.ftruncate(handle, 0)
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    _held[path] = (handle, os.getpid())


def release(folder: str | os.PathLike) -> None:
    """Let other runs into a folder that this process locked."""
    path = os.path.realpath(Path(folder).expanduser() / LOCK)
    handle, owner = _held.pop(path, (None, 0))
    if handle is not None and owner == os.getpid():
        Path(path).unlink(missing_ok=True)
        os.close(handle)


@atexit.register
def release_all() -> None:
    """At the end of a process that was not killed, no lock file stays."""
    for path in list(_held):
        release(os.path.dirname(path))
