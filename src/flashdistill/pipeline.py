"""The life of a run, top to bottom.

    user requirements → teacher and text → baseline → search → winners confirmed with further seeds
      → Pareto front → regular distillation of the selected students → delivery → report

Every step looks first at what the run directory has already, so the same command resumes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from flashdistill import results
from flashdistill.budgets import resolve_budgets
from flashdistill.config import RunConfig
from flashdistill.confirmation import confirm_winners, failed_confirmations
from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import now, timed
from flashdistill.core.errors import InputError, NothingFeasibleError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, Silent, tracked
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.deliver import delivered, intact
from flashdistill.delivery.json_form import decode, encode
from flashdistill.delivery.model_card import write_model_card
from flashdistill.delivery.record import DeliveredModel, RunRecord
from flashdistill.delivery.report import write_report
from flashdistill.delivery.task_record import load_tasks
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.execution.executor import Executor, Job, ServingExecutor, Surroundings, Worker
from flashdistill.execution.inprocess import InProcessExecutor
from flashdistill.execution.opening import open_executor
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.constraints import nearest_violators
from flashdistill.exploration.selection import select
from flashdistill.hardware.session import require_target
from flashdistill.hardware.settings import TargetSettings
from flashdistill.ledger import Ledger
from flashdistill.preflight import claim, keep_prior, quiet_libraries, require_feasible
from flashdistill.regular import deliver_trained, regular_training
from flashdistill.scoring import teacher_scores
from flashdistill.search import Search
from flashdistill.training.compute import Compute, dismissing_others, open_compute
from flashdistill.training.optimizers import require_optimizer
from flashdistill.trainings import PRELOAD, Trained, Trainings, failure_reason
from flashdistill.workbench import Workbench


def run(config: RunConfig, progress: Progress, until: Literal["search", "delivery"] = "delivery") -> Path | None:
    """The whole pipeline, or up to the end of the search; returns the report's path.

    Of several processes only the main one returns it; the others take part in the training.

    Raises:
        InputError: something the user gave cannot be used; nothing was trained.
        NothingFeasibleError: no architecture satisfies the constraints.
    """
    with opened(config, progress) as life:
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
    with opened(config, progress) as life:
        if life is None:
            return None
        resolve_budgets(life.bench, life.ledger.costs)
        model = life.deliver_one(architecture)
        write_model_card(model, life.record([], []), life.directory.model(architecture))
        return life.directory.model(architecture)


def report(run_directory: Path) -> Path:
    """Rebuild report and plots of a run from its results."""
    return write_report(RunRecord.load(run_directory), run_directory)


@contextmanager
def opened(config: RunConfig, progress: Progress) -> Iterator[Life | None]:
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
        _workbench(config, directory, Silent(), compute, InProcessExecutor()).follow()
        compute.close()
        yield None
        return
    directory.create()
    with directory.locked():
        claim(directory, config)
        if hasattr(progress, "attach_log"):
            progress.attach_log(directory.log)  # type: ignore[attr-defined]
        keep_prior(directory, config, progress)
        ledger = Ledger(directory)
        surroundings = Surroundings(
            directory.path / "workers", progress, (*PRELOAD, quiet_libraries.__module__), quiet_libraries
        )
        with open_executor(config.execution, surroundings, compute.world_size) as executor:
            for target in (config.target, *config.further_targets.values()):
                _require(target, directory.measurements, executor, progress)
            with timed(ledger.costs, "teacher"):
                bench = _workbench(config, directory, progress, compute, executor)
            try:
                with dismissing_others(compute):
                    require_feasible(config, len(bench.prepared.tokenizer))
                    yield Life(bench, ledger)
            finally:
                bench.scales.close()
                ledger.save()


def _require(target: TargetSettings, place: Path, executor: Executor, progress: Progress) -> None:
    """Find out now whether the target can be had, where it is."""
    if target.host is None and isinstance(executor, ServingExecutor) and executor.serves:
        executor.serve(Job("require the target", partial(_require_there, target, place.absolute()))).get()
    else:
        require_target(target, place, progress)


def _require_there(target: TargetSettings, place: Path, worker: Worker) -> None:
    require_target(target, place, worker.progress)


def _workbench(
    config: RunConfig, directory: RunDirectory, progress: Progress, compute: Compute, executor: Executor
) -> Workbench:
    prepared = prepare_teacher(config.teacher, config.corpus, config.cache_directory, progress, compute)
    return Workbench(config, directory, prepared, progress, compute, executor)


class Life:
    """The steps of a run."""

    def __init__(self, bench: Workbench, ledger: Ledger):
        self.bench, self.ledger = bench, ledger
        self.directory, self.progress = bench.directory, bench.progress
        self.problem: SearchProblem | None = None
        self.probes: list[Trial] = []
        self.failures: list[str] = []

    def search(self) -> list[Trial]:
        """The finished search with its winners confirmed."""
        with Search.opened(self.bench, self.ledger) as search:
            trials = search.run()
            self.problem, self.probes = search.problem, search.study.probes()
            self._require_some_feasible(trials)
            return confirm_winners(self.bench, search.study, self.ledger)

    def selected(self, trials: Sequence[Trial]) -> list[Trial]:
        config = self.bench.config
        return select(trials, config.objectives, config.constraints, config.select, config.baseline)

    def deliver_all(self, trials: Sequence[Trial], chosen: Sequence[Trial]) -> None:
        """Regular distillation of the chosen students, and of the baseline for comparison."""
        settings = self.bench.config.select
        baseline = [trials[0]] if settings.include_baseline and trials[0].state is TrialState.COMPLETE else []
        wanted = {trial.architecture: trial.measurements for trial in [*chosen, *baseline]}
        lacking = [one for one in wanted if intact(self.directory.model(one)) is None]
        self._teacher_scores()  # reports need them, and soon all workers are busy
        for _, [trained] in Trainings(self.bench).all(map(regular_training, lacking)):
            try:
                self._deliver(trained, wanted[trained.architecture])
            except (InputError, OSError):
                raise
            except Exception as error:
                self.failures.append(f"Regular distillation of {trained.architecture} failed: {failure_reason(error)}.")
                self.progress.message(self.failures[-1])
            self.report(trials, chosen)

    def deliver_one(self, architecture: Architecture) -> DeliveredModel:
        """Regular distillation and delivery; what was delivered before is kept."""
        if (model := intact(self.directory.model(architecture))) is not None:
            return model
        [(_, [trained])] = Trainings(self.bench).all([regular_training(architecture)])
        return self._deliver(trained, {})

    def _deliver(self, trained: Trained, flash: Mapping[str, Measurement]) -> DeliveredModel:
        model = deliver_trained(self.bench, trained, flash)
        self.ledger.charge(model.costs, "regular distillation")
        return model

    def record(self, trials: Sequence[Trial], chosen: Sequence[Trial]) -> RunRecord:
        models = [delivered(path) for path in sorted(self.directory.models.glob("[!.]*")) if path.is_dir()]
        state = self.directory.state() | {"costs": self.ledger.costs}
        failures = [*failed_confirmations(self.directory), *self.failures]
        order = {trial.architecture: place for place, trial in enumerate(chosen)}
        known = sorted((m for m in models if m), key=lambda m: (m.is_baseline, order.get(m.architecture, len(order))))
        scores = self._teacher_scores()
        return results.collect(self.bench, trials, chosen, known, scores, state, failures, self.probes, self.problem)

    def report(self, trials: Sequence[Trial], chosen: Sequence[Trial], finished: bool = False) -> Path:
        """Write the report and the model cards with what there is so far."""
        self.ledger.save()
        if finished:
            shutil.rmtree(self.directory.signals, ignore_errors=True)
            if self.ledger.worked or not self.directory.state().get("finished"):
                self.directory.remember(finished=now())
        record, tasks = self.record(trials, chosen), load_tasks(self.directory.path)
        for model in record.delivered:
            write_model_card(model, record, self.directory.path / model.directory, tasks)
        return write_report(record, self.directory.path)

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
            with tracked(self.progress, "score the teacher"):
                scores = self.bench.have_done("score the teacher", teacher_scores)
            write_json(path, encode(scores))
        return decode(Mapping[str, Measurement], read_json(path))
