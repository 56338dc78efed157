"""The one error that a user's input can raise, and how the command line shows it: one line, status 1."""

import errno
import logging
import re
import sys
from types import TracebackType

from tqdm import tqdm  # noqa: TID251  # for its lines alone

#: The error that a web server of starlette's kind, such as MONAI Label's, answers a client with; None outside of one.
_HTTP = getattr(sys.modules.get("starlette.exceptions"), "HTTPException", None)

#: What the system says of disks and folders, and what to do: all that opening, writing and renaming may answer, but for
#: ENOENT, by which programs ask whether something is there, and what is a fault of ours (EBADF, EFAULT).
SYSTEM = {
    getattr(errno, name): said
    for names, said in {
        "ENOSPC": "the disk is full; free some space and give the same command again",
        "EDQUOT": "the disk quota is used up; free some space and give the same command again",
        "EFBIG EOVERFLOW": "a file is larger than this disk or a limit (ulimit -f) allows; choose another output"
        " folder, or raise the limit",
        "EACCES EPERM": "no permission to read or write there; correct the permissions",
        "EROFS": "the disk cannot be written; choose another output folder",
        "EEXIST": "a file lies where a folder must be made; move it away or choose another output folder",
        "ENOTDIR": "a file lies where a folder must be; move it away or choose another output folder",
        "EISDIR ENOTEMPTY": "a folder lies where a file must be; move it away or choose another output folder",
        "ENAMETOOLONG": "a name is too long for this disk; shorten it",
        "EILSEQ": "a name has letters that this disk does not take; use letters, digits and hyphens",
        "ELOOP": "links lead in a circle; correct them",
        "EMLINK": "the folder can hold no more; choose another output folder",
        "EMFILE ENFILE": "too many files are open; raise the limit (ulimit -n) and give the same command again",
        "ENOMEM": "not enough memory; close other programs, or use a machine with more",
        "EBUSY ETXTBSY": "another program uses the file or folder; end it and give the same command again",
        "EXDEV EOPNOTSUPP ENOLCK": "the disk does not offer what is needed there; choose another output folder",
        "EIO EREMOTEIO EUCLEAN": "the disk cannot be read or written (input/output error); check the disk",
        "ENXIO ENODEV ENOTCONN ESTALE EHOSTDOWN EHOSTUNREACH ETIMEDOUT": "the disk is gone or does not answer (stale"
        " file handle, no device or server); mount it again",
        "EKEYEXPIRED EKEYREVOKED ENOKEY": "the disk's key or ticket is missing or has expired; renew it and give the"
        " same command again",
    }.items()
    for name in names.split()
    if hasattr(errno, name)
}
#: What libraries say who write files themselves and keep the system's word back: torch, numpy, SQLite.
_NOT_WRITTEN = re.compile(
    r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed|\d+ requested and \d+ written|disk is full"
)
#: The folders of a path in a message.
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^/:;,]+/)+")


class InputError(*((ValueError,) if _HTTP is None else (ValueError, _HTTP))):  # type: ignore[misc]  # bases by place
    """Bad input. The message is one line: which file or key, what is wrong, what to do.

    Inside a web server it is also that server's HTTP error, so its client is told why (status 422), without the names
    of the server's folders, and the server's log says it too.
    """

    status_code, headers = 422, None
    __str__, __repr__ = ValueError.__str__, ValueError.__repr__

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, printable(message))
        if _HTTP is not None:
            logging.getLogger(__name__).warning("InputError: %s", message)

    @property
    def detail(self) -> str:
        """The message for a client."""
        return _FOLDERS.sub("", str(self))


def printable(text: str) -> str:
    """Text that can be printed and written: bytes of a file's name that are no UTF-8 become `\\xe9`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def reason(error: BaseException) -> str:
    """The last line of a library's message, or the error's kind where it has none, to put into an InputError."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def input_error_in(error: BaseException | None) -> InputError | None:
    """Return the first InputError in a chain of causes (MONAI wraps what its components raise), or None."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it was raised from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def system_reason(error: BaseException) -> str | None:
    """What disk, folder or memory refused, and what to do; None where it was none of them."""
    incomplete = None
    for found in chain(error):
        if isinstance(found, OSError) and found.errno in SYSTEM:
            return SYSTEM[found.errno]
        if isinstance(found, (OSError, RuntimeError)) and _NOT_WRITTEN.search(str(found)):
            incomplete = (
                "a file could not be written to its end: the disk is full, or a limit (ulimit -f, quota) is reached"
            )
        if isinstance(found, MemoryError) or type(found).__name__ == "OutOfMemoryError":
            return "not enough memory; close other programs, or use a machine with more"
    return incomplete and f"{incomplete}; free some space and give the same command again"


def _with_place(error: BaseException) -> str | None:
    """`system_reason` with the file or folder that was meant, where the system names it."""
    found = system_reason(error)
    path = next((e.filename for e in chain(error) if isinstance(e, OSError) and e.filename), None)
    return f"{path}: {found}" if found and isinstance(path, str) else found


def _told(error: BaseException | None) -> str | None:
    """The one line about an error of the user's, or of disk, folder or memory; None for every other."""
    if error is None:
        return None
    bad_input = input_error_in(error)
    return _with_place(error) if bad_input is None else str(bad_input)


class _SaidOnce(logging.Filter):
    """Takes away what ignite's engines log of an error that stops them, where `report_in_one_line` tells it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.name.startswith("ignite.") and _told(sys.exc_info()[1]))


def report_in_one_line() -> None:
    """Let the interpreter end with one line on stderr and status 1 when bad input, or what disk, folder or memory
    refused, reaches the top uncaught; and with one when the user stops it (Ctrl-C).

    Every other error keeps its full traceback. Every run id of the configs begins with it (`scripts.settings.check`),
    so programs that import the package are not affected.
    """

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            tqdm.write("stopped: the same command goes on with what is finished", file=sys.stderr)
            return
        found = _told(error)
        if found is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            tqdm.write(f"error: {found}", file=sys.stderr)  # on a line of its own, whatever bar is half drawn

    sys.excepthook = hook
    for handler in {*logging.getLogger().handlers, *logging.getLogger("ignite").handlers}:
        if not any(isinstance(known, _SaidOnce) for known in handler.filters):
            handler.addFilter(_SaidOnce())
