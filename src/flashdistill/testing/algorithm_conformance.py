"""The contract of a search algorithm, as tests.

class TestMySearch(AlgorithmConformance):
    def algorithm(self, problem):
        return MySearch(problem)
"""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import Algorithm, SearchProblem, tried
from flashdistill.exploration.space import DesignSpace
from flashdistill.testing.search_cases import MODES, STATES, judged, made_up_trials, small_space, vast_space, with_state
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem


class AlgorithmConformance(ABC):
    """Inherit, name the algorithm, and pytest runs every test below against it."""

    @abstractmethod
    def algorithm(self, problem: SearchProblem) -> Algorithm:
        """A new instance of the algorithm under test."""

    def problem(self, synthetic: SyntheticProblem, *constraints: str) -> SearchProblem:
        parsed = [Constraint.parse(constraint) for constraint in constraints]
        return SearchProblem(OBJECTIVES, parsed, synthetic.baseline)

    def history(self, synthetic: SyntheticProblem, count: int) -> list[Trial]:
        """The baseline and ``count`` random trials in all states."""
        others = synthetic.space.sample(count, np.random.default_rng(1), exclude=[synthetic.baseline])
        trials = [synthetic.run(architecture, number) for number, architecture in enumerate(others, start=1)]
        mixed = [with_state(trial, STATES[trial.number % len(STATES)]) for trial in trials]
        return [synthetic.run(synthetic.baseline, 0), *mixed]

    def test_visits_every_architecture_once_then_stops(self):
        synthetic = SyntheticProblem(space=small_space(hidden_size=[128, 256], num_feedforward=[2, 4]))
        algorithm = self.algorithm(self.problem(synthetic))
        trials: list[Trial] = []
        while suggested := algorithm.suggest(synthetic.space, trials, 3, seed=0):
            for architecture in suggested:
                complete = synthetic.run(architecture, len(trials))
                trials.append(with_state(complete, STATES[len(trials) % len(STATES)]))
            assert len(trials) <= synthetic.space.size, "suggests more than the space holds"
        assert sorted(trial.architecture for trial in trials) == sorted(synthetic.space.table)

    def test_never_repeats_a_trial_of_any_state(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = self.history(synthetic, 14)
        suggested = self.algorithm(self.problem(synthetic)).suggest(synthetic.space, trials, 4, seed=0)
        assert len(set(suggested)) == 4
        assert not set(suggested) & {trial.architecture for trial in trials}
        assert all(architecture in synthetic.space for architecture in suggested)

    def test_pending_trials_are_left_to_their_workers(self):
        synthetic = SyntheticProblem(space=small_space())
        algorithm = self.algorithm(self.problem(synthetic))
        trials = [synthetic.run(synthetic.baseline, 0)]
        for number in range(1, 9):
            (suggested,) = algorithm.suggest(synthetic.space, trials, 1, seed=0)
            assert suggested not in {trial.architecture for trial in trials}
            trials.append(Trial(number, suggested, TrialState.PENDING))

    def test_the_same_arguments_give_the_same_suggestions(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = self.history(synthetic, 12)
        used = self.algorithm(self.problem(synthetic))
        used.suggest(synthetic.space, trials[:3], 2, seed=5)
        first = used.suggest(synthetic.space, trials, 3, seed=0)
        fresh = self.algorithm(self.problem(synthetic)).suggest(small_space(), trials, 3, seed=0)
        assert first == fresh == used.suggest(synthetic.space, trials, 3, seed=0)

    def test_the_seed_matters_at_the_beginning(self):
        synthetic = SyntheticProblem()
        algorithm = self.algorithm(self.problem(synthetic))
        starts = {tuple(algorithm.suggest(synthetic.space, [], 2, seed)) for seed in range(6)}
        assert len(starts) > 1

    def test_asking_changes_nothing(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = self.history(synthetic, 12)
        before = copy.deepcopy(trials)
        states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
        threads = torch.get_num_threads()
        self.algorithm(self.problem(synthetic)).suggest(synthetic.space, trials, 2, seed=0)
        assert trials == before
        assert torch.get_num_threads() == threads
        assert random.getstate() == states[0]
        assert str(np.random.get_state()) == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])

    def test_size_limits_are_kept(self):
        synthetic = SyntheticProblem(space=small_space())
        counts = np.sort(synthetic.space.table_parameters)
        limit = float(counts[len(counts) // 3])
        algorithm = self.algorithm(self.problem(synthetic, f"num_parameters <= {limit}"))
        suggested = algorithm.suggest(synthetic.space, [], synthetic.space.size, seed=0)
        allowed = [
            a for a, n in zip(synthetic.space.table, synthetic.space.table_parameters, strict=True) if n <= limit
        ]
        assert sorted(suggested) == sorted(allowed)

    def test_size_limits_may_be_relative_to_the_baseline(self):
        synthetic = SyntheticProblem(space=small_space())
        algorithm = self.algorithm(self.problem(synthetic, "num_parameters <= 0.9x"))
        suggested = algorithm.suggest(synthetic.space, self.history(synthetic, 4), 3, seed=0)
        bound = 0.9 * synthetic.space.parameters([synthetic.baseline])[0]
        assert suggested
        assert all(synthetic.space.parameters(suggested) <= bound)

    def test_nothing_fits_the_size_limits(self):
        synthetic = SyntheticProblem(space=small_space())
        algorithm = self.algorithm(self.problem(synthetic, "num_parameters <= 10"))
        assert algorithm.suggest(synthetic.space, [], 3, seed=0) == []

    def test_more_asked_for_than_there_is(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = self.history(synthetic, 20)
        suggested = self.algorithm(self.problem(synthetic)).suggest(synthetic.space, trials, 50, seed=0)
        assert sorted(suggested) == sorted(set(synthetic.space.table) - tried(trials))

    def test_nothing_asked_for(self):
        synthetic = SyntheticProblem(space=small_space())
        assert self.algorithm(self.problem(synthetic)).suggest(synthetic.space, [], 0, seed=0) == []

    def test_space_of_one_point(self):
        space = small_space(hidden_size=128, bottleneck_size=64, intermediate_size=384, num_feedforward=2)
        synthetic = SyntheticProblem(space=space)
        algorithm = self.algorithm(self.problem(synthetic))
        assert algorithm.suggest(space, [], 2, seed=0) == [synthetic.baseline]
        assert algorithm.suggest(space, [synthetic.run(synthetic.baseline, 0)], 2, seed=0) == []

    def test_one_factor_only(self):
        space = small_space(
            bottleneck_size=64, intermediate_size=384, num_feedforward=2, hidden_size=list(range(128, 512, 32))
        )
        trials = made_up_trials(space, space.table[::4])
        self._check(space, trials, space.table[0])

    def test_only_failures_so_far(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = [replace(t, state=TrialState.FAILED, measurements={}) for t in self.history(synthetic, 8)]
        self._check(synthetic.space, trials, synthetic.baseline)

    def test_all_results_are_equal(self):
        synthetic = SyntheticProblem(space=small_space())
        same = {m.name: m for m in (Measurement.of("mlm_accuracy", 0.3), Measurement.of("latency_ms", 5.0))}
        trials = [replace(t, state=TrialState.COMPLETE, measurements=same) for t in self.history(synthetic, 8)]
        self._check(synthetic.space, trials, synthetic.baseline)

    def test_every_trial_breaks_the_latency_limit(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = [with_state(t, TrialState.INFEASIBLE) for t in self.history(synthetic, 8)]
        self._check(synthetic.space, trials, synthetic.baseline, constraints=["latency_ms <= 0.01"])

    def test_baseline_outside_the_space(self):
        synthetic = SyntheticProblem(space=small_space())
        outside = Architecture(1024, 192, 2, 1024, 8)
        trials = self.history(synthetic, 8)
        trials[0] = replace(trials[0], architecture=outside)
        self._check(synthetic.space, trials, outside, constraints=["latency_ms <= 1.0x"])

    def test_one_and_three_objectives(self):
        synthetic = SyntheticProblem(space=small_space())
        trials = self.history(synthetic, 10)
        self._check(synthetic.space, trials, synthetic.baseline, objectives=OBJECTIVES[:1])
        three = (*OBJECTIVES, Objective("num_parameters", "minimize"))
        self._check(synthetic.space, trials, synthetic.baseline, objectives=three)

    @pytest.mark.parametrize("mode", MODES)
    def test_one_objective_until_the_space_is_exhausted(self, mode: str):
        synthetic = SyntheticProblem(space=small_space())
        objectives, texts = MODES[mode]
        constraints = [Constraint.parse(text) for text in texts]
        baseline = synthetic.run(synthetic.baseline, 0)
        others = synthetic.space.sample(13, np.random.default_rng(1), exclude=[synthetic.baseline])
        trials = [baseline, *(judged(synthetic.run(a, n), constraints, baseline) for n, a in enumerate(others, 1))]
        self._check(synthetic.space, trials, synthetic.baseline, objectives, texts)
        algorithm = self.algorithm(SearchProblem(objectives, constraints, synthetic.baseline))
        while suggested := algorithm.suggest(synthetic.space, trials, 4, seed=0):
            found = [synthetic.run(architecture, len(trials) + place) for place, architecture in enumerate(suggested)]
            trials.extend(judged(trial, constraints, baseline) for trial in found)
            assert len(trials) <= synthetic.space.size, "suggests more than the space holds"
        assert sorted(trial.architecture for trial in trials) == sorted(synthetic.space.table)

    def test_what_was_only_measured_is_still_suggested_once(self):
        """All of the space was measured beforehand, whether it keeps the limit or not."""
        synthetic = SyntheticProblem(space=small_space())
        baseline = synthetic.run(synthetic.baseline, 0)
        probes = [with_state(synthetic.run(a, n), TrialState.MEASURED) for n, a in enumerate(synthetic.space.table)]
        constraints = [Constraint.parse("latency_ms <= 0.8x")]
        for goal in ("front", "beat-baseline"):
            algorithm = self.algorithm(SearchProblem(OBJECTIVES, constraints, synthetic.baseline, goal))
            trials = [*probes, baseline]
            while suggested := algorithm.suggest(synthetic.space, trials, 5, seed=0):
                number = len(trials) - len(probes)
                found = [synthetic.run(architecture, number + place) for place, architecture in enumerate(suggested)]
                trials.extend(judged(trial, constraints, baseline) for trial in found)
                assert len(trials) <= 2 * synthetic.space.size, "suggests more than the space holds"
            assert sorted(t.architecture for t in trials[len(probes) :]) == sorted(synthetic.space.table)

    def test_probes_before_any_trial(self):
        synthetic = SyntheticProblem(space=small_space())
        probes = [with_state(synthetic.run(a, n), TrialState.MEASURED) for n, a in enumerate(synthetic.space.table[:6])]
        suggested = self.algorithm(self.problem(synthetic)).suggest(synthetic.space, probes, 3, seed=0)
        assert len(set(suggested)) == 3

    def test_another_runs_trials_count_neither_as_tried_nor_as_results(self):
        """A prior of the whole space, on another scale and in all states, and some of other spaces."""
        synthetic = SyntheticProblem(space=small_space())
        prior = [
            with_state(t, STATES[t.number % len(STATES)])
            for t in made_up_trials(synthetic.space, synthetic.space.table)
        ]
        prior += [replace(trial, architecture=Architecture(768, 320, 5, 768, 9)) for trial in prior[:2]]
        for goal in ("front", "beat-baseline"):
            problem = SearchProblem(OBJECTIVES, (), synthetic.baseline, goal, prior)
            for trials in ([], self.history(synthetic, 10)):
                suggested = self.algorithm(problem).suggest(synthetic.space, trials, 2, seed=0)
                assert len(set(suggested)) == 2
                assert suggested == self.algorithm(problem).suggest(synthetic.space, trials, 2, seed=0)
                assert not set(suggested) & {trial.architecture for trial in trials}
            rest = self.algorithm(problem).suggest(synthetic.space, trials, synthetic.space.size, seed=0)
            assert len(set(rest)) == synthetic.space.size - len(trials)

    def test_space_too_large_to_enumerate(self):
        space = small_space(
            hidden_size=list(range(128, 528, 8)),
            bottleneck_size=list(range(32, 232, 4)),
            intermediate_size=list(range(128, 528, 8)),
            num_blocks=[2, 4, 6],
        )
        assert not space.enumerable
        shown = space.sample(12, np.random.default_rng(0))
        trials = made_up_trials(space, shown)
        suggested = self._check(space, trials, shown[0], constraints=["num_parameters <= 12e6"])
        assert all(space.parameters(suggested) <= 12e6)

    @pytest.mark.parametrize("limit", [180e6, 4.1e6])
    def test_vast_space(self, limit: float):
        """Of 1e12 architectures about two thirds keep the first limit, one in a million the second."""
        space = vast_space()
        smallest = Architecture(128, 32, 4, 128, 1, 1)
        shown = space.sample(12, np.random.default_rng(0))
        constraints = [f"num_parameters <= {limit}"]
        for trials in ([], made_up_trials(space, shown)):
            suggested = self._check(space, trials, smallest, constraints=constraints)
            assert all(space.parameters(suggested) <= limit)

    def _check(
        self,
        space: DesignSpace,
        trials: Sequence[Trial],
        baseline: Architecture,
        objectives: Sequence[Objective] = OBJECTIVES,
        constraints: Sequence[str] = (),
    ) -> list[Architecture]:
        """Both goals give two new distinct members of the space."""
        suggested: list[Architecture] = []
        for goal in ("front", "beat-baseline"):
            parsed = [Constraint.parse(constraint) for constraint in constraints]
            algorithm = self.algorithm(SearchProblem(objectives, parsed, baseline, goal))
            suggested = algorithm.suggest(space, trials, 2, seed=0)
            assert len(set(suggested)) == 2
            assert all(architecture in space for architecture in suggested)
            assert not set(suggested) & tried(trials)
        return suggested
