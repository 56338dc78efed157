"""The one error that a user's input can raise, and how the command line shows it: one line, status 1."""

import sys
from types import TracebackType


class InputError(ValueError):
    """Bad input. The message is one line: which file or key, what is wrong, what to do."""


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


def report_in_one_line() -> None:
    """Let the interpreter end with one line on stderr and status 1 when bad input reaches the top uncaught.

    Every other error keeps its full traceback. Called by `initialize` in the configs, so servers that
    import the package are not affected.
    """

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        found = input_error_in(error)
        if found is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            print(f"error: {found}", file=sys.stderr)

    sys.excepthook = hook
