"""Problems of the search benchmark: what is true, what is shown, and what chance would find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_replay.measured import read_table, shrunk_to_trend
from benchmarks.search_replay.priors import PRIOR_TRIALS, related_prior, unrelated_prior
from benchmarks.search_replay.problems import ReplayProblem, smooth_field, synthetic_problem
from benchmarks.search_replay.ranks import Ranks
from flashdistill.core.errors import InputError
from flashdistill.core.seeds import generator
from flashdistill.testing.algorithm_conformance import small_space
from flashdistill.testing.synthetic_space import SyntheticProblem
from tests.benchmarks.conftest import LATENCY_NOISE, NOISE, WriteTable


def test_simulated_problems_are_those_of_the_package() -> None:
    problem, original = synthetic_problem(2), SyntheticProblem(seed=2)
    assert problem.baseline == original.baseline
    assert problem.dominating == original.dominating
    assert problem.hypervolume_shares(sorted(original.front))[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("density", "winners"), [(0.005, 3), (0.012, 7), (0.03, 17), (0.001, 3)])
def test_the_baseline_is_placed_by_density(density: float, winners: int) -> None:
    assert abs(len(synthetic_problem(0).at_density(density).dominating) - winners) <= 1


def test_the_expectation_of_random_draws_is_that_of_random_draws() -> None:
    problem = synthetic_problem(0)
    others = [architecture for architecture in problem.space.table if architecture != problem.baseline]
    wins = np.array([architecture in problem.dominating for architecture in others])
    rng = generator("test of random draws")
    thirds = [np.flatnonzero(rng.permutation(wins))[2] + 1 for _ in range(4000)]
    assert np.mean(thirds) == pytest.approx(problem.random_expectation(3), rel=0.03)
    assert problem.random_expectation(3) == 576 * 3 / 8


def test_hypervolume_grows_to_that_of_the_front_and_ignores_repeats() -> None:
    problem = synthetic_problem(0)
    order = [problem.baseline, problem.baseline, *problem.space.table[::7]]
    shares = problem.hypervolume_shares(order)
    assert shares[0] == shares[1] > 0
    assert np.all(np.diff(shares) >= 0)
    assert shares[-1] < 1 == pytest.approx(problem.hypervolume_shares(problem.space.table)[-1])


def curved(covariance: np.ndarray) -> ReplayProblem:
    made = SyntheticProblem(space=small_space())
    count = made.space.size
    return ReplayProblem(
        "curved",
        made.space,
        made.truth,
        np.full(count, 0.001),
        np.full(count, 0.02),
        covariance,
        (0.5,),
        made.truth[:, :1] - 0.05,
    )


def test_observations_scatter_as_training_seeds_do_and_are_the_same_when_asked_again() -> None:
    covariance = np.array([[4.0, 3.0], [3.0, 9.0]]) * 1e-6
    problem = curved(covariance)
    architecture = problem.space.table[5]
    true_accuracy, true_latency = problem.truth[5]
    assert problem.run(architecture, 3, seed=1) == problem.run(architecture, 3, seed=1)
    assert problem.run(architecture, 3, seed=1) != problem.run(architecture, 3, seed=2)
    trials = [problem.run(architecture, 0, seed) for seed in range(800)]
    shown = np.array([[t.curve[0.5]["mlm_accuracy"].value + 0.05, t.value("mlm_accuracy")] for t in trials])
    assert np.cov(shown.T) == pytest.approx(covariance, rel=0.2)
    assert shown.mean(axis=0) == pytest.approx([true_accuracy] * 2, abs=5e-4)
    ratios = np.log([(t.value("latency_ms") or 0.0) / true_latency for t in trials])
    assert ratios.std() == pytest.approx(0.02, rel=0.1)


def test_a_table_is_read_in_the_order_of_the_space(tmp_path: Path, write_table: WriteTable) -> None:
    truth = write_table(tmp_path)
    table = read_table(tmp_path)
    problem = table.problem()
    assert problem.space.table == truth.space.table
    assert problem.truth[:, 1] == pytest.approx(truth.truth[:, 1])
    assert problem.truth[:, 0] == pytest.approx(truth.truth[:, 0], abs=4 * NOISE)
    assert problem.curve is not None
    assert problem.curve == pytest.approx(problem.truth[:, :1] - [[0.075, 0.05, 0.025]])
    assert problem.latency_noise == pytest.approx(LATENCY_NOISE)
    assert table.seeds.tolist() == [4] * 18 + [1] * 54
    # Here a seed shifts the whole curve, so that all entries are the same.
    assert np.sqrt(problem.seed_covariance) == pytest.approx(NOISE, rel=0.25)
    assert np.ptp(problem.seed_covariance) == pytest.approx(0.0, abs=1e-9)


def test_the_smoothed_truth_is_closer_to_the_real_one(tmp_path: Path, write_table: WriteTable) -> None:
    real = write_table(tmp_path).truth[:, 0]
    plain, smoothed = (read_table(tmp_path).problem(smoothed=smooth) for smooth in (False, True))
    errors = [np.abs(problem.truth[:, 0] - real).mean() for problem in (plain, smoothed)]
    assert errors[1] < 0.95 * errors[0]
    assert smoothed.name != plain.name


def test_what_a_trend_explains_or_noise_cannot_is_kept() -> None:
    features = np.random.default_rng(0).random((60, 2))
    trend = 1.0 + features @ [2.0, -1.0] + 3.0 * features[:, 0] * features[:, 1]
    assert shrunk_to_trend(features, trend, np.full(60, 0.1)) == pytest.approx(trend)
    rough = trend + np.random.default_rng(1).normal(size=60)
    assert shrunk_to_trend(features, rough, np.full(60, 1e-12)) == pytest.approx(rough)


def test_an_incomplete_table_is_refused(tmp_path: Path, write_table: WriteTable) -> None:
    with pytest.raises(InputError, match="table.parquet is missing"):
        read_table(tmp_path)
    write_table(tmp_path, without=5)
    with pytest.raises(InputError, match="no row for 5 of 72 architectures"):
        read_table(tmp_path)


def test_a_table_without_repeated_seeds_has_no_noise_to_show(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path, seeds=1)
    with pytest.raises(InputError, match="one training seed"):
        read_table(tmp_path).problem()


def test_a_related_prior_is_related_and_the_other_is_not(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path)
    for problem in (synthetic_problem(0), read_table(tmp_path).problem()):
        known = problem.truth
        for prior, least, most in ((related_prior, 0.7, 1.0), (unrelated_prior, -0.5, 0.5)):
            trials = prior(problem, 0)
            assert len({trial.architecture for trial in trials}) == len(trials) == min(PRIOR_TRIALS, 72)
            assert trials[0].architecture == problem.baseline
            for column, metric in enumerate(("mlm_accuracy", "latency_ms")):
                rows = [problem.index[trial.architecture] for trial in trials]
                values = [trial.measurements[metric].value for trial in trials]
                assert least < np.corrcoef(known[rows, column], values)[0, 1] <= most, prior


def test_a_smooth_field_differs_little_between_neighbours() -> None:
    space = small_space(hidden_size=list(range(128, 512, 16)))
    field = dict(zip(space.table, smooth_field(space, "test"), strict=True))
    assert np.std(list(field.values())) == pytest.approx(1.0)
    steps = [
        abs(field[a] - field[b]) for a in space.table for b in space.neighbours(a) if a.hidden_size != b.hidden_size
    ]
    assert np.mean(steps) < 0.4


def test_ranks_name_every_architecture_and_nothing_that_cannot_exist() -> None:
    space = small_space(bottleneck_size=[64, 90], num_heads=[4, 5])
    ranks = Ranks(space)
    assert "num_blocks" not in ranks.top
    assert all(ranks.architecture(ranks.of(architecture)) == architecture for architecture in space.table)
    impossible = {**ranks.of(space.table[0]), "bottleneck_size": 0, "num_heads": 1}
    assert ranks.architecture(impossible) is None
