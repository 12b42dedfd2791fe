"""Winners and the baseline trained again with further seeds, before they are declared.

One run of a student that looks better than the baseline is as often luck as not, all the more as
the search looks for the best of many. So those chosen are trained again, and the choice is made
anew with the means over all seeds, until all that are chosen have been.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from flashdistill import results
from flashdistill.candidate import scored_as_served
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import InputError
from flashdistill.core.measurement import Measurement
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial
from flashdistill.exploration.selection import select
from flashdistill.exploration.study import Study
from flashdistill.ledger import Ledger
from flashdistill.scoring import served_otherwise
from flashdistill.trainings import Trained, Training, Trainings, failure_reason, not_finite
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
    trainings = Trainings(bench)
    while runs := _next_runs(bench, study.trials()):
        by_architecture = {run.architecture: run for run in runs}
        for training, trained in trainings.all(_requests(bench, runs)):
            for one in trained:
                run = by_architecture[one.architecture]
                _take(bench, run, one)
                _record(bench, study, run)
                work = bench.work_directory(one.architecture, "flash", training.repeat)
                shutil.rmtree(work / "checkpoints", ignore_errors=True)
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
    """The next repeat, of as many architectures as are trained at a time.

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
    at_a_time = config.flash.students_per_teacher * bench.executor.places
    return [run for run in lacking if run.repeat == first][:at_a_time]


def _requests(bench: Workbench, runs: Sequence[_Run]) -> list[Training]:
    """The runs, in groups that are trained side by side; all have the same repeat."""
    together, architectures = bench.config.flash.students_per_teacher, [run.architecture for run in runs]
    return [
        Training(
            tuple(architectures[first : first + together]),
            "flash",
            runs[0].repeat,
            send_students=bool(served_otherwise(bench)),
        )
        for first in range(0, len(runs), together)
    ]


def _take(bench: Workbench, run: _Run, trained: Trained) -> None:
    """A run's scores, or why it has none."""
    run.costs, run.failure = dict(trained.costs), trained.reason
    if run.failure:
        return
    try:
        run.scores = {**trained.scores, **scored_as_served(bench, trained, run.costs)}
    except (InputError, OSError):
        raise
    except Exception as error:
        run.failure = failure_reason(error)
    else:
        run.failure = not_finite(run.scores)


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


def _failures(directory: RunDirectory) -> dict[str, list[str]]:
    return dict(directory.state().get(_FAILURES, {}))
