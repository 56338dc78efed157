"""Fill the disk under every long command at random moments, free it, give the command again, and compare.

Run as root from the repository root: `python benchmarks/full_disk.py [--times 3] [--commands training ...] [--output
FILE.json]`. The commands are those of `kills.py`. Each writes into a file system in memory (a mount, so root is needed)
which is filled to its last byte while the command runs. Right: it ends with one line of error that says so and no
traceback; nothing half-made is left once the space is back and the same command was given again; and then every file of
the result that holds numbers equals that of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from kills import Command, commands, result, run, start

from scripts.files.parts import PREFIX

SIZE = "600m"


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    path = folder / "somebody_elses_data"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def attack(name: str, command: Command, disk: Path, times: int, chance: random.Random) -> dict[str, Any]:
    """Fill the disk while a command runs, then let it end with space, and say how both went."""
    out = disk / name
    words = [word.replace("OUT", str(out)) for word in command.words]

    def fresh() -> None:
        for path in disk.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        command.prepare(out)

    fresh()
    expected, last, seconds = run(words)
    wanted = result(out)
    if not wanted:
        return {"times": 0, "same": False, "first_difference": f"the undisturbed run failed: {last}"}
    ends: dict[str, int] = {"one line": 0, "ended before": 0, "traceback": 0, "several lines": 0}
    said, differing, left = "", [], []
    for _ in range(times):
        fresh()
        process = start(words)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.3, 0.9) * seconds)
        running = process.poll() is None
        filler = fill(disk)
        errors = process.communicate()[1].decode(errors="replace").replace("\r", "\n").splitlines()
        lines = [line for line in errors if line.startswith("error: ")]
        if not running or process.returncode == expected:
            ends["ended before"] += 1
        elif "Traceback" in "\n".join(errors) or not lines:
            ends["traceback"] += 1
            said = (errors or [""])[-1][:200]
        else:
            ends["one line" if len(lines) == 1 else "several lines"] += 1
            said = lines[-1][:200].replace(str(disk), "")
        filler.unlink()
        status, last, _ = run(words)
        found = result(out)
        differing += sorted(key for key in {**wanted, **found} if wanted.get(key) != found.get(key))
        differing += [last] * (status != expected)
        left += [str(path.relative_to(disk)) for path in disk.rglob("*") if path.name.startswith(PREFIX)]
    return {
        "times": times,
        "seconds": round(seconds, 1),
        "ends": ends,
        "same": not differing,
        "clean": not left,
        "says": said,
        "first_difference": (differing or [""])[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="of each command")
    parser.add_argument("--commands", nargs="*", help="which; all if none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures; goes on with what it holds")
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("a disk that can be filled is a mount; run this as root")
    figures = json.loads(given.output.read_text()) if given.output and given.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        root, disk = Path(folder), Path(folder) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True)
        try:
            everything = commands(root)
            for name in given.commands or everything:
                figures[name] = attack(name, everything[name], disk, given.times, random.Random(f"{given.seed} {name}"))
                print(time.strftime("%H:%M:%S"), name, figures[name], flush=True)
                if given.output:
                    given.output.write_text(json.dumps(figures, indent=2) + "\n")
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


if __name__ == "__main__":
    main()
