"""Optuna's samplers as contenders, with their default settings.

Each factor is an integer parameter, the rank of its choice: the form in which a sampler knows that
the choices are ordered. Values are accuracy and latency in ms, as a user would return them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler

from benchmarks.search_replay.methods import Searcher
from benchmarks.search_replay.problems import OBJECTIVES, ReplayProblem
from benchmarks.search_replay.ranks import Ranks
from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import derive_seed
from flashdistill.core.trial import Trial

_MOST_INVALID = 200
"""Suggestions in a row that are no valid architecture, after which the search counts as over."""

_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "gp": lambda seed: GPSampler(seed=seed),
    "gp-beat": lambda seed: GPSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
}


class OptunaSearch(Searcher):
    """Ask and tell on a study in memory; ``gp-beat`` is told that the baseline bounds both objectives."""

    def __init__(self, mode: str, problem: ReplayProblem, seed: int):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._ranks = Ranks(problem.space)
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, top) for name, top in self._ranks.top.items()
        }
        self._bounded = mode == "gp-beat"
        self._baseline: tuple[float, float] | None = None
        with _quiet():
            self._study = optuna.create_study(
                directions=[objective.goal for objective in OBJECTIVES],
                sampler=_SAMPLERS[mode](derive_seed("optuna", seed) % 2**31),
            )
        self._asked: optuna.Trial | None = None

    def suggest(self) -> Architecture | None:
        for _ in range(_MOST_INVALID):
            with _quiet():
                asked = self._study.ask(self._distributions)
            architecture = self._ranks.architecture(asked.params)
            if architecture is not None:
                self._asked = asked
                return architecture
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return None

    def tell(self, trial: Trial) -> None:
        asked, self._asked = self._asked or self._given(trial.architecture), None
        accuracy, latency = (trial.measurements[objective.metric].value for objective in OBJECTIVES)
        self._baseline = self._baseline or (accuracy, latency)
        if self._bounded:
            asked.set_constraint("accuracy", self._baseline[0] - accuracy)
            asked.set_constraint("latency", latency - self._baseline[1])
        with _quiet():
            self._study.tell(asked, [accuracy, latency])

    def _given(self, architecture: Architecture) -> optuna.Trial:
        """A trial that the sampler did not choose."""
        with _quiet():
            self._study.enqueue_trial(self._ranks.of(architecture))
            return self._study.ask(self._distributions)


def _quiet() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore", category=ExperimentalWarning)


def opener(name: str) -> Callable[[ReplayProblem, int], Searcher]:
    """What opens a study with this sampler on a problem with a seed."""
    return partial(OptunaSearch, name)


def version() -> str:
    return f"optuna {optuna.__version__}"
