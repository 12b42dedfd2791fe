"""The search: baseline, latency probes, then suggestions until the budget of trials is spent.

Everything that is found is in the study at once, so a search that was killed goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Self

from flashdistill import results
from flashdistill.budgets import resolve_budgets
from flashdistill.candidate import Candidates, measure
from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import FlashDistillError, InputError
from flashdistill.core.progress import tracked
from flashdistill.core.registry import load
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import Algorithm, SearchProblem
from flashdistill.exploration.algorithms.probes import probe_design
from flashdistill.exploration.ownership import Owner
from flashdistill.exploration.settings import ALGORITHMS
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.storage import sqlite_url
from flashdistill.exploration.study import Study
from flashdistill.interim import unscored
from flashdistill.ledger import Ledger
from flashdistill.preflight import kept_prior
from flashdistill.results import MEASURED_PER_TRAINED
from flashdistill.trainings import Trainings, failure_reason
from flashdistill.workbench import Workbench

FLASH = "flash distillation"


class Search:
    """One run's search.

    Attributes:
        study: open until `close`.
    """

    def __init__(self, bench: Workbench, ledger: Ledger):
        self.bench, self.ledger = bench, ledger
        self.directory, self.progress = bench.directory, bench.progress
        config = bench.config
        self._trainings = Trainings(bench)
        self._under_way: dict[str, Candidates] = {}
        self.space = DesignSpace(config.space, bench.family)
        started = int(self.directory.state().get("started_trials", 0))
        url = config.search.storage or sqlite_url(self.directory.study)
        owner = Owner.of(self.directory)
        self.study = Study.open(
            url, config.name, config.objectives, self.space.factors, config.constraints, started, owner
        )

    @classmethod
    @contextmanager
    def opened(cls, bench: Workbench, ledger: Ledger) -> Iterator[Self]:
        """A search whose study is closed on leaving."""
        search = cls(bench, ledger)
        try:
            yield search
        finally:
            search.study.close()

    def run(self) -> list[Trial]:
        """Search until enough is trained, far too much measured, or the space exhausted; the trials of the study.

        Raises:
            FlashDistillError: the baseline, to which everything is relative, failed.
        """
        settings = self.bench.config.search
        algorithm: Algorithm = load(ALGORITHMS, settings.algorithm, "search algorithm")(self.problem)
        if settings.early_stopping and (unknown := unscored(self.bench.config.objectives)):
            self.progress.message(
                f"search.early_stopping has no effect: {', '.join(unknown)} is not scored in the middle of a training"
            )
        self._baseline()
        if not _spent(self.study.trials(), settings.trials):
            self._probe()
        self._explore(algorithm)
        trials = self.study.trials()
        if reason := results.shortfall(trials, self.bench):
            self.progress.message(reason)
        return trials

    def _explore(self, algorithm: Algorithm) -> None:
        """As soon as there is a free place the algorithm is asked what to do with it, with the others pending."""
        while True:
            while self._trainings.free_places > 0 and (pending := self._next(algorithm)):
                self._begin(pending)
            if not self._under_way:
                return
            self._end()

    def _next(self, algorithm: Algorithm) -> list[Trial]:
        """What a killed process left unfinished, else new trials; as many as are trained side by side."""
        trials = self.study.trials()
        busy = {number for candidates in self._under_way.values() for number in candidates.numbers}
        left = [trial for trial in trials if trial.state is TrialState.PENDING and trial.number not in busy]
        if left:
            return left if self.bench.executor.places == 1 else left[: self.bench.config.flash.students_per_teacher]
        if _spent(trials, self.bench.config.search.trials):
            return []
        return [self._start(suggestion) for suggestion in self._suggested(algorithm, trials)]

    @cached_property
    def problem(self) -> SearchProblem:
        """What is searched for, with what another run knows about it."""
        config = self.bench.config
        prior = kept_prior(self.directory)
        return SearchProblem(config.objectives, config.constraints, config.baseline, config.search.goal, prior)

    def _baseline(self) -> None:
        """Trial 0: everything relative refers to it, so its failure ends the run."""
        resolve_budgets(self.bench, self.ledger.costs)
        trials = self.study.trials()
        if not trials:
            trials = [self._start(self.bench.config.baseline)]
        if trials[0].state is TrialState.PENDING:
            self._begin(trials[:1])
            while self._under_way:
                self._end()
        baseline = self.study.trials()[0]
        if baseline.state is not TrialState.COMPLETE:
            raise FlashDistillError(f"the baseline {baseline.architecture} failed: {baseline.reason}")

    def _probe(self) -> None:
        """Measure architectures spread over the space, for the models of what needs no training.

        One that cannot be measured is left out; as a candidate it will fail with its reason.
        """
        wanted = self.bench.config.search.latency_probes
        if not wanted:
            return
        known = {trial.architecture for trial in (*self.study.trials(), *self.study.probes())}
        design = probe_design(self.space, self.problem, wanted, self.bench.config.seed)
        with tracked(self.progress, "latency probes", len(design)):
            for architecture in design:
                if architecture not in known:
                    self._probe_one(architecture)
                self.progress.advance("latency probes")

    def _probe_one(self, architecture: Architecture) -> None:
        costs: dict[str, float] = {}
        try:
            measured = measure(self.bench, architecture, costs)
        except (InputError, OSError):
            raise
        except Exception as error:
            self.progress.message(f"latency probe {architecture} is left out: {failure_reason(error)}")
        else:
            finite = {name: measurement for name, measurement in measured.items() if measurement.finite}
            self.study.add_probe(architecture, finite)
        self.ledger.charge(costs, FLASH)

    def _suggested(self, algorithm: Algorithm, trials: Sequence[Trial]) -> list[Architecture]:
        """As many architectures as are trained side by side, within the budget; none when there are no more."""
        config = self.bench.config
        places = max(1, min(config.flash.students_per_teacher, config.search.trials - _trained(trials)))
        with timed(self.ledger.costs, "search"):
            return algorithm.suggest(self.space, [*trials, *self.study.probes()], places, config.seed)

    def _start(self, architecture: Architecture) -> Trial:
        trial = self.study.start(architecture)
        self.directory.remember(started_trials=trial.number + 1)
        return trial

    def _begin(self, pending: Sequence[Trial]) -> None:
        """Measure candidates, and have those trained that keep the limits."""
        trials = self.study.trials()
        baseline = {} if pending[0].number == 0 else trials[0].measurements
        reference = {name: measurement.value for name, measurement in baseline.items()}
        candidates = Candidates(self.bench, pending, reference, self.study.probes())
        if (training := candidates.training(trials)) is None:
            self._record(candidates)
            return
        self._under_way[training.name] = candidates
        self._trainings.begin(training)

    def _end(self) -> None:
        """Wait for a training and record its candidates."""
        training, trained = self._trainings.ended()
        candidates = self._under_way.pop(training.name)
        candidates.take(trained)
        self._record(candidates)

    def _record(self, candidates: Candidates) -> None:
        for trial in candidates.recorded():
            self.study.finish(trial)
            checkpoints = self.bench.work_directory(trial.architecture, "flash") / "checkpoints"
            shutil.rmtree(checkpoints, ignore_errors=True)
            self.ledger.charge(trial.costs, FLASH)
            self.progress.message(results.describe(trial, self.bench))
        self.progress.status(results.summary(self.study.trials(), self.bench))


def _spent(trials: Sequence[Trial], budget: int) -> bool:
    """Whether the search is over: enough students trained, or far more than enough measured.

    A student that breaks a limit costs a measurement and no training, so it does not count as
    one of ``search.trials``; but a limit that nearly all break must not keep us measuring.
    """
    return _trained(trials) >= budget or len(trials) - 1 >= MEASURED_PER_TRAINED * budget


def _trained(trials: Sequence[Trial]) -> int:
    return sum(trial.state is not TrialState.INFEASIBLE for trial in trials[1:])
