"""One value of a config key: what it may be, and how the words of a command line are read as that.

A rule is written as in `configs/allowed.yaml`; without one, the key's default says what is due.
"""

import math
import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from fire.parser import DefaultParseValue

from scripts.errors import InputError
from scripts.files.limits import bytes_of
from scripts.files.yaml_text import read_yaml

#: Words for booleans and for nothing, in any case.
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
NOTHING = ("null", "none", "~")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_APART = re.compile(r"[\[(]?\s*[\d.e+-]+(\s*[\s;x\u00d7]\s*[\d.e+-]+)+\s*[\])]?", re.IGNORECASE)
_RANGE = re.compile(
    r"(?P<kind>whole|odd|number)?\s*"
    r"(?:(?P<low>from|above)?\s*(?P<least>-?[\d.]+)(?:\s*to\s*(?P<high>below)?\s*(?P<most>-?[\d.]+))?)?"
)
_LONGEST_NAME = 255  # bytes of a file's or folder's name, on all systems we know
_RISING = ", rising"
#: What people and word processors put around a text, and the shell leaves there: opening -> closing.
_QUOTES = {"'": "'", '"': '"', "\u2018": "\u2019", "\u201c": "\u201d", "\u201e": "\u201c", "\u00ab": "\u00bb"}
_BRACKETS = ("[", "(", "{")
#: Rules whose value names a file or folder; `source`: one that is read; `existing`: one that may be missing only where
#: nobody gave it.
_PATHS = ("path", "source", "existing")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")
#: Where people stand who type a path below it: they were told to go into bundle/ from there.
_REPOSITORY = Path(__file__).resolve().parents[3]
_MOST = 2**63 - 1  # whole numbers beyond do not fit torch's and numpy's


class Wrong(ValueError):
    """A value is not what is due. The message says what is due, and perhaps what was missed."""


class Elsewhere(Wrong):
    """A path counts from here, and what it names is in another folder that the user may have meant."""


class Expression(str):
    """A value that MONAI shall evaluate."""


def is_expression(value: Any) -> bool:
    """Whether MONAI evaluates a value (`$...`) or takes it from another key (`@key`)."""
    return isinstance(value, str) and (value.startswith("$") or bool(re.fullmatch(r"@\w+((#|::)\w+)*", value)))


def literal(value: Any) -> Any:
    """The same value, written so that MONAI takes every text in it as it stands.

    MONAI rewrites `#` in every text, and runs or follows one that begins with `$`, `@` or `%`; as the text of an
    expression it comes through.
    """
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    if isinstance(value, str) and ("#" in value or value.startswith(("$", "@", "%"))):
        return "$" + repr(value).replace("#", "\\x23").replace("@", "\\x40").replace("%", "\\x25")
    return value


def read(value: Any, rule: Any, default: Any) -> Any:
    """A value as its key's rule and default want it.

    Args:
        value: text, as typed on a command line, or anything from a file.
        rule: from allowed.yaml; None: what is due has the default's type.
        default: the key's value in the configs.

    Raises:
        Wrong: it cannot be that.
    """
    if rule is None:
        return _like(value, default)
    if isinstance(rule, Mapping):
        if "either" in rule:
            return _either(value, rule["either"], rule, default)
        if "rising" in rule:
            values = read(value, rule["rising"], default)
            if any(low >= high for low, high in pairwise(values)):
                raise Wrong(expected(rule, default))
            return values
        items = _items(value, rule, [] if rule.get("empty") else default, lone=True)
        found = [_item(item, rule["each"], rule, default) for item in items]
        if len(set(map(str, found))) > rule.get("most", len(found)):
            raise Wrong(expected(rule, default))
        return found
    if isinstance(rule, list):
        items = _items(value, rule, default)
        if len(items) != len(rule):
            raise Wrong(expected(rule, default))
        return [_item(item, part, rule, default) for item, part in zip(items, rule, strict=True)]
    if isinstance(rule, str) and rule.endswith(_RISING):
        values = read(value, rule.removesuffix(_RISING), default)
        if any(low >= high for low, high in pairwise(values)):
            raise Wrong(expected(rule, default))
        return values
    if isinstance(default, list):  # a range for each number of a list
        items = _items(value, rule, default)
        if len(items) != len(default):
            raise Wrong(expected(rule, default))
        return [_item(item, rule, rule, default, like) for item, like in zip(items, default, strict=True)]
    return _either(value, rule.split(" | "), rule, default) if " | " in rule else _scalar(value, rule, default)


def expected(rule: Any, default: Any) -> str:
    """What is due, in words."""
    if isinstance(rule, Mapping):
        if "words" in rule:
            return rule["words"]
        if "rising" in rule:
            return f"{expected(rule['rising'], default)}, rising"
        if "either" in rule:
            return " or ".join(expected(part, None) for part in rule["either"])
        most = f"a list of at most {rule['most']}" if "most" in rule else "a list"
        return f"{most}, each {expected(rule['each'], None)}"
    if isinstance(rule, list):
        return f"a list of {len(rule)}: {', '.join(expected(part, None) for part in rule)}"
    if isinstance(default, list):
        words = f", each {rule}" if rule else ""
        return f"{_a(default)}{words}, such as {_plain(default)}"
    if rule is None:
        return _a(default)
    parts = rule.split(" | ")
    return (
        ", ".join([_words(part, default) for part in parts[:-1]])
        + (" or " if parts[1:] else "")
        + _words(parts[-1], default)
    )


def _words(part: str, default: Any) -> str:
    named = {"true/false": "true, false", "text": "text", "files": "a path or a list of paths"}
    named |= dict.fromkeys(_PATHS, "a path")
    named |= {"device": "cpu or a GPU of this machine (cuda:0)", "step": "a step with _target_"}
    named |= {"size": "a number with KB, MB, GB or TB, such as '4 GB'"}
    if part in named:
        return named[part]
    if found := _range(part, default):
        whole = found["kind"] == "whole" or (found["kind"] is None and type(default) is int)
        limits = part.removeprefix(found["kind"] or "").strip()
        kind = "an odd number" if found["kind"] == "odd" else "a whole number" if whole else "a number"
        return kind + (f" {limits}" if limits else "")
    return part


def _range(part: str, default: Any) -> re.Match | None:
    """The ends of a range and its type; None for another rule.

    A number alone is a word, as in `1 | -1`, and so is a type alone where the default is text, as in `whole | full`.
    """
    found = _RANGE.fullmatch(part)
    if isinstance(default, str) and found and found["kind"] == part:
        return None
    return found if found and (found["low"] or found["most"] or not found["least"]) else None


def _a(default: Any) -> str:
    if isinstance(default, list):
        kinds = {type(item) for item in default}
        many = "whole numbers" if kinds == {int} else "numbers" if kinds <= {int, float} and kinds else "entries"
        return f"a list of {len(default)} {many}" if many != "entries" else "a list"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping of keys"}
    return names.get(type(default), "null")


def _plain(default: list) -> str:
    return "[" + ",".join(map(str, default)) + "]"


def _like(value: Any, default: Any) -> Any:
    """A value of the default's type."""
    if isinstance(default, bool):
        return _scalar(value, "true/false", default)
    if isinstance(default, (int, float)):
        return _scalar(value, "whole" if isinstance(default, int) else "number", default)
    if isinstance(default, str):
        return _scalar(value, "text", default)
    if isinstance(default, list):
        items = _items(value, None, default)
        numbers = default and all(isinstance(item, (int, float)) for item in default)
        if numbers and len(items) != len(default):
            raise Wrong(expected(None, default))
        if not default or any(type(item) is not type(default[0]) for item in default):
            return items
        return [_item(item, None, None, default, default[0]) for item in items] if items else items
    return value


def _item(item: Any, rule: Any, whole: Any, default: Any, like: Any = None) -> Any:
    try:
        return read(item, rule, like)
    except Elsewhere:
        raise
    except Wrong as error:
        raise Wrong(expected(whole, default), *error.args[1:]) from error


def _items(value: Any, rule: Any, default: Any, lone: bool = False) -> list[Any]:
    """The entries of a list, which a command line may give as `[1,2]` or `1,2`; with `lone`, also as a single word."""
    if isinstance(value, str):
        value = _bare(value)
        if _APART.fullmatch(value):
            raise Wrong(expected(rule, default), "put commas between the numbers")
        found = parsed(value)
        if isinstance(found, (list, tuple)):
            value = found
        elif "," in value and not value.startswith(_BRACKETS):
            value = value.split(",")
        elif lone and value and not value.startswith(_BRACKETS):
            value = [value]
    elif lone and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)) or (rule is not None and not value and default != []):
        raise Wrong(expected(rule, default))
    return list(value)


def parsed(text: str) -> Any:
    """A list or mapping in words, whose texts need no quotes: `[/a/b.nii.gz, c.nii.gz]`; else what fire makes of it."""
    found = DefaultParseValue(text)
    words = text.strip()
    if not isinstance(found, str) or not words.startswith(_BRACKETS):
        return found
    try:
        in_yaml = read_yaml(f"[{words[1:-1]}]" if words[0] + words[-1] == "()" else words, yaml.BaseLoader)
    except yaml.YAMLError:
        return found
    return in_yaml if isinstance(in_yaml, (list, dict)) else found


def _bare(text: str) -> str:
    """A text without the spaces and quotes around it."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] else text


def _either(value: Any, parts: list[Any], rule: Any, default: Any) -> Any:
    hints: tuple[str, ...] = ()
    for part in parts:
        if part == "null" and value == "~" and {*_PATHS, "files"} & set(parts):
            continue  # the home folder; a file's bare ~ has come as None
        try:
            return read(value, part, default)
        except Elsewhere:
            raise
        except Wrong as error:
            hints = hints or error.args[1:]
    raise Wrong(expected(rule, default), *hints)


def _scalar(value: Any, part: str, default: Any) -> Any:
    """A value read as one alternative of a rule."""
    if isinstance(value, str) and not (part in (*_PATHS, "files") and os.path.lexists(value)):
        value = _bare(value)
    text = value if isinstance(value, str) else None
    wrong = Wrong(expected(part, default))
    if part == "null":
        if value is None or (text and text.casefold() in NOTHING):
            return None
        raise wrong
    if value is None or isinstance(value, (Mapping, set)) and part != "step":
        raise wrong
    if part == "true/false":
        if isinstance(value, bool):
            return value
        if str(value).strip().casefold() in BOOLEANS and not isinstance(value, (list, tuple, float)):
            return BOOLEANS[str(value).strip().casefold()]
        raise Wrong("true or false") if isinstance(default, bool) else wrong
    if part in (*_PATHS, "text"):
        return _text(value, part, wrong)
    if part == "files":
        if isinstance(value, str) and value.startswith(("[", "(")) and not os.path.lexists(value):
            value = parsed(value)
            if isinstance(value, str):
                raise Wrong(*wrong.args, "its brackets or quotes do not close")
        if isinstance(value, (list, tuple)):
            if not value:
                raise wrong
            return [_scalar(item, "files", default) for item in value]
        return _text(value, "source", wrong)
    if part == "device":
        return _device(value, wrong)
    if part == "size":
        return _size(value, wrong)
    if part == "step":
        if isinstance(value, Mapping) and "_target_" in value:
            return value
        raise wrong
    found = _range(part, default)
    word = str(value).strip().casefold()
    if part.casefold() == word or (found is None and _number_or_none(part) == _number_or_none(word) is not None):
        return type(default)(part) if isinstance(default, int) and not isinstance(default, bool) else part
    if found is None:
        raise wrong
    return _number(value, found, default, wrong)


def _text(value: Any, part: str, wrong: Wrong) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a name of digits, from a file
    if not isinstance(value, str) or not value.strip():
        raise wrong
    if value.strip().casefold() in NOTHING and not (part in _PATHS and value == "~"):
        raise Wrong(*wrong.args, "it cannot be left empty")
    if any(ord(letter) < 32 for letter in value):
        raise Wrong(*wrong.args, "it has line breaks or other control characters")
    if part not in _PATHS:
        return str(value)
    if any(len(name.encode(errors="replace")) > _LONGEST_NAME for name in re.split("[/,]", value)):
        raise Wrong(*wrong.args, f"it has a name of more than {_LONGEST_NAME} bytes, which no file can have")
    if not os.path.lexists(value) or value.startswith("~"):
        value = ",".join(_at_home(name, wrong) for name in value.split(","))
        for name in [value] if os.path.lexists(value) else value.split(","):
            _check_path(name.strip(), part, wrong)
    return str(value)


def _check_path(path: str, part: str, wrong: Wrong) -> None:
    """Refuse what is no path of this machine, and a source that lies elsewhere than the path says."""
    if not path or os.path.lexists(path):
        return
    if found := _ADDRESS.match(path):
        archive = " (an archive's begins with dicomweb:https://)" if found[0].startswith("http") else ""
        raise Wrong(*wrong.args, f"{found[0]} begins an address, and files are not fetched from there{archive}")
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n, name in enumerate(parts) if name == ".." and {*parts[:n]} - {"", ".", ".."}]
    if gone := next((folder for folder in above if not os.path.isdir(folder)), None):
        raise Wrong(*wrong.args, f"it goes up from {gone}, which is no folder")
    odd = next((n for n, name in enumerate(parts) if "\\" in name), None)
    if _DRIVE.match(path) or odd is not None and not os.path.lexists("/".join(parts[: odd + 1])):
        raise Wrong(*wrong.args, "it is written as on Windows, and folders are parted by / here")
    if os.path.expandvars(path) != path:
        raise Wrong(*wrong.args, "variables of the shell are not known here, so write what they stand for")
    if part != "path" and not os.path.isabs(path):
        for folder in (os.environ.get("OLDPWD"), _REPOSITORY):
            if folder and os.path.lexists(meant := os.path.normpath(os.path.join(folder, path))):
                raise Elsewhere(f"its whole path, {meant}", f"{path} is not in {os.getcwd()}, from where paths count")
    if part == "existing":
        raise Wrong(*wrong.args, "no such file or folder")


def _at_home(path: str, wrong: Wrong) -> str:
    """A path in which `~` and `~user` are the home folders that they stand for. No other code expands them."""
    home = path.lstrip().split("/")[0]
    if not home.startswith("~"):
        return path
    expanded = os.path.expanduser(path.lstrip())
    if expanded.startswith("~"):
        whose = f"of a user {home[1:]!r} " if home[1:] else ""
        raise Wrong(*wrong.args, f"no home folder {whose}is known here, and ./{home} is a folder of that name")
    return expanded


def _size(value: Any, wrong: Wrong) -> str:
    try:
        bytes_of(value)
    except InputError as error:
        raise wrong from error
    return str(value)


def _device(value: Any, wrong: Wrong) -> Any:
    if isinstance(value, torch.device):
        return value
    try:
        device = torch.device(value.casefold() if isinstance(value, str) else "")
    except RuntimeError as error:
        raise wrong from error
    if device.type != "cpu" and not (
        device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise Wrong(*wrong.args, f"{device} is not there")
    return Expression(f"$torch.device({str(device)!r})")


def _number_or_none(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _number(value: Any, rule: re.Match, default: Any, wrong: Wrong) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            hint = ("write the number alone, as 1000 or 0.5 with a decimal point",) if re.search(r"\d", text) else ()
            raise Wrong(*wrong.args, *hint)
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong
    if rule["kind"] in ("whole", "odd") or (rule["kind"] is None and type(default) is int):
        if value != int(value) or abs(value) > _MOST or (rule["kind"] == "odd" and value % 2 == 0):
            raise wrong
        value = int(value)
    least, most = (float(rule[end]) if rule[end] else None for end in ("least", "most"))
    low = least is not None and (value <= least if rule["low"] == "above" else value < least)
    high = most is not None and (value >= most if rule["high"] else value > most)
    if low or high:
        raise wrong
    return value
