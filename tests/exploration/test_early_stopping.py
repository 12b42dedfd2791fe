"""When a student in training cannot come onto the front any more: decisions with known answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.early_stopping import MARGIN_DEVIATIONS, TRAINED_BEFORE_STOPPING, stop_reason

ACCURACY, LATENCY = Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")
OBJECTIVES = [ACCURACY, LATENCY]
ERROR = 0.003
HALF = 0.5


def values(numbers: Mapping[str, float], error: float | None = ERROR) -> dict[str, Measurement]:
    return {name: Measurement.of(name, value, stderr=error) for name, value in numbers.items()}


def trial(number: int, latency: float, score: float, gain: float = 0.1, **others: float) -> Trial:
    """A complete trial that had ``score`` after half of its training and gained ``gain`` by the end."""
    return Trial(
        number,
        Architecture(16, 8, 1, 16, number + 1),
        TrialState.COMPLETE,
        measurements=values({"latency_ms": latency, "mlm_accuracy": score + gain, **others}),
        curve={HALF: values({"mlm_accuracy": score})},
    )


def candidate(latency: float, score: float, **others: float) -> Trial:
    return Trial(
        99,
        Architecture(32, 8, 1, 16, 1),
        TrialState.PENDING,
        measurements=values({"latency_ms": latency, **others}),
        curve={HALF: values({"mlm_accuracy": score})},
    )


def history(count: int = TRAINED_BEFORE_STOPPING) -> list[Trial]:
    """The first has 10 ms and 0.30; each further one is 1 ms faster and 0.02 worse; all gain the same."""
    return [trial(number, 10.0 - number, 0.30 - 0.02 * number) for number in range(count)]


def decide(one: Trial, trials: list[Trial], objectives: list[Objective] = OBJECTIVES, *limits: str) -> str:
    return stop_reason(one, HALF, trials, objectives, [Constraint.parse(limit) for limit in limits])


def test_one_that_lies_far_behind_one_no_slower_is_stopped_and_told_by_whom() -> None:
    reason = decide(candidate(8.5, 0.20), history())
    # Trials 2, 3 and 4 are faster; trial 2 (8 ms) is the furthest ahead, with 0.26.
    assert reason == (
        "beaten by trial 2 (16_8_1_16_3) after 50% of the pre-training steps: mlm_accuracy 0.2 against 0.26, "
        "which is no worse in latency_ms"
    )


def test_faster_than_all_nobody_is_stopped() -> None:
    assert decide(candidate(5.9, 0.0), history()) == ""
    assert decide(candidate(6.0, 0.0), history()) != "", "a rival as fast suffices"


@pytest.mark.parametrize(("beyond", "stopped"), [(0.999, False), (1.001, True)])
def test_the_margin_is_the_noise_of_both_scores(beyond: float, stopped: bool) -> None:
    """All gain alike, so only the standard errors are left."""
    margin = MARGIN_DEVIATIONS * math.hypot(ERROR, ERROR)
    assert bool(decide(candidate(6.5, 0.22 - beyond * margin), history())) is stopped


@pytest.mark.parametrize(("beyond", "stopped"), [(0.999, False), (1.001, True)])
def test_what_others_gained_later_widens_the_margin(beyond: float, stopped: bool) -> None:
    gains = [0.05, 0.10, 0.15, 0.10, 0.10]
    spread = math.sqrt((0.05**2 + 0.05**2) / 4)
    trials = [replace(trial(n, 10.0 - n, 0.80 - 0.02 * n, gain)) for n, gain in enumerate(gains)]
    margin = MARGIN_DEVIATIONS * math.sqrt(2 * ERROR**2 + 2 * spread**2)
    assert bool(decide(candidate(6.5, 0.72 - beyond * margin), trials)) is stopped


@pytest.mark.parametrize(("beyond", "stopped"), [(0.999, False), (1.001, True)])
def test_the_scatter_between_seeds_widens_the_margin(beyond: float, stopped: bool) -> None:
    trials = history()
    first = trials[0].measurements["mlm_accuracy"].value
    trials[0] = replace(trials[0], confirmations=[values({"mlm_accuracy": first + 0.02})])
    deviation = 0.02 / math.sqrt(2)
    margin = MARGIN_DEVIATIONS * math.sqrt(2 * ERROR**2 + 2 * deviation**2)
    assert bool(decide(candidate(6.5, 0.22 - beyond * margin), trials)) is stopped


def test_the_first_few_are_never_stopped() -> None:
    assert decide(candidate(20.0, 0.0), history(TRAINED_BEFORE_STOPPING - 1)) == ""
    assert decide(candidate(20.0, 0.0), history(TRAINED_BEFORE_STOPPING)) != ""


def test_only_complete_trials_scored_at_the_same_share_count() -> None:
    stopped = replace(trial(8, 1.0, 0.9), state=TrialState.STOPPED)
    elsewhere = replace(trial(9, 1.0, 0.9), curve={0.25: values({"mlm_accuracy": 0.9})})
    slow = candidate(5.0, 0.1)  # faster than the history
    assert decide(slow, [*history(), stopped, elsewhere]) == ""
    assert "trial 8" in decide(slow, [*history(), trial(8, 1.0, 0.9)])
    assert stop_reason(slow, 0.75, history(), OBJECTIVES) == "", "not scored at this share"


def test_a_rival_that_breaks_a_limit_beats_nobody() -> None:
    """Only the baseline can: it is the fastest, and too large."""
    trials = [trial(number, 5.0 + number, 0.2, num_parameters=1e5) for number in range(1, 6)]
    trials.insert(0, trial(0, 1.0, 0.9, num_parameters=2e6))
    behind = candidate(4.0, 0.1, num_parameters=1e5)
    assert "trial 0" in decide(behind, trials)
    assert decide(behind, trials, OBJECTIVES, "num_parameters <= 1e6") == ""
    assert "trial 0" in decide(behind, trials, OBJECTIVES, "num_parameters <= 1.0x")


def test_a_loss_is_better_when_smaller() -> None:
    objectives = [Objective("mlm_loss", "minimize"), LATENCY]

    def with_loss(one: Trial, loss: float) -> Trial:
        final = {**one.measurements, **values({"mlm_loss": loss - 0.5})}
        return replace(one, measurements=final, curve={HALF: values({"mlm_loss": loss})})

    trials = [with_loss(one, 5.0) for one in history()]
    assert decide(with_loss(candidate(11.0, 0.0), 6.0), trials, objectives)
    assert not decide(with_loss(candidate(11.0, 0.0), 4.0), trials, objectives)


def test_with_several_trained_objectives_one_must_lie_behind_in_all() -> None:
    objectives = [ACCURACY, Objective("nsp_accuracy", "maximize"), LATENCY]

    def with_nsp(one: Trial, score: float) -> Trial:
        curve = {HALF: {**one.curve[HALF], **values({"nsp_accuracy": score})}}
        return replace(one, measurements={**one.measurements, **values({"nsp_accuracy": score})}, curve=curve)

    trials = [with_nsp(one, 0.7) for one in history()]
    assert decide(with_nsp(candidate(11.0, 0.1), 0.5), trials, objectives)
    assert not decide(with_nsp(candidate(11.0, 0.1), 0.699), trials, objectives)


def test_with_three_objectives_a_rival_must_be_no_worse_in_both_that_are_known() -> None:
    objectives = [ACCURACY, LATENCY, Objective("num_parameters", "minimize")]
    trials = [trial(n, 10.0 - n, 0.30, num_parameters=1e6) for n in range(TRAINED_BEFORE_STOPPING)]
    assert decide(candidate(11.0, 0.1, num_parameters=2e6), trials, objectives)
    assert not decide(candidate(11.0, 0.1, num_parameters=9e5), trials, objectives)


def test_accuracy_alone_needs_no_latency() -> None:
    assert decide(candidate(1.0, 0.1), history(), [ACCURACY]).endswith("0.1 against 0.3")


def test_what_is_not_scored_on_the_way_stops_nobody() -> None:
    trials = [trial(n, 10.0 - n, 0.30, served_mlm_accuracy=0.4) for n in range(6)]
    assert decide(candidate(11.0, 0.1), trials, [Objective("served_mlm_accuracy", "maximize"), LATENCY]) == ""


def test_exact_scores_need_no_margin() -> None:
    """Without any error or scatter the smallest difference decides, and none decides nothing."""

    def exact(one: Trial) -> Trial:
        curve = {HALF: {name: replace(score, stderr=None) for name, score in one.curve[HALF].items()}}
        final = {**one.measurements, "mlm_accuracy": Measurement.of("mlm_accuracy", 0.5)}
        return replace(one, curve=curve, measurements=final if one.state is TrialState.COMPLETE else one.measurements)

    trials = [exact(trial(n, 10.0 - n, 0.25)) for n in range(TRAINED_BEFORE_STOPPING)]
    assert decide(exact(candidate(11.0, 0.2499)), trials)
    assert not decide(exact(candidate(11.0, 0.25)), trials)
