"""Child processes: what a crash, a memory hog, a kill and an interrupt do to the others. Nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from flashdistill.core.errors import FlashDistillError
from flashdistill.execution import processes
from flashdistill.execution.executor import Executor, Job, Surroundings, WorkerLostError
from flashdistill.execution.processes import ProcessExecutor
from flashdistill.execution.settings import ExecutionSettings
from flashdistill.testing.executor_conformance import ExecutorConformance, Shown, square
from tests.execution import jobs
from tests.faults_catalogue import fault


def make(surroundings: Surroundings, **settings: object) -> ProcessExecutor:
    return ProcessExecutor(ExecutionSettings.model_validate(settings), surroundings)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Alive, and neither a zombie nor suspended."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


class TestProcesses(ExecutorConformance):
    @classmethod
    def make_executor(cls, workers: int, surroundings: Surroundings) -> Executor:
        return make(surroundings, workers=workers)


@pytest.fixture(scope="module")
def shown() -> Shown:
    return Shown()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, shown: Shown) -> Iterator[ProcessExecutor]:
    with make(Surroundings(tmp_path_factory.mktemp("logs"), shown), memory_gib=1) as executor:
        yield executor


@pytest.fixture
def executor(shared: ProcessExecutor, shown: Shown) -> ProcessExecutor:
    """One worker with 1 GiB, which survives every test."""
    shown.texts.clear()
    return shared


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    return Surroundings(tmp_path / "logs")


def then_the_next_runs(executor: Executor, seconds: float = 20) -> None:
    begin = time.monotonic()
    executor.submit(Job("the next", partial(square, 5)))
    assert executor.completed().get()[0] == 25
    assert time.monotonic() - begin < seconds


@fault(7, "a training that segfaults, aborts or exits")
def test_every_way_to_crash(executor: ProcessExecutor, shown: Shown, caplog: pytest.LogCaptureFixture) -> None:
    ways = {
        "crashed (SIGSEGV)": partial(jobs.end_by, signal.SIGSEGV),
        "crashed (SIGABRT)": partial(jobs.end_by, signal.SIGABRT),
        "crashed (SIGILL)": partial(jobs.end_by, signal.SIGILL),
        "crashed (exit code 3)": partial(jobs.leave, 3),
        "crashed (exit code 0)": partial(jobs.leave, 0),
    }
    for reason, work in ways.items():
        executor.submit(Job("crash", work))
        with pytest.raises(WorkerLostError) as lost:
            executor.completed().get()
        assert str(lost.value) == reason
        assert isinstance(lost.value, FlashDistillError)
        assert not shown.open, "what it has begun is not shown for ever"
        then_the_next_runs(executor)
    assert "crash: crashed (SIGSEGV); the end of" in caplog.text
    assert "these are my last words" in caplog.text
    assert "Fatal Python error: Segmentation fault" in caplog.text


@fault(7, "a training that takes more than its memory")
def test_more_memory_than_the_limit(executor: ProcessExecutor) -> None:
    executor.submit(Job("hog", partial(jobs.hog, 2.5)))
    with pytest.raises(WorkerLostError, match=r"^out of memory \(1\.\d\d GiB of 1\.00 GiB\)$"):
        executor.completed().get()
    then_the_next_runs(executor)


@fault(7, "a training killed by the kernel for its memory")
def test_the_system_kills_a_worker_for_its_memory(executor: ProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's killer sends SIGKILL like anybody else, but it counts."""
    counts = iter(range(100))
    monkeypatch.setattr("flashdistill.execution.attempt.oom_kills", lambda: next(counts))
    executor.submit(Job("hog", partial(jobs.end_by, signal.SIGKILL)))
    with pytest.raises(WorkerLostError, match=r"^out of memory \(killed by the system at 0\.\d\d GiB\)$"):
        executor.completed().get()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@fault(7, "SIGKILL of a worker", "it begins again, once")
def test_killed_from_outside_it_begins_again_once(
    executor: ProcessExecutor, shown: Shown, tmp_path: Path, number: signal.Signals
) -> None:
    executor.submit(Job("kill me", partial(jobs.killed_the_first_times, 1, tmp_path / "count", number)))
    assert executor.completed().get() == 2
    assert shown.texts == [f"kill me: the process was killed ({number.name}); going on from its last checkpoint"]
    executor.submit(Job("kill me", partial(jobs.killed_the_first_times, 2, tmp_path / "again", number)))
    with pytest.raises(WorkerLostError, match=rf"^killed \({number.name}\), 2 times in all$"):
        executor.completed().get()
    assert (tmp_path / "again").read_text() == "2"


@fault(7, "SIGKILL of the process that makes workers", "the jobs begin again")
def test_the_nursery_is_killed(surroundings: Surroundings, tmp_path: Path) -> None:
    with make(surroundings, workers=2) as executor:
        executor.submit(Job("train", partial(jobs.train, tmp_path / "step")))
        until((tmp_path / "alive").exists)
        pid = int((tmp_path / "alive").read_text())
        assert executor._nursery is not None
        os.kill(executor._nursery._process.pid, signal.SIGKILL)
        until(lambda: not is_running(pid), 5)
        until(lambda: (tmp_path / "alive").read_text() != str(pid))
        executor.submit(Job("square", partial(square, 4)))
        assert executor.completed().get()[0] == 16


def test_two_at_a_time_in_different_places(surroundings: Surroundings, tmp_path: Path) -> None:
    with make(surroundings, workers=2) as executor:
        executor.submit(Job("train", partial(jobs.train, tmp_path / "step")))
        until((tmp_path / "alive").exists)
        executor.submit(Job("other", jobs.threads_and_place))
        threads, place, group, directory = executor.completed().get()
    assert threads == max(1, torch.get_num_threads() // 2)
    assert place == 1
    assert group not in (os.getpgrp(), 0)
    assert directory == str(Path.cwd())


def test_a_pause_suspends_them_and_closing_keeps_what_they_have(surroundings: Surroundings, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    with make(surroundings) as executor:
        executor.submit(Job("train", partial(jobs.train, tmp_path / "step")))
        executor.submit(Job("never begun", partial(square, 2)))
        until(alive.exists)
        pid = int(alive.read_text())
        with executor.paused():
            until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            begin = alive.stat().st_mtime_ns
            time.sleep(0.3)
            assert alive.stat().st_mtime_ns == begin
        until(lambda: alive.stat().st_mtime_ns > begin)
    assert int((tmp_path / "step").read_text()) > 0
    assert not is_running(pid)


def test_one_that_does_not_stop_is_killed(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    with make(surroundings) as executor:
        executor.submit(Job("child", partial(jobs.with_a_child, tmp_path / "pid")))
        until((tmp_path / "pid").exists)
    until(lambda: not is_running(int((tmp_path / "pid").read_text())), 5)


def test_logging_comes_home(executor: ProcessExecutor, caplog: pytest.LogCaptureFixture) -> None:
    executor.submit(Job("complains", jobs.complain))
    executor.completed().get()
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("flashdistill.oven", "it is burning")
    assert "ValueError: too hot" in str(record.exc_text)


def test_what_cannot_be_sent_is_an_error(executor: ProcessExecutor) -> None:
    with pytest.raises(AttributeError, match="pickle"):
        executor.submit(Job("local", lambda worker: None))
    executor.submit(Job("result", jobs.unpicklable))
    with pytest.raises(AttributeError, match="pickle") as failed:
        executor.completed().get()
    assert "in a worker process:" in failed.value.__notes__[0]


COORDINATOR = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has jobs in the background ignore it
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from flashdistill.execution.executor import Job, Surroundings
from flashdistill.execution.processes import ProcessExecutor
from flashdistill.execution.settings import ExecutionSettings
from tests.execution import jobs

place = Path(sys.argv[1])
with ProcessExecutor(ExecutionSettings(), Surroundings(place)) as executor:
    executor.submit(Job("train", partial(jobs.train, place / "step")))
    while not (place / "alive").exists():
        time.sleep(0.02)
    if sys.argv[2] == "paused":
        with executor.paused():
            print("ready", flush=True)
            time.sleep(60)
    print("ready", flush=True)
    executor.completed()
"""


@contextmanager
def coordinator(place: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", COORDINATOR, str(place), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("mode", ["waiting", "paused"])
@fault(1, "SIGKILL of a coordinator with workers", "no worker survives it")
def test_a_killed_coordinator_leaves_no_orphan(tmp_path: Path, mode: str) -> None:
    with coordinator(tmp_path, mode) as killed:
        pid = int((tmp_path / "alive").read_text())
        others = psutil.Process(killed.pid).children(recursive=True)
        assert pid in {one.pid for one in others}
        killed.kill()
        killed.communicate()
        until(lambda: not any(is_running(one.pid) for one in others), 1)
    assert not (tmp_path / "step").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_coordinator_has_its_jobs_stopped(tmp_path: Path, number: signal.Signals) -> None:
    with coordinator(tmp_path, "waiting") as interrupted:
        pid = int((tmp_path / "alive").read_text())
        interrupted.send_signal(number)
        _, errors = interrupted.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert int((tmp_path / "step").read_text()) > 0
    assert not is_running(pid)
