"""The life of a run, top to bottom.

    user requirements → teacher and text → baseline → search → Pareto front
      → regular distillation of the selected students → delivery → report

Every step looks first at what the run directory has already, so the same command resumes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from flashdistill import results
from flashdistill.budgets import resolve_budgets
from flashdistill.candidate import failure_reason, run_candidates
from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import now, timed
from flashdistill.core.errors import FlashDistillError, InputError, NothingFeasibleError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, Silent, tracked
from flashdistill.core.registry import load
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.deliver import delivered
from flashdistill.delivery.json_form import decode, encode
from flashdistill.delivery.model_card import write_model_card
from flashdistill.delivery.record import DeliveredModel, RunRecord
from flashdistill.delivery.report import write_report
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, teacher_predictor
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.constraints import nearest_violators
from flashdistill.exploration.selection import select
from flashdistill.exploration.settings import ALGORITHMS
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.storage import sqlite_url
from flashdistill.exploration.study import Study
from flashdistill.hardware.session import require_target
from flashdistill.preflight import claim, quiet_libraries, require_feasible
from flashdistill.regular import distil_and_deliver
from flashdistill.training.compute import Compute, dismissing_others, open_compute
from flashdistill.training.optimizers import require_optimizer
from flashdistill.workbench import Workbench

MEASURED_PER_TRAINED = 4
"""A search gives up after measuring this many students for each that it may train."""


def run(config: RunConfig, progress: Progress, until: Literal["search", "delivery"] = "delivery") -> Path | None:
    """The whole pipeline, or up to the end of the search; returns the report's path.

    Of several processes only the main one returns it; the others take part in the training.

    Raises:
        InputError: something the user gave cannot be used; nothing was trained.
        NothingFeasibleError: no architecture satisfies the constraints.
    """
    with _opened(config, progress) as life:
        if life is None:
            return None
        trials = life.search()
        if until == "search":
            return life.report(trials, [])
        chosen = life.selected(trials)
        life.deliver_all(trials, chosen)
        return life.report(trials, chosen, finished=True)


def distill(config: RunConfig, architecture: Architecture, progress: Progress) -> Path | None:
    """Regular distillation of one architecture; returns the directory of the delivered model.

    Of several processes only the main one returns it; the others take part in the training.
    """
    with _opened(config, progress) as life:
        if life is None:
            return None
        resolve_budgets(life.bench, life.costs)
        model = life.deliver_one(architecture, {})
        write_model_card(model, life.record([], []), life.directory.model(architecture))
        return life.directory.model(architecture)


def report(run_directory: Path) -> Path:
    """Rebuild report and plots of a run from its results."""
    return write_report(RunRecord.load(run_directory), run_directory)


@contextmanager
def _opened(config: RunConfig, progress: Progress) -> Iterator[_Life | None]:
    """Claim the run directory, prepare teacher and text; on leaving, give everything back.

    In all processes but the main one the whole run happens in here, and None is given.
    """
    quiet_libraries()
    for settings in (config.flash, config.regular):
        require_optimizer(settings.optimizer)
    vocabulary, known = config.expected_vocab_size
    if known:
        require_feasible(config, vocabulary)
    compute = open_compute(config.training)
    for settings in (config.flash, config.regular):
        compute.shares(settings.batch_size)  # more processes than sequences are noticed now
    directory = RunDirectory(config.output)
    if not compute.is_main:
        _workbench(config, directory, Silent(), compute).follow()
        compute.close()
        yield None
        return
    directory.create()
    with directory.locked():
        claim(directory, config)
        if hasattr(progress, "attach_log"):
            progress.attach_log(directory.log)  # type: ignore[attr-defined]
        costs: dict[str, float] = dict(directory.state().get("costs", {}))
        for target in (config.target, *config.further_targets.values()):
            require_target(target, directory.measurements, progress)
        with timed(costs, "teacher"):
            bench = _workbench(config, directory, progress, compute)
        try:
            with dismissing_others(compute):
                require_feasible(config, len(bench.prepared.tokenizer))
                yield _Life(bench, costs)
        finally:
            bench.scales.close()
            directory.remember(costs=costs)


def _workbench(config: RunConfig, directory: RunDirectory, progress: Progress, compute: Compute) -> Workbench:
    prepared = prepare_teacher(config.teacher, config.corpus, config.cache_directory, progress, compute)
    return Workbench(config, directory, prepared, progress, compute)


class _Life:
    """The steps of a run."""

    def __init__(self, bench: Workbench, costs: dict[str, float]):
        self.bench, self.costs = bench, costs
        self.directory, self.progress = bench.directory, bench.progress
        self.failures: list[str] = []
        self._worked = False

    def search(self) -> list[Trial]:
        """Baseline first, then suggestions, until the budget of trials is spent or the space is exhausted."""
        config = self.bench.config
        space = DesignSpace(config.space, self.bench.family)
        study = self._study(space)
        problem = SearchProblem(config.objectives, config.constraints, config.baseline, config.search.goal)
        algorithm = load(ALGORITHMS, config.search.algorithm, "search algorithm")(problem)
        self._baseline(study)
        while True:
            trials = study.trials()
            pending = [trial for trial in trials if trial.state is TrialState.PENDING]
            if not pending:
                if _spent(trials, config.search.trials):
                    break
                with timed(self.costs, "search"):
                    suggestions = algorithm.suggest(space, trials, self._places(trials), config.seed)
                if not suggestions:
                    self.progress.message(f"the space is exhausted after {len(trials) - 1} architectures")
                    break
                pending = [self._start(study, suggestion) for suggestion in suggestions]
            self._work_on(study, pending)
        self._require_some_feasible(study.trials())
        study.close()
        return trials

    def selected(self, trials: Sequence[Trial]) -> list[Trial]:
        config = self.bench.config
        return select(trials, config.objectives, config.constraints, config.select, config.baseline)

    def deliver_all(self, trials: Sequence[Trial], chosen: Sequence[Trial]) -> None:
        """Regular distillation of the chosen students, and of the baseline for comparison."""
        settings = self.bench.config.select
        baseline = [trials[0]] if settings.include_baseline and trials[0].state is TrialState.COMPLETE else []
        for trial in [*chosen, *baseline]:
            try:
                self.deliver_one(trial.architecture, trial.measurements)
            except (InputError, OSError):
                raise
            except Exception as error:
                self.failures.append(f"Regular distillation of {trial.architecture} failed: {failure_reason(error)}.")
                self.progress.message(self.failures[-1])
            self.report(trials, chosen)

    def deliver_one(self, architecture: Architecture, flash: Mapping[str, Measurement]) -> DeliveredModel:
        """Regular distillation and delivery; what was delivered before is kept."""
        if (model := delivered(self.directory.model(architecture))) is not None:
            return model
        model = distil_and_deliver(self.bench, architecture, flash)
        self._charge(model.costs, "regular")
        return model

    def record(self, trials: Sequence[Trial], chosen: Sequence[Trial]) -> RunRecord:
        models = [delivered(path) for path in sorted(self.directory.models.glob("[!.]*")) if path.is_dir()]
        state = self.directory.state() | {"costs": self.costs}
        order = {trial.architecture: place for place, trial in enumerate(chosen)}
        known = sorted((m for m in models if m), key=lambda m: (m.is_baseline, order.get(m.architecture, len(order))))
        return results.collect(self.bench, trials, chosen, known, self._teacher_scores(), state, self.failures)

    def report(self, trials: Sequence[Trial], chosen: Sequence[Trial], finished: bool = False) -> Path:
        """Write the report and the model cards with what there is so far."""
        self.directory.remember(costs=self.costs)
        if finished:
            shutil.rmtree(self.directory.signals, ignore_errors=True)
            if self._worked or not self.directory.state().get("finished"):
                self.directory.remember(finished=now())
        record = self.record(trials, chosen)
        for model in record.delivered:
            write_model_card(model, record, self.directory.path / model.directory)
        return write_report(record, self.directory.path)

    def _study(self, space: DesignSpace) -> Study:
        config = self.bench.config
        url = config.search.storage or sqlite_url(self.directory.study)
        started = int(self.directory.state().get("started_trials", 0))
        return Study.open(url, config.name, config.objectives, space.factors, config.constraints, started)

    def _start(self, study: Study, architecture: Architecture) -> Trial:
        trial = study.start(architecture)
        self.directory.remember(started_trials=trial.number + 1)
        return trial

    def _baseline(self, study: Study) -> None:
        """Trial 0: everything relative refers to it, so its failure ends the run."""
        resolve_budgets(self.bench, self.costs)
        trials = study.trials()
        if not trials:
            trials = [self._start(study, self.bench.config.baseline)]
        if trials[0].state is TrialState.PENDING:
            self._work_on(study, trials[:1])
        baseline = study.trials()[0]
        if baseline.state is not TrialState.COMPLETE:
            raise FlashDistillError(f"the baseline {baseline.architecture} failed: {baseline.reason}")

    def _places(self, trials: Sequence[Trial]) -> int:
        """How many candidates to start together: as many as share the teacher, within the budget."""
        config = self.bench.config
        return max(1, min(config.flash.students_per_teacher, config.search.trials - _trained(trials)))

    def _work_on(self, study: Study, pending: Sequence[Trial]) -> None:
        baseline = {} if pending[0].number == 0 else study.trials()[0].measurements
        reference = {name: measurement.value for name, measurement in baseline.items()}
        for trial in run_candidates(self.bench, pending, reference):
            study.finish(trial)
            shutil.rmtree(self.directory.candidate(trial.architecture) / "flash" / "checkpoints", ignore_errors=True)
            self._charge(trial.costs, "flash")
            self.progress.message(results.describe(trial, self.bench))
        self.progress.status(results.summary(study.trials(), self.bench))

    def _charge(self, costs: Mapping[str, float], budget: str) -> None:
        self._worked = True
        for phase, seconds in costs.items():
            name = f"{budget} distillation" if phase == "distill" else phase
            self.costs[name] = self.costs.get(name, 0.0) + seconds
        self.directory.remember(costs=self.costs)

    def _require_some_feasible(self, trials: Sequence[Trial]) -> None:
        """Raises NothingFeasibleError if measuring showed that the limits exclude all that was tried."""
        students = trials[1:]
        if not students or any(trial.state is not TrialState.INFEASIBLE for trial in students):
            return
        baseline = {name: m.value for name, m in trials[0].measurements.items()}
        tried = [(t.architecture, {name: m.value for name, m in t.measurements.items()}) for t in students]
        nearest = nearest_violators(tried, self.bench.config.constraints, baseline)
        self.report(trials, [])
        raise NothingFeasibleError(
            f"none of the {len(students)} architectures tried satisfies the constraints; the nearest:\n  "
            + "\n  ".join(nearest)
        )

    def _teacher_scores(self) -> dict[str, Measurement]:
        """The teacher's own accuracy on the validation text, scored once."""
        path = self.directory.path / "teacher.json"
        if not path.exists():
            batches = self.bench.pretraining_data.validation_batches(32)
            with tracked(self.progress, "score the teacher"):
                scores = pretraining_accuracy(teacher_predictor(self.bench.prepared.teacher), batches)
            write_json(path, encode(scores))
        return decode(Mapping[str, Measurement], read_json(path))


def _spent(trials: Sequence[Trial], budget: int) -> bool:
    """Whether the search is over: enough students trained, or far more than enough measured.

    A student that breaks a limit costs a measurement and no training, so it does not count as
    one of ``search.trials``; but a limit that nearly all break must not keep us measuring.
    """
    return _trained(trials) >= budget or len(trials) - 1 >= MEASURED_PER_TRAINED * budget


def _trained(trials: Sequence[Trial]) -> int:
    return sum(trial.state is not TrialState.INFEASIBLE for trial in trials[1:])
