"""What a PDF says, read by a library that did not write it."""

from pathlib import Path

from pypdf import PdfReader


def pdf_pages(path: Path) -> list[str]:
    """The text of each page, words apart by single spaces."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(path).pages]
