"""Ax as a contender, with its default generation strategy.

Its acquisition function compiles a C++ kernel at the first suggestion of a machine, which takes
minutes once; the kernel is kept where TORCH_EXTENSIONS_DIR says.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Any

import torch

from benchmarks.search_replay.methods import Searcher
from benchmarks.search_replay.problems import OBJECTIVES, ReplayProblem
from benchmarks.search_replay.ranks import Ranks
from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import derive_seed
from flashdistill.core.trial import Trial

# Not among what the type checker can see: the package is optional.
api = import_module("ax.api.client")
configs = import_module("ax.api.configs")
logger = import_module("ax.utils.common.logger")

_OBJECTIVE = ", ".join(f"{'' if one.goal == 'maximize' else '-'}{one.metric}" for one in OBJECTIVES)
_MOST_INVALID = 200


class AxSearch(Searcher):
    """Ask and tell on a client; ``beat`` gives the baseline's values as thresholds of the objectives.

    Without a standard error Ax learns the noise itself: an evaluation's own error says nothing of
    the spread between training seeds.
    """

    def __init__(self, mode: str, problem: ReplayProblem, seed: int):
        logger.set_stderr_log_level(logging.ERROR)
        self._ranks = Ranks(problem.space)
        self._bounded = mode == "beat"
        self._client: Any = None
        self._seed = derive_seed("ax", seed) % 2**31
        self._asked: int | None = None

    def suggest(self) -> Architecture | None:
        client = self._client
        for _ in range(_MOST_INVALID):
            with warnings.catch_warnings(action="ignore"):
                suggested = client.get_next_trials(max_trials=1)
            if not suggested:
                return None
            ((number, ranks),) = suggested.items()
            architecture = self._ranks.architecture(ranks)
            if architecture is not None:
                self._asked = number
                return architecture
            client.mark_trial_failed(number)
        return None

    def tell(self, trial: Trial) -> None:
        values = {one.metric: trial.measurements[one.metric].value for one in OBJECTIVES}
        if self._client is None:
            self._client = self._configured(values)
        if self._asked is None:
            self._asked = self._client.attach_trial(parameters={**self._ranks.of(trial.architecture)})
        with warnings.catch_warnings(action="ignore"):
            self._client.complete_trial(self._asked, raw_data={**values})
        self._asked = None

    def _configured(self, baseline: dict[str, float]) -> Any:
        """A client that knows the parameters and what is wanted."""
        torch.manual_seed(self._seed)
        client = api.Client(random_seed=self._seed)
        client.configure_experiment(
            parameters=[
                configs.RangeParameterConfig(name=name, bounds=(0, top), parameter_type="int")
                for name, top in self._ranks.top.items()
            ]
        )
        thresholds = [
            f"{one.metric} {'>=' if one.goal == 'maximize' else '<='} {baseline[one.metric]}" for one in OBJECTIVES
        ]
        client.configure_optimization(_OBJECTIVE, outcome_constraints=thresholds if self._bounded else None)
        return client


def opener(name: str) -> Callable[[ReplayProblem, int], Searcher]:
    """What opens a client in this mode on a problem with a seed."""
    return partial(AxSearch, name)


def version() -> str:
    return f"ax {installed_version('ax-platform')}"
