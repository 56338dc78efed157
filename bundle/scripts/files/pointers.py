"""What git-lfs and git-annex (DataLad) leave in a file's place until its content is fetched."""

import os
import re
from pathlib import Path

from scripts.errors import InputError

#: Beginning of the file -> its program, and the command that brings the content.
#: git-lfs: docs/spec.md of its repository; git-annex: its page "pointer file", also where a system has no links.
_POINTERS = {
    re.compile(rb"version https?://git-lfs\.github\.com/spec/"): ("git-lfs", "git lfs pull"),
    re.compile(rb"(\.\./)*(\.git)?/?annex/objects/"): ("git-annex", "git annex get, or datalad get"),
}
_LONGEST = 128


def check_fetched(path: str | os.PathLike) -> None:
    """Refuse a pointer to content that is somewhere else, and what the system does not let read: libraries would call
    it damaged. What is not there, or is a folder, is for those to say who read it.

    Raises:
        InputError: names the command that fetches it, or what the system said.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            begin = file.read(_LONGEST)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); correct its permissions, or copy it again"
        ) from error
    for pattern, (program, command) in _POINTERS.items():
        if pattern.match(begin):
            raise InputError(f"{path}: is a pointer of {program}, not the file itself; fetch it first ({command})")
