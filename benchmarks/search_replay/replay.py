"""One search, replayed on a table; and all of them, each kept on disk as soon as it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from benchmarks.search_replay.measured import MEASURED, SMOOTHED, read_table
from benchmarks.search_replay.methods import METHODS
from benchmarks.search_replay.problems import MOST_WANTED, SYNTHETIC, ReplayProblem, synthetic_problem
from benchmarks.search_replay.stopping import FULL, ended_early
from flashdistill.core.files import content_key, read_json, write_json


@dataclass(frozen=True)
class Job:
    """One search to be replayed.

    Attributes:
        table: directory of the measured table.
        iterations: how far the search goes at least, for its curve.
        budget: where it ends at last.
    """

    problem: str
    density: float
    method: str
    seed: int
    table: str
    iterations: int
    budget: int

    def place(self, work: Path) -> Path:
        return work / self.problem / f"{self.density:g}" / self.method / f"{self.seed}.json"


@dataclass(frozen=True)
class Run:
    """What a search did, one entry per suggestion.

    Attributes:
        seconds: of CPU that the suggestion took, on one thread.
        steps: share of the training steps that were spent on it, less than 1 where it was stopped.
    """

    architectures: list[str]
    seconds: list[float]
    steps: list[float]


@lru_cache(maxsize=64)
def problem_of(name: str, density: float, table: str) -> ReplayProblem:
    """A problem by name with its baseline.

    Raises:
        ValueError: no such problem.
        InputError: the measured table is missing or incomplete.
    """
    if name in (MEASURED, SMOOTHED):
        return read_table(Path(table)).problem(smoothed=name == SMOOTHED).at_density(density)
    if not name.startswith(SYNTHETIC) or not name.removeprefix(SYNTHETIC).isdigit():
        raise ValueError(f"no problem {name!r}: write {MEASURED}, {SMOOTHED} or {SYNTHETIC}0, {SYNTHETIC}1, ...")
    return synthetic_problem(int(name.removeprefix(SYNTHETIC))).at_density(density)


def replay(job: Job) -> Run:
    """Search until the third winner is trained and the curve is complete, or the budget is spent."""
    problem, method = problem_of(job.problem, job.density, job.table), METHODS[job.method]
    searcher = method.open(problem, job.seed)
    history = [problem.run(problem.baseline, 0, job.seed)]
    searcher.tell(history[0])
    done, found = Run([], [], []), set()
    while len(done.seconds) < job.budget:
        if len(done.seconds) >= job.iterations and len(found) >= MOST_WANTED:
            break
        begun = time.process_time()
        architecture = searcher.suggest()
        seconds = time.process_time() - begun
        if architecture is None:
            break
        trial, steps = problem.run(architecture, len(history), job.seed), FULL
        if method.early_stopping:
            trial, steps = ended_early(trial, history)
        if steps == FULL and architecture in problem.dominating:
            found.add(architecture)
        history.append(trial)
        searcher.tell(trial)
        done.architectures.append(str(architecture))
        done.seconds.append(round(seconds, 5))
        done.steps.append(steps)
    return done


def fingerprint(job: Job) -> str:
    """Changes with whatever the result depends on: the problem, the method's code, the lengths."""
    problem, method = problem_of(job.problem, job.density, job.table), METHODS[job.method]
    return content_key(problem.fingerprint, method.version(), job.seed, job.iterations, job.budget)


def finished(job: Job, work: Path) -> Run:
    """The result, from disk or made now and kept.

    Raises:
        ImportError: a package of the method is not installed.
    """
    place, key = job.place(work), fingerprint(job)
    if place.exists() and (kept := read_json(place))["fingerprint"] == key:
        return Run(**kept["run"])
    run = replay(job)
    write_json(place, {"fingerprint": key, "run": asdict(run)})
    return run


def replay_all(jobs: Sequence[Job], work: Path, workers: int) -> Iterator[tuple[Job, Run | Exception]]:
    """Every job with its result, or with why it has none, as they come."""
    if workers == 1:
        _one_thread()
        for job in jobs:
            yield job, _attempt(job, work)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    with pool:
        waiting = {pool.submit(_attempt, job, work): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _attempt(job: Job, work: Path) -> Run | Exception:
    try:
        return finished(job, work)
    except Exception as error:
        # A peer that breaks is a row less, never the end of the benchmark.
        return RuntimeError(f"{type(error).__name__}: {error}".splitlines()[0])


def one_thread_environment(work: Path) -> None:
    """Limit every library to one thread, and give kernels that a peer compiles a place of their own.

    A lock that a killed compilation left there would hang the next one for ever.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    kernels = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str((work / "kernels").resolve())))
    if kernels == (work / "kernels").resolve():
        for lock in kernels.glob("*/lock"):
            lock.unlink()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
