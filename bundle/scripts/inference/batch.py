"""A batch of scans from one to thousands: shared among processes, read ahead, resumed, and nothing skipped silently."""

import hashlib
import json
import logging
import os
import re
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines import SupervisedEvaluator
from torch.utils.data import IterableDataset

from scripts.errors import InputError, input_error_in
from scripts.files.json_file import read_json
from scripts.files.limits import check_plain
from scripts.files.nifti import SIMULATED
from scripts.files.seal import SEAL, digest
from scripts.files.table import read_table, table_text
from scripts.files.writing import write_json
from scripts.maps.scan import Scan
from scripts.maps.sidecars import with_sidecars
from scripts.runs.bars import Bar
from scripts.runs.failures import called, log_of, why
from scripts.runs.finished import Origin, content_of_file, not_as_written

LOGGER = logging.getLogger(__name__)
#: Names that are safe as a file name on every system: no separator, no control character, no leading dot or dash.
SAFE_NAME = re.compile(r"[^\W_][^\x00-\x1f\x7f/\\:*?\"<>|]*")
#: Results that other code made are made again.
CODE = (
    "scripts.training.preprocessing",
    "scripts.model.outputs",
    "scripts.model.networks",
    "scripts.nuclei.transform",
    "scripts.inference.results",
    "scripts.reporting",
)
#: Columns of the log that each process appends to, a row a scan.
LOG_COLUMNS = ("participant_id", "scan_id", "status", "probability_HH", "class", "message")


def local_device() -> torch.device:
    """This process's GPU (one a process under torchrun), or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def join_processes() -> None:
    """Under torchrun, let the processes know each other; they meet only at the start and the end, so gloo will do."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))


def leave_processes() -> None:
    """Undo `join_processes`."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def reading_threads() -> int:
    """Threads that read ahead: this process's share of the machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def places_of(scan: Scan) -> dict[str, str]:
    """What a scan's files are called in messages; nothing for a DICOM study whose files cannot be told apart."""
    try:
        return called(scan.files(), scan.scan_id)
    except InputError:
        return {}


def origin_of(scan: Scan, settings: Any) -> Origin:
    """What a scan's result depends on: its files and their sidecars, its box, what is known of it
    (`scripts.nuclei.known`), settings and code."""
    labels = content_of_file(scan.nuclei_labels) if scan.nuclei_labels is not None else None
    known = {"scan_id": scan.scan_id, "box": scan.box, "nuclei": scan.nuclei, "labels": labels, "age": scan.years()}
    return Origin(with_sidecars(scan.files()), [known, settings], CODE)


#: What a scan can get, and the ending of each file.
OUTPUTS = {
    "json": ("prediction.json",),
    "evidence": ("evidence.nii.gz",),
    "report": ("report.html", "report.pdf"),
    "sr": ("sr.dcm",),
    "parametric_map": ("evidence_map.dcm",),
    "segmentation": ("evidence_seg.dcm",),
}
#: What a run writes, appends to or removes beside the scans' folders.
WRITTEN = ("predictions.csv", "summary.html", "progress-*.csv", "*_error.log")


def content_sha256(prediction: Mapping[str, Any]) -> str:
    """SHA-256 of what a scan's prediction JSON says, how the run knows it again included."""
    run = {key: value for key, value in prediction["run"].items() if key != SEAL}
    return digest({**prediction, "run": run})


#: Settings that are the hash of something -> what another one means.
HASHED = {
    "weights_sha256": "other weights",
    "calibration_sha256": "another calibration of the weights, which was made, changed or taken away since",
    "reference_curves_sha256": "other reference curves (reference_curves)",
    "dicom_rules_sha256": "other DICOM rules (dicom_rules)",
}


def told_apart(key: str, one: Any, other: Any) -> str:
    """By what the results of one run differ from those of another, in words; hashes would tell nobody.

    Args:
        key: of a setting.
        one, other: its values.
    """
    return HASHED.get(key) or f"{key} {one}, not {other}"


class RunFolder:
    """An output folder: which settings it is of, which scans are done, and which failed.

    Args:
        path: the folder. `run.json` in it says what the run is of; a process appends to `progress-<rank>.csv`.
        settings: everything that decides what is written, by config key.
        provenance: goes into `run.json` and every result.
        outputs: kinds of files a scan gets (`scripts.inference.results.OUTPUTS`).
        include_identifiers: whether messages may hold paths and names.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        outputs: Sequence[str],
        include_identifiers: bool = False,
    ) -> None:
        self.path = Path(path)
        self.include_identifiers = include_identifiers
        self.settings = json.loads(json.dumps(settings))
        self.provenance = provenance
        self.outputs = tuple(outputs)
        # a result says whether its cohort calls itself simulated: one that was renamed gets it told anew
        self.simulated = SIMULATED in str(provenance.get("input", {}).get("name", "")).lower()
        self.settings_sha256 = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        self.rank = idist.get_rank()
        self.lock = threading.Lock()
        self.started = time.perf_counter()
        self.resumed = 0
        self.failed: dict[str, str] = {}
        self.bases: dict[str, dict[str, str]] = {}
        self.bar: Bar | None = None

    def open(self) -> None:
        """Say what the run is of, or make sure that a run that goes on is of the same settings.

        Raises:
            InputError: the folder holds results of other settings or weights, or somebody else's file of a name that is
                to be written.
        """
        record = self.path / "run.json"
        for path in (path for name in WRITTEN for path in self.path.glob(name)):
            check_plain(path)
            if path.is_dir():
                raise InputError(f"{path}: is a folder where a file must be written; move it away")
        if os.path.lexists(record):
            saved = read_json(record, "run", "use another --output_dir")["run"]
            changed = [key for key in sorted({*saved, *self.settings}) if saved.get(key) != self.settings.get(key)]
            if changed:
                raise InputError(
                    f"{record}: use another --output_dir; the results there are of"
                    f" {told_apart(changed[0], saved.get(changed[0]), self.settings.get(changed[0]))}"
                )
        else:
            of_scans = [f"*/*_{ending}" for name in self.outputs for ending in OUTPUTS[name]]
            for path in (path for name in (*WRITTEN, *of_scans) for path in self.path.glob(name)):
                raise InputError(
                    f"{path}: was there before, and no run of this bundle says that it is its own; move it, or use"
                    " another --output_dir"
                )
        idist.barrier()
        if self.rank == 0 and not record.exists():
            write_json(record, {"run": self.settings, "provenance": self.provenance})
        if self.rank == 0:
            self.clear_log()  # of a run that was killed; all that it has not finished is tried again
        idist.barrier()

    def stem(self, scan: Scan) -> Path:
        """Where a scan's files go, without their endings.

        Raises:
            InputError: the participant's or the scan's name would lead out of the folder, or is no file name.
        """
        for key, name in (("participant_id", scan.participant_id), ("scan_id", scan.scan_id)):
            if not SAFE_NAME.fullmatch(name) or name.endswith((".", " ")):
                raise InputError(f"{key} {name!r}: cannot be part of a file name; use letters, digits, '-' and '_'")
        return self.path / scan.participant_id / scan.scan_id

    def prediction(self, scan: Scan) -> dict[str, Any] | None:
        """A scan's finished prediction of these settings and this input; None where it has to be made."""
        stem = self.stem(scan)
        try:
            found = read_json(f"{stem}_prediction.json", "prediction")
            run = found["run"]
            if not self.origin(scan).made(run["basis"]):
                return None
            if run[SEAL] != content_sha256(found):
                LOGGER.warning("%s: its prediction was changed by hand and is made anew", scan.scan_id)
                return None
            if (damaged := not_as_written(stem.parent, run["files"])) is not None:
                LOGGER.warning("%s: %s is not as it was written; its results are made anew", scan.scan_id, damaged)
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def begin(self, total: int) -> None:
        """Show how many of this process's scans are finished."""
        if self.rank == 0:
            self.bar = Bar(total=total, desc="inference", unit="scan")

    def reading(self, scan: Scan) -> None:
        """A scan's files are about to be read: from now on a change of them makes its result an old one."""
        self.bases[scan.scan_id] = self.origin(scan).basis()

    def basis(self, scan: Scan) -> dict[str, str]:
        """What a scan's result is made from, as it was when the scan was read."""
        return self.bases.pop(scan.scan_id, None) or self.origin(scan).basis()

    def origin(self, scan: Scan) -> Origin:
        """What a scan's result in this folder depends on."""
        return origin_of(scan, [self.settings, self.simulated])

    def done(self, scan: Scan, status: str, **values: Any) -> None:
        """A scan is finished or has failed: move the bar, and append its row to this process's log.

        The row is on disk when this returns; where the disk is full, the reason stays in memory.
        """
        if status == "failed":
            self.failed[scan.scan_id] = values.get("message", "")
        if self.bar is not None:
            self.bar.update()
        path = self.path / f"progress-{self.rank}.csv"
        try:
            with self.lock, path.open("a", newline="") as file:
                known = {"participant_id": scan.participant_id, "scan_id": scan.scan_id, "status": status}
                file.write(table_text(LOG_COLUMNS, [{**known, **values}], tabs=False, head=file.tell() == 0))
        except OSError as error:
            warnings.warn(f"{path.name}: cannot be written ({error.strerror})", RuntimeWarning, stacklevel=2)

    def fail(self, scan: Scan, error: Exception) -> None:
        """Note why a scan failed; an unexpected reason leaves its traceback beside the tables."""
        if self.include_identifiers and (known := input_error_in(error)) is not None:
            message = str(known)
        else:
            places = {str(self.path): "output_dir", **places_of(scan)}
            message = why(error, log_of(self.path, scan.scan_id), places)
        self.done(scan, "failed", message=message)

    def failures(self) -> dict[str, str]:
        """scan_id -> why it failed, of all processes; a scan that a later run finished is not among them."""
        failed = dict(self.failed)
        for path in sorted(self.path.glob("progress-*.csv")):
            for row in read_table(path, LOG_COLUMNS, cure="delete this log", may_end_torn=True):
                if row["status"] == "failed":
                    failed[row["scan_id"]] = row["message"]
        return failed

    def clear_log(self) -> None:
        """Remove the logs, once everything in them is in the tables."""
        for path in self.path.glob("progress-*.csv"):
            path.unlink()


class ScanStream(IterableDataset):
    """Preprocessed scans one after the other, read ahead by threads; a bad one is noted and the others go on.

    Only this process's share of `data` comes (every n-th of n processes), without the scans that are done. At most
    `num_threads` scans wait in memory, whatever the length of `data`.

    Args:
        data: from `scripts.inference.inputs.find_input`.
        transform: the preprocessing, of a scan's item.
        run: the output folder, which knows what is done and is told what failed; None: everything is read.
        num_threads: scans that are read at the same time.
    """

    def __init__(
        self,
        data: Sequence[Scan],
        transform: Callable,
        run: RunFolder | None = None,
        num_threads: int = 1,
    ) -> None:
        super().__init__()
        if num_threads < 1:
            raise InputError(f"num_threads is {num_threads}; give 1 or more")
        self.data = data
        self.transform = transform
        self.run = run
        self.num_threads = num_threads
        self.by_scan = {scan.scan_id: scan for scan in data}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        mine = self.data[idist.get_rank() :: idist.get_world_size()]
        waiting: deque[Future] = deque()
        if self.run is not None:
            self.run.begin(len(mine))
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="read") as pool:
            try:
                for scan in mine:
                    if len(waiting) == self.num_threads and (ready := waiting.popleft().result()) is not None:
                        yield ready
                    waiting.append(pool.submit(self.read, scan))
                while waiting:
                    if (ready := waiting.popleft().result()) is not None:
                        yield ready
            finally:
                for future in waiting:
                    future.cancel()

    def read(self, scan: Scan) -> dict[str, Any] | None:
        """One scan's preprocessed `image`, and names; None where it is done or cannot be read, which the run notes."""
        if self.run is None:
            ready = self.transform(scan.item())
        else:
            try:
                scan.check_usable()
                if self.run.prediction(scan) is not None:
                    self.run.resumed += 1
                    self.run.done(scan, "ok")
                    return None
                self.run.reading(scan)
                ready = self.transform(scan.item())
            except Exception as error:
                self.run.fail(scan, error)
                return None
        return {"image": ready["image"], "participant_id": scan.participant_id, "scan_id": scan.scan_id}


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, which goes on with the next scan where network or postprocessing fail on one.

    Args:
        run: the output folder, which is told.
        scans: the stream, which knows the scans by name.
        kwargs: see `monai.engines.SupervisedEvaluator`.
    """

    def __init__(self, run: RunFolder, scans: ScanStream, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_folder = run
        self.scans = scans

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            for scan_id in batchdata["scan_id"]:
                self.run_folder.fail(self.scans.by_scan[scan_id], error)
            return []
