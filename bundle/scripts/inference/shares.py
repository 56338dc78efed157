"""A batch shared among processes of this machine or tasks of a Ray cluster, each of which works on scans of its own."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine as IgniteEngine
from monai.bundle import ConfigParser

from scripts.dicom.address import is_address
from scripts.errors import InputError
from scripts.files.table import read_table
from scripts.inference.batch import LOG_COLUMNS, RunFolder, ScanStream
from scripts.runs.engines import scan_engine
from scripts.settings.overlay import running_config

#: A share has at most so many scans: what is lost when its process dies is read, not made, anew.
LARGEST_SHARE = 8


def one_a_gpu() -> int:
    """Processes that this machine has GPUs for; one where it has none, which uses all cores."""
    return max(1, torch.cuda.device_count())


def infer(
    evaluator: IgniteEngine,
    run: RunFolder,
    dataset: ScanStream,
    engine: str,
    num_workers: int,
    ray_address: str | None,
    source: Any,
    fetched_dir: str | None,
) -> None:
    """Classify the scans of a run that are not done: in this process, or shared among several.

    Args:
        evaluator: classifies them in this process, where it is the only one, or one that torchrun started.
        run, dataset: of the whole batch.
        engine, num_workers, ray_address: see `scripts.runs.engines.scan_engine`.
        source, fetched_dir: see `scripts.inference.inputs.find_input`.

    Raises:
        InputError: the engine cannot be, or studies of an archive would be fetched by every process again.
    """
    if (engine == "local" and num_workers == 1) or idist.get_world_size() > 1:
        evaluator.run()
        return
    if is_address(source) and fetched_dir is None:
        raise InputError(
            "fetched_dir: is needed where several processes share studies of an archive; give --fetched_dir a folder"
        )
    where = scan_engine(engine, num_workers, ray_address)
    todo = [scan for scan in dataset.data if scan.refused is not None or run.prediction(scan) is None]
    run.resumed = len(dataset.data) - len(todo)
    number = max(min(len(todo), where.slots), math.ceil(len(todo) / LARGEST_SHARE))
    shares = {
        f"share {index + 1}": (index + 1, [scan.scan_id for scan in todo[index::number]]) for index in range(number)
    }
    run.begin(len(dataset.data))

    def tick() -> None:
        if run.bar is not None:
            run.bar.n = run.resumed + len(reached(run))
            run.bar.refresh()

    tick()
    for name, outcome in where.each(work, running_config(), shares, tick):
        if isinstance(outcome, Exception):
            there = reached(run)
            for scan_id in shares[name][1]:
                if scan_id not in there:
                    run.fail(dataset.by_scan[scan_id], outcome)
    tick()


def reached(run: RunFolder) -> set[str]:
    """Scans that this run's processes have finished or found to fail."""
    found = set()
    for path in run.path.glob("progress-*.csv"):
        found |= {row["scan_id"] for row in read_table(path, LOG_COLUMNS, cure="delete this log", may_end_torn=True)}
    return found


def work(config: Mapping[str, Any], share: tuple[int, Sequence[str]], device: str) -> None:
    """Run the steps `share` of a config on a share of its scans: a job of an engine."""
    parser = ConfigParser(copy.deepcopy(dict(config)))
    parser["device"] = f"$torch.device({device!r})"
    parser["share_number"], parser["share_scans"] = share[0], list(share[1])
    parser.get_parsed_content("share")


def take(run: RunFolder, dataset: ScanStream, number: int, scan_ids: Sequence[str]) -> None:
    """Let a process know its share of the scans, and the log that is its own."""
    run.rank = number
    dataset.data = [dataset.by_scan[scan_id] for scan_id in scan_ids]
