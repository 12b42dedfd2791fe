"""The search benchmark: its arithmetic, its memory of finished runs, and the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search
from benchmarks.search_replay import replay as replaying
from benchmarks.search_replay.methods import METHODS
from benchmarks.search_replay.problems import ReplayProblem, synthetic_problem
from benchmarks.search_replay.replay import Job, Run, finished, problem_of
from benchmarks.search_replay.stopping import FULL, ended_early
from benchmarks.search_replay.summary import distinct, found_at, interval, iterations_to, summary
from benchmarks.search_replay.timing import thinking_seconds
from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from tests.benchmarks.conftest import WriteTable


@pytest.fixture(scope="module")
def problem() -> ReplayProblem:
    return synthetic_problem(0)


def run_of(problem: ReplayProblem, pattern: str) -> Run:
    """``w`` is a new winner, ``r`` the last one again, ``s`` a winner that is stopped, ``.`` a new loser."""
    winners = iter(sorted(problem.dominating))
    losers = iter(a for a in problem.space.table if a not in problem.dominating and a != problem.baseline)
    names: list[str] = []
    for letter in pattern:
        names.append(names[-1] if letter == "r" else str(next(winners if letter in "ws" else losers)))
    return Run(names, [0.1] * len(names), [0.5 if letter == "s" else FULL for letter in pattern])


def test_winners_count_once_and_only_where_trained_to_the_end(problem: ReplayProblem) -> None:
    assert found_at(run_of(problem, ".wr.s.w"), problem) == [2, 7]


def test_repeats_are_free_in_the_other_count(problem: ReplayProblem) -> None:
    run = run_of(problem, ".r.wrrw")
    assert found_at(run, problem) == [4, 7]
    assert found_at(distinct(run, problem), problem) == [3, 4]
    baseline = Run([str(problem.baseline), *run.architectures], [0.1, *run.seconds], [FULL, *run.steps])
    assert distinct(baseline, problem) == distinct(run, problem)


def test_a_search_that_ends_without_the_third_counts_as_the_budget(problem: ReplayProblem) -> None:
    runs = [run_of(problem, "w.ww"), run_of(problem, "..w.")]
    third = iterations_to(3, [(problem, runs)], budget=50)
    assert (third["mean"], third["censored"], third["runs"]) == (27.0, 1, 2)
    first = iterations_to(1, [(problem, runs)], budget=50)
    assert (first["mean"], first["low"], first["high"], first["censored"]) == (2.0, 1.0, 3.0, 0)


def test_bootstrap_intervals_are_those_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, 100)
    found = interval([values])
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-5)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)
    # Problems differ, seeds do not: then nothing is uncertain.
    apart = interval([np.full(5, 1.0), np.full(5, 3.0)])
    assert apart == {"mean": 2.0, "low": 2.0, "high": 2.0}


def test_curves_start_at_the_baseline_and_hold_their_last_value(problem: ReplayProblem) -> None:
    found = summary([(problem, [run_of(problem, ".w.")])], iterations=6, budget=10)
    assert found["winners"]["mean"] == [0, 0, 1, 1, 1, 1, 1]
    volumes = found["hypervolume"]["mean"]
    assert len(volumes) == 7
    assert volumes[0] == pytest.approx(problem.hypervolume_shares([problem.baseline])[0], abs=1e-5)
    assert volumes[3] == volumes[6]
    assert found["of_random_to_1"] == pytest.approx(2 / 72, abs=1e-5)


def test_what_is_stopped_adds_nothing_and_is_counted(problem: ReplayProblem) -> None:
    found = summary([(problem, [run_of(problem, ".s")])], iterations=2, budget=10)
    assert found["winners_stopped"]["mean"] == 1.0
    assert found["steps_share"]["mean"] == 0.75
    assert found["winners"]["mean"][-1] == 0.0


def trained(number: int, name: str, latency: float, half: float, accuracy: float) -> Trial:
    def score(value: float) -> dict[str, Measurement]:
        return {"mlm_accuracy": Measurement.of("mlm_accuracy", value, stderr=1e-4)}

    measured = {"latency_ms": Measurement.of("latency_ms", latency), **score(accuracy)}
    return Trial(
        number,
        Architecture.parse(name),
        TrialState.COMPLETE,
        measurements=measured,
        curve={0.5: score(half), 0.75: score(half + 0.01)},
    )


def test_a_hopeless_student_is_ended_at_the_first_checkpoint_without_its_accuracy() -> None:
    history = [trained(n, f"512_128_4_512_{n + 1}", 5.0 + n, 0.30 + 0.01 * n, 0.40 + 0.01 * n) for n in range(8)]
    trial, steps = ended_early(trained(9, "128_64_1_384_2", 20.0, 0.10, 0.20), history)
    assert (trial.state, steps, list(trial.curve)) == (TrialState.STOPPED, 0.5, [0.5])
    assert trial.value("mlm_accuracy") is None
    assert trial.value("latency_ms") == 20.0
    fast = trained(9, "128_64_1_384_2", 1.0, 0.10, 0.20)
    assert ended_early(fast, history) == (fast, FULL)


def job(method: str, table: Path, **changes: object) -> Job:
    return replace(Job("measured", 0.05, method, 0, str(table), 12, 30), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [name for name, found in METHODS.items() if found.module != "peer_ax"])
def test_every_method_searches_a_table(method: str, tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path)
    run = replaying.replay(job(method, tmp_path, iterations=6, budget=6))
    known = problem_of("measured", 0.05, str(tmp_path))
    assert len(run.architectures) == len(run.seconds) == len(run.steps) == 6
    assert {Architecture.parse(name) for name in run.architectures} <= set(known.space.table)
    if METHODS[method].ours:
        assert len({str(known.baseline), *run.architectures}) == 7, "ours never repeats a trial"


def test_a_replay_is_the_same_again_and_ends_with_the_third_winner(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(tmp_path)
    asked = job("random", tmp_path, iterations=2, budget=72)
    run = replaying.replay(asked)
    assert run.architectures == replaying.replay(asked).architectures
    assert run.architectures != replaying.replay(replace(asked, seed=1)).architectures
    places = found_at(run, problem_of("measured", 0.05, str(tmp_path)))
    assert len(places) == 3
    assert places[-1] == len(run.architectures)


def test_finished_runs_are_kept_until_what_they_depend_on_changes(
    tmp_path: Path, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "table")
    asked = job("random", tmp_path / "table")
    first = finished(asked, tmp_path)

    class Replayed(Exception):
        pass

    def refuse(_: Job) -> Run:
        raise Replayed

    monkeypatch.setattr(replaying, "replay", refuse)
    assert finished(asked, tmp_path) == first
    with pytest.raises(Replayed):
        finished(replace(asked, budget=31), tmp_path)
    write_table(tmp_path / "table", seeds=3)
    problem_of.cache_clear()
    with pytest.raises(Replayed):
        finished(asked, tmp_path)


def test_thinking_is_timed_where_the_space_has_enough_architectures(tmp_path: Path) -> None:
    problem = synthetic_problem(0)
    seconds = thinking_seconds("random", problem, 20, tmp_path)
    assert seconds is not None
    assert seconds["median"] >= 0
    assert thinking_seconds("random", problem, 20, tmp_path) == seconds
    assert thinking_seconds("random", problem, 575, tmp_path) is None


def command(tmp_path: Path, *more: str) -> Sequence[str]:
    named = ["--table", str(tmp_path), "--work", str(tmp_path / "work"), "--json", str(tmp_path / "search.json")]
    return [*named, "--seeds", "2", "--iterations", "8", "--budget", "12", "--timing-trials", *more]


def test_the_command_writes_what_its_readers_look_for(
    tmp_path: Path, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path)
    problem_of.cache_clear()
    monkeypatch.setattr(search, "PROBLEMS", ("measured", "measured-smoothed"))
    monkeypatch.setitem(METHODS, "ax", replace(METHODS["ax"], module="no_such_peer"))
    asked = command(
        tmp_path, "20", "--methods", "random", "random-stopping", "nsga2", "ax", "--densities", "0.1", "0.2"
    )
    assert search.main(asked) == 0
    written = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    assert written["headline"] == {"problem": "measured", "density": 0.1}
    assert set(written["methods"]) == {"random", "random-stopping", "nsga2"}
    assert set(written["problems"]["measured"]) == {"0.1", "0.2"}
    assert set(written["problems"]["measured-smoothed"]) == {"0.1"}
    assert "no_such_peer" in written["missing"]["ax"]
    found = written["methods"]["random"]
    assert {"mean", "low", "high", "censored"} <= set(found["iterations_to_3"])
    assert set(found["seconds_per_suggestion"]) == {"20"}
    assert len(found["hypervolume"]["mean"]) == 9
    assert set(written["problems"]["measured"]["0.1"]["early_stopping"]) == {"random-stopping"}
    assert "random without repeats finds" in capsys.readouterr().out


def test_a_missing_table_is_left_out_unless_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem_of.cache_clear()
    with pytest.raises(SystemExit, match="table.parquet is missing"):
        search.main(command(tmp_path, "--problems", "measured", "--methods", "random"))
    monkeypatch.setattr(search, "PROBLEMS", ("measured", "synthetic-0"))
    assert search.main(command(tmp_path, "--methods", "random", "--densities", "0.012")) == 0
    assert "left out: measured" in capsys.readouterr().err
    written = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    assert list(written["problems"]) == ["synthetic-0"]


def test_an_unknown_method_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search.main(["--methods", "bayesan"])
    assert "did you mean 'bayesian'?" in capsys.readouterr().err
