"""Where the jobs of a long command run: processes on this machine, or tasks of a Ray cluster. Knows no scheduler.

Every long command is made of jobs that do not know each other (a scan, a subject, a fold). `run_jobs` runs them on
an engine under one progress bar. A job that raises is an outcome like any other; a job whose process dies is tried once
more, and the others go on.
"""

import contextlib
import multiprocessing
import os
import pickle
import re
import socket
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

import threadpoolctl
import torch

from scripts.errors import InputError, chain, input_error_in, reason, system_reason
from scripts.files.limits import bytes_of, largest_file, set_largest_file
from scripts.runs.bars import Bar
from scripts.runs.finished import ROOT
from scripts.runs.processes import fresh_processes

#: Seconds between looks at what runs.
TICK_SECONDS = 1.0
#: Seconds that a cluster may take to answer at all.
KNOCK_SECONDS = 10.0
KILLED = (
    "its process was killed twice, perhaps for want of memory; let fewer run at a time{keys} and give the same command"
    " again to go on"
)

#: `work(shared, job, device)`, importable by name, so that another process can call it. Device as torch names it.
Work = Callable[[Any, Any, str], Any]
#: A job's name, and what its work returned or raised.
Outcome = tuple[str, Any]


class Engine(Protocol):
    """Runs jobs that do not know each other.

    Attributes:
        keys: of the config, that say how many run at a time; for messages.
        slots: how many run at a time.
    """

    keys: str
    slots: int

    def each(self, work: Work, shared: Any, jobs: Mapping[str, Any], tick: Callable[[], None]) -> Iterator[Outcome]:
        """Call `work(shared, job, device)` for every job, several at a time, and yield each outcome as it comes.

        Args:
            work: gets what all jobs share, a job, and a device (`cpu`, `cuda:1`).
            shared: sent once to each process.
            jobs: name -> job; begun in this order.
            tick: called every second meanwhile.
        """


class LocalEngine:
    """Processes on this machine, each with a device and a share of the cores of its own.

    On a CPU the share decides in which order sums are taken, so another number of processes may change the last digits.

    Args:
        devices: one entry a process; a device may come more than once.
        keys: see `Engine`.
        stay: where one job runs at a time, it runs in this process.
    """

    def __init__(self, devices: Sequence[str], keys: str = "", stay: bool = False) -> None:
        self.devices = list(devices)
        self.keys = keys
        self.stay = stay
        self.slots = len(self.devices)

    def each(self, work: Work, shared: Any, jobs: Mapping[str, Any], tick: Callable[[], None]) -> Iterator[Outcome]:
        if self.stay and min(len(self.devices), len(jobs)) <= 1:
            for name, job in jobs.items():
                yield name, _outcome(work, shared, job, self.devices[0])
            return
        waiting, suspects = deque(jobs.items()), deque[tuple[str, Any]]()
        while waiting or suspects:
            alone = bool(suspects)  # whose process dies alone has killed it himself
            queue = suspects if alone else waiting
            devices = self.devices[: 1 if alone else len(queue)]
            begun: dict[Future, tuple[str, Any]] = {}
            try:
                with self._processes(work, shared, devices) as pool:
                    while queue or begun:
                        while queue and len(begun) < len(devices):
                            begun[pool.submit(_in_process, queue[0][1])] = queue[0]
                            queue.popleft()
                        done, _ = wait(begun, TICK_SECONDS, FIRST_COMPLETED)
                        tick()
                        for future in sorted(done, key=_died):
                            if _died(future):
                                raise BrokenProcessPool
                            yield begun.pop(future)[0], future.result()
            except BrokenProcessPool:
                for future, (name, job) in begun.items():
                    if future.done() and not _died(future):
                        yield name, future.result()
                    elif alone:
                        yield name, InputError(KILLED.format(keys=self.keys))
                    else:
                        suspects.append((name, job))

    @contextlib.contextmanager
    def _processes(self, work: Work, shared: Any, devices: Sequence[str]) -> Iterator[Any]:
        free = multiprocessing.get_context("spawn").Queue()
        for device in devices:
            free.put(device)
        threads = max(1, (os.cpu_count() or 1) // len(self.devices))
        with (
            _no_bars(),
            fresh_processes(len(devices), _start_process, (free, threads, largest_file(), work, shared)) as pool,
        ):
            yield pool


def _died(future: Future) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Processes that begin now show no bars of their own: they would drown the one that counts jobs."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


# What each process is given once, at its start: read-only from then on.
_process: dict[str, Any] = {}


def _start_process(devices: Any, threads: int, largest: int, work: Work, shared: Any) -> None:
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(threads))
    torch.set_num_threads(threads)
    _process.update(device=devices.get(), largest=largest, work=work, shared=shared)
    _process["limits"] = threadpoolctl.threadpool_limits(threads)


def _in_process(job: Any) -> Any:
    return _elsewhere(_process["largest"], _process["work"], _process["shared"], job, _process["device"])


def _outcome(work: Work, shared: Any, job: Any, device: str) -> Any:
    try:
        return work(shared, job, device)
    except Exception as error:
        return error


def _elsewhere(largest: int, work: Work, shared: Any, job: Any, device: str) -> Any:
    """An outcome that reaches another process whole: an error loses its causes and its traceback on the way."""
    set_largest_file(largest)
    outcome = _outcome(work, shared, job, device)
    if not isinstance(outcome, Exception):
        return outcome
    if (known := input_error_in(outcome)) is not None:
        return known
    for error in chain(outcome):
        if system_reason(error) is not None and type(error).__module__ == "builtins":
            return error
    outcome.add_note("".join(traceback.format_exception(outcome)))
    try:
        pickle.loads(pickle.dumps(outcome))
    except Exception:
        stand_in = RuntimeError(f"{type(outcome).__name__}: {outcome}")
        stand_in.__notes__ = outcome.__notes__
        return stand_in
    return outcome


class RayEngine:
    """Tasks of a Ray cluster (https://docs.ray.io); all machines must see input and output folders by one path.

    Args:
        address: of the cluster; None for the one at hand, or else one started on this machine.
        per_gpu: tasks that share a GPU.
        cores: of each task, where the cluster has no GPU; at most those of its largest machine.
        keys: see `Engine`.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None, per_gpu: int = 1, cores: int = 1, keys: str = "") -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("engine ray needs the package ray; pip install ray, or use --engine local") from error
        self.ray = ray
        self.keys = keys
        try:
            if not ray.is_initialized():
                _knock(address)
                path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
                ray.init(
                    address=address,
                    include_dashboard=False,
                    log_to_driver=False,
                    # where tasks find this package, and no bars of their own
                    runtime_env={"env_vars": {"PYTHONPATH": path, "TQDM_DISABLE": "1"}},
                )
        except (OSError, RuntimeError, ValueError, SystemExit) as error:  # Ray may leave
            said = "something else answers" if isinstance(error, SystemExit) else reason(error)
            raise InputError(f"ray_address {address}: no cluster there ({said}); start it first") from error
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        cores = max(1, min(cores, int(largest)))  # a task that no machine has room for would wait for ever
        self.needs: dict[str, float] = {"num_cpus": cores}
        if ray.cluster_resources().get("GPU"):
            self.needs = {"num_gpus": 1 / per_gpu, "num_cpus": 1}
        there = ray.cluster_resources()
        self.slots = max(1, int(there["GPU"] * per_gpu if "num_gpus" in self.needs else there.get("CPU", 1) // cores))

    def each(self, work: Work, shared: Any, jobs: Mapping[str, Any], tick: Callable[[], None]) -> Iterator[Outcome]:
        ray = self.ray
        # Ray hides all GPUs but the task's own, so that is always the first. Deaths are counted here: Ray itself would
        # try a task that wants too much memory without end.
        device = "cuda:0" if "num_gpus" in self.needs else "cpu"
        task = ray.remote(_elsewhere).options(max_retries=0, **self.needs)
        function, common = ray.put(work), ray.put(shared)
        largest = largest_file()
        begun = {task.remote(largest, function, common, job, device): name for name, job in jobs.items()}
        died: set[str] = set()
        try:
            while begun:
                done, _ = ray.wait(list(begun), timeout=TICK_SECONDS)
                tick()
                for reference in done:
                    name = begun.pop(reference)
                    try:
                        outcome = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        outcome = error.cause
                    except ray.exceptions.RayError:
                        if name not in died:
                            died.add(name)
                            begun[task.remote(largest, function, common, jobs[name], device)] = name
                            continue
                        outcome = InputError(KILLED.format(keys=self.keys))
                    yield name, outcome
        finally:
            for reference in begun:
                ray.cancel(reference, force=True)


def _knock(address: str | None) -> None:
    """Let an address where nothing answers raise at once: Ray itself tries for minutes.

    Raises:
        OSError: nobody answers there.
    """
    place = re.fullmatch(r"(?:ray://)?\[?(?P<host>[^\]/]+?)\]?:(?P<port>\d+)", address or "")
    if place is not None:
        socket.create_connection((place["host"], int(place["port"])), timeout=KNOCK_SECONDS).close()


def run_jobs(
    engine: Engine,
    work: Work,
    shared: Any,
    jobs: Mapping[str, Any],
    *,
    title: str,
    unit: str,
    total: int | None = None,
) -> Iterator[Outcome]:
    """Every job's outcome, as it comes, under one progress bar.

    Args:
        engine: where they run.
        work, shared, jobs: see `Engine.each`.
        title, unit: of the bar.
        total: jobs, with those that an earlier run finished; None: those of now.

    Yields:
        a job's name, and what its work returned, or the exception that it raised.
    """
    whole = len(jobs) if total is None else total
    with Bar(total=whole, initial=whole - len(jobs), desc=title, unit=unit, disable=not whole) as bar:
        begun = False

        def tick() -> None:
            nonlocal begun
            if not begun:  # a process takes its time to start, which says nothing of how long a job takes
                bar.unpause()
            begun = True
            bar.refresh()

        for name, outcome in engine.each(work, shared, jobs, tick):
            bar.update()
            yield name, outcome


def half_the_cores() -> int:
    """Half the cores of this machine, at least one: two cores a fold."""
    return max(1, (os.cpu_count() or 1) // 2)


def workers(memory: str) -> int:
    """How many processes this machine has room for: one a GPU, or else one a core as far as the memory reaches.

    Args:
        memory: what each may need, as `4 GB`.
    """
    if torch.cuda.device_count():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, free_memory() // bytes_of(memory)))


def free_memory() -> int:
    """Bytes of memory that programs may still take (Linux), or all there is."""
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def engine(name: str, folds_per_gpu: int, folds_on_cpu: int, ray_address: str | None) -> Engine:
    """The engine for folds of a cross-validation.

    Args:
        name: `local` or `ray`.
        folds_per_gpu: folds at a time on each GPU.
        folds_on_cpu: folds at a time where there is no GPU.
        ray_address: of the Ray cluster, see `RayEngine`.

    Raises:
        InputError: another name, a count below 1, or see `RayEngine`.
    """
    for key, count in (("folds_per_gpu", folds_per_gpu), ("folds_on_cpu", folds_on_cpu)):
        if count < 1:
            raise InputError(f"{key} is {count}; it must be at least 1; correct --{key}")
    keys = " (--folds_on_cpu, --folds_per_gpu)"
    _check_name(name)
    if name == "ray":
        return RayEngine(ray_address, folds_per_gpu, max(1, (os.cpu_count() or 1) // folds_on_cpu), keys)
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return LocalEngine(gpus * folds_per_gpu or ["cpu"] * folds_on_cpu, keys)


def scan_engine(name: str, num_workers: int, ray_address: str | None = None, device: object = None) -> Engine:
    """The engine for scans or subjects, one at a time a process.

    Args:
        name: `local` or `ray`.
        num_workers: processes of this machine; GPUs are dealt out among them.
        ray_address: of the Ray cluster, see `RayEngine`.
        device: of a single one; several share all GPUs, unless it is the CPU.

    Raises:
        InputError: another name, a count below 1, or see `RayEngine`.
    """
    if num_workers < 1:
        raise InputError(f"num_workers={num_workers} is below 1; give the number of processes")
    _check_name(name)
    keys = " (--num_workers)"
    if name == "ray":
        return RayEngine(ray_address, keys=keys)
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    given = None if device is None else str(device)
    devices = [given or "cpu"] if num_workers == 1 or given == "cpu" or not gpus else gpus
    return LocalEngine([devices[index % len(devices)] for index in range(num_workers)], keys, stay=True)


def _check_name(name: str) -> None:
    if name not in ("local", "ray"):
        raise InputError(f"engine {name!r} is unknown; use local or ray")
