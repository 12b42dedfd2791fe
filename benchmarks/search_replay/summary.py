"""What the replayed searches add up to: means over seeds with bootstrap intervals.

Shape legend: r runs, t iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.search_replay.problems import MOST_WANTED, ReplayProblem
from benchmarks.search_replay.replay import Run
from benchmarks.search_replay.stopping import FULL
from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator

RESAMPLES = 4000
COUNTS = (1, MOST_WANTED)
"""The winners until which iterations are counted."""


def interval(groups: Sequence[np.ndarray]) -> dict[str, Any]:
    """Mean over all runs with its 95 % bootstrap interval; runs are drawn anew within their group.

    Args:
        groups: values of the runs of each problem, [r] or [r, t].

    Returns:
        ``mean``, ``low`` and ``high``: floats, or lists of t floats.
    """
    rng = generator("search benchmark bootstrap")
    draws = np.concatenate(
        [values[rng.integers(0, len(values), (RESAMPLES, len(values)))] for values in groups], axis=1
    ).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    mean = np.concatenate(groups).mean(axis=0)
    return {name: np.round(value, 5).tolist() for name, value in (("mean", mean), ("low", low), ("high", high))}


def found_at(run: Run, problem: ReplayProblem) -> list[int]:
    """The iterations, from 1, in which a new winner was trained to the end."""
    seen: set[str] = set()
    places = []
    for place, (name, steps) in enumerate(zip(run.architectures, run.steps, strict=True), start=1):
        if name not in seen and steps == FULL and Architecture.parse(name) in problem.dominating:
            seen.add(name)
            places.append(place)
    return places


def distinct(run: Run, problem: ReplayProblem) -> Run:
    """The run without the evaluations of what had been evaluated: repeats for free."""
    seen = {str(problem.baseline)}
    kept = []
    for place, name in enumerate(run.architectures):
        if name not in seen:
            seen.add(name)
            kept.append(place)
    return Run(*([values[place] for place in kept] for values in (run.architectures, run.seconds, run.steps)))


def iterations_to(count: int, runs: Sequence[tuple[ReplayProblem, Sequence[Run]]], budget: int) -> dict[str, Any]:
    """Mean iterations until so many winners; a run that ended before counts as the budget."""
    groups, censored = [], 0
    for problem, of_problem in runs:
        places = [found_at(run, problem) for run in of_problem]
        censored += sum(len(found) < count for found in places)
        groups.append(np.array([found[count - 1] if len(found) >= count else budget for found in places], dtype=float))
    return {**interval(groups), "censored": censored, "runs": sum(map(len, groups))}


def summary(runs: Sequence[tuple[ReplayProblem, Sequence[Run]]], iterations: int, budget: int) -> dict[str, Any]:
    """All figures of one method on one problem, or on several together.

    Args:
        runs: each problem with its runs, at least one.
    """
    repeated_free = [(problem, [distinct(run, problem) for run in of_problem]) for problem, of_problem in runs]
    expected = {count: float(np.mean([problem.random_expectation(count) for problem, _ in runs])) for count in COUNTS}
    steps = [np.array([np.mean(run.steps[:iterations]) for run in of_problem]) for _, of_problem in runs]
    repeats = [
        [1 - len(distinct(run, problem).steps) / max(1, len(run.steps)) for run in of_problem]
        for problem, of_problem in runs
    ]
    found: dict[str, Any] = {}
    for count in COUNTS:
        found[f"iterations_to_{count}"] = iterations_to(count, runs, budget)
        found[f"distinct_iterations_to_{count}"] = iterations_to(count, repeated_free, budget)
        found[f"of_random_to_{count}"] = round(found[f"iterations_to_{count}"]["mean"] / expected[count], 5)
    return {
        **found,
        "repeated_share": round(float(np.mean(np.concatenate(repeats))), 5),
        "steps_share": interval(steps),
        "winners_stopped": interval([np.array([_lost(run, problem) for run in of]) for problem, of in runs]),
        "seconds_per_suggestion_mean": float(
            np.mean([np.mean(run.seconds) for _, of_problem in runs for run in of_problem])
        ),
        "hypervolume": interval([_curves(problem, of_problem, iterations, _volumes) for problem, of_problem in runs]),
        "winners": interval([_curves(problem, of_problem, iterations, _winners) for problem, of_problem in runs]),
    }


def _lost(run: Run, problem: ReplayProblem) -> float:
    """How many that would have been winners were stopped."""
    pairs = zip(run.architectures, run.steps, strict=True)
    return float(sum(steps < FULL and Architecture.parse(name) in problem.dominating for name, steps in pairs))


def _curves(
    problem: ReplayProblem, runs: Sequence[Run], iterations: int, curve: Callable[[ReplayProblem, Run], np.ndarray]
) -> np.ndarray:
    """One row per run, held at its last value where it ended early, [r, t]; entry 0 is the baseline alone."""
    rows = [curve(problem, run)[: iterations + 1] for run in runs]
    return np.stack([np.concatenate([row, np.full(iterations + 1 - len(row), row[-1])]) for row in rows])


def _volumes(problem: ReplayProblem, run: Run) -> np.ndarray:
    """Share of the true hypervolume; what was not trained to the end adds nothing."""
    trained = [
        Architecture.parse(name) if steps == FULL else problem.baseline
        for name, steps in zip(run.architectures, run.steps, strict=True)
    ]
    return problem.hypervolume_shares([problem.baseline, *trained])


def _winners(problem: ReplayProblem, run: Run) -> np.ndarray:
    found = np.zeros(len(run.steps) + 1)
    found[found_at(run, problem)] = 1.0
    return np.cumsum(found)


def stopping_effect(whole: Mapping[str, Any], stopped: Mapping[str, Any]) -> dict[str, float]:
    """What early stopping saves of a search, and what it costs.

    Args:
        whole, stopped: `summary` of a method without and with early stopping.
    """
    return {
        "steps_saved": round(1.0 - stopped["steps_share"]["mean"], 5),
        "winners_stopped": stopped["winners_stopped"]["mean"],
        "hypervolume_change": round(stopped["hypervolume"]["mean"][-1] - whole["hypervolume"]["mean"][-1], 5),
        "winners_change": round(stopped["winners"]["mean"][-1] - whole["winners"]["mean"][-1], 5),
        "iterations_to_3_change": round(stopped["iterations_to_3"]["mean"] - whole["iterations_to_3"]["mean"], 5),
    }
