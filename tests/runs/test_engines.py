"""Jobs on engines: every outcome comes, whoever dies; the same on processes of this machine and on a Ray cluster."""

import os
import time
from pathlib import Path

import pytest
from odd_jobs import job
from refusal import refused

from scripts.errors import InputError
from scripts.files.limits import largest_file, set_largest_file
from scripts.runs.engines import LocalEngine, RayEngine, engine, run_jobs, scan_engine
from scripts.runs.failures import why


def outcomes(where, folder: Path, *names: str) -> dict:
    return dict(run_jobs(where, job, folder, {name: name for name in names}, title="jobs", unit="job"))


def check_all(found: dict, folder: Path) -> None:
    """The outcomes of `once`, `always`, `slow`, `wrapped` and `bug`, wherever they ran."""
    assert (found["once"], found["slow"]) == ("once on cpu", "slow on cpu")
    assert isinstance(found["always"], InputError) and "killed twice" in str(found["always"])
    assert str(found["wrapped"]) == "scan.nii: is empty; send it again"
    assert "unexpected KeyError" in why(found["bug"], folder / "bug.log")
    assert "somewhere deep" in (folder / "bug.log").read_text() and "in job" in (folder / "bug.log").read_text()


NAMES = ("once", "slow", "always", "wrapped", "bug")


@pytest.mark.other_programs  # starts a dozen processes
def test_whoever_dies_is_tried_once_more_and_the_others_go_on(tmp_path):
    found = outcomes(LocalEngine(["cpu", "cpu"], " (--num_workers)"), tmp_path, *NAMES, "limit")
    check_all(found, tmp_path)
    assert "--num_workers" in str(found["always"])
    assert found["limit"] == str(largest_file())


class SlowToStart:
    """An engine whose processes take a second to start."""

    keys, slots = "", 1

    def each(self, work, shared, jobs, tick):
        time.sleep(1)
        tick()
        for name, given in jobs.items():
            time.sleep(0.15)
            yield name, work(shared, given, "cpu")


def test_the_start_of_processes_does_not_count_as_time_of_the_first_job(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scripts.runs.bars.LOG_SECONDS", 0)
    outcomes(SlowToStart(), tmp_path, "a", "b")
    first = next(line for line in capsys.readouterr().err.splitlines() if "1/2" in line)
    assert "job/s" in first  # many a second, not seconds a job


def test_one_at_a_time_runs_in_this_process_and_keeps_its_settings(tmp_path):
    before = largest_file()
    set_largest_file("7 MB")
    try:
        assert outcomes(scan_engine("local", 1), tmp_path, "limit", "slow") == {
            "limit": "7000000", "slow": "slow on cpu"
        }  # fmt: skip
    finally:
        set_largest_file(before)
    (bug,) = outcomes(scan_engine("local", 3), tmp_path, "bug").values()  # a single job needs no process
    assert bug.__traceback__ is not None


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: scan_engine("slurm", 1), "slurm"),
        (lambda: scan_engine("local", 0), "num_workers"),
        (lambda: engine("slurm", 1, 1, None), "slurm"),
        (lambda: engine("local", 1, 0, None), "folds_on_cpu"),
        (lambda: engine("local", 0, 1, None), "folds_per_gpu"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(make, word):
    with refused(word):
        make()


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes on this machine: its address."""
    ray = pytest.importorskip("ray")
    os.environ.update({"RAY_raylet_start_wait_time_s": "300"})  # other tests run beside this one
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    started.add_node(num_cpus=1)
    started.wait_for_nodes()
    yield started.address
    ray.shutdown()
    started.shutdown()


@pytest.mark.other_programs
def test_a_ray_cluster_gives_what_processes_here_give_and_outlives_a_killed_worker(cluster, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the workers find the jobs
    where = scan_engine("ray", 1, cluster)
    # a task asks for no more cores than the largest machine has, or it would wait for ever
    assert RayEngine(cluster, cores=64).needs == {"num_cpus": 1}
    assert where.slots == 2 and len([node for node in ray.nodes() if node["Alive"]]) == 2
    check_all(outcomes(where, tmp_path, *NAMES), tmp_path)


@pytest.mark.other_programs
def test_no_cluster_at_the_address_is_one_line():
    ray = pytest.importorskip("ray")
    ray.shutdown()
    with refused("ray_address", "127.0.0.1:1", "no cluster there"):
        scan_engine("ray", 1, "127.0.0.1:1")
