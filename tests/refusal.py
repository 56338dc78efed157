"""What the tests expect of every refusal of bad input."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.errors import input_error_in


@contextmanager
def refused(*words: str | Path) -> Iterator[None]:
    """The block raises InputError (MONAI may wrap it) whose single line holds these words and says what to do."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        yield
    error = input_error_in(caught.value)
    assert error is not None, f"no InputError but {caught.value!r}"
    message = str(error)
    assert "\n" not in message
    for word in words:  # a path, a key or a value
        assert str(word) in message
    assert ";" in message  # by custom the remedy stands behind a semicolon
