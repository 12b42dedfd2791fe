"""The paper's Figure 4: searching for accuracy and latency together, or for one of them alone.

Three searches with the same number of trials on a table whose truth is known: the measured one of
the search benchmark, or a simulated one.

    python -m reproduce.figure4 --output runs/figure4
    python -m reproduce.figure4 --problem synthetic-0 --trials 40
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from rich.console import Console

from benchmarks.search_replay.measured import DEFAULT_TABLE, MEASURED
from benchmarks.search_replay.ours import Mode, OwnSearch
from benchmarks.search_replay.problems import OBJECTIVES, ReplayProblem
from benchmarks.search_replay.replay import one_thread_environment, problem_of
from benchmarks.search_replay.summary import interval
from flashdistill.console import ConsoleProgress
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import InputError
from flashdistill.core.files import write_json, write_text
from flashdistill.core.progress import Progress
from flashdistill.delivery.plot_style import BASELINE, INK, MUTED, OTHER, PAPER, SHADE, STUDENT, new_figure, style
from flashdistill.exploration.pareto import non_dominated

SEARCHES = {
    "both": ("accuracy and latency", OBJECTIVES),
    "accuracy": ("accuracy only", OBJECTIVES[:1]),
    "latency": ("latency only", OBJECTIVES[1:]),
}
"""What each search is for."""

Histories = dict[str, list[list[Architecture]]]


def main() -> None:
    """Search, draw the first seed's searches and summarise all of them."""
    arguments = parse()
    one_thread_environment(arguments.output)
    try:
        problem = problem_of(arguments.problem, arguments.density, str(arguments.table))
    except (InputError, ValueError) as error:
        raise SystemExit(str(error)) from None
    with ConsoleProgress() as progress:
        histories = searched(problem, arguments.seeds, arguments.trials, progress)
    found = {
        "problem": problem.name,
        "trials": arguments.trials,
        "seeds": arguments.seeds,
        "baseline": described(problem, problem.baseline),
        "winners_there_are": len(problem.dominating),
        "searches": {name: outcome(problem, runs) for name, runs in histories.items()},
    }
    found["reading"] = paragraph(found)
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw(problem, {name: runs[0] for name, runs in histories.items()}, arguments.output / "figure4.png")
    write_json(arguments.output / "figure4.json", found)
    write_text(arguments.output / "figure4.md", found["reading"] + "\n")
    Console().print(found["reading"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/figure4"))
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="directory of the measured table")
    parser.add_argument("--problem", default=MEASURED)
    parser.add_argument("--density", type=float, default=0.012, help="share of the space that beats the baseline")
    parser.add_argument("--trials", type=int, default=60, help="students that each search trains")
    parser.add_argument("--seeds", type=int, default=10)
    return parser.parse_args()


def searched(problem: ReplayProblem, seeds: int, trials: int, progress: Progress) -> Histories:
    """What each search trained, the baseline first, by seed."""
    task = "search"
    histories: Histories = {name: [] for name in SEARCHES}
    progress.start(task, seeds * len(SEARCHES))
    for seed in range(seeds):
        for name, (_, objectives) in SEARCHES.items():
            searcher = OwnSearch(Mode("bayesian", objectives=objectives), problem, seed)
            history = [problem.baseline]
            searcher.tell(problem.run(problem.baseline, 0, seed))
            while len(history) <= trials and (architecture := searcher.suggest()) is not None:
                searcher.tell(problem.run(architecture, len(history), seed))
                history.append(architecture)
            histories[name].append(history)
            progress.advance(task, note=f"{name}, seed {seed}")
    progress.finish(task)
    return histories


def described(problem: ReplayProblem, architecture: Architecture) -> dict[str, Any]:
    accuracy, latency = problem.truth[problem.index[architecture]]
    return {"architecture": str(architecture), "mlm_accuracy": float(accuracy), "latency_ms": float(latency)}


def outcome(problem: ReplayProblem, runs: Sequence[Sequence[Architecture]]) -> dict[str, Any]:
    """What is truly good among what a search trained: means over seeds with 95 % intervals."""
    values = {
        "hypervolume": [problem.hypervolume_shares(history)[-1] for history in runs],
        "winners": [len(problem.dominating.intersection(history)) for history in runs],
        "best_accuracy": [_truth(problem, history)[:, 0].max() for history in runs],
        "lowest_latency_ms": [_truth(problem, history)[:, 1].min() for history in runs],
    }
    figures = {name: interval([np.array(per_seed, dtype=float)]) for name, per_seed in values.items()}
    return {**figures, "first_seed": [str(architecture) for architecture in runs[0]]}


def _truth(problem: ReplayProblem, history: Sequence[Architecture]) -> np.ndarray:
    return problem.truth[[problem.index[architecture] for architecture in history]]


def paragraph(found: Mapping[str, Any]) -> str:
    """The comparison in words, from the figures alone."""
    searches = found["searches"]
    facts = "; ".join(
        f"for {SEARCHES[name][0]} {item['hypervolume']['mean']:.1%} of the front's hypervolume "
        f"[{item['hypervolume']['low']:.1%}, {item['hypervolume']['high']:.1%}] and {item['winners']['mean']:.1f} of "
        f"the {found['winners_there_are']} students that truly beat the baseline, best accuracy "
        f"{item['best_accuracy']['mean']:.2%}, lowest latency {item['lowest_latency_ms']['mean']:.3g} ms"
        for name, item in searches.items()
    )
    single = max(searches[name]["hypervolume"]["high"] for name in ("accuracy", "latency"))
    agrees = searches["both"]["hypervolume"]["low"] > single
    verdict = (
        "As in the paper, a search for one objective finds one end of the front and leaves the trade-off "
        "between them to chance, and the search for both covers it."
        if agrees
        else "Unlike in the paper, the search for both is not clearly ahead of both single ones here."
    )
    return (
        f"On {found['problem']}, {found['trials']} students trained in each search, means over {found['seeds']} "
        f"seeds: {facts}. {verdict}"
    )


def draw(problem: ReplayProblem, histories: Mapping[str, Sequence[Architecture]], path: Path) -> None:
    """A panel per search: what it trained on the plane of all there is, and how far that makes a front."""
    with style():
        figure = new_figure(12.6, 4.6)
        panels = figure.subplots(1, len(histories), sharex=True, sharey=True)
        for axes, (name, history) in zip(panels, histories.items(), strict=True):
            _panel(axes, problem, history)
            share = problem.hypervolume_shares(history)[-1]
            winners = len(problem.dominating.intersection(history))
            axes.set_title(f"Search for {SEARCHES[name][0]}", pad=24)
            text = f"{share:.0%} of the front's hypervolume, {winners} of {len(problem.dominating)} winners found"
            axes.text(0, 1.02, text, transform=axes.transAxes, color=MUTED, va="bottom")
            axes.set_xlabel("latency (ms), lower is better")
        panels[0].set_ylabel("MLM accuracy (%), higher is better")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.savefig(path, dpi=150)


def _panel(axes: Axes, problem: ReplayProblem, history: Sequence[Architecture]) -> None:
    everything, trained = problem.truth, _truth(problem, history[1:])
    base_accuracy, base_latency = problem.truth[problem.index[problem.baseline]]
    axes.set_xscale("log")
    _plain_ticks(axes, everything[:, 1])
    left, top = everything[:, 1].min() * 0.93, 100 * everything[:, 0].max() + 1
    corner, size = (left, 100 * base_accuracy), (base_latency - left, top - 100 * base_accuracy)
    axes.add_patch(Rectangle(corner, *size, color=SHADE, alpha=0.8, lw=0, zorder=0.5, label="beats the baseline"))
    axes.plot(
        everything[:, 1],
        100 * everything[:, 0],
        "o",
        ms=2.4,
        color=OTHER,
        alpha=0.5,
        mew=0,
        label="all students",
        zorder=1,
    )
    axes.plot(*_staircase(everything), color=INK, lw=1.0, alpha=0.75, label="true front", zorder=2)
    axes.plot(*_staircase(_truth(problem, history)), color=STUDENT, lw=1.6, alpha=0.85, label="front found", zorder=3)
    axes.plot(
        trained[:, 1], 100 * trained[:, 0], "o", ms=5.5, mfc=STUDENT, mec=PAPER, mew=0.7, label="trained", zorder=4
    )
    axes.plot(base_latency, 100 * base_accuracy, "D", ms=8, color=BASELINE, mec=PAPER, label="baseline", zorder=5)
    low, high = 100 * everything[:, 0].min(), 100 * everything[:, 0].max()
    axes.set_ylim(low - 0.04 * (high - low), high + 0.06 * (high - low))
    axes.set_xlim(left, everything[:, 1].max() * 1.07)


def _staircase(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the line under which everything is dominated: latencies, accuracies in percent."""
    front = values[non_dominated(values * np.array([1.0, -1.0]))]
    front = front[np.argsort(front[:, 1])]
    return np.repeat(front[:, 1], 2)[1:], 100 * np.repeat(front[:, 0], 2)[:-1]


def _plain_ticks(axes: Axes, latencies: np.ndarray) -> None:
    """A few round numbers on the logarithmic axis."""
    steps = np.array([1, 1.5, 2, 3, 4, 5, 7]) * 10.0 ** np.arange(-3, 6)[:, None]
    ticks = [tick for tick in steps.ravel() if latencies.min() <= tick <= latencies.max()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


if __name__ == "__main__":
    main()
