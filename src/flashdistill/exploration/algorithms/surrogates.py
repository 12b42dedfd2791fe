"""Predictions of every metric that the search cares about, from the trials so far.

Shape legend: N architectures, d features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import KNOWN_WITHOUT_MEASURING
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.gaussian_process import GaussianProcess
from flashdistill.exploration.algorithms.observations import as_arrays, is_logarithmic, observe
from flashdistill.exploration.algorithms.transfer import fit_process
from flashdistill.exploration.space import DesignSpace


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

    Values are on the scale of `observations.to_scale`.
    """

    space: DesignSpace
    models: Mapping[str, GaussianProcess]
    _latest: dict[str, tuple[Candidates, np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def fit(
        cls, space: DesignSpace, trials: Sequence[Trial], metrics: Iterable[str], prior: Sequence[Trial] = ()
    ) -> Surrogates:
        """Fit a model to each metric that has enough observations.

        Trials that were measured but not trained inform the models of what was measured.

        Args:
            prior: trials of another run, see `transfer`.
        """
        models = {}
        for metric in dict.fromkeys(metrics):
            if metric in KNOWN_WITHOUT_MEASURING or not space.dimension:
                continue
            here = as_arrays(space, observe(space, trials, metric))
            there = as_arrays(space, observe(space, prior, metric)) if prior else None
            if (model := fit_process(here, there)) is not None:
                models[metric] = model
        return cls(space, models)

    def knows(self, metric: str) -> bool:
        return metric in KNOWN_WITHOUT_MEASURING or metric in self.models

    def predict(self, metric: str, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a known metric, each [N]; the deviation is 0 where it is exact."""
        if metric in KNOWN_WITHOUT_MEASURING:
            exact = candidates.parameters.astype(float)
            return (np.log(exact) if is_logarithmic(metric) else exact), np.zeros(len(candidates))
        # The same candidates are asked for several times in a row.
        if metric not in self._latest or self._latest[metric][0] is not candidates:
            self._latest[metric] = (candidates, *self.models[metric].posterior(candidates.features))
        return self._latest[metric][1:]

    def predict_excess(
        self, metric: str, candidates: Candidates, anchor: Architecture
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each candidate's value less the anchor's, each [N]."""
        single = Candidates.of(self.space, [anchor])
        if metric in KNOWN_WITHOUT_MEASURING:
            mean, deviation = self.predict(metric, candidates)
            return mean - self.predict(metric, single)[0], deviation
        return self.models[metric].excess(candidates.features, single.features[0])

    def assuming(self, candidates: Candidates) -> Surrogates:
        """The models as if these candidates had given what is predicted for them."""
        return replace(
            self, models={metric: model.with_fantasies(candidates.features) for metric, model in self.models.items()}
        )
