"""Dominance over the baseline and the line of the front, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from flashdistill.core.measurement import Objective
from flashdistill.core.seeds import generator
from flashdistill.delivery.comparison import beats, beats_clearly, best, gains, plot_objectives, staircase, without_loss

ACCURACY, LATENCY, LOSS = (
    Objective("mlm_accuracy", "maximize"),
    Objective("latency_ms", "minimize"),
    Objective("mlm_loss", "minimize"),
)
BOTH = (ACCURACY, LATENCY)


@pytest.fixture
def baseline(trial):
    return trial(0, "192_64_2_256_2", 0.18, 3.0)


@pytest.mark.parametrize(
    ("accuracy", "latency", "wins"),
    [(0.19, 2.0, True), (0.19, 3.0, False), (0.18, 2.0, False), (0.17, 2.0, False), (0.19, 4.0, False)],
)
def test_beats_means_strictly_better_everywhere(trial, baseline, accuracy, latency, wins):
    assert beats(trial(1, "128_64_2_256_2", accuracy, latency), baseline, BOTH) is wins


def test_nothing_beats_without_objectives_or_values(trial, baseline):
    student = trial(1, "128_64_2_256_2", 0.19, 2.0)
    assert not beats(student, baseline, ())
    assert gains(student, baseline, (Objective("peak_memory_bytes", "minimize"),)) is None


def test_a_clear_win_exceeds_the_noise(trial, baseline):
    # Standard errors: 0.16 points each, so 0.23 of the difference; latency 1.2 %.
    assert not beats_clearly(trial(1, "128_64_2_256_2", 0.184, 2.0), baseline, BOTH)
    assert beats_clearly(trial(1, "128_64_2_256_2", 0.185, 2.0), baseline, BOTH)
    assert not beats_clearly(trial(1, "128_64_2_256_2", 0.185, 2.95), baseline, BOTH)


def test_best_without_loss(trial, baseline):
    students = [
        trial(1, "128_64_1_256_2", 0.17, 1.0),
        trial(2, "128_64_2_256_2", 0.18, 2.0),
        trial(3, "128_64_4_256_2", 0.20, 2.5),
    ]
    fastest = best(without_loss(students, baseline, ACCURACY), LATENCY)
    assert fastest is students[1]
    assert best([], LATENCY) is None


def test_quality_goes_up_and_cost_to_the_right():
    assert plot_objectives((ACCURACY, LATENCY)) == (LATENCY, ACCURACY)
    assert plot_objectives((LATENCY, ACCURACY)) == (LATENCY, ACCURACY)
    assert plot_objectives((LOSS, LATENCY)) == (LATENCY, LOSS)
    assert plot_objectives((LATENCY,)) is None


@pytest.mark.parametrize("x", [LATENCY, ACCURACY])
@pytest.mark.parametrize("y", [LOSS, Objective("nsp_accuracy", "maximize")])
def test_staircase_separates_what_is_dominated(x, y):
    random = generator("staircase", x.metric, y.metric)
    points = [tuple(point) for point in random.random((40, 2))]
    corners = staircase(points, x, y)
    turned = np.array([(x.oriented(a), y.oriented(b)) for a, b in points])

    def dominated(point):
        return any(((turned >= point).all(axis=1)) & ((turned > point).any(axis=1)))

    front = {points[index] for index, point in enumerate(turned) if not dominated(point)}
    assert set(corners[::2]) == front
    # Each inner corner is the worse of its two neighbours in either objective.
    for left, corner, right in zip(corners[::2], corners[1::2], corners[2::2], strict=False):
        assert corner == (min(left[0], right[0], key=x.oriented), min(left[1], right[1], key=y.oriented))


def test_staircase_of_nothing_and_of_one():
    assert staircase([], LATENCY, ACCURACY) == []
    assert staircase([(1.0, 2.0)], LATENCY, ACCURACY) == [(1.0, 2.0)]
