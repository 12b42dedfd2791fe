from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.trial import TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.nsga2 import Nsga2Search, _mutated, _tournament
from flashdistill.exploration.algorithms.population import Population
from flashdistill.testing.algorithm_conformance import AlgorithmConformance
from flashdistill.testing.search_cases import made_up_trials, small_space, trials_to_winners
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

CHOICES = np.array([4, 4, 3, 2])


class TestNsga2Search(AlgorithmConformance):
    def algorithm(self, problem):
        return Nsga2Search(problem)


def test_tournaments_prefer_the_better_half():
    """Of n members the best wins every tournament that it takes part in: 1 - (1 - 1/n)^2 of them."""
    space = small_space()
    trials = made_up_trials(space, space.table)
    population = Population.of(space, SearchProblem(OBJECTIVES[:1], (), space.table[0]), trials, 5)
    rng = np.random.default_rng(0)
    winners = np.bincount([_tournament(population, rng) for _ in range(4000)], minlength=5) / 4000
    assert winners == pytest.approx([9 / 25, 7 / 25, 5 / 25, 3 / 25, 1 / 25], abs=0.03)


def test_mutation_takes_whole_steps_on_one_axis_on_average():
    rng = np.random.default_rng(0)
    start = np.array([1.0, 2.0, 1.0, 0.0]) / (CHOICES - 1)
    steps = np.array([_mutated(start, CHOICES, rng) - start for _ in range(2000)]) * (CHOICES - 1)
    assert np.allclose(steps, np.rint(steps))
    # A step beyond the last choice stays there, so the axis of two choices moves half as often.
    assert (np.abs(steps) > 0.5).mean(axis=0) == pytest.approx([0.25, 0.25, 0.25, 0.125], abs=0.04)
    assert np.abs(steps).max() == 2


def test_children_are_bred_from_the_best():
    """Results rise with every factor: with accuracy as the only objective the children are large."""
    space = SyntheticProblem().space
    trials = made_up_trials(space, space.sample(60, np.random.default_rng(0)))
    algorithm = Nsga2Search(SearchProblem(OBJECTIVES[:1], (), trials[0].architecture))
    children = space.encode(algorithm.suggest(space, trials, 16, seed=0)).mean()
    parents = np.sort(space.encode([trial.architecture for trial in trials]).mean(axis=1))[-16:].mean()
    assert children == pytest.approx(parents, abs=0.1)


def test_one_at_a_time_equals_together_while_no_results_come_in():
    synthetic = SyntheticProblem()
    algorithm = Nsga2Search(SearchProblem(OBJECTIVES, (), synthetic.baseline))
    for known in (3, 30):
        trials = [synthetic.run(a, n) for n, a in enumerate(synthetic.space.sample(known, np.random.default_rng(0)))]
        together = algorithm.suggest(synthetic.space, trials, 20, seed=0)
        for number, expected in enumerate(together, known):
            (suggested,) = algorithm.suggest(synthetic.space, trials, 1, seed=0)
            assert suggested == expected
            trials.append(replace(synthetic.run(suggested, number), state=TrialState.PENDING, measurements={}))


def test_finds_winners_long_before_random_search():
    """Random search needs 216 trials on average for the third of 7 winners among 576."""
    needed = [trials_to_winners(Nsga2Search, 3, seed) for seed in range(3)]
    assert np.mean(needed) < 130
