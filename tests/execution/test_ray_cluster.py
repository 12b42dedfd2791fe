"""A Ray cluster on this machine: two workers, a serving node, and what happens when a worker is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flashdistill.core.errors import InputError
from flashdistill.execution import ray_cluster
from flashdistill.execution.executor import Executor, Job, Surroundings, WorkerLostError
from flashdistill.execution.ray_connection import compare, connect
from flashdistill.execution.ray_worker import pack, unpack
from flashdistill.execution.settings import ExecutionSettings
from flashdistill.testing.executor_conformance import ExecutorConformance, Shown, square
from tests.execution import jobs
from tests.faults_catalogue import fault

ray = pytest.importorskip("ray")


def settings(**values: object) -> ExecutionSettings:
    return ExecutionSettings.model_validate({"kind": "ray", "threads": 1, "memory_gib": 1, **values})


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two processors and one unit of serving hardware, for all tests here."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(["src", str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}}
    ray.init(num_cpus=2, resources={"serving": 1}, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    yield
    ray.shutdown()


class TestRay(ExecutorConformance):
    @classmethod
    def make_executor(cls, workers: int, surroundings: Surroundings) -> Executor:
        return ray_cluster.RayExecutor(settings(workers=workers), surroundings)


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown()


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory, shown: Shown) -> Iterator[ray_cluster.RayExecutor]:
    logs = tmp_path_factory.mktemp("logs")
    with ray_cluster.RayExecutor(settings(workers=1), Surroundings(logs, shown)) as made:
        yield made


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.05)


@fault(7, "a native crash and a memory hog on a Ray cluster", "failed with the reason; the worker takes the next job")
def test_a_crash_is_the_job_s_and_the_worker_stays(executor: ray_cluster.RayExecutor) -> None:
    executor.submit(Job("crash", partial(jobs.end_by, signal.SIGSEGV)))
    with pytest.raises(WorkerLostError, match=r"^crashed \(SIGSEGV\)$"):
        executor.completed().get()
    executor.submit(Job("hog", partial(jobs.hog, 2.5)))
    with pytest.raises(WorkerLostError, match=r"^out of memory \(1\.\d\d GiB of 1\.00 GiB\)$"):
        executor.completed().get()
    executor.submit(Job("square", partial(square, 3)))
    assert executor.completed().get()[0] == 9


@fault(16, "SIGKILL of a Ray worker", "its job begins again on another one")
def test_a_lost_worker_s_job_begins_again_elsewhere(
    executor: ray_cluster.RayExecutor, shown: Shown, tmp_path: Path
) -> None:
    executor.submit(Job("train", partial(jobs.killed_with_its_worker, tmp_path / "count")))
    assert executor.completed().get() == 2
    assert [text for text in shown.texts if text.startswith("train: its worker is lost (")]


def test_a_job_that_loses_every_worker_fails(
    executor: ray_cluster.RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "LOSSES", 0)
    executor.submit(Job("train", partial(jobs.killed_with_its_worker, tmp_path / "count")))
    with pytest.raises(WorkerLostError, match="^lost its worker 1 times, lastly: "):
        executor.completed().get()


def test_what_measures_runs_where_it_is_served(executor: ray_cluster.RayExecutor, tmp_path: Path) -> None:
    assert executor.serves
    executor.submit(Job("train", partial(jobs.train, tmp_path / "step")))
    until((tmp_path / "alive").exists)
    assert executor.serve(Job("measure", partial(square, 7))).get()[0] == 49
    with executor.paused():
        written = (tmp_path / "alive").stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / "alive").stat().st_mtime_ns == written, "a worker on this machine is suspended"
    until(lambda: (tmp_path / "alive").stat().st_mtime_ns > written)
    (tmp_path / "enough").touch()
    assert executor.completed().get() == "trained"


def test_directories_travel_to_machines_that_lack_them(executor: ray_cluster.RayExecutor, tmp_path: Path) -> None:
    """The driver has it; the worker says that it lacks it, because it is hidden until the job is there."""
    (tmp_path / "teacher" / "deep").mkdir(parents=True)
    (tmp_path / "teacher" / "deep" / "weights").write_bytes(b"\x00\x01")
    archive = pack(tmp_path / "teacher")
    unpack(tmp_path / "elsewhere", archive)
    assert (tmp_path / "elsewhere" / "deep" / "weights").read_bytes() == b"\x00\x01"
    unpack(tmp_path / "elsewhere", {"other": b""})
    assert not (tmp_path / "elsewhere" / "other").exists(), "what is there stays as it is"
    executor._packed[tmp_path / "moved"] = ray.put(archive)
    executor.submit(Job("reads", partial(jobs.contents, tmp_path / "moved"), needs=(tmp_path / "moved",)))
    assert executor.completed().get() == ["deep", "deep/weights"]


def test_too_much_is_asked_for(tmp_path: Path) -> None:
    nodes = [{"Resources": {"CPU": 2.0}}]
    asked = settings(resources_per_training={"num_cpus": 1, "num_gpus": 0.5})
    with pytest.raises(InputError, match="asks for 1 CPUs and 0.5 GPUs, but no machine of the Ray cluster has that; "):
        compare(nodes, asked, Surroundings(tmp_path))
    shown = Shown()
    elsewhere = asked.model_copy(update={"address": "10.0.0.1:6379"})
    compare(nodes, elsewhere, Surroundings(tmp_path, shown))
    assert shown.texts[0].endswith("no machine of the Ray cluster has that now; waiting until one joins")
    nodes.append({"Resources": {"CPU": 8.0, "GPU": 1.0}})
    compare(nodes, asked, Surroundings(tmp_path))


def test_a_path_that_is_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /scratch")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match="its path is too long for them .*; set RAY_TMPDIR to a short one"):
        connect(settings(), Surroundings(tmp_path))


@pytest.mark.slow
def test_several_processes_train_together(executor: ray_cluster.RayExecutor, shown: Shown) -> None:
    """Two add up 1 and their rank; what the first says is shown."""
    shown.texts.clear()
    executor.submit(Job("together", jobs.summed_ranks, processes=2))
    assert executor.completed().get() == [2.0, 1.0]
    assert shown.texts == ["process 0 of 2"]
    executor.submit(Job("together", jobs.fails_together, processes=2))
    with pytest.raises(Exception, match="too hot"):
        executor.completed().get()
