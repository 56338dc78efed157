"""Progress bars: tqdm's on a terminal; in a file, such as the log of a job, a line now and then."""

import math
import time
from typing import Any

from tqdm import tqdm  # noqa: TID251

#: Seconds between a bar's lines in a file, but for its first and its last.
LOG_SECONDS = 30.0


class Bar(tqdm):
    """A progress bar, with the arguments of `tqdm.tqdm`.

    Where it is not drawn on a terminal, a line tells how far it is when it begins (with a `delay`: once it has taken
    LOG_SECONDS), every LOG_SECONDS, and when it ends, unless `leave` is false.
    """

    def __init__(self, *args: Any, delay: float = 0.0, **kwargs: Any) -> None:
        self.told = time.monotonic() if delay else -math.inf
        super().__init__(*args, delay=delay, **kwargs)

    def clear(self, nolock: bool = False) -> None:
        if self.fp.isatty():
            super().clear(nolock)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.fp.isatty():
            return super().display(msg, pos)
        if msg is not None:  # what takes a bar away
            return False
        now, ends = time.monotonic(), self.disable  # tqdm itself ends the last line
        complete = self.total and self.n >= self.total  # the last line is about to come
        if ends or (now - self.told >= LOG_SECONDS and not complete):
            self.fp.write(f"{self}{'' if ends else chr(10)}")
            self.told = now
        return True
