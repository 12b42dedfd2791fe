"""Measurements as JSON, and the check that no broken number enters a study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial


def encode_measurements(measurements: Mapping[str, Measurement]) -> dict[str, dict[str, Any]]:
    """All fields of all measurements in JSON types."""
    return {
        name: asdict(measurement) | {"environment": dict(measurement.environment), "details": dict(measurement.details)}
        for name, measurement in measurements.items()
    }


def decode_measurements(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Measurement]:
    """The inverse of `encode_measurements`."""
    return {name: Measurement(**fields) for name, fields in stored.items()}


def refuse_non_finite(trial: Trial) -> None:
    """Let only finite numbers through, so that the search and the report may rely on it.

    Raises:
        ValueError: names the first value of the trial that is NaN or infinite.
    """
    for label, value in _numbers(trial):
        if not math.isfinite(value):
            raise ValueError(
                f"trial {trial.number} ({trial.architecture}): {label} is {value}; "
                "only finite values enter a study, finish the trial as failed without it"
            )


def _numbers(trial: Trial) -> Iterator[tuple[str, float]]:
    for name, cost in trial.costs.items():
        yield f"cost {name}", cost
    for name, measurement in trial.measurements.items():
        yield name, measurement.value
        if measurement.stderr is not None:
            yield f"stderr of {name}", measurement.stderr
        for key, value in (*measurement.environment.items(), *measurement.details.items()):
            if isinstance(value, float):
                yield f"{key} of {name}", value
