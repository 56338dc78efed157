"""A command of MONAI's, with one line also for what MONAI meets before it asks the bundle.

`python -m scripts.settings.command run ...` in place of `python -m monai.bundle run ...`, given in the bundle's folder:
config files that cannot be read, a number behind a `#` that a list does not reach, a run id that does not exist. What
is right goes on to MONAI as it was typed.
"""

import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from scripts.errors import InputError, reason, report_in_one_line
from scripts.settings.check import is_ours, nearest
from scripts.settings.config_file import read_config
from scripts.settings.typed import MONAI_ARGUMENTS, Given, flags
from scripts.settings.values import parsed

#: A value that begins so stands for another key's content.
_COPY = "%"


def check_command(words: Sequence[str]) -> None:
    """Check what MONAI would refuse with a traceback; other commands than `run` pass.

    Args:
        words: those behind `python -m monai.bundle`.

    Raises:
        InputError: names file or key.
    """
    if not words or words[0] != "run":
        return
    given = flags(list(words[1:]))
    if (arguments := given.get("args_file")) and not arguments.bare:
        of_file = read_config(arguments.value)
        given = {key: Given(f"{arguments.value}: {key}", value) for key, value in of_file.items()} | given
    files = config_files(given.get("config_file"))
    contents = {path: read_config(path) for path in files}
    for path in files[1:]:
        if "imports" in contents[path] and not is_ours(path):
            raise InputError(f"{path}: imports replaces the modules that the config needs; write +imports to add some")
    parser = ConfigParser()
    try:
        parser.read_config(files)
    except Exception as error:  # of many kinds: + before a key of another kind, a key of a part that is not there
        raise InputError(
            f"--config_file {files}: cannot be laid over each other ({reason(error)}); correct the last"
        ) from error
    for key, item in given.items():
        if key == "imports":
            raise InputError(
                f"{item.label}: is the bundle's own key, and replaces the modules that it needs; leave it out"
            )
        if key not in MONAI_ARGUMENTS:
            check_place(item.label, ReferenceResolver.split_id(key), parser.get())
        if isinstance(item.value, str) and item.value.startswith(_COPY) and item.value[1:] not in parser:
            raise InputError(f"{item.label} {item.value}: no key {item.value[1:]}; {_COPY} stands for another key")
    first = words[1] if len(words) > 1 and not words[1].startswith("-") else None
    run_id = first or (given["run_id"].value if "run_id" in given else "run")
    if run_id not in parser:
        near = nearest(str(run_id), [key for key, value in parser.get().items() if isinstance(value, list)])
        raise InputError(
            f"run {run_id}: no such run id in {files[0]}; "
            + (f"did you mean {near}?" if near else "the file says which there are")
        )


def config_files(given: Given | None) -> list[str]:
    """The files that `--config_file` names.

    Raises:
        InputError: none.
    """
    value = None if given is None or given.bare else given.value
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, str):
        value = value.split(",")
    if not value or not isinstance(value, (list, tuple)):
        raise InputError("--config_file: names no file; give one, or several as \"['configs/train.yaml','mine.yaml']\"")
    return [str(path) for path in value]


def check_place(label: str, parts: Sequence[str], content: Any) -> None:
    """Refuse a key that leads through a list or value where it cannot.

    Args:
        label: what the user calls it.
        parts: names on the way to it.
        content: of the config.

    Raises:
        InputError: names the place.
    """
    for depth, part in enumerate(parts):
        before = "#".join(parts[:depth])
        if isinstance(content, list):
            if not part.isdecimal() or int(part) >= len(content):
                numbers = f"0 to {len(content) - 1}" if content else "none, for it is empty"
                raise InputError(
                    f"{label}: {before} is a list, whose entries are numbered {numbers}; give one of them, or the whole"
                    f" list as --{before}"
                )
            content = content[int(part)]
        elif not isinstance(content, Mapping):
            raise InputError(f"{label}: {before} holds one value and no keys; give --{before} VALUE")
        elif part in content:
            content = content[part]
        elif depth < len(parts) - 1:
            near = nearest(part, [str(key) for key in content])
            raise InputError(f"{label}: no key {part}; " + (f"did you mean {near}?" if near else "see the config"))
        else:
            return  # the bundle tells it, with the keys that there are


def main() -> None:
    """Check the command line, then hand it to MONAI."""
    report_in_one_line()
    check_command(sys.argv[1:])
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
