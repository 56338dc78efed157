"""What a release is made from: a commit, and a version that its changelog explains."""

import json
import re
import subprocess
from pathlib import Path

from scripts.errors import InputError


def git(folder: Path, *arguments: str) -> str:
    """What a git command says about a folder.

    Raises:
        InputError: the folder is in no git checkout.
    """
    result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    if result.returncode:
        raise InputError(f"{folder}: not a git checkout; a release is made from a clone of the repository")
    return result.stdout


def clean_commit(bundle: Path) -> str:
    """The commit whose files the bundle's folder holds.

    Raises:
        InputError: a file in the folder was changed or added since.
    """
    changed = git(bundle, "status", "--porcelain", "--", ".").splitlines()
    if changed:
        raise InputError(f"{bundle}: {changed[0][3:]} is not committed; a release is a commit, so commit it first")
    return git(bundle, "rev-parse", "HEAD").strip()


def released_version(bundle: Path) -> str:
    """The version in `configs/metadata.json`, X.Y.Z.

    Raises:
        InputError: another form, or no line in the metadata's changelog about it.
    """
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    version = metadata["version"]
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise InputError(f"{path}: version {version!r} is not of the form 1.2.3; correct it")
    if version not in metadata["changelog"]:
        raise InputError(f"{path}: the changelog does not explain version {version}; add a line")
    return version
