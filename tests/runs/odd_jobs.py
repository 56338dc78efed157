"""Jobs for tests of engines; other processes import this file alone."""

import os
import signal
import time
from pathlib import Path

from scripts.errors import InputError
from scripts.files.limits import largest_file


def job(folder: Path, what: str, device: str) -> str:
    """What a test's job does: `once` and `always` kill their process, `slow` lets a neighbour die meanwhile."""
    if what == "wrapped":
        try:
            raise InputError("scan.nii: is empty; send it again")
        except InputError as error:
            raise RuntimeError("a library wraps it") from error
    if what == "bug":
        raise KeyError("somewhere deep")
    if what == "limit":
        return str(largest_file())
    if what == "slow":
        time.sleep(1)
    tried = folder / what
    if what == "always" or (what == "once" and not tried.exists()):
        tried.touch()
        time.sleep(0.2)  # neighbours are under way
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{what} on {device}"
