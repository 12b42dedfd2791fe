import numpy as np

from flashdistill.core.measurement import Constraint
from flashdistill.core.trial import TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.lattice import Lattice
from flashdistill.exploration.algorithms.population_search import PopulationSearch
from flashdistill.testing.search_cases import made_up_trials, small_space, vast_space, with_state
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem


class Stubborn(PopulationSearch):
    """Always wishes for the largest model."""

    SIZE = 8

    def wish(self, moment, rng):
        return np.ones(len(moment.lattice.choices))


def problem(space, *constraints, **changes):
    return SearchProblem(OBJECTIVES, [Constraint.parse(text) for text in constraints], space.table[0], **changes)


def test_it_starts_with_a_design_that_has_every_choice():
    space = SyntheticProblem().space
    start = Stubborn(problem(space)).suggest(space, [], 8, seed=0)
    for name, choices in space.factors.items():
        found = {getattr(architecture, name) for architecture in start}
        # The heads have to divide the bottleneck, so a position may be moved by a step.
        assert len(found) >= len(choices) - (name in ("num_heads", "bottleneck_size"))


def test_the_best_of_another_run_come_first():
    """Results rise with every factor: with accuracy as the objective, the largest are the best."""
    space = small_space()
    prior = made_up_trials(space, space.table)
    algorithm = Stubborn(SearchProblem(OBJECTIVES[:1], (), space.table[0], prior=prior))
    start = algorithm.suggest(space, [], 8, seed=0)
    accuracy = {trial.architecture: trial.measurements["mlm_accuracy"].value for trial in prior}
    assert [accuracy[architecture] for architecture in start[:4]] == sorted(accuracy.values())[:-5:-1]
    first = with_state(prior[space.table.index(start[0])], TrialState.PENDING)
    assert algorithm.suggest(space, [first], 7, seed=0) == start[1:]


def test_afterwards_the_wish_decides_and_what_is_free_nearest_to_it():
    space = small_space()
    trials = made_up_trials(space, space.table[:8])
    suggested = Stubborn(problem(space)).suggest(space, trials, 16, seed=0)
    lattice = Lattice(space)
    distances = lattice.steps_squared(space.encode(suggested), np.ones(4))
    assert suggested[0] == space.table[-1]
    assert np.all(np.diff(distances) > -0.1)
    assert len(suggested) == 16


def test_what_was_measured_too_slow_is_suggested_last():
    """Latency rises with every factor, and all of the space was measured."""
    space = small_space()
    results = made_up_trials(space, space.table)
    probes = [with_state(trial, TrialState.MEASURED) for trial in results]
    trials = [*probes, *results[:8]]
    suggested = Stubborn(problem(space, "latency_ms <= 8.0")).suggest(space, trials, 16, seed=0)
    slow = [results[space.table.index(a)].measurements["latency_ms"].value > 8.3 for a in suggested]
    assert slow == sorted(slow)
    assert 0 < sum(slow) < len(slow)


def test_after_nothing_but_failures_chance_decides():
    space = small_space()
    trials = [with_state(trial, TrialState.FAILED) for trial in made_up_trials(space, space.table[:12])]
    algorithm = Stubborn(problem(space))
    assert len({tuple(algorithm.suggest(space, trials, 3, seed)) for seed in range(5)}) > 1


def test_a_vast_space_with_four_allowed_architectures_is_exhausted():
    space = vast_space()
    smallest = next(space.architectures())
    algorithm = Stubborn(SearchProblem(OBJECTIVES, [Constraint.parse("num_parameters <= 1.0x")], smallest))
    assert len(algorithm.suggest(space, [], 9, seed=0)) == 4
