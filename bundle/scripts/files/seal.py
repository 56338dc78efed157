"""Whether a JSON file of ours is as it was written: it holds the SHA-256 of its own content.

For files of numbers that nobody can judge by looking at them, so that a number which was changed by hand or by a fault
of the disk is never used. It is no signature: whoever knows how can write another.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from scripts.errors import InputError

#: The key that holds it.
SEAL = "content_sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same content with its SHA-256."""
    return {**content, SEAL: digest(content)}


def check_seal(content: Mapping[str, Any], path: str | os.PathLike, cure: str) -> None:
    """Refuse a content that is not the one that was sealed.

    Args:
        content: of the file, as read from JSON.
        path: of the file.
        cure: what to do, the end of the message.

    Raises:
        InputError: it was changed, or never sealed.
    """
    if SEAL not in content:
        raise InputError(f"{path}: has no {SEAL}, by which its numbers are known to be as they were written; {cure}")
    if content[SEAL] != digest(content):
        raise InputError(f"{path}: was changed since it was written (its {SEAL} is of other content); {cure}")


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a content in one spelling, whatever the file's order and spaces, without its seal."""
    own = json.loads(json.dumps({key: value for key, value in content.items() if key != SEAL}, allow_nan=False))
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
