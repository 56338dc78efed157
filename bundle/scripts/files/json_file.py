"""JSON, read strictly and checked against its schema (`schemas`)."""

import json
import os
from functools import cache
from typing import Any, NoReturn

from jsonschema import Draft7Validator, ValidationError
from jsonschema.exceptions import best_match

from scripts.errors import InputError, reason
from scripts.files.schemas import SCHEMAS
from scripts.files.text import read_text

_KINDS = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
_OF_TYPE = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}


def read_json(path: str | os.PathLike, kind: str, cure: str = "restore or delete it") -> dict[str, Any]:
    """A JSON file of a known kind.

    Args:
        path: the file.
        kind: a key of `scripts.files.schemas.SCHEMAS`.
        cure: what to do about a file that is refused, the end of the message.

    Raises:
        InputError: no such file, no JSON, a number that is none (NaN, Infinity), a key that is there twice, or a
            content that its schema refuses.
    """
    text = read_text(path)

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    def number(digits: str) -> float:
        value = float(digits)
        return value if abs(value) < float("inf") else constant(f"{digits:.30}")

    def whole(digits: str) -> int:
        number(digits)
        return int(digits)

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
        return found

    try:
        content = json.loads(
            text, parse_constant=constant, parse_float=number, parse_int=whole, object_pairs_hook=members
        )
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply for JSON; {cure}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({reason(error)}); {cure}") from error
    fault = best_match(validator(kind).iter_errors(content))
    if fault is not None:
        raise InputError(f"{path}: {complaint(fault)}; {cure}")
    return content


@cache
def validator(kind: str) -> Draft7Validator:
    """The validator of a kind of file. Draft 7, which also jsonschema 3 knows: MONAI Label holds it there."""
    return Draft7Validator(SCHEMAS[kind])


def complaint(error: ValidationError) -> str:
    """What a schema has against a file: where, and what was due. Texts are not repeated: they may hold names."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path]
    where = "".join(parts).removeprefix(".") or "the file"
    found = error.instance
    shown = f"{found!r:.30}" if isinstance(found, (int, float)) else _KINDS[_OF_TYPE.get(type(found), "number")]
    due = error.validator_value
    match error.validator:
        case "required":
            return f"{where} has no {next(name for name in due if name not in found)!r}"
        case "type":
            wanted = " or ".join(_KINDS[name] for name in ([due] if isinstance(due, str) else due))
            return f"{where} is {shown} where {wanted} is due"
        case "minimum" | "exclusiveMinimum":
            return f"{where} is {shown}, which must be {'at least' if error.validator == 'minimum' else 'above'} {due}"
        case "exclusiveMaximum":
            return f"{where} is {shown}, which must be below {due}"
        case "maximum":
            return f"{where} is {shown}, which must be at most {due}"
        case "minItems" | "maxItems":
            return f"{where} has {len(found)} entries where {due} are due"
        case "minProperties":
            return f"{where} names nothing"
        case "uniqueItems":
            return f"{where} names one thing twice"
        case "enum":
            return f"{where} is {shown}, which must be one of {', '.join(map(str, due))}"
    return f"{where} is {shown}, which is not what is due"
