"""This package's search algorithms as contenders of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import flashdistill.exploration
from benchmarks.search_replay.methods import Searcher
from benchmarks.search_replay.priors import related_prior, unrelated_prior
from benchmarks.search_replay.problems import OBJECTIVES, ReplayProblem
from flashdistill.core.architecture import Architecture
from flashdistill.core.files import content_key, sha256_file
from flashdistill.core.measurement import Objective
from flashdistill.core.registry import load
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.settings import ALGORITHMS

PROBES = 48
"""Architectures that are measured beforehand without being trained."""


@dataclass(frozen=True)
class Mode:
    """How one of our algorithms is asked.

    Attributes:
        probes: latencies known before the first training; they do not count as evaluations.
        prior: trials of another run.
    """

    algorithm: str
    goal: Literal["front", "beat-baseline"] = "front"
    probes: int = 0
    prior: Callable[[ReplayProblem, int], Sequence[Trial]] | None = None
    objectives: Sequence[Objective] = OBJECTIVES


class OwnSearch(Searcher):
    """Hands all trials so far to the algorithm, as the pipeline does."""

    def __init__(self, mode: Mode, problem: ReplayProblem, seed: int):
        prior = mode.prior(problem, seed) if mode.prior else ()
        asked = SearchProblem(mode.objectives, [], problem.baseline, mode.goal, prior)
        self._algorithm = load(ALGORITHMS, mode.algorithm, "search algorithm")(asked)
        self._space, self._seed = problem.space, seed
        self._probes = _probes(problem, asked, mode.probes, seed) if mode.probes else []
        self._trials: list[Trial] = []

    def suggest(self) -> Architecture | None:
        found = self._algorithm.suggest(self._space, [*self._trials, *self._probes], 1, self._seed)
        return found[0] if found else None

    def tell(self, trial: Trial) -> None:
        self._trials.append(trial)


def _probes(problem: ReplayProblem, asked: SearchProblem, count: int, seed: int) -> list[Trial]:
    from flashdistill.exploration.algorithms.probes import probe_design

    probes = []
    for architecture in probe_design(problem.space, asked, count, seed):
        seen = problem.run(architecture, -1, seed)
        known = {name: found for name, found in seen.measurements.items() if name != "mlm_accuracy"}
        probes.append(Trial(-1, architecture, TrialState.MEASURED, measurements=known))
    return probes


MODES = {
    "bayesian": Mode("bayesian"),
    "bayesian-beat": Mode("bayesian", "beat-baseline"),
    "bayesian-beat-probes": Mode("bayesian", "beat-baseline", probes=PROBES),
    "bayesian-beat-related": Mode("bayesian", "beat-baseline", prior=related_prior),
    "bayesian-beat-unrelated": Mode("bayesian", "beat-baseline", prior=unrelated_prior),
    "random": Mode("random"),
    "firefly": Mode("firefly"),
    "nsga2": Mode("nsga2"),
}


def opener(name: str) -> Callable[[ReplayProblem, int], Searcher]:
    """What opens a search in this mode on a problem with a seed."""
    return partial(OwnSearch, MODES[name])


def version() -> str:
    """Changes with the code of the searches."""
    files = sorted(Path(next(iter(flashdistill.exploration.__path__))).rglob("*.py"))
    return content_key(*(sha256_file(file) for file in files))
