"""What several training seeds say together."""

from __future__ import annotations

import statistics

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState


def run(accuracy: float) -> dict[str, Measurement]:
    return {"mlm_accuracy": Measurement.of("mlm_accuracy", accuracy, stderr=0.01, samples=100)}


def trial(*further: float) -> Trial:
    latency = Measurement.of("latency_ms", 3.0, stderr=0.1)
    return Trial(
        1,
        Architecture(16, 8, 1, 16, 1),
        TrialState.COMPLETE,
        measurements={**run(0.3), "latency_ms": latency},
        confirmations=[run(accuracy) for accuracy in further],
    )


def test_without_confirmations_a_measurement_stands_for_itself() -> None:
    assert trial().pooled("mlm_accuracy") == trial().measurements["mlm_accuracy"]
    assert trial().pooled("nsp_accuracy") is None
    assert trial().seeds("mlm_accuracy") == 1
    assert trial(0.2).seeds("nsp_accuracy") == 0


def test_the_mean_over_seeds_has_the_error_of_their_scatter() -> None:
    pooled = trial(0.2, 0.25).pooled("mlm_accuracy")
    assert pooled is not None
    assert pooled.value == pytest.approx(0.25)
    assert pooled.stderr == pytest.approx(statistics.stdev([0.3, 0.2, 0.25]) / 3**0.5)
    assert (pooled.samples, pooled.unit) == (300, "fraction")
    assert pooled.details["seeds"] == 3
    assert trial(0.2).value("mlm_accuracy") == 0.3, "the search's own run"


def test_what_does_not_depend_on_training_stays_as_measured() -> None:
    assert trial(0.2, 0.25).pooled("latency_ms") == trial().measurements["latency_ms"]
