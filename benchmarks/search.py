"""How many distillations each search needs: ours and its peers, replayed on tables whose truth is known.

    python -m benchmarks.search --json search.json

See benchmarks/README.md for what is measured and how. A killed command goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.search_replay.measured import DEFAULT_TABLE, MEASURED, SMOOTHED
from benchmarks.search_replay.methods import METHODS
from benchmarks.search_replay.printed import print_record
from benchmarks.search_replay.problems import SYNTHETIC, ReplayProblem
from benchmarks.search_replay.replay import Job, Run, one_thread_environment, problem_of, replay_all
from benchmarks.search_replay.summary import stopping_effect, summary
from benchmarks.search_replay.timing import thinking_seconds
from flashdistill.console import ConsoleProgress
from flashdistill.core.errors import InputError
from flashdistill.core.files import write_json
from flashdistill.core.progress import Progress
from flashdistill.core.registry import did_you_mean
from flashdistill.hardware import machine

PROBLEMS = (MEASURED, SMOOTHED, *(f"{SYNTHETIC}{instance}" for instance in range(4)))
DENSITIES = (0.012, 0.005, 0.03)
POOLED = "synthetic"
"""All simulated problems together."""

STOPPING = {"bayesian-stopping": "bayesian", "bayesian-beat-stopping": "bayesian-beat", "random-stopping": "random"}
"""Methods with early stopping, and what they are without."""

SETTINGS = ("seeds", "slow_seeds", "iterations", "slow_iterations", "budget")

DEFINITIONS = {
    "iterations_to_N": "mean number of architectures trained after the baseline until N of them truly dominate it; "
    "low and high: 95 % bootstrap interval over seeds; censored: runs that ended before, counted as the budget",
    "distinct_iterations_to_N": "the same, evaluations of an architecture evaluated before being free",
    "of_random_to_N": "iterations_to_N as a share of random_expected",
    "random_expected": "mean number of random draws without repeats, (n + 1) N / (W + 1)",
    "seconds_per_suggestion": "by number of trials; CPU seconds on one thread, median of three successive suggestions",
    "seconds_per_first_suggestion": "the same, the first of a new process: everything is fitted from scratch",
    "hypervolume": "true hypervolume of what was trained, as a share of the whole front's; entry t: after t iterations",
    "winners": "architectures found that truly dominate the baseline; entry t: after t iterations",
    "steps_share": "share of the training steps spent, less than 1 with early stopping",
    "winners_stopped": "architectures per run that would have dominated the baseline and were stopped",
}

Results = dict[tuple[str, float], dict[str, list[Run]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay what is missing, then print and write everything; the exit status is 1 if nothing ran."""
    options = _parse(arguments)
    console = Console(stderr=True)
    one_thread_environment(options.work)
    problems = _problems(options, console)
    missing = _missing(options.methods, console)
    methods = [name for name in options.methods if name not in missing]
    begun = time.time()
    with ConsoleProgress() as progress:
        results = _replayed(_jobs(problems, methods, options), missing, options, progress)
        timing = _timing(problems[0], methods, options, progress) if problems else {}
    if not results:
        console.print("nothing ran", style="bold")
        return 1
    record = _record(results, timing, options) | {
        "missing": missing,
        "settings": {
            **{
                name: getattr(options, name)
                for name in ("seeds", "slow_seeds", "iterations", "slow_iterations", "budget")
            },
            "minutes": round((time.time() - begun) / 60, 2),
            "machine": machine.fingerprint(),
        },
        "definitions": DEFINITIONS,
    }
    if options.json:
        write_json(options.json, record)
        console.print(f"written: {options.json}", markup=False)
    print_record(record, Console(width=max(Console().width, 150)))
    return 0


def _problems(options: argparse.Namespace, console: Console) -> list[str]:
    """The problems that can be replayed; the measured table may be missing unless it was asked for."""
    found = []
    for name in options.problems or PROBLEMS:
        try:
            problem_of(name, options.densities[0], str(options.table))
            found.append(name)
        except InputError as error:
            if options.problems:
                raise SystemExit(f"{error}") from None
            console.print(f"left out: {name}: {error}", markup=False, highlight=False)
    return found


def _missing(methods: Sequence[str], console: Console) -> dict[str, str]:
    """Methods whose packages are not installed, with the reason."""
    missing = {}
    for name in methods:
        try:
            METHODS[name].version()
        except ImportError as error:
            missing[name] = f"{error}; the extra `peers` has what the benchmarks compare with"
            console.print(f"left out: {name}: {missing[name]}", markup=False, highlight=False)
    return missing


def _jobs(problems: Sequence[str], methods: Sequence[str], options: argparse.Namespace) -> list[Job]:
    """The first problem at every density, the others at the first; slow methods only there, and with fewer seeds."""
    jobs = []
    for problem in problems:
        for density in options.densities if problem == problems[0] else options.densities[:1]:
            known = problem_of(problem, density, str(options.table))
            budget = options.budget or known.space.size
            for name in methods:
                method = METHODS[name]
                if (method.slow and density != options.densities[0]) or (method.early_stopping and not known.shares):
                    continue
                fewer = method.slow and problem != problems[0]
                seeds = range(min(options.slow_seeds, options.seeds) if fewer else options.seeds)
                length = _length(name, options, budget)
                jobs += [Job(problem, density, name, seed, str(options.table), length, budget) for seed in seeds]
    # Seed by seed, so that an interrupted benchmark has something of everything.
    return sorted(jobs, key=lambda job: (METHODS[job.method].slow, job.seed))


def _length(name: str, options: argparse.Namespace, budget: int) -> int:
    """Iterations of a method's curves."""
    return min(options.slow_iterations if METHODS[name].slow else options.iterations, budget)


def _replayed(jobs: Sequence[Job], missing: dict[str, str], options: argparse.Namespace, progress: Progress) -> Results:
    """The runs by problem and method; why a method failed goes to ``missing``."""
    results: Results = defaultdict(lambda: defaultdict(list))
    progress.start("replay searches", len(jobs))
    for job, run in replay_all(jobs, options.work, options.workers):
        progress.advance("replay searches", note=f"{job.problem} {job.density:g} {job.method} seed {job.seed}")
        if isinstance(run, Exception):
            missing[job.method] = f"failed on {job.problem}, seed {job.seed}: {run}"
            progress.message(f"{job.method}: {missing[job.method]}")
        elif run.architectures:
            results[job.problem, job.density][job.method].append(run)
    progress.finish("replay searches")
    return results


def _timing(
    problem: str, methods: Sequence[str], options: argparse.Namespace, progress: Progress
) -> dict[str, dict[str, dict[str, float]]]:
    """By method and number of trials, seconds per suggestion on one problem."""
    known = problem_of(problem, options.densities[0], str(options.table))
    named = [name for name in methods if not METHODS[name].early_stopping] if options.timing_trials else []
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    progress.start("time suggestions", len(named))
    for name in named:
        for trials in options.timing_trials:
            try:
                seconds = thinking_seconds(name, known, trials, options.work)
            except Exception as error:  # as in the replay: a peer's failure is its own
                progress.message(f"{name} with {trials} trials: {type(error).__name__}: {error}")
                continue
            if seconds is not None:
                found[name][str(trials)] = seconds
        progress.advance("time suggestions", note=name)
    progress.finish("time suggestions")
    return found


def _record(results: Results, timing: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Everything by problem, density and method; the headline's methods once more at the top."""
    density = options.densities[0]
    groups = {(name, level): [(name, level)] for name, level in results}
    simulated = [key for key in results if key[0].startswith(SYNTHETIC) and key[1] == density]
    if len(simulated) > 1:
        groups[POOLED, density] = simulated
    problems: dict[str, dict[str, Any]] = defaultdict(dict)
    for (name, level), members in groups.items():
        problems[name][f"{level:g}"] = _group(results, members, timing, options)
    headline = next(name for name in (MEASURED, POOLED, *problems) if name in problems)
    return {
        "headline": {"problem": headline, "density": density},
        "methods": problems[headline][f"{density:g}"]["methods"],
        "problems": problems,
    }


def _group(
    results: Results, members: Sequence[tuple[str, float]], timing: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one problem, or of several together, where all have a run of the method."""
    known = [problem_of(name, level, str(options.table)) for name, level in members]
    budget = options.budget or max(problem.space.size for problem in known)
    methods: dict[str, Any] = {}
    for name in options.methods:
        if not all(results[member].get(name) for member in members):
            continue
        runs = [(problem, results[member][name]) for problem, member in zip(known, members, strict=True)]
        thought = timing.get(name, {})
        methods[name] = {
            "label": METHODS[name].label,
            **summary(runs, _length(name, options, budget), budget),
            "seconds_per_suggestion": {trials: seconds["median"] for trials, seconds in thought.items()},
            "seconds_per_first_suggestion": {trials: seconds["first"] for trials, seconds in thought.items()},
        }
    return {
        **_facts(known),
        "methods": methods,
        "early_stopping": {
            stopped: stopping_effect(methods[whole], methods[stopped])
            for stopped, whole in STOPPING.items()
            if stopped in methods and whole in methods
        },
    }


def _facts(known: Sequence[ReplayProblem]) -> dict[str, Any]:
    mean = {str(count): sum(problem.random_expectation(count) for problem in known) / len(known) for count in (1, 3)}
    return {
        "architectures": [problem.space.size for problem in known],
        "baselines": [str(problem.baseline) for problem in known],
        "winners": [len(problem.dominating) for problem in known],
        "accuracy_noise": [float(problem.seed_covariance[-1, -1] ** 0.5) for problem in known],
        "random_expected": mean,
    }


def _method(name: str) -> str:
    if name not in METHODS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
    return name


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="directory of the measured table")
    parser.add_argument("--problems", nargs="+", help=f"default: {' '.join(PROBLEMS)}")
    parser.add_argument("--methods", nargs="+", type=_method, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES), help="shares of winners")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--slow-seeds", type=int, default=5, help="of slow methods on all problems but the first")
    parser.add_argument("--iterations", type=int, default=100, help="length of the curves")
    parser.add_argument("--slow-iterations", type=int, default=30, help="the same of slow methods")
    parser.add_argument("--budget", type=int, help="iterations at most; default: the size of the space")
    parser.add_argument("--timing-trials", nargs="*", type=int, default=[50, 200, 500])
    parser.add_argument("--work", type=Path, default=Path("runs/search-benchmark"), help="finished runs are kept here")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
