"""Worker processes: each starts anew, and ends with the process that started it, so no killed run goes on writing."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

_PR_SET_PDEATHSIG = 1


@contextmanager
def fresh_processes(count: int, start: Callable[..., None], arguments: tuple) -> Iterator[ProcessPoolExecutor]:
    """Processes for a `with` block, which gets their pool. Jobs that have not begun when it ends are dropped.

    They are not forked: a fork cannot use CUDA, and one of a process that has threads can hang.

    Args:
        count: processes.
        start: called with `arguments` in each at its start.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(start, arguments))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    start(*arguments)


def end_with_parent() -> None:
    """Ask the system to kill this process when its parent is gone; called by a worker at its start (Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died just before
        os._exit(1)
