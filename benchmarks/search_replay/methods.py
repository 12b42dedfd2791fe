"""The contenders of the search benchmark, by name.

A method is opened on a problem with a seed, told the baseline's trial, and then asked for one
architecture at a time, each followed by what came of it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from benchmarks.search_replay.problems import ReplayProblem
from flashdistill.core.architecture import Architecture
from flashdistill.core.trial import Trial


class Searcher(ABC):
    """One search under way."""

    @abstractmethod
    def suggest(self) -> Architecture | None:
        """The next architecture to train, in the problem's space; None when there is none left.

        It may have been suggested before: that is the method's own affair.
        """

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """What came of the baseline, or of the architecture suggested last."""


@dataclass(frozen=True)
class Method:
    """A contender.

    Attributes:
        module: of this package; has ``opener(name)`` and ``version()``.
        mode: the name the module knows it by.
        slow: whether it takes seconds per suggestion, so that it gets fewer seeds.
        early_stopping: whether trainings are ended early; for problems with learning curves only.
    """

    label: str
    module: str
    mode: str
    slow: bool = False
    early_stopping: bool = False
    ours: bool = True

    def version(self) -> str:
        """Of the code behind it.

        Raises:
            ImportError: a package it needs is not installed.
        """
        return self._module().version()

    def open(self, problem: ReplayProblem, seed: int) -> Searcher:
        """A new search.

        Raises:
            ImportError: a package it needs is not installed.
        """
        return self._module().opener(self.mode)(problem, seed)

    def _module(self) -> Any:
        return importlib.import_module(f"benchmarks.search_replay.{self.module}")


def _own(label: str, mode: str, early_stopping: bool = False) -> Method:
    return Method(label, "ours", mode, early_stopping=early_stopping)


METHODS = {
    "bayesian": _own("Bayesian, front", "bayesian"),
    "bayesian-beat": _own("Bayesian, beat", "bayesian-beat"),
    "bayesian-beat-probes": _own("Bayesian, beat, latency probes", "bayesian-beat-probes"),
    "bayesian-beat-related": _own("Bayesian, beat, related prior", "bayesian-beat-related"),
    "bayesian-beat-unrelated": _own("Bayesian, beat, unrelated prior", "bayesian-beat-unrelated"),
    "random": _own("random", "random"),
    "firefly": _own("firefly", "firefly"),
    "nsga2": _own("NSGA-II", "nsga2"),
    "bayesian-stopping": _own("Bayesian, front, early stopping", "bayesian", early_stopping=True),
    "bayesian-beat-stopping": _own("Bayesian, beat, early stopping", "bayesian-beat", early_stopping=True),
    "random-stopping": _own("random, early stopping", "random", early_stopping=True),
    "optuna-gp": Method("Optuna GPSampler", "peer_optuna", "gp", slow=True, ours=False),
    "optuna-gp-beat": Method("Optuna GPSampler, constrained", "peer_optuna", "gp-beat", slow=True, ours=False),
    "optuna-tpe": Method("Optuna TPE, multivariate", "peer_optuna", "tpe", ours=False),
    "optuna-nsga2": Method("Optuna NSGA-II", "peer_optuna", "nsga2", ours=False),
    "ax": Method("Ax", "peer_ax", "front", slow=True, ours=False),
    "ax-beat": Method("Ax, thresholds at the baseline", "peer_ax", "beat", slow=True, ours=False),
}
