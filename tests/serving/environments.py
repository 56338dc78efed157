"""The clients' own virtual environments: their packages do not go together with the bundle's."""

import os
from pathlib import Path

import pytest
from blobs import REPOSITORY


def environment(variable: str, default: str, needs: str) -> Path:
    """The Python of a client's environment. Skips the test where the environment was not made.

    Args:
        variable: environment variable that may name the environment's folder.
        default: the folder in the repository that `make serving-envs` makes.
        needs: a file in the environment's site-packages without which it is not ready.
    """
    folder = Path(os.environ.get(variable) or REPOSITORY / default)
    python = folder / "bin" / "python"
    if not python.exists() or not list(folder.glob(f"lib/python3*/site-packages/{needs}")):
        pytest.skip(f"{folder} is no environment with {needs}; run `make serving-envs`, or name one in {variable}")
    return python
