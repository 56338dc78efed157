"""Where a command writes: never over its input, by one run at a time, and without what killed runs left."""

import atexit
import contextlib
import fcntl
import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.files.json_file import read_json
from scripts.files.limits import check_plain
from scripts.files.parts import remove_leftovers
from scripts.files.writing import make_folder, remove_empty, write_json, write_text
from scripts.runs.finished import ROOT

LOCK = ".qnet-lock"
#: Lies in output folders, and lists the files there that commands of ours may replace: a name or pattern a line.
MARK = ".qnet-output"
#: What tells, in a folder of BIDS, what it is and who made it.
_DESCRIPTION = "dataset_description.json"
#: How the makers begin that it names in derivatives of ours.
_MAKERS = ("Q-Net bundle", "qnet_hemochromatosis")
#: Folders of the bundle that are no place for results.
_OF_THE_BUNDLE = ("configs", "scripts", "docs")
#: Derivatives that hold what users and simulations say about a cohort; all others may be written by our commands.
_GIVEN_DERIVATIVES = ("basalganglia", "groundtruth")
#: Lock files that this process holds: path -> open file, and the process (a forked one inherits the list).
_held: dict[str, tuple[int, int]] = {}

#: Config key -> its folder; config key -> its folder, file or files.
Folders = Mapping[str, str | os.PathLike | None]
Paths = Mapping[str, str | os.PathLike | Sequence[str] | None]


def claim(outputs: Folders, inputs: Paths, written: Mapping[str, Sequence[str]] | None = None) -> None:
    """Before any work: refuse outputs that touch inputs or hold others' files, lock them, remove what killed runs left.

    Of several processes that torchrun started together, the first locks and cleans for all.

    Args:
        outputs: config key -> folder that the command writes; None is passed over.
        inputs: config key -> folder or files that it reads; None is passed over.
        written: config key of an output -> names or patterns of the files that it gets, see `check_others`.

    Raises:
        InputError: see `check_apart`, `check_not_the_bundle`, `check_others` and `lock`.
    """
    check_apart(outputs, inputs)
    check_not_the_bundle(outputs)
    if int(os.environ.get("RANK", 0)) > 0:
        return
    for key, patterns in (written or {}).items():
        if (folder := outputs[key]) is not None:
            check_others(folder, patterns, key)
    for key, folder in outputs.items():
        if folder is not None:
            lock(folder, key)
            remove_leftovers(folder)
    for key, patterns in (written or {}).items():
        if (folder := outputs[key]) is not None:
            _mark(folder, patterns)


def own(key: str, folder: str | os.PathLike, patterns: Sequence[str]) -> None:
    """Before any work, in a folder that others may use at the same time: `check_others`, then the mark.

    Args:
        key: the config key that names the folder.
        folder: the output.
        patterns: of the files that will be written, below the folder.

    Raises:
        InputError: see `check_others`.
    """
    if int(os.environ.get("RANK", 0)) == 0:
        check_others(folder, patterns, key)
        _mark(folder, patterns)


def own_files(files: Mapping[str, Sequence[str | os.PathLike]]) -> None:
    """Before any work: refuse files that would be replaced and that no command of ours made.

    Args:
        files: config key -> the files that it names.

    Raises:
        InputError: names the first such file.
    """
    if int(os.environ.get("RANK", 0)) == 0:
        for act in (check_others, lambda folder, patterns, key: _mark(folder, patterns)):
            for key, paths in files.items():
                for path in map(Path, paths):
                    act(path.parent, [glob.escape(path.name)], key)


def check_others(folder: str | os.PathLike, patterns: Sequence[str], key: str) -> None:
    """Refuse a folder that holds files which would be replaced and that no command of ours made.

    Which are ours is told by the mark that `claim` and `own` leave, and in folders of ours by a record beside them, or
    by what a derivative says of itself.

    Args:
        folder: the output.
        patterns: of the files that will be written, below the folder.
        key: the config key that names it.

    Raises:
        InputError: names the first such file.
    """
    root = Path(folder)
    ours = _marked(root)
    others = [
        path
        for path in sorted(found for pattern in patterns for found in root.glob(pattern))
        if not any(fnmatchcase(path.relative_to(root).as_posix(), pattern) for pattern in ours)
    ]
    if others and not _made_here(_description_of(root)) and not any(_is_record(path) for path in root.glob("*.json")):
        raise InputError(
            f"{others[0]}: is there, and nothing says that this bundle made it; move it, or choose another place"
            f" (--{key})"
        )


def _marked(root: Path) -> set[str]:
    """What the mark of a folder lists; nothing where there is none."""
    try:
        return set((root / MARK).read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return set()


def _mark(folder: str | os.PathLike, patterns: Iterable[str]) -> None:
    """Note in a folder which of its files are ours to replace."""
    root, known = Path(folder), _marked(Path(folder))
    if known.issuperset(patterns):
        return
    try:
        write_text(root / MARK, "".join(f"{line}\n" for line in sorted(known | set(patterns))))
    except OSError as error:
        raise InputError(f"{folder}: cannot write there ({error.strerror}); choose another place") from error


def _is_record(path: Path) -> bool:
    """Whether a file is a record of ours: `scripts.provenance.record`, or what a cross-validation is."""
    try:
        record = read_json(path, "record")
        return "qnet_hemochromatosis" in record.get("software", {}) or {"version", "code", "training"} <= set(record)
    except (InputError, TypeError):
        return False


def check_apart(outputs: Folders, inputs: Paths) -> None:
    """Refuse an output folder that is an input, lies in one, or holds one; links are followed.

    `derivatives/NAME` of a BIDS input is where BIDS wants results, and is no part of the input.

    Raises:
        InputError: names both keys.
    """
    for key, folder in outputs.items():
        if folder is None:
            continue
        output = Path(folder)
        for name, paths in inputs.items():
            for path in paths_of(paths):
                found = relation(output, path)
                if found is not None:
                    raise InputError(
                        f"{key}: {output} {found} {path}, which {name} names, so results would mix with your data;"
                        f" give --{key} a folder apart from it"
                    )


def check_not_the_bundle(outputs: Folders) -> None:
    """Refuse an output among the bundle's own files; `models` is for weights.

    Raises:
        InputError: names the key.
    """
    for key, folder in outputs.items():
        if folder is None:
            continue
        of_code = inside(ROOT, Path(folder)) or any(inside(Path(folder), ROOT / name) for name in _OF_THE_BUNDLE)
        if of_code or (key != "ckpt_dir" and inside(Path(folder), ROOT / "models")):
            raise InputError(f"{key}: {folder} holds files of the bundle itself; give --{key} a folder of its own")


def check_derivative(folder: str | os.PathLike, files: Iterable[str | os.PathLike], key: str) -> None:
    """Before any work: refuse a derivative's folder that the bundle did not make and that holds what it would replace.

    Args:
        folder: root of the derivative.
        files: all that the command may write there, as paths below the folder; dataset_description.json is among them.
        key: the config key that names the folder.

    Raises:
        InputError: names the first such file.
    """
    root = Path(folder)
    if _made_here(_description_of(root)):
        return
    for path in (root / _DESCRIPTION, *(root / file for file in files)):
        if os.path.lexists(path):
            raise InputError(
                f"{path}: is there and was not made by this bundle; move it, or choose another folder (--{key})"
            )


def describe(folder: str | os.PathLike, description: Mapping[str, Any]) -> None:
    """Write a derivative's dataset_description.json, which makes the folder ours; what users added to it stays.

    Args:
        folder: root of the derivative, which `check_derivative` let pass.
        description: `GeneratedBy` names the bundle and the config.
    """
    before = _description_of(Path(folder))
    content = {**before, **description}
    if content != before:
        write_json(Path(folder) / _DESCRIPTION, content)


def _description_of(root: Path) -> dict[str, Any]:
    """What a folder says of itself; empty where it says nothing that can be read."""
    try:
        return read_json(root / _DESCRIPTION, "description")
    except InputError:
        return {}


def _made_here(description: Mapping[str, Any]) -> bool:
    """Whether a folder is a derivative of ours: simulated cohorts are what users gave, whoever made them."""
    makers = description.get("GeneratedBy")
    makers = makers if isinstance(makers, list) else [makers]
    names = [str(maker.get("Name")) for maker in makers if isinstance(maker, Mapping)]
    return any(name.startswith(_MAKERS) for name in names) and description.get("DatasetType") == "derivative"


def paths_of(given: str | os.PathLike | Sequence[str] | None) -> list[Path]:
    """The paths of a key: a folder, a file, a list, or text with commas between."""
    if given is None:
        return []
    if not isinstance(given, (str, os.PathLike)):
        return [path for item in given for path in paths_of(item)]
    text = os.fspath(given)
    parts = [text] if os.path.exists(text) else [part.strip() for part in text.split(",")]
    return [Path(part) for part in parts if part]


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
    path = os.path.realpath(Path(folder) / LOCK)
    if path in _held:
        return
    try:
        make_folder(os.path.dirname(path))
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
    path = os.path.realpath(Path(folder) / LOCK)
    handle, owner = _held.pop(path, (None, 0))
    if handle is not None and owner == os.getpid():
        Path(path).unlink(missing_ok=True)
        os.close(handle)


@atexit.register
def release_all() -> None:
    """At the end of a run or process that was not killed, no lock file stays, and no folder that it left empty."""
    for path in list(_held):
        release(os.path.dirname(path))
    remove_empty([MARK])
