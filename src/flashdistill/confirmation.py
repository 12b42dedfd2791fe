"""Winners and the baseline trained again with further seeds, before they are declared.

One run of a student that looks better than the baseline is as often luck as not, all the more as
the search looks for the best of many. So those chosen are trained again, and the choice is made
anew with the means over all seeds, until all that are chosen have been.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flashdistill import results
from flashdistill.candidate import distil, failure_reason
from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import DivergedError, InputError
from flashdistill.core.measurement import Measurement
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial
from flashdistill.distillation.distill import Distilled
from flashdistill.exploration.selection import select
from flashdistill.exploration.study import Study
from flashdistill.ledger import Ledger
from flashdistill.scoring import evaluate
from flashdistill.workbench import Workbench

_FAILURES = "confirmation_failures"
"""In the run directory's state: by architecture, why further seeds gave no result; these are not tried again."""


@dataclass
class _Run:
    """One further training of one trial's architecture."""

    trial: Trial
    repeat: int
    costs: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Measurement] = field(default_factory=dict)
    failure: str = ""

    @property
    def architecture(self) -> Architecture:
        return self.trial.architecture


def confirm_winners(bench: Workbench, study: Study, ledger: Ledger) -> list[Trial]:
    """Train the baseline and whatever would be selected again, until the selection stands; the study's trials.

    Each result is in the study as soon as it is known. One that falls off the front makes room
    for the next, which is then trained again, too.

    Raises:
        InputError, OSError: the run cannot go on (a full disk, say).
    """
    while runs := _next_runs(bench, study.trials()):
        _train(bench, runs)
        for run in runs:
            _record(bench, study, run)
            shutil.rmtree(_work(bench, run) / "checkpoints", ignore_errors=True)
            ledger.charge(run.costs, "confirmation")
    return study.trials()


def failed_confirmations(directory: RunDirectory) -> list[str]:
    """What went wrong with further seeds, one sentence each."""
    return [
        f"Training {architecture} with another seed failed: {reason}."
        for architecture, reasons in _failures(directory).items()
        for reason in reasons
    ]


def _next_runs(bench: Workbench, trials: Sequence[Trial]) -> list[_Run]:
    """The next repeat, of as many architectures as are trained side by side.

    What was begun is completed first, so that a choice never hangs on fewer seeds than asked for;
    then come the baseline and those that are chosen now.
    """
    config, failures = bench.config, _failures(bench.directory)
    runs = {
        trial.number: _Run(trial, 1 + len(trial.confirmations) + len(failures.get(str(trial.architecture), ())))
        for trial in trials
    }
    lacking = [run for run in runs.values() if 1 < run.repeat <= config.search.confirm_seeds]
    if not lacking and config.search.confirm_seeds:
        chosen = select(trials, config.objectives, config.constraints, config.select, config.baseline)
        wanted = [trials[0], *chosen] if chosen else []
        lacking = [runs[trial.number] for trial in wanted if runs[trial.number].repeat == 1]
    first = min((run.repeat for run in lacking), default=0)
    return [run for run in lacking if run.repeat == first][: config.flash.students_per_teacher]


def _train(bench: Workbench, runs: Sequence[_Run]) -> None:
    """Distil and score; a run that fails has its reason afterwards."""
    architectures, costs = [run.architecture for run in runs], [run.costs for run in runs]
    for run, result in zip(runs, distil(bench, architectures, "flash", costs, repeat=runs[0].repeat), strict=True):
        try:
            run.scores = _scores(bench, run, result)
        except (InputError, OSError):
            raise
        except Exception as error:
            run.failure = failure_reason(error)


def _scores(bench: Workbench, run: _Run, result: Distilled | Exception) -> dict[str, Measurement]:
    if isinstance(result, Exception):
        raise result
    with timed(run.costs, "evaluate"):
        scores = evaluate(bench, run.architecture, result)
    if lost := sorted(name for name, score in scores.items() if not score.finite):
        raise DivergedError(f"diverged: {', '.join(lost)} not finite")
    return scores


def _record(bench: Workbench, study: Study, run: _Run) -> None:
    if run.failure:
        failures = _failures(bench.directory)
        failures[str(run.architecture)] = [*failures.get(str(run.architecture), ()), run.failure]
        bench.directory.remember(**{_FAILURES: failures})
        bench.progress.message(f"seed {run.repeat} of {run.architecture} failed: {run.failure}")
        return
    study.confirm(run.trial, [*run.trial.confirmations, run.scores])
    bench.progress.message(f"seed {run.repeat} of {run.architecture}: {_compared(run)}")


def _compared(run: _Run) -> str:
    """The objectives' values of this run against those of the search."""
    pairs = ((name, score, run.trial.measurements.get(name)) for name, score in run.scores.items())
    return ", ".join(
        f"{name} {results.figure(score)} (in the search {results.figure(first)})"
        for name, score, first in pairs
        if first is not None
    )


def _work(bench: Workbench, run: _Run) -> Path:
    return bench.work_directory(run.architecture, "flash", run.repeat)


def _failures(directory: RunDirectory) -> dict[str, list[str]]:
    return dict(directory.state().get(_FAILURES, {}))
