"""Predictions of every metric that the search cares about, from the trials so far.

Shape legend: N architectures, d features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import KNOWN_WITHOUT_MEASURING, metric_unit
from flashdistill.core.seeds import derive_seed
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.gaussian_process import GaussianProcess
from flashdistill.exploration.space import DesignSpace

_LOGARITHMIC_UNITS = ("ms", "sequences/s", "FLOP", "bytes", "parameters")
"""Of positive quantities whose effects multiply: they are modelled by their logarithm."""

MIN_OBSERVATIONS = 3
"""With fewer, a metric has no model."""


def is_logarithmic(metric: str) -> bool:
    """Whether a metric is modelled by its logarithm."""
    return metric_unit(metric) in _LOGARITHMIC_UNITS


def to_scale(metric: str, value: float) -> float:
    """The value as it is modelled."""
    return math.log(value) if is_logarithmic(metric) else value


@dataclass(frozen=True)
class Candidates:
    """Architectures with what the models need to know of them.

    Attributes:
        architectures: N of them.
        features: [N, d], see `DesignSpace.encode`.
        parameters: counts, int [N].
    """

    architectures: Sequence[Architecture]
    features: np.ndarray
    parameters: np.ndarray

    @classmethod
    def of(cls, space: DesignSpace, architectures: Sequence[Architecture]) -> Candidates:
        return cls(architectures, space.encode(architectures), space.parameters(architectures))

    def __len__(self) -> int:
        return len(self.architectures)

    def without(self, architecture: Architecture) -> Candidates:
        """All but this one."""
        kept = [index for index, other in enumerate(self.architectures) if other != architecture]
        return Candidates([self.architectures[index] for index in kept], self.features[kept], self.parameters[kept])


@dataclass(frozen=True)
class Surrogates:
    """One Gaussian process per measured metric; what is known exactly is not modelled.

    Values are on the scale of `to_scale`.
    """

    space: DesignSpace
    models: Mapping[str, GaussianProcess]

    @classmethod
    def fit(cls, space: DesignSpace, trials: Sequence[Trial], metrics: Sequence[str], seed: int) -> Surrogates:
        """Fit a model to each metric that has enough observations.

        Trials that were measured but not trained inform the models of what was measured. Failed
        trials inform none: their numbers may be wrong.
        """
        models = {}
        for metric in dict.fromkeys(metrics):
            observations = [] if metric in KNOWN_WITHOUT_MEASURING else _observations(space, trials, metric)
            if len(observations) >= MIN_OBSERVATIONS:
                architectures, values, variances = zip(*observations, strict=True)
                models[metric] = GaussianProcess.fit(
                    space.encode(architectures), np.array(values), np.array(variances), derive_seed(seed, metric)
                )
        return cls(space, models)

    def knows(self, metric: str) -> bool:
        return metric in KNOWN_WITHOUT_MEASURING or metric in self.models

    def predict(self, metric: str, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a known metric, each [N]; the deviation is 0 where it is exact."""
        if metric in KNOWN_WITHOUT_MEASURING:
            exact = candidates.parameters.astype(float)
            return (np.log(exact) if is_logarithmic(metric) else exact), np.zeros(len(candidates))
        return self.models[metric].posterior(candidates.features)

    def assuming(self, candidates: Candidates) -> Surrogates:
        """The models as if these candidates had given what is predicted for them."""
        return replace(
            self, models={metric: model.with_fantasies(candidates.features) for metric, model in self.models.items()}
        )


def _observations(space: DesignSpace, trials: Sequence[Trial], metric: str) -> list[tuple[Architecture, float, float]]:
    """Architecture, value and noise variance on the model's scale."""
    found = []
    for trial in trials:
        measurement = trial.measurements.get(metric)
        if measurement is None or trial.state is TrialState.FAILED or not space.comparable(trial.architecture):
            continue
        value, error = measurement.value, measurement.stderr or 0.0
        if not measurement.finite or (is_logarithmic(metric) and value <= 0):
            continue
        # The error of a logarithm is the relative error.
        error = error / value if is_logarithmic(metric) else error
        found.append((trial.architecture, to_scale(metric, value), error**2))
    return found
