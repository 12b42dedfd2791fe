"""Trials as JSON: curves have numbers for keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.json_form import decode, encode

SCORES = {"mlm_accuracy": Measurement.of("mlm_accuracy", 0.1, stderr=0.01, samples=7, split="validation")}


def test_a_trial_with_a_curve_and_confirmations_survives() -> None:
    trial = Trial(
        3,
        Architecture(16, 8, 1, 16, 1),
        TrialState.STOPPED,
        "beaten",
        SCORES,
        {"distill": 1.5},
        curve={0.25: SCORES, 1 / 3: SCORES},
        confirmations=(SCORES,),
    )
    assert decode(Sequence[Trial], json.loads(json.dumps(encode([trial])))) == (trial,)


def test_keys_are_what_the_annotation_says() -> None:
    assert decode(Mapping[int, str], {"3": "x"}) == {3: "x"}
    assert decode(Mapping[str, str], {"3": "x"}) == {"3": "x"}
    with pytest.raises(ValueError, match="curve: got the key 'half', expected float"):
        decode(Mapping[float, str], {"half": "x"}, "curve")
