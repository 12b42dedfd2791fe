"""Hyper-parameters by trial: an Optuna study over learning rate, epochs and batch size.

All combinations are tried where they fit into the number of trials; otherwise a tree-structured
Parzen estimator (Bergstra et al. 2011) proposes them. The study is a SQLite file, so that a
killed sweep goes on with the very trial it was in.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy.engine import URL

from flashdistill.core.errors import DivergedError, InputError
from flashdistill.core.files import content_key
from flashdistill.core.measurement import Goal
from flashdistill.core.progress import Progress
from flashdistill.core.seeds import derive_seed, generator
from flashdistill.evaluation.finetuning.settings import Sweep, TuningSettings
from flashdistill.training.compute import Compute

STUDY_FILE = "sweep.sqlite3"
FACTORS = ("learning_rate", "epochs", "batch_size")

Combination = tuple[tuple[str, float], ...]
"""A value for every factor that has choices."""

Run = Callable[[TuningSettings], float]
"""Fine-tunes with settings, and gives the selecting metric on the selecting split; it keeps its own
checkpoints, and is called again with the same settings after an interruption."""


@dataclass(frozen=True)
class SweepTrial:
    """One combination; ``value`` is None where the training diverged."""

    settings: TuningSettings
    value: float | None


@dataclass(frozen=True)
class SweepResult:
    """The settings that were best on the selecting split, and all that was tried."""

    best: TuningSettings
    trials: list[SweepTrial]


def combinations(sweep: Sweep) -> list[Combination]:
    """All combinations of the choices, without repetition."""
    chosen = [(name, list(dict.fromkeys(getattr(sweep, name)))) for name in FACTORS if getattr(sweep, name)]
    return [
        tuple(zip([name for name, _ in chosen], values, strict=True))
        for values in itertools.product(*(values for _, values in chosen))
    ]


def run_sweep(
    settings: TuningSettings,
    sweep: Sweep,
    goal: Goal,
    seed: int,
    directory: Path,
    run: Run,
    compute: Compute,
    progress: Progress,
) -> SweepResult:
    """Try combinations until the trials are spent; resumes what is in ``directory``.

    Args:
        goal: the direction of the selecting metric.
        seed: of the proposals.

    Raises:
        InputError: there are no choices, or one is impossible.
        DivergedError: every combination diverged.
    """
    every = combinations(sweep)
    if every == [()]:
        raise InputError(f"finetune.sweep has no choices; give a list for one of {', '.join(FACTORS)}")
    _check(settings, every)
    study = _Study(every, goal, seed, directory, (settings, sweep)) if compute.is_main else None
    trials: list[SweepTrial] = []
    for number in range(min(sweep.trials, len(every))):
        chosen: tuple[Combination, float | None] | None = compute.from_main(study.begin(number) if study else None)
        assert chosen is not None
        combination, value = chosen
        tried = TuningSettings.model_validate(settings.model_dump() | dict(combination))
        if value is None:
            value = _tried(run, tried, combination, progress)
            if study is not None:
                study.end(number, value)
        trials.append(SweepTrial(tried, value if value == value else None))
    good = [trial for trial in trials if trial.value is not None]
    if not good:
        raise DivergedError("every combination of finetune.sweep diverged; lower the learning rates")
    sign = 1 if goal == "maximize" else -1
    best = max(good, key=lambda trial: sign * (trial.value or 0.0))
    return SweepResult(best.settings, trials)


def _check(settings: TuningSettings, every: list[Combination]) -> None:
    for combination in every:
        try:
            TuningSettings.model_validate(settings.model_dump() | dict(combination))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"finetune.sweep.{place}: got {first['input']}; {first['msg']}") from error


def _tried(run: Run, settings: TuningSettings, combination: Combination, progress: Progress) -> float:
    """The value of a combination; not a number where it diverged."""
    words = ", ".join(f"{name} {value:g}" for name, value in combination)
    try:
        value = run(settings)
    except DivergedError as error:
        progress.message(f"{words}: {error}")
        return float("nan")
    progress.message(f"{words}: {value:.4f}")
    return value


class _Study:
    """The Optuna study of one sweep; in the main process."""

    def __init__(self, every: list[Combination], goal: Goal, seed: int, directory: Path, parts: tuple[Any, ...]):
        directory.mkdir(parents=True, exist_ok=True)
        url = URL.create("sqlite", database=str((directory / STUDY_FILE).absolute())).render_as_string()
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        name = content_key([part.model_dump() for part in parts], seed)
        self._every, self._seed = every, seed
        self._whole = len(every) <= parts[1].trials
        with _quiet_optuna():
            self._study = optuna.create_study(storage=storage, study_name=name, direction=goal, load_if_exists=True)
        names = [factor for factor, _ in every[0]]
        self._choices: dict[str, Any] = {
            factor: CategoricalDistribution(list(dict.fromkeys(dict(one)[factor] for one in every))) for factor in names
        }

    def begin(self, number: int) -> tuple[Combination, float | None]:
        """The combination of a trial and, where it is over, its value (not a number: it diverged)."""
        trials = self._study.get_trials(deepcopy=False)
        if number < len(trials):
            trial = trials[number]
            combination = tuple((name, trial.params[name]) for name in self._choices)
            if trial.state is TrialState.COMPLETE:
                return combination, trial.value
            return combination, float("nan") if trial.state is TrialState.FAIL else None
        tried = {tuple((name, trial.params[name]) for name in self._choices) for trial in trials}
        combination = self._every[number] if self._whole else self._proposal(number, tried)
        self._study.enqueue_trial(dict(combination))
        with _quiet_optuna():
            self._study.ask(self._choices)
        return combination, None

    def end(self, number: int, value: float) -> None:
        with _quiet_optuna():
            if value == value:
                self._study.tell(number, value)
            else:
                self._study.tell(number, state=TrialState.FAIL)

    def _proposal(self, number: int, tried: set[Combination]) -> Combination:
        """The estimator's next combination; a random one where it repeats itself."""
        with _quiet_optuna():
            # Of its own for each trial, so that a resumed sweep proposes the same.
            sampler = TPESampler(seed=derive_seed(self._seed, "sweep", number) % 2**32, n_startup_trials=4)
            shadow = optuna.create_study(sampler=sampler, direction=self._study.direction)
            shadow.add_trials([trial for trial in self._study.get_trials() if trial.state is TrialState.COMPLETE])
            params = shadow.ask(self._choices).params
        proposed = tuple((name, params[name]) for name in self._choices)
        if proposed not in tried:
            return proposed
        left = [combination for combination in self._every if combination not in tried]
        return left[int(generator(self._seed, "sweep", number).integers(len(left)))]


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """No lines about each trial, and no warnings about interfaces that may change."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
