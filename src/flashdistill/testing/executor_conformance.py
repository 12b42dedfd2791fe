"""What every executor must do; an executor's test class inherits this.

class TestMyExecutor(ExecutorConformance):
    @classmethod
    def make_executor(cls, workers, surroundings): return MyExecutor(...)
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.core.progress import Silent
from flashdistill.execution.executor import Executor, Job, Surroundings, Worker


class Shown(Silent):
    """Keeps what a progress is told."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.texts: list[str] = []
        self.open: set[str] = set()

    def start(self, task: str, total: int | None = None) -> None:
        self.steps[task] = 0
        self.open.add(task)

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.steps[task] += steps

    def finish(self, task: str) -> None:
        self.open.discard(task)

    def message(self, text: str) -> None:
        self.texts.append(text)


def square(number: int, worker: Worker) -> tuple[int, int]:
    """Its square, and the process that computed it."""
    return number * number, os.getpid()


def fail(worker: Worker) -> None:
    raise CorpusError("line 7 of a.txt is no text")


def show(worker: Worker) -> str:
    """Advance by a hundred steps and leave a task unfinished."""
    worker.progress.start("count", 100)
    for _ in range(100):
        worker.progress.advance("count", note="counting")
    worker.progress.finish("count")
    worker.progress.message("counted to 100")
    return "shown"


def stay(directory: Path, worker: Worker) -> int:
    """Note in a directory how many are there at the same time."""
    mine = directory / f"{os.getpid()}-{worker.place}"
    mine.touch(exist_ok=False)
    time.sleep(0.2)
    together = len(list(directory.iterdir()))
    mine.unlink()
    return together


class ExecutorConformance(ABC):
    """Inherited tests; the subclass says how to make an executor."""

    several = True
    """Whether it can have more than one worker."""

    @classmethod
    @abstractmethod
    def make_executor(cls, workers: int, surroundings: Surroundings) -> Executor:
        """An executor with so many workers."""

    @pytest.fixture(scope="class")
    @classmethod
    def shown(cls) -> Shown:
        return Shown()

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, tmp_path_factory: pytest.TempPathFactory, shown: Shown) -> Iterator[Executor]:
        """One for all tests, since starting it may take seconds."""
        surroundings = Surroundings(tmp_path_factory.mktemp("conformance"), shown)
        with cls.make_executor(2 if cls.several else 1, surroundings) as executor:
            yield executor

    def test_every_job_has_one_outcome(self, executor: Executor) -> None:
        for number in range(5):
            executor.submit(Job(f"square {number}", partial(square, number)))
        found = [executor.completed() for _ in range(5)]
        assert {outcome.job.name: outcome.get()[0] for outcome in found} == {f"square {n}": n * n for n in range(5)}
        assert all(outcome.seconds >= 0 for outcome in found)
        assert all((outcome.get()[1] != os.getpid()) is executor.apart for outcome in found)
        with pytest.raises(RuntimeError, match="no job was submitted"):
            executor.completed()

    def test_the_error_of_a_job_is_its_own(self, executor: Executor) -> None:
        executor.submit(Job("fails", fail))
        outcome = executor.completed()
        with pytest.raises(CorpusError) as raised:
            outcome.get()
        assert str(raised.value) == "line 7 of a.txt is no text"
        executor.submit(Job("square", partial(square, 3)))
        assert executor.completed().get()[0] == 9

    def test_its_progress_is_shown_here(self, executor: Executor, shown: Shown) -> None:
        executor.submit(Job("shows", show))
        assert executor.completed().get() == "shown"
        assert shown.steps == {"count": 100}
        assert shown.texts == ["counted to 100"]
        assert not shown.open

    def test_no_more_jobs_run_than_there_are_places(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        for number in range(4):
            executor.submit(Job(f"stay {number}", partial(stay, tmp_path / "there")))
        together = [executor.completed().get() for _ in range(4)]
        assert max(together) <= executor.places

    def test_a_pause_is_followed_by_more_work(self, executor: Executor) -> None:
        executor.submit(Job("square 2", partial(square, 2)))
        with executor.paused(), executor.paused():
            pass
        assert executor.completed().get()[0] == 4

    def test_closing_twice_is_closing(self, tmp_path: Path) -> None:
        executor = self.make_executor(1, Surroundings(tmp_path))
        executor.submit(Job("square 2", partial(square, 2)))
        executor.close()
        executor.close()
