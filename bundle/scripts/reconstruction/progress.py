"""A progress bar for each step."""

from collections.abc import Callable

#: Told the share of a step's work that is done, 0..1.
Progress = Callable[[float], None]


def ignore_progress(share: float) -> None:
    """For callers without a progress bar."""
