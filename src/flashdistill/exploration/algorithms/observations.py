"""What the trials say about a metric, on the scale on which it is modelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement, metric_unit
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.gaussian_process import Observations
from flashdistill.exploration.space import DesignSpace

_LOGARITHMIC_UNITS = ("ms", "sequences/s", "FLOP", "bytes", "parameters")
"""Of positive quantities whose effects multiply: they are modelled by their logarithm."""

_MIN_GAINS = 3
"""Complete trials with a curve that are needed to extrapolate one that ended early."""


def is_logarithmic(metric: str) -> bool:
    """Whether a metric is modelled by its logarithm."""
    return metric_unit(metric) in _LOGARITHMIC_UNITS


def to_scale(metric: str, value: float) -> float:
    """The value as it is modelled."""
    return math.log(value) if is_logarithmic(metric) else value


@dataclass(frozen=True)
class Observation:
    """One architecture's value of a metric on the scale of `to_scale`.

    Attributes:
        variance: of the measured error; 0 where none is known.
        repeats: how many training seeds the value is the mean of.
        extrapolated: from the learning curve of a training that ended early.
    """

    architecture: Architecture
    value: float
    variance: float
    repeats: int = 1
    extrapolated: bool = False


def observe(space: DesignSpace, trials: Iterable[Trial], metric: str) -> list[Observation]:
    """One observation for each architecture that says something about the metric, in a fixed order.

    Failed trials say nothing: their numbers may be wrong. A trial counts as the mean over its
    seeds and replaces what a probe of its architecture gave; one whose training ended early
    counts as what it would have reached, by how much complete trials still gained from the same
    point on, or is left out while too few of those are known.
    """
    # Probes first and a trial in the place of its probe: so the first n stay the same as trials are added.
    ordered = sorted(trials, key=lambda trial: (trial.state is not TrialState.MEASURED, trial.number))
    usable = [t for t in ordered if t.state is not TrialState.FAILED and space.comparable(t.architecture)]
    gains = _gains(usable, metric)
    found: dict[Architecture, Observation] = {}
    for trial in usable:
        observation = _measured(trial, metric) or _extrapolated(trial, metric, gains)
        if observation is not None:
            found[trial.architecture] = observation
    return list(found.values())


def as_arrays(space: DesignSpace, observations: Sequence[Observation]) -> Observations:
    """The same as a Gaussian process wants it."""
    return Observations(
        space.encode([observation.architecture for observation in observations]),
        np.array([observation.value for observation in observations]),
        np.array([observation.variance for observation in observations]),
        np.array([float(observation.repeats) for observation in observations]),
    )


def _on_scale(measurement: Measurement | None, metric: str) -> tuple[float, float] | None:
    """Value and variance on the model's scale; None where it has none."""
    if measurement is None or not measurement.finite:
        return None
    value, error = measurement.value, measurement.stderr or 0.0
    if is_logarithmic(metric):
        if value <= 0:
            return None
        # The error of a logarithm is the relative error.
        error /= value
    return to_scale(metric, value), error**2


def _measured(trial: Trial, metric: str) -> Observation | None:
    first = _on_scale(trial.measurements.get(metric), metric)
    if first is None:
        return None
    further = (_on_scale(confirmation.get(metric), metric) for confirmation in trial.confirmations)
    values, variances = zip(first, *(one for one in further if one is not None), strict=True)
    # The mean of k values with their own errors; their scatter is part of the learned noise.
    return Observation(trial.architecture, float(np.mean(values)), sum(variances) / len(values) ** 2, len(values))


def _gains(trials: Iterable[Trial], metric: str) -> Mapping[float, tuple[float, float]]:
    """By share of the training done: median and variance of what complete trials gained from there to the end."""
    found: dict[float, list[float]] = {}
    for trial in trials:
        final = _on_scale(trial.measurements.get(metric), metric) if trial.state is TrialState.COMPLETE else None
        if final is None:
            continue
        for share, scores in trial.curve.items():
            if (early := _on_scale(scores.get(metric), metric)) is not None:
                found.setdefault(_rounded(share), []).append(final[0] - early[0])
    return {
        share: (float(np.median(gains)), float(np.var(gains, ddof=1)))
        for share, gains in found.items()
        if len(gains) >= _MIN_GAINS
    }


def _extrapolated(trial: Trial, metric: str, gains: Mapping[float, tuple[float, float]]) -> Observation | None:
    if trial.state is not TrialState.STOPPED:
        return None
    for share in sorted(trial.curve, reverse=True):
        early = _on_scale(trial.curve[share].get(metric), metric)
        if early is not None and _rounded(share) in gains:
            gain, spread = gains[_rounded(share)]
            return Observation(trial.architecture, early[0] + gain, early[1] + spread, extrapolated=True)
    return None


def _rounded(share: float) -> float:
    """Shares of different runs' steps are equal to within a step."""
    return round(share, 2)
