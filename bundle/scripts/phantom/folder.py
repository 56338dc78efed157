"""Output folders of simulations: built beside their place and renamed, with tables as BIDS has them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from scripts.errors import InputError


def check_output(output_dir: str | Path, needed_bytes: float) -> tuple[Path, Path]:
    """The output folder and the empty folder beside it in which it is built.

    Raises:
        InputError: the folder holds something, its parent cannot be written, the disk is too full, or an
            interrupted run left its half-made folder.
    """
    output = Path(output_dir).expanduser().resolve()
    part = output.with_name(output.name + ".part")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output_dir {output} exists and is not empty; choose another folder or remove it")
    if part.exists():
        raise InputError(f"output_dir {output} is being written, or a run was interrupted; remove {part} first")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"output_dir {output} cannot be written ({error.strerror}); choose another folder") from error
    free = shutil.disk_usage(part).free
    if free < needed_bytes:
        part.rmdir()
        raise InputError(
            f"output_dir {output} needs {needed_bytes / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; "
            "free some space or choose another disk"
        )
    return output, part


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a tab-separated table; numbers with six significant digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
