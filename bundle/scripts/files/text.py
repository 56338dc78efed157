"""Text files as strangers' machines write them."""

import codecs
import os
from pathlib import Path

from scripts.errors import InputError
from scripts.files.limits import LARGEST_TEXT, check_plain, words
from scripts.files.pointers import check_fetched

#: Byte order marks, the longer first: that of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

#: How files begin that are no text, whatever they are called.
_NO_TEXTS = {
    b"PK\x03\x04": "a spreadsheet or archive (XLSX, ODS, ZIP)",
    b"\xd0\xcf\x11\xe0": "an old Excel file (XLS)",
    b"%PDF": "a PDF",
    b"{\\rtf": "a document (RTF)",
    b"\x1f\x8b": "packed (gzip)",
}


def read_content(path: str | os.PathLike) -> bytes:
    """The bytes of a text file.

    Raises:
        InputError: no such file, not readable, too large, or not fetched yet.
    """
    path = Path(path)
    check_plain(path)
    check_fetched(path)
    try:
        size = path.stat().st_size
        if size > LARGEST_TEXT:
            raise InputError(f"{path}: has {words(size)}, too much for a text; give the right file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path or its permissions") from error


def read_text(path: str | os.PathLike, cure: str = "save the file as UTF-8") -> str:
    """A text in UTF-8, or in any encoding that a byte order mark names (Windows writes UTF-16 and UTF-8 with one).

    Args:
        path: the file.
        cure: what to do about a file that is no such text.

    Raises:
        InputError: no such file, not readable, too large, of another kind, or in an encoding that nothing names.
    """
    content = read_content(path)
    for begin, what in _NO_TEXTS.items():
        if content.startswith(begin):
            raise InputError(f"{path}: is {what} by its content, not text; open it in its program, and {cure}")
    mark, encoding = next(((m, e) for m, e in _MARKS if content.startswith(m)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is not text in UTF-8; {cure}") from error
    if "\0" in text:
        raise InputError(f"{path}: holds NUL bytes, so it is no text in UTF-8; {cure}")
    return text
