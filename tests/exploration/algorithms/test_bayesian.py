import logging
from dataclasses import replace

import numpy as np

from flashdistill.core.measurement import Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms import gaussian_process
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.bayesian import BayesianSearch
from flashdistill.exploration.algorithms.surrogates import MIN_OBSERVATIONS
from flashdistill.testing.algorithm_conformance import AlgorithmConformance, small_space
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem


class TestBayesianSearch(AlgorithmConformance):
    def algorithm(self, problem):
        return BayesianSearch(problem)


def search(problem, synthetic, budget, seed=0):
    trials = [synthetic.run(synthetic.baseline, 0)]
    algorithm = BayesianSearch(problem)
    while len(trials) <= budget:
        (architecture,) = algorithm.suggest(synthetic.space, trials, 1, seed)
        trials.append(synthetic.run(architecture, len(trials)))
    return trials


def test_finds_winners_long_before_random_search():
    """Random search needs 72 trials for the first of 7 winners among 576, 216 for the third."""
    synthetic = SyntheticProblem(seed=1)
    problem = SearchProblem(OBJECTIVES, (), synthetic.baseline, "beat-baseline")
    tried = [trial.architecture for trial in search(problem, synthetic, 15)[1:]]
    assert len(synthetic.dominating & set(tried)) >= 3


def test_maps_the_front_better_than_the_same_number_of_random_points():
    synthetic = SyntheticProblem(accuracy_noise=0.001)
    trials = search(SearchProblem(OBJECTIVES, (), synthetic.baseline), synthetic, 16)
    found = synthetic.front_share([trial.architecture for trial in trials])
    rng = np.random.default_rng(0)
    by_chance = [synthetic.front_share(synthetic.space.sample(17, rng)) for _ in range(40)]
    assert found > max(by_chance)


def test_without_results_the_design_spreads_over_the_space():
    """Several workers start before anything is known: their points are far apart."""
    synthetic = SyntheticProblem()
    algorithm = BayesianSearch(SearchProblem(OBJECTIVES, (), synthetic.baseline))
    few = [synthetic.run(synthetic.baseline, 0)]
    assert len(few) < MIN_OBSERVATIONS
    design = [synthetic.baseline, *algorithm.suggest(synthetic.space, few, 7, seed=0)]

    def least_distance(architectures):
        features = synthetic.space.encode(architectures)
        pairs = np.triu_indices(len(features), 1)
        return np.linalg.norm(features[:, None] - features[None], axis=-1)[pairs].min()

    rng = np.random.default_rng(0)
    assert least_distance(design) > max(least_distance(synthetic.space.sample(8, rng)) for _ in range(50))


def test_a_latency_limit_known_from_untrained_trials_is_respected():
    """Latency depends on the hidden size alone here: half the space is too slow, and it was measured."""
    space = small_space(hidden_size=[128, 256, 384, 512])
    synthetic = SyntheticProblem(space=space)
    trials = []
    for number, architecture in enumerate(space.sample(14, np.random.default_rng(0))):
        trial = synthetic.run(architecture, number)
        latency = replace(trial.measurements["latency_ms"], value=architecture.hidden_size / 10, stderr=0.05)
        kept = {"latency_ms": latency}
        state = TrialState.COMPLETE if latency.value <= 30 else TrialState.INFEASIBLE
        if state is TrialState.COMPLETE:
            kept["mlm_accuracy"] = trial.measurements["mlm_accuracy"]
        trials.append(replace(trial, state=state, measurements=kept))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.INFEASIBLE}
    baseline = next(trial.architecture for trial in trials if trial.state is TrialState.COMPLETE)
    problem = SearchProblem(OBJECTIVES, [Constraint.parse("latency_ms <= 30")], baseline)
    suggested = BayesianSearch(problem).suggest(space, trials, 6, seed=0)
    assert all(architecture.hidden_size <= 256 for architecture in suggested)


def test_pending_trials_push_the_next_proposal_away():
    synthetic = SyntheticProblem(accuracy_noise=0.0005)
    algorithm = BayesianSearch(SearchProblem(OBJECTIVES, (), synthetic.baseline, "beat-baseline"))
    trials = [synthetic.run(a, n) for n, a in enumerate(synthetic.space.sample(25, np.random.default_rng(0)))]
    trials[0] = synthetic.run(synthetic.baseline, 0)
    batch = algorithm.suggest(synthetic.space, trials, 2, seed=0)
    pending = Trial(25, batch[0], TrialState.PENDING)
    assert algorithm.suggest(synthetic.space, [*trials, pending], 1, seed=0) == batch[1:]


def test_an_exact_objective_needs_no_model_and_no_measurement():
    """Smallest model first, when size is the only objective: known from the formula."""
    synthetic = SyntheticProblem(space=small_space())
    trials = [synthetic.run(a, n) for n, a in enumerate(synthetic.space.table[6:16:2])]
    problem = SearchProblem([Objective("num_parameters", "minimize")], (), trials[0].architecture)
    (suggested,) = BayesianSearch(problem).suggest(synthetic.space, trials, 1, seed=0)
    tried = {trial.architecture for trial in trials}
    rest = [a for a in synthetic.space.table if a not in tried]
    assert synthetic.space.parameters([suggested])[0] == min(synthetic.space.parameters(rest))


def test_a_failed_fit_is_logged_and_survived(monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise gaussian_process.NotPSDError("singular")

    monkeypatch.setattr(gaussian_process, "fit_gpytorch_mll", fail)
    synthetic = SyntheticProblem(space=small_space())
    trials = [synthetic.run(a, n) for n, a in enumerate(synthetic.space.table[:8])]
    with caplog.at_level(logging.WARNING):
        suggested = BayesianSearch(SearchProblem(OBJECTIVES, (), trials[0].architecture)).suggest(
            synthetic.space, trials, 1, seed=0
        )
    assert len(suggested) == 1
    assert "singular" in caplog.text
