"""A config file of the user's, read with a line that says what is wrong with it.

MONAI reads what `--config_file` names before it asks the bundle, and ends in a traceback that may not even name the
file. Then this says which file and line it is, and what to do: `python -m scripts.settings.config_file FILE ...`.
"""

import json
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from scripts.errors import InputError, reason, report_in_one_line
from scripts.files.text import read_content, read_text
from scripts.files.yaml_text import check_yaml, read_yaml

#: What YAML makes other things of than texts: `2024-05-01` a day, `off` a boolean, `12:30` 750, `017` 15.
_TYPES = ("bool", "int", "float", "timestamp")
ENDINGS = (".yaml", ".yml", ".json")
_CURE = "write a key a line, as KEY: VALUE"


class Written(str):
    """A value of a YAML file as it is written there.

    Attributes:
        value: what YAML makes of it.
    """

    value: Any


class _AsWritten(yaml.SafeLoader):
    """Keeps the words of values that YAML reads as numbers, booleans or dates."""


def _with_words(read: Callable[[yaml.SafeLoader, Any], Any]) -> Callable[[yaml.SafeLoader, yaml.ScalarNode], Written]:
    def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Written:
        written = Written(node.value)
        written.value = read(loader, node)
        return written

    return construct


for _name in _TYPES:
    _tag = f"tag:yaml.org,2002:{_name}"
    _AsWritten.add_constructor(_tag, _with_words(yaml.SafeLoader.yaml_constructors[_tag]))


def as_written(path: str | os.PathLike) -> dict[str, Any]:
    """`read_config`, with values as `Written` where YAML makes a number, boolean or date of what somebody wrote: a key
    may want the words, and gets on a command line nothing else.

    Raises:
        InputError: see `read_config`.
    """
    content = read_config(path)
    return content if Path(path).suffix.lower() == ".json" else read_yaml(read_text(path), _AsWritten)


def without_words(value: Any) -> Any:
    """The same with what YAML makes of the values in it."""
    if isinstance(value, Written):
        return value.value
    if isinstance(value, dict):
        return {without_words(key): without_words(item) for key, item in value.items()}
    return [without_words(item) for item in value] if isinstance(value, list) else value


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The keys of a config file.

    Raises:
        InputError: no such file, no text in UTF-8, no JSON or YAML, or no mapping of keys; it names the line.
    """
    if not Path(path).is_file():
        ending = "" if Path(path).suffix else f" and ends in {', '.join(ENDINGS)}"
        raise InputError(
            f"{path}: no such file; correct the path, which counts from the folder that you are in{ending}"
        )
    if Path(path).suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: a config's name ends in {', '.join(ENDINGS)}; rename it")
    text = read_text(path)
    try:
        read_content(path).decode("utf-8")  # as MONAI reads it, which knows no other encoding
        if Path(path).suffix.lower() != ".json":
            check_yaml(text)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            content = ConfigParser.load_config_file(path)
        without_words(content)  # so deep is it looked into later
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8, which MONAI needs; save the file as UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply to be read; write fewer levels") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: {_fault(error, text)}") from error
    for warning in said:
        if twice := re.match("Duplicate key: `(.+)`", str(warning.message)):
            raise InputError(f"{path}: {twice[1]} is there twice, and only one can count; take one away")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        number = next((key for key in content if not isinstance(key, str)), None) if isinstance(content, dict) else None
        what = "is empty" if content is None else "is no mapping of keys to values"
        what = what if number is None else f"key {number!r} is no text"
        raise InputError(f"{path}: {what}; {_CURE}")
    if not all(key.strip() for key in content):
        raise InputError(f"{path}: holds a key without a name; {_CURE}")
    return content


def _fault(error: yaml.YAMLError | ValueError, text: str) -> str:
    """Line, fault and cure of what a parser refused."""
    line, said = 0, reason(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, said = error.problem_mark.line + 1, error.problem or said
    elif isinstance(error, json.JSONDecodeError):
        line, said = error.lineno, error.msg
    elif isinstance(error, yaml.reader.ReaderError):
        line, said = text[: error.position].count("\n") + 1, f"the character #x{error.character:04x}"
    indented = text.splitlines()[line - 1][:1] if 0 < line <= len(text.splitlines()) else ""
    if "\\t" in said or indented == "\t":
        return f"line {line}: a tab; indent with spaces"
    quotes = "cannot start any token" in said or "mapping values" in said
    return f"{f'line {line}: ' if line else ''}{said}; {'put a value with signs in quotes' if quotes else _CURE}"


if __name__ == "__main__":
    report_in_one_line()
    for file in sys.argv[1:]:
        print(f"{file}: {len(read_config(file))} keys")
