"""A command line in this process: what a config's keys come to, or the one line that refuses them."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import fire
import monai.bundle
from blobs import BUNDLE

from scripts.errors import InputError, input_error_in

seen: list[Any] = []


def typed(folder: Path, configs: str, *words: str, key: str | None = None, here: Path = BUNDLE) -> Any:
    """Type `run CHECK --config_file CONFIGS WORDS` where CHECK does no work.

    Args:
        folder: gets an overlay that only checks settings.
        configs: names without ending, with commas between them; or paths.
        words: of the command line.
        key: whose value to return.
        here: the folder to type it in.

    Returns:
        the key's value.

    Raises:
        InputError: the settings were refused.
    """
    overlay = folder / "only_check.yaml"
    look = f"- $typed.seen.append(@{key})\n" if key else ""
    overlay.write_text(
        f"+imports: [$import typed]\nonly_check:\n- $scripts.settings.check.begin()\n{look}finalize: []\n"
    )
    files = [name if "/" in name else str(BUNDLE / "configs" / f"{name}.yaml") for name in configs.split(",")]
    seen.clear()
    path = list(sys.path)
    try:
        with contextlib.chdir(here), contextlib.redirect_stdout(io.StringIO()):
            command = ["run", "only_check", "--config_file", str([*files, str(overlay)]), "--logging_file", "False"]
            fire.Fire({"run": monai.bundle.run}, command=[*command, *words])
    except Exception as error:
        bad_input = input_error_in(error)
        if bad_input is None:
            raise
        raise InputError(str(bad_input)) from error
    finally:
        sys.path[:] = path
    return seen[0] if seen else None
