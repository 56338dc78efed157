"""What a training tells an experiment tracker about itself."""

from typing import Any

from scripts.provenance import SET_BY_USERS, settings
from scripts.settings.overlay import running


def parameters() -> dict[str, Any]:
    """Settings of the running config: plain values of top-level keys and of the components that users set
    (`augment.rotate_limit`). Expressions, and places on this machine, are left out.

    Raises:
        RuntimeError: no MONAI workflow runs this.
    """
    config = running().parser.get()
    plain = {key: value for key, value in config.items() if key not in SET_BY_USERS}
    found = settings(plain)
    for name in SET_BY_USERS & config.keys():
        found |= {f"{name}.{key}": value for key, value in settings(config[name]).items() if key[0] != "_"}
    return {key: value for key, value in found.items() if not str(value).startswith(("$", "@", "%"))}
