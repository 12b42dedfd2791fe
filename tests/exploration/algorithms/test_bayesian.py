import logging
from dataclasses import replace

import numpy as np
from scipy.linalg import LinAlgError

from flashdistill.core.measurement import Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms import kernel
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.bayesian import BayesianSearch
from flashdistill.exploration.algorithms.probes import probe_design
from flashdistill.exploration.algorithms.transfer import MIN_OBSERVATIONS
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
        raise LinAlgError("singular")

    monkeypatch.setattr(kernel, "negative_log_posterior", fail)
    kernel._memo.clear()
    synthetic = SyntheticProblem(space=small_space())
    trials = [synthetic.run(a, n) for n, a in enumerate(synthetic.space.table[:8])]
    with caplog.at_level(logging.WARNING):
        suggested = BayesianSearch(SearchProblem(OBJECTIVES, (), trials[0].architecture)).suggest(
            synthetic.space, trials, 1, seed=0
        )
    kernel._memo.clear()
    assert len(suggested) == 1
    assert "singular" in caplog.text


def test_a_resumed_run_gets_the_suggestions_of_the_uninterrupted_one():
    """The uninterrupted one has fitted after each trial; nothing of that may matter."""
    synthetic = SyntheticProblem()
    problem = SearchProblem(OBJECTIVES, (), synthetic.baseline)
    drawn = synthetic.space.sample(120, np.random.default_rng(0))
    trials = [synthetic.run(architecture, number) for number, architecture in enumerate(drawn)]
    for count in (100, 110, 119):
        BayesianSearch(problem).suggest(synthetic.space, trials[:count], 1, seed=0)
    uninterrupted = BayesianSearch(problem).suggest(synthetic.space, trials, 3, seed=0)
    kernel._memo.clear()
    assert BayesianSearch(problem).suggest(synthetic.space, trials, 3, seed=0) == uninterrupted


def probes(synthetic, problem, count):
    found = []
    for architecture in probe_design(synthetic.space, problem, count, seed=0):
        measured = synthetic.run(architecture, 900).measurements
        latency = {"latency_ms": measured["latency_ms"]}
        found.append(Trial(-1, architecture, TrialState.MEASURED, measurements=latency))
    return found


def test_with_latency_probes_the_start_is_among_the_faster():
    """Without probes, the design covers what is slower than the baseline too."""
    synthetic = SyntheticProblem()
    problem = SearchProblem(OBJECTIVES, (), synthetic.baseline, "beat-baseline")
    latency = dict(zip(synthetic.space.table, synthetic.truth[:, 1], strict=True))
    baseline = [synthetic.run(synthetic.baseline, 0)]
    informed = BayesianSearch(problem).suggest(
        synthetic.space, [*baseline, *probes(synthetic, problem, 24)], 10, seed=0
    )
    assert all(latency[architecture] < latency[synthetic.baseline] for architecture in informed)
    blind = BayesianSearch(problem).suggest(synthetic.space, baseline, 10, seed=0)
    assert any(latency[architecture] > latency[synthetic.baseline] for architecture in blind)


def moved(trial):
    """The trial as another machine and another corpus would have given it."""
    accuracy, latency = trial.measurements["mlm_accuracy"], trial.measurements["latency_ms"]
    changed = (
        replace(accuracy, value=0.1 + 0.7 * accuracy.value),
        replace(latency, value=0.4 * latency.value**1.2),
    )
    return replace(trial, measurements={m.name: m for m in changed})


def trials_until_three_winners(synthetic, prior, seed, limit=60):
    algorithm = BayesianSearch(SearchProblem(OBJECTIVES, (), synthetic.baseline, "beat-baseline", prior))
    trials, won = [synthetic.run(synthetic.baseline, 0)], 0
    while won < 3 and len(trials) <= limit:
        (architecture,) = algorithm.suggest(synthetic.space, trials, 1, seed)
        won += architecture in synthetic.dominating
        trials.append(synthetic.run(architecture, len(trials)))
    return len(trials) - 1


def prior_of(other, seed):
    drawn = other.space.sample(50, np.random.default_rng(seed))
    return [moved(other.run(architecture, 700 + number)) for number, architecture in enumerate(drawn)]


def test_a_related_run_saves_trials():
    needed = [
        trials_until_three_winners(synthetic, prior_of(synthetic, 1), seed=0)
        for synthetic in (SyntheticProblem(seed=seed) for seed in range(3))
    ]
    assert np.mean(needed) <= 9


def test_an_unrelated_run_costs_little():
    needed = [
        trials_until_three_winners(SyntheticProblem(seed=seed), prior_of(SyntheticProblem(seed=seed + 20), 1), seed=0)
        for seed in range(3)
    ]
    assert np.mean(needed) <= 30


def test_what_ended_early_is_learned_from():
    """The largest hidden size turns out bad in all trainings that were stopped: no more of it is suggested."""
    synthetic = SyntheticProblem(seed=1)
    problem = SearchProblem([Objective("mlm_accuracy", "maximize")], (), synthetic.baseline)
    trials = []
    for number, architecture in enumerate(synthetic.space.sample(40, np.random.default_rng(0))):
        trial = synthetic.run(architecture, number)
        accuracy = trial.measurements["mlm_accuracy"]
        half = {0.5: {"mlm_accuracy": replace(accuracy, value=accuracy.value - 0.1)}}
        if architecture.hidden_size == 512:
            half = {0.5: {"mlm_accuracy": replace(accuracy, value=0.1)}}
            trial = replace(trial, state=TrialState.STOPPED, measurements={})
        trials.append(replace(trial, curve=half))
    suggested = BayesianSearch(problem).suggest(synthetic.space, trials, 5, seed=0)
    assert all(architecture.hidden_size < 512 for architecture in suggested)
