"""Time things side by side, so that their ratio holds although the machine is shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call, s; what it started on a GPU is waited for."""
    _wait()
    start = clock()
    function()
    _wait()
    return clock() - start


def side_by_side(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median time of each function, s.

    The functions take turns, so that a slow moment of the machine falls on all of them.

    Args:
        functions: name -> call without arguments.
        rounds: timed calls of each.
        warm_up: calls of each before that, not timed.
        clock: wall time by default; `time.process_time` counts the CPU seconds of this process, which on one thread
            is the wall time of a machine that does nothing else.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            taken = seconds(function, clock)
            if turn >= warm_up:
                times[name].append(taken)
    return {name: median(taken) for name, taken in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
