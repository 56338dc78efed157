"""Output folders of simulations: built beside their place, gone on with after a kill, and renamed when complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.files.parts import part_file
from scripts.runs.engines import Engine, Work, run_jobs
from scripts.runs.failures import log_of, why
from scripts.runs.finished import code_of, digest_of
from scripts.runs.outputs import LOCK, lock, release


class Build:
    """A folder of simulated subjects while it is made: `<output>.part`, which says so itself.

    A killed run's subjects are kept, and made no more by the same command; another command starts anew.

    Args:
        output_dir: the folder to make; it must not exist or be empty.
        needed_bytes: what will be written at most.
        made_by: settings that decide the bytes.
        code: module that makes them.

    Raises:
        InputError: the folder holds something, its parent cannot be written, the disk is too full, another run is
            making it, or a folder that no simulation made is in the way.
    """

    def __init__(self, output_dir: str | Path, needed_bytes: float, made_by: Any, code: str) -> None:
        self.output = output = Path(output_dir).resolve()
        self.part = part = output.with_name(output.name + ".part")
        self.records = part / ".simulation"
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"output_dir {output} exists and is not empty; choose another folder or remove it")
        if part.exists() and not self.records.is_dir() and {path.name for path in part.iterdir()} - {LOCK}:
            raise InputError(f"output_dir {output}: {part} is in the way and no simulation made it; move it away")
        begun = part.exists()
        lock(part, "output_dir")
        basis = {"made_by": digest_of([made_by, code_of(code)])}
        record = self.records / "basis.json"
        try:
            if begun and (not record.exists() or json.loads(record.read_text()) != basis):
                for path in part.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != LOCK:
                        path.unlink()
            self.records.mkdir(exist_ok=True)
            write(record, basis)
        except OSError as error:
            raise InputError(
                f"output_dir {output} cannot be written ({error.strerror}); choose another folder"
            ) from error
        free = shutil.disk_usage(part).free
        if free < needed_bytes and not self.begun():
            self.drop()
            raise InputError(
                f"output_dir {output} needs {needed_bytes / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; "
                "free some space or choose another disk"
            )
        self.failed: dict[str, str] = {}
        self.first: Exception | None = None

    def __enter__(self) -> Build:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and not self.begun():
            self.drop()  # there is nothing to go on with
        release(self.part)

    def begun(self) -> bool:
        """Whether any subject is finished."""
        return any(self.records.glob("sub-*.json"))

    def done(self, name: str) -> Any:
        """What was kept of a finished subject; None where it has to be made."""
        try:
            return json.loads((self.records / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def make(
        self, engine: Engine, work: Work, shared: Any, jobs: Mapping[str, Any], title: str, total: int
    ) -> dict[str, Any]:
        """Make subjects on an engine. One that fails is noted (`fail`), and the others are made.

        Args:
            engine, work, shared, jobs: see `scripts.runs.engines.Engine.each`; a job is a subject's.
            title: of the progress bar.
            total: subjects, with those that a killed run finished.

        Returns:
            subject -> what `work` returned, of those that did not fail.
        """
        made = {}
        for name, outcome in run_jobs(engine, work, shared, jobs, title=title, unit="subject", total=total):
            if isinstance(outcome, Exception):
                self.fail(name, outcome)
            else:
                made[name] = outcome
        return made

    def fail(self, name: str, error: Exception) -> None:
        """Note a subject that cannot be made, so that the others are made all the same."""
        self.first = self.first or error
        self.failed[name] = why(error, log_of(self.part, name), {str(self.part): "output_dir"})

    def finish(self) -> Path:
        """Give the folder its name.

        Raises:
            InputError: some subjects failed; the others are kept. Where all failed, what the first one raised.
        """
        if self.first is not None and not self.begun():
            raise self.first
        if self.failed:
            name, message = next(iter(self.failed.items()))
            raise InputError(
                f"output_dir {self.output}: {len(self.failed)} subjects failed, the others are kept and the same"
                f" command goes on (first: {name}: {message})"
            )
        for path in self.part.glob("*_error.log"):
            path.unlink()
        shutil.rmtree(self.records)
        release(self.part)
        os.replace(self.part, self.output)
        return self.output

    def drop(self) -> None:
        """Remove what was begun."""
        release(self.part)
        shutil.rmtree(self.part, ignore_errors=True)


def begin(part: Path, name: str) -> None:
    """Remove what a killed run left of a subject in a folder that is being built."""
    for path in [part / name, *part.glob(f"derivatives/*/{name}"), *part.glob(f"sourcedata/{name}")]:
        shutil.rmtree(path, ignore_errors=True)


def keep(part: Path, name: str, value: Any) -> None:
    """Note that a subject is finished, and a plain value with it."""
    write(part / ".simulation" / f"{name}.json", value)


def write(path: Path, content: Any) -> None:
    """A JSON file, whole or not at all."""
    with part_file(path) as part:
        Path(part).write_text(json.dumps(content))
