"""A run id that lays another config over its own: for clients that read one file of the bundle and no other."""

import copy
import inspect
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import merge_kv

from scripts.settings.check import CONFIGS


def run_with(overlay: str, run_id: str) -> None:
    """Run a list of steps in the config that evaluates this, with an overlay on top; what the user set stays.

    Args:
        overlay: name of a file in configs/.
        run_id: the steps, of either file.

    Raises:
        RuntimeError: no MONAI workflow runs this.
    """
    parser = ConfigParser(copy.deepcopy(running().parser.config))
    for key, value in ConfigParser.load_config_file(CONFIGS / overlay).items():
        merge_kv(parser, key, value)
    parser.get_parsed_content(run_id)


def running_config() -> dict[str, Any]:
    """The config of the workflow that evaluates this, as the user's values left it, for another process.

    Raises:
        RuntimeError: no MONAI workflow runs this.
    """
    return dict(copy.deepcopy(running().parser.get()))


def running() -> ConfigWorkflow:
    """The workflow that evaluates this expression.

    Raises:
        RuntimeError: none does.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigWorkflow):
            return owner
        frame = frame.f_back
    raise RuntimeError("this is a step of a config; run it with monai.bundle")
