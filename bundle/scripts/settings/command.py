"""A command of MONAI's, with one line also for what MONAI meets before it asks the bundle.

`python -m scripts.settings.command run ...` in place of `python -m monai.bundle run ...`, given in the bundle's folder:
config files that cannot be read, a number behind a `#` that a list does not reach, a run id that does not exist. What
is right goes on to MONAI as it was typed.
"""

import ast
import runpy
import sys
from collections.abc import Mapping, Sequence
from configparser import Error as ConfigParserError
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from scripts.errors import InputError, reason, report_in_one_line
from scripts.settings.check import (
    check_metadata,
    check_no_separator,
    check_order,
    did_you_mean,
    is_ours,
    is_run_id,
    meant_by,
    nearest,
)
from scripts.settings.config_file import read_config
from scripts.settings.typed import MONAI_ARGUMENTS, Given, flags_and_loose

#: A value that begins so stands for another key's content.
_COPY = "%"


def check_command(words: Sequence[str]) -> None:
    """Check what MONAI would refuse with a traceback; other commands than `run` pass.

    Args:
        words: those behind `python -m monai.bundle`.

    Raises:
        InputError: names file or key.
    """
    if not words or words[0] != "run" or set(words) & {"--help", "-h"}:
        return
    check_no_separator(words)
    given, loose = flags_and_loose(list(words[1:]))
    if len(loose) > 1:
        raise InputError(f"{loose[1]!r} stands behind run {loose[0]}, and belongs to no key; {meant_by(loose[1])}")
    if (arguments := given.get("args_file")) and not arguments.bare:
        of_file = read_config(arguments.value)
        given = {key: Given(f"{arguments.value}: {key}", value) for key, value in of_file.items()} | given
    files = config_files(given.get("config_file"))
    contents = {path: read_config(path) for path in files}
    check_order(contents)
    parser = ConfigParser()
    try:
        parser.read_config(files)
    except Exception as error:  # of many kinds: + before a key of another kind, a key of a part that is not there
        raise InputError(
            f"--config_file {files}: cannot be laid over each other ({reason(error)}); correct the last, or name the"
            " config that it is laid over before it"
        ) from error
    for key, item in given.items():
        if key == "imports":
            raise InputError(
                f"{item.label}: is the bundle's own key, and replaces the modules that it needs; leave it out"
            )
        if key not in MONAI_ARGUMENTS:
            check_place(item.label, ReferenceResolver.split_id(key), parser.get())
        if isinstance(item.value, str):
            check_copy(f"{item.label} {item.value}", key, item.value, parser)
    written = {key: path for path in files for key in contents[path]}
    for key, value in parser.get().items():
        check_copies(f"{Path(written.get(key, written.get(f'+{key}', files[-1]))).name}: ", key, value, parser)
    check_own_arguments(given)
    run_id = str(loose[0] if loose else given["run_id"].value if "run_id" in given else "run")
    of = {key: is_ours(path) for path in files for key in contents[path]}
    runs = [key for key in parser.get() if is_run_id(key, parser.get(), of.get(key, False))]
    if run_id not in runs:
        near = nearest(run_id, runs)
        if not runs and run_id in parser:
            raise InputError(
                f"run {run_id}: has no steps left; give the whole list, or leave the key out of {files[-1]}"
            )
        if not runs:
            raise InputError(
                f"{files[-1]}: has nothing to run alone; name the config that it is laid over before it, as in"
                f" \"['configs/train.yaml','{files[-1]}']\""
            )
        what = "holds no steps to run alone" if run_id in parser else "no such run id"
        raise InputError(
            f"run {run_id}: {what} in {files[0]}; " + (did_you_mean(near) if near else f"give {' or '.join(runs)}")
        )


def check_copies(label: str, key: str, value: Any, parser: ConfigParser) -> None:
    """`check_copy` of all that is in a value.

    Args:
        label: what stands before the key in a message.
        key: of the value.
        value: of a config file.
        parser: what all files come to.
    """
    if isinstance(value, str):
        check_copy(f"{label}{key} {value:.80}", key, value, parser)
    elif isinstance(value, (Mapping, list)):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            check_copies(label, ReferenceResolver.normalize_id(f"{key}::{name}"), item, parser)


def check_copy(label: str, key: str, value: str, parser: ConfigParser) -> None:
    """Refuse a value that stands for another key's content, of this config or of a file (`%KEY`, `%FILE::KEY`), where
    there is none.

    Raises:
        InputError: no such file or key, or the file is no config.
    """
    if not value.startswith(_COPY):
        return
    file, name = ConfigParser.split_path_id(parser.resolve_relative_ids(key, value)[1:])
    if name not in (ConfigParser(read_config(file)) if file else parser):
        raise InputError(f"{label}: no key {name}{f' in {file}' if file else ''}; {_COPY} stands for another key")


def check_own_arguments(given: Mapping[str, Given]) -> None:
    """Check what MONAI itself takes beside the config files.

    Args:
        given: of the command line and the args file.

    Raises:
        InputError: names the argument.
    """
    if (item := given.get("meta_file")) is not None and str(item.value) != "None":
        files = config_files(item)
        contents = [read_config(file) for file in files if Path(file).is_file()]
        check_metadata(files, {key: value for content in contents for key, value in content.items()})
    for name in ("tracking", "logging_file", "workflow_type", "properties_path"):
        item = given.get(name)
        if item is None or (name == "logging_file" and str(item.value) == "False"):
            continue
        shown = f"{item.label} {item.value}"
        if name == "tracking" and not isinstance(item.value, Mapping) and item.value not in DEFAULT_EXP_MGMT_SETTINGS:
            if not Path(str(item.value)).is_file():
                known = ", ".join(DEFAULT_EXP_MGMT_SETTINGS)
                raise InputError(f"{shown}: is neither {known} nor a file; give configs/track_tensorboard.yaml")
            content = read_config(item.value)
            if not all(isinstance(content.get(key), Mapping) for key in ("handlers_id", "configs")):
                raise InputError(f"{shown}: lacks handlers_id or configs; write it as configs/track_tensorboard.yaml")
        if name in ("logging_file", "properties_path") and not Path(str(item.value)).is_file():
            raise InputError(f"{shown}: no such file; paths count from the folder that you are in")
        if name == "logging_file":
            sections = RawConfigParser(strict=False)
            try:
                sections.read(str(item.value))
            except (ConfigParserError, ValueError) as error:  # no INI, no text
                raise InputError(
                    f"{shown}: is no logging config ({reason(error)}); see configs/logging.conf"
                ) from error
            if lacking := [part for part in ("loggers", "handlers", "formatters") if part not in sections]:
                raise InputError(f"{shown}: has no section [{lacking[0]}]; write it as configs/logging.conf is")
        types = (*ConfigWorkflow.supported_train_type, *ConfigWorkflow.supported_infer_type)
        if name == "workflow_type" and str(item.value).lower() not in types:
            raise InputError(f"{shown}: is no type of workflow; give one of {', '.join(types)}, or leave it out")


def config_files(given: Given | None) -> list[str]:
    """The files that `--config_file` names.

    Raises:
        InputError: none.
    """
    value: Any = None if given is None or given.bare else given.value
    if isinstance(value, str):
        text = value
        try:
            value = [text] if Path(text).is_file() else ast.literal_eval(text)
        except (ValueError, SyntaxError):  # the shell took the quotes, or there were none
            value = [part.strip().strip("'\"") for part in text.strip().strip("[]()").split(",")]
    if not value or not isinstance(value, (list, tuple)) or not all(value):
        raise InputError("--config_file: names no file; give one, or several as \"['configs/train.yaml','mine.yaml']\"")
    return [str(path) for path in value]


def with_list(words: Sequence[str]) -> list[str]:
    """The words, in which several config files are a list as MONAI reads it, however they were typed."""
    found: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if found[-1:] == ["--config_file"]:
            flag, value = "", word
        if (flag == "--config_file" and equals) or not flag:
            files = config_files(Given("--config_file", value)) if "," in value else []
            word = flag + equals + str(files) if len(files) > 1 else word
        found.append(word)
    return found


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
            raise InputError(f"{label}: no key {part}; " + (did_you_mean(near) if near else "see the config"))
        else:
            return  # the bundle tells it, with the keys that there are


def main() -> None:
    """Check the command line, then hand it to MONAI."""
    report_in_one_line()
    check_command(sys.argv[1:])
    if sys.argv[1:2] == ["run"] and set(sys.argv) & {"--help", "-h"}:
        sys.argv[2:] = ["--", "--help"]  # else fire takes it for a key
    sys.argv[1:] = with_list(sys.argv[1:])
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
