"""Where the folds of a cross-validation run: processes on this machine, or tasks of a Ray cluster."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from scripts.errors import InputError, reason
from scripts.provenance import BUNDLE_ROOT
from scripts.runs.processes import fresh_processes

#: Seconds between looks at what runs.
TICK_SECONDS = 1.0
KILLED = (
    "a fold's process was killed, perhaps for want of memory; let fewer folds run at a time"
    " (--folds_on_cpu, --folds_per_gpu) and give the same command again to go on"
)

#: `function(job, device)`, importable by name, so that another process can call it.
Work = Callable[[Any, str], None]


class Engine(Protocol):
    """Runs a function on many jobs."""

    def run(self, function: Work, jobs: Sequence[Any], tick: Callable[[], None]) -> None:
        """Call `function(job, device)` for every job and return when all are done.

        Args:
            function: gets a job and a device as torch names it (`cpu`, `cuda:1`).
            jobs: what to run; in this order, several at a time.
            tick: called every second meanwhile.

        Raises:
            InputError: from the first job that raised one (the jobs not yet begun are dropped), or when a process died.
        """


class LocalEngine:
    """Processes on this machine, each with a device and a share of the cores of its own.

    On a CPU the share decides in which order sums are taken, so another number of processes changes the last digits
    of a training.

    Args:
        devices: one entry a process; a device may come more than once.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = list(devices)

    def run(self, function: Work, jobs: Sequence[Any], tick: Callable[[], None]) -> None:
        devices = multiprocessing.get_context("spawn").Queue()
        for device in self.devices:
            devices.put(device)
        threads = max(1, (os.cpu_count() or 1) // len(self.devices))
        with fresh_processes(len(self.devices), _start_process, (devices, threads), KILLED) as pool:
            waiting = {pool.submit(_on_own_device, function, job) for job in jobs}
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, TICK_SECONDS, concurrent.futures.FIRST_EXCEPTION)
                for future in done:
                    future.result()
                tick()


_device = "cpu"


def _start_process(devices: Any, threads: int) -> None:
    global _device
    _device = devices.get()
    torch.set_num_threads(threads)


def _on_own_device(function: Work, job: Any) -> None:
    function(job, _device)


class RayEngine:
    """Tasks of a Ray cluster (https://docs.ray.io); all machines must see the cohort and the output folder by one path.

    Args:
        address: of the cluster; None for the one at hand, or else one started on this machine.
        folds_per_gpu: tasks that share a GPU.
        folds_on_cpu: where the cluster has no GPU, tasks that share the cores of this many cores.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None, folds_per_gpu: int, folds_on_cpu: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("engine ray needs the package ray; pip install ray, or use --engine local") from error
        self.ray = ray
        try:
            if not ray.is_initialized():
                path = os.pathsep.join([str(BUNDLE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
                ray.init(
                    address=address,
                    include_dashboard=False,
                    log_to_driver=False,
                    runtime_env={"env_vars": {"PYTHONPATH": path}},  # where tasks find this package
                )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise InputError(f"ray_address {address}: no cluster there ({reason(error)}); start it first") from error
        if ray.cluster_resources().get("GPU"):
            self.needs = {"num_gpus": 1 / folds_per_gpu, "num_cpus": 1}
        else:
            self.needs = {"num_cpus": max(1, (os.cpu_count() or 1) // folds_on_cpu)}

    def run(self, function: Work, jobs: Sequence[Any], tick: Callable[[], None]) -> None:
        # Ray hides all GPUs but the task's own, so that is always the first
        device = "cuda:0" if "num_gpus" in self.needs else "cpu"
        task = self.ray.remote(function).options(max_retries=0, **self.needs)
        waiting = [task.remote(job, device) for job in jobs]
        try:
            while waiting:
                done, waiting = self.ray.wait(waiting, timeout=TICK_SECONDS)
                self.ray.get(done)
                tick()
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            for reference in waiting:
                self.ray.cancel(reference)


def half_the_cores() -> int:
    """Half the cores of this machine, at least one: two cores a fold."""
    return max(1, (os.cpu_count() or 1) // 2)


def engine(name: str, folds_per_gpu: int, folds_on_cpu: int, ray_address: str | None) -> Engine:
    """The engine of a name, `local` or `ray`.

    Args:
        name: which.
        folds_per_gpu: folds at a time on each GPU.
        folds_on_cpu: folds at a time where there is no GPU.
        ray_address: of the Ray cluster, see `RayEngine`.

    Raises:
        InputError: another name, a count below 1, or see `RayEngine`.
    """
    for key, count in (("folds_per_gpu", folds_per_gpu), ("folds_on_cpu", folds_on_cpu)):
        if count < 1:
            raise InputError(f"{key} is {count}; it must be at least 1; correct --{key}")
    if name == "ray":
        return RayEngine(ray_address, folds_per_gpu, folds_on_cpu)
    if name != "local":
        raise InputError(f"engine {name!r} is unknown; use local or ray")
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return LocalEngine(gpus * folds_per_gpu or ["cpu"] * folds_on_cpu)
