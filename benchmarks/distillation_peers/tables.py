"""The results as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.distillation_peers.clock import OTHER
from benchmarks.distillation_peers.registry import CONTENDERS, FIRST, LATER
from benchmarks.distillation_peers.results import HEADLINES, STEPS, PairResult, Spread, headlines
from benchmarks.distillation_peers.workload import PRETRAINING, Kind, Task

CANDIDATES = (1, 2, 10)
"""Places in a search whose cost is shown."""

_MEGABYTE = 1e6
_HOUR = 3600.0


def print_results(pairs: Sequence[PairResult], console: Console) -> None:
    """All tables of all pairs, then the headline numbers."""
    for pair in pairs:
        for table in (_steps_table(pair), _phases_table(pair), _whole_table(pair), _ratios_table(pair)):
            console.print(table)
        for name, reason in pair.missing.items():
            console.print(f"{name} did not run: {reason}", style="yellow", markup=False, soft_wrap=True)
    console.print("Headline (the worst pair)", style="bold")
    for name, spread in headlines(pairs).items():
        console.print(f"  {name}: {_ratio(spread)} ({HEADLINES[name]})", markup=False, soft_wrap=True, highlight=False)


def _steps_table(pair: PairResult) -> Table:
    workload = pair.workload
    stages = workload.stages()
    table = Table(
        title=f"{workload.name}: seconds per step, {workload.batch_size}x{workload.length} tokens, "
        f"median of {pair.rounds} rounds [min..max]",
        title_justify="left",
    )
    headers = [*(f"stage\nk={task.block + 1}" for task in stages), "pre-\ntraining", "peak MB\n(anonymous)"]
    headers += [f"{kind}\n/ ours" for kind in ("stages", "pre-training", "whole")]
    table.add_column("contender", no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for name in _names(pair):
        result = pair.contenders[name]
        seconds = [Spread.of([visit.seconds for visit in result.visits[task]]) for task in (*stages, PRETRAINING)]
        memory = f"{result.peak_memory_bytes() / _MEGABYTE:.0f} ({result.anonymous_bytes() / _MEGABYTE:.0f})"
        cells = [*(_seconds(spread) for spread in seconds), memory, *_ratios_to_ours(pair, name)]
        table.add_row(result.title, *(cell.replace(" ", "\n") for cell in cells))
    return table


def _ratios_to_ours(pair: PairResult, name: str) -> list[str]:
    """Stage, pre-training and whole cost of a contender by ours."""
    if LATER not in pair.contenders:
        return ["-"] * 3
    result, ours = pair.contenders[name], pair.contenders[LATER]
    kinds: tuple[Kind, Kind] = ("stage", "pretraining")
    spreads = [
        pair.over_rounds(lambda number, kind=kind: result.step_seconds(kind, number) / ours.step_seconds(kind, number))
        for kind in kinds
    ]
    spreads.append(pair.over_rounds(lambda number: result.whole_seconds(number) / ours.whole_seconds(number)))
    return [_ratio(spread) for spread in spreads]


def _phases_table(pair: PairResult) -> Table:
    """Shares of the middle stage's step and of a pre-training step, and of the stages in the whole."""
    middle = pair.workload.stages()[len(pair.workload.stages()) // 2]
    tasks = (middle, PRETRAINING)
    phases = dict.fromkeys(
        phase for result in pair.contenders.values() for task in tasks for phase in result.phases(task)
    )
    ordered = [*(phase for phase in phases if phase != OTHER), *(phase for phase in phases if phase == OTHER)]
    table = Table(title=f"{pair.workload.name}: share of each phase in a step, in percent", title_justify="left")
    table.add_column("contender", no_wrap=True)
    table.add_column("step")
    for phase in ordered:
        table.add_column(phase, justify="right")
    table.add_column("of the whole", justify="right")
    for name in _names(pair):
        for task in tasks:
            shares = pair.contenders[name].phases(task)
            cells = [f"{100 * shares.get(phase, 0.0):.0f}" for phase in ordered]
            table.add_row(pair.contenders[name].title, _step_name(task), *cells, _share_of_whole(pair, name, task.kind))
    return table


def _share_of_whole(pair: PairResult, name: str, kind: Kind) -> str:
    result = pair.contenders[name]
    share = pair.over_rounds(
        lambda number: STEPS[kind] * result.step_seconds(kind, number) / result.whole_seconds(number)
    )
    return f"{100 * share.median:.0f}"


def _whole_table(pair: PairResult) -> Table:
    table = Table(
        title=f"{pair.workload.name}: hours of a whole flash distillation "
        f"({STEPS['stage']}k stage and {STEPS['pretraining']}k pre-training steps)",
        title_justify="left",
    )
    table.add_column("contender", no_wrap=True)
    for number in CANDIDATES:
        table.add_column(f"candidate {number}", justify="right")
    table.add_column(f"mean of {CANDIDATES[-1]}", justify="right")
    for name in _names(pair, with_first=False):
        costs = [pair.candidate_seconds(name, number) for number in range(1, CANDIDATES[-1] + 1)]
        shown = [_hours(costs[number - 1]) for number in CANDIDATES]
        mean = sum(cost.median for cost in costs) / len(costs)
        table.add_row(pair.contenders[name].title, *shown, f"{mean / _HOUR:.2f}")
    return table


def _ratios_table(pair: PairResult) -> Table:
    table = Table(title=f"{pair.workload.name}: ratios within a round", title_justify="left")
    table.add_column("ratio", no_wrap=True)
    table.add_column("median [min..max]", justify="right", no_wrap=True)
    table.add_column("meaning")
    for name, spread in pair.ratios().items():
        table.add_row(name, _ratio(spread), HEADLINES[name])
    return table


def _names(pair: PairResult, with_first: bool = True) -> list[str]:
    """The contenders that have run, in the order of `CONTENDERS`."""
    return [name for name in CONTENDERS if name in pair.contenders and (with_first or name != FIRST)]


def _step_name(task: Task) -> str:
    return f"stage k={task.block + 1}" if task.kind == "stage" else "pre-training"


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.3f} [{spread.low:.3f}..{spread.high:.3f}]"


def _hours(spread: Spread) -> str:
    return f"{spread.median / _HOUR:.2f} [{spread.low / _HOUR:.2f}..{spread.high / _HOUR:.2f}]"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} [{spread.low:.2f}..{spread.high:.2f}]"
