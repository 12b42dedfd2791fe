"""The real search over simulated candidates: recorded results of a measured table, after recorded seconds.

Algorithm, study, budgets and executors are the package's own; only what a worker does is replaced
by sleeping, and what a target measures by a look into the table.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as parquet

from benchmarks.scaling_job import sleep
from benchmarks.search_replay.measured import read_table
from benchmarks.search_replay.problems import ReplayProblem
from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.files import read_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial
from flashdistill.execution.executor import Executor, Job, Outcome
from flashdistill.ledger import Ledger
from flashdistill.search import Search
from flashdistill.trainings import Trained, Training

STOOD_STILL = 10
"""A training that took so many times the median is taken to have been suspended, and counts as the median."""


@dataclass(frozen=True)
class Recorded:
    """What training and measuring every architecture gave and took.

    Attributes:
        seconds: of training on the machine that made the table, by architecture.
    """

    config: RunConfig
    problem: ReplayProblem
    seconds: Mapping[Architecture, float]

    @property
    def mean_seconds(self) -> float:
        return statistics.fmean(self.seconds.values())

    @classmethod
    def read(cls, directory: Path) -> Recorded:
        """From a table directory, see `benchmarks.search_replay.measured`."""
        rows = parquet.read_table(directory / "table.parquet", columns=["architecture", "train_seconds"]).to_pydict()
        taken: dict[Architecture, list[float]] = {}
        for name, seconds in zip(rows["architecture"], rows["train_seconds"], strict=True):
            taken.setdefault(Architecture.parse(name), []).append(seconds)
        config = RunConfig.model_validate(read_json(directory / "provenance.json")["config"])
        mean = {architecture: statistics.fmean(all_of_it) for architecture, all_of_it in taken.items()}
        usual = statistics.median(mean.values())
        seconds = {one: usual if mean[one] > STOOD_STILL * usual else mean[one] for one in mean}
        return cls(config, read_table(directory).problem(), seconds)


class VirtualTime(Executor):
    """Workers whose seconds pass at once: for the order in which trainings end, which is all that a search sees.

    Attributes:
        now: virtual seconds since the beginning.
    """

    def __init__(self, workers: int):
        self.places, self.now = workers, 0.0
        self._ends: list[tuple[float, int, Job]] = []
        self._count = 0

    def submit(self, job: Job) -> None:
        assert len(self._ends) < self.places, "there is no queue"
        self._count += 1
        heapq.heappush(self._ends, (self.now + job.work.args[0], self._count, job))  # type: ignore[attr-defined]

    def completed(self) -> Outcome:
        self.now, _, job = heapq.heappop(self._ends)
        return Outcome(job)

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        self._ends.clear()


@dataclass
class SimulatedBench:
    """Stands for a `Workbench` before the search.

    Attributes:
        scale: a candidate sleeps this share of the recorded seconds.
        order: what was trained, in the order of its beginning.
        results: of the jobs under way, by their names. Workers have no part in them: unpickling
            one would have each of many sleeping workers import PyTorch.
    """

    recorded: Recorded
    config: RunConfig
    directory: RunDirectory
    executor: Executor
    scale: float
    progress: Progress = field(default_factory=Silent)
    order: list[Architecture] = field(default_factory=list)
    results: dict[str, list[Trained]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.family = self.config.student_family(self.config.teacher.vocabulary or 0)
        self.scales = SimpleNamespace(all=[], measure=self._measured)

    def num_parameters(self, architecture: Architecture) -> int:
        return int(self._run(architecture).measurements["num_parameters"].value)

    def at_targets(self, name: str, work: Callable[[Any], Any]) -> Any:
        return work(self)

    def completed(self) -> Outcome:
        outcome = self.executor.completed()
        return replace(outcome, value=self.results.pop(outcome.job.name))

    def work_directory(self, architecture: Architecture, budget: str, repeat: int = 0) -> Path:
        return self.directory.candidate(architecture) / budget

    def job(self, name: str, work: Callable[[Any], Any], processes: int = 1) -> Job:
        """The job of a training: to sleep as long as it took."""
        training: Training = work.args[0]  # type: ignore[attr-defined]
        self.results[name] = [Trained(one, scores=self._scores(one)) for one in training.architectures]
        self.order.extend(training.architectures)
        seconds = sum(self.recorded.seconds[one] for one in training.architectures)
        return Job(name, partial(sleep, seconds * self.scale))

    def _run(self, architecture: Architecture) -> Trial:
        return self.recorded.problem.run(architecture, 0, self.config.seed)

    def _scores(self, architecture: Architecture) -> dict[str, Measurement]:
        return {"mlm_accuracy": self._run(architecture).measurements["mlm_accuracy"]}

    def _measured(self, architecture: Architecture) -> dict[str, Measurement]:
        return {"latency_ms": self._run(architecture).measurements["latency_ms"]}


@dataclass(frozen=True)
class Searched:
    """One search.

    Attributes:
        order: the baseline, which is trained alone, and the others in the order of their beginning.
        seconds: wall time.
        thinking: of them, in the algorithm.
    """

    order: list[Architecture]
    seconds: float
    thinking: float


def search(
    recorded: Recorded,
    executor: Executor,
    directory: Path,
    *,
    algorithm: str,
    trials: int,
    seed: int,
    scale: float = 1.0,
) -> Searched:
    """Run the package's search over simulated candidates in a new directory."""
    settings = recorded.config.search.model_copy(update={"algorithm": algorithm, "trials": trials})
    update = {"search": settings, "seed": seed, "output": directory, "baseline": recorded.problem.baseline}
    run = RunDirectory(directory)
    run.create()
    bench: Any = SimulatedBench(recorded, recorded.config.model_copy(update=update), run, executor, scale)
    ledger = Ledger(run)
    with Search.opened(bench, ledger) as opened:
        begin = time.monotonic()
        found = opened.run()
        seconds = time.monotonic() - begin
    assert len({trial.architecture for trial in found}) == trials + 1, "every trial once"
    return Searched(bench.order, seconds, ledger.costs.get("search", 0.0))


def ideal_seconds(durations: list[float], workers: int) -> float:
    """When the last of these would end at the earliest: the first alone, the others in order on whatever is free."""
    free = [durations[0]] * workers
    for duration in durations[1:]:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)
