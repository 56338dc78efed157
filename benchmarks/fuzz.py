"""Damaged, foreign and oddly written inputs on every surface: each must be read as it is meant, or refused in one line.

    python benchmarks/fuzz.py [--cases 400] [--seed 0] [--surface NAME ...] [--show CLASS] [--output FILE.json]

What is right is not written down case by case. Each surface has a good input, and what the product reads of it is
known. A case damages a copy, or writes it in another way that means the same. Then three ends are right: the product
reads the same as before ("as meant"), or less of it with a line of warning ("warned"), or it raises one InputError
whose single line says what is wrong and what to do ("clear line"). A "traceback" is any other error, an "unclear line"
an InputError of another form, "needless" the refusal of what means the same, "silently wrong" other values without a
word, and "hang" what is not over after two minutes. All in this process, with the functions that the commands call.
The same seed gives the same cases.
"""

import argparse
import collections
import logging
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bundle"), str(HERE)]

from fuzz_damage import SAME  # noqa: E402
from fuzz_surfaces import SURFACES, Surface  # noqa: E402
from tqdm import tqdm  # noqa: E402

from scripts.errors import InputError, input_error_in  # noqa: E402
from scripts.files.writing import write_json  # noqa: E402
from scripts.provenance import software  # noqa: E402

CLASSES = ("as meant", "warned", "clear line", "needless", "unclear line", "silently wrong", "traceback", "hang")
#: Longest that one case may take, s.
PATIENCE = 120
#: Ends that are right.
RIGHT = CLASSES[:3]


@dataclass(frozen=True)
class Outcome:
    """How one case ended."""

    surface: str
    number: int
    damage: str
    kind: str
    words: str


def same(found: Any, good: Any) -> bool:
    """Whether two observations are equal; arrays up to the steps of 16-bit storage, each map on its own."""
    if isinstance(good, np.ndarray):
        found = np.asarray(found)
        if good.ndim > 3:  # of several maps, in units of their own
            return found.shape == good.shape and all(same(a, b) for a, b in zip(found, good, strict=True))
        room = 1e-4 * float(np.nanmax(np.abs(good), initial=0.0)) if good.dtype.kind == "f" else 0
        return found.shape == good.shape and bool(np.allclose(found, good, rtol=0, atol=room, equal_nan=True))
    if isinstance(good, Mapping):
        return isinstance(found, Mapping) and found.keys() == good.keys() and all(same(found[k], good[k]) for k in good)
    if isinstance(good, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(good):
            return False
        return all(same(a, b) for a, b in zip(found, good, strict=True))
    return bool(found == good)


class Waited(BaseException):
    """A case took too long; no Exception, so that nothing between takes it for a damaged file."""


class Heard(logging.Handler):
    """Keeps the warnings that the product logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _wait_no_more(*_: Any) -> None:
    raise Waited


def judged(surface: Surface, folder: Path, good: Any, means_the_same: bool) -> tuple[str, str]:
    """Read a folder as the product does: class of the end, and the words of its error."""
    heard = Heard()
    logging.getLogger("scripts").addHandler(heard)
    signal.alarm(PATIENCE)
    try:
        found = surface.observe(folder)
    except Waited:
        return "hang", f"not over after {PATIENCE} s"
    except Exception as error:  # whatever it is, is what is measured
        bad_input = error if isinstance(error, InputError) else input_error_in(error)
        if bad_input is None:
            return "traceback", f"{type(error).__name__}: {error}"[:300]
        words = str(bad_input).replace(str(folder), "")
        clear = "\n" not in words and ";" in words and 20 < len(words) < 600
        return ("unclear line" if not clear else "needless" if means_the_same else "clear line"), words
    finally:
        signal.alarm(0)
        logging.getLogger("scripts").removeHandler(heard)
    if same(found, good):
        return "as meant", ""
    return ("warned" if heard.lines and not means_the_same else "silently wrong"), "; ".join(heard.lines)


def run(cases: int, seed: int, names: Sequence[str] = tuple(SURFACES), progress: bool = True) -> list[Outcome]:
    """Run cases of some surfaces, by turns.

    Args:
        cases: how many in all.
        seed: decides them.
        names: keys of `fuzz_surfaces.SURFACES`.
        progress: show a bar.
    """
    outcomes = []
    signal.signal(signal.SIGALRM, _wait_no_more)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root, goods = Path(temporary), {}
        for number in tqdm(range(cases), desc="fuzz", unit="case", disable=not progress):
            name = names[number % len(names)]
            surface = SURFACES[name]
            if name not in goods:
                surface.make(root / name)
                goods[name] = surface.observe(root / name)
            folder = Path(shutil.copytree(root / name, root / "case" / f"{name}-{number}", symlinks=True))
            damage = surface.damage(folder, np.random.default_rng([seed, number]))
            kind, words = judged(surface, folder, goods[name], damage.startswith(SAME))
            outcomes.append(Outcome(name, number, damage, kind, words))
            shutil.rmtree(folder)
    return outcomes


def counts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Surface -> class -> number of cases, and all of them."""
    found = {name: dict.fromkeys(CLASSES, 0) for name in (*SURFACES, "all")}
    for outcome in outcomes:
        found[outcome.surface][outcome.kind] += 1
        found["all"][outcome.kind] += 1
    return {name: row for name, row in found.items() if sum(row.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--surface", nargs="+", choices=[*SURFACES], default=[*SURFACES])
    parser.add_argument("--show", choices=CLASSES, nargs="*", default=[c for c in CLASSES if c not in RIGHT])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    outcomes = run(arguments.cases, arguments.seed, arguments.surface)
    for outcome in outcomes:
        if outcome.kind in arguments.show:
            print(f"{outcome.kind}: {outcome.surface} {outcome.number}, {outcome.damage}: {outcome.words}")
    table = counts(outcomes)
    print(f"\n{'surface':<14}" + "".join(f"{name:>16}" for name in CLASSES))
    for name, row in table.items():
        print(f"{name:<14}" + "".join(f"{row[kind]:>16}" for kind in CLASSES))
    print(f"{len(outcomes)} cases of seed {arguments.seed} in {time.perf_counter() - started:.0f} s")
    if arguments.output:
        wrong = [f"{o.surface} {o.number}, {o.damage}: {o.kind}" for o in outcomes if o.kind not in RIGHT]
        content = {"seed": arguments.seed, "cases": len(outcomes), "counts": table, "wrong": wrong}
        write_json(arguments.output, {**content, "software": software()})
    sys.exit(collections.Counter(o.kind in RIGHT for o in outcomes)[False] > 0)


if __name__ == "__main__":
    main()
