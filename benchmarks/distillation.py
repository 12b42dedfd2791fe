"""What distillation costs: seconds per step, peak memory and whole searches, next to its peers.

    python -m benchmarks.distillation --json results.json

See benchmarks/README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.distillation_peers.pool import WorkerError, WorkerProcess
from benchmarks.distillation_peers.registry import CONTENDERS, LATER
from benchmarks.distillation_peers.results import PairResult, to_json
from benchmarks.distillation_peers.tables import print_results
from benchmarks.distillation_peers.workload import PAIRS, QUICK_PAIR, Task, Workload
from flashdistill.core.files import write_json
from flashdistill.core.registry import did_you_mean
from flashdistill.hardware import machine

_DEFAULTS = {"rounds": 3, "seconds": 2.0}
_QUICK_DEFAULTS = {"rounds": 1, "seconds": 0.0}

_TABLE_WIDTH = 170


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, 1 if no contender ran."""
    options = _parse(arguments)
    console = Console(stderr=True)
    busy = _warn_if_busy(console, "now")
    begun = time.time()
    pairs = [_measure(workload, options, console) for workload in _workloads(options)]
    busy = _warn_if_busy(console, "at the end") or busy
    if options.json:
        settings = {
            "rounds": options.rounds,
            "seconds_per_visit": options.seconds,
            "threads": options.threads,
            "clock": options.clock,
            "machine_was_busy": busy,
            "minutes": (time.time() - begun) / 60,
            "machine": machine.fingerprint(),
        }
        write_json(options.json, to_json(pairs, settings))
        console.print(f"written: {options.json}", markup=False)
    output = Console(width=max(Console().width, _TABLE_WIDTH))
    output.print(f"threads: {options.threads}, clock: {options.clock}, rounds: {options.rounds}", highlight=False)
    print_results(pairs, output)
    return 0 if all(pair.contenders for pair in pairs) else 1


def _measure(workload: Workload, options: argparse.Namespace, console: Console) -> PairResult:
    """All rounds of one pair."""
    result = PairResult(workload, {}, {})
    with tempfile.TemporaryDirectory() as directory, ExitStack() as processes:
        # All at once: they spend seconds on imports, side by side.
        workers = {
            name: processes.enter_context(WorkerProcess(name, workload, options.threads, Path(directory)))
            for name in options.contenders
        }
        for name, worker in workers.items():
            try:
                result.contenders[name] = worker.describe()
            except WorkerError as error:
                _drop(result, name, str(error), console)
        for number in range(options.rounds):
            _round(result, workers, number, options, console)
    return result


def _round(
    result: PairResult,
    workers: dict[str, WorkerProcess],
    number: int,
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Visit every contender once for every task; those with the same task one right after the other."""
    tasks = dict.fromkeys(task for contender in result.contenders.values() for task in contender.visits)
    for task in tasks:
        begun = time.monotonic()
        for name in [name for name, contender in result.contenders.items() if task in contender.visits]:
            _visit(result, name, workers[name], task, number, options, console)
        spent = time.monotonic() - begun
        console.print(f"{result.workload.name}, round {number + 1}: {task}, {spent:.0f} s", markup=False)


def _visit(
    result: PairResult,
    name: str,
    worker: WorkerProcess,
    task: Task,
    number: int,
    options: argparse.Namespace,
    console: Console,
) -> None:
    """One contender on one task in round ``number``; one that fails is dropped."""
    contender, later = result.contenders[name], result.contenders.get(LATER)
    if task in contender.borrowed and later is not None:
        contender.visits[task].append(later.visits[task][number])
        return
    # Later on the process is warm; only the optimiser of all weights is new and large.
    warmup = 1 if number == 0 or task.kind == "pretraining" else 0
    try:
        contender.visits[task].append(worker.visit(task, warmup, options.seconds, options.clock))
    except WorkerError as error:
        _drop(result, name, str(error), console)


def _drop(result: PairResult, name: str, reason: str, console: Console) -> None:
    """Go on without a contender."""
    result.contenders.pop(name, None)
    result.missing[name] = reason
    console.print(f"{name} does not run here: {reason}", style="yellow", markup=False, soft_wrap=True)


def _warn_if_busy(console: Console, when: str) -> bool:
    seen = machine.contention()
    if seen.busy:
        stalled = "unknown" if seen.stalled is None else f"{seen.stalled:.0%}"
        message = (
            f"warning: the machine is busy {when} (load {seen.load:.1f}, waiting for a CPU {stalled} of the time, "
            f"stolen {seen.stolen:.0%}); the spread will be wide"
        )
        console.print(message, style="yellow", markup=False, soft_wrap=True)
    return seen.busy


def _workloads(options: argparse.Namespace) -> list[Workload]:
    """The chosen pairs in the chosen sizes."""
    pairs = [QUICK_PAIR] if options.quick else [PAIRS[name] for name in options.pairs]
    sizes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("vocab_size", "batch_size", "length")
        if getattr(options, name) is not None
    }
    return [dataclasses.replace(pair, **sizes) for pair in pairs]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distillation",
        description="Seconds per step and peak memory of distillation, against its peers and the floor.",
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write all numbers there")
    add("--pairs", type=_names_of(PAIRS), default=list(PAIRS), metavar="A,B", help=f"default: {','.join(PAIRS)}")
    add(
        "--contenders",
        type=_names_of(CONTENDERS),
        default=list(CONTENDERS),
        metavar="A,B",
        help=f"default: {','.join(CONTENDERS)}",
    )
    add("--rounds", type=_positive, default=None, help="visits to every contender (default: 3)")
    add("--seconds", type=float, default=None, help="least duration of a visit to a task (default: 2)")
    add("--clock", choices=["wall", "cpu"], default="wall", help="cpu: of all threads, where others use the machine")
    add("--threads", type=_positive, default=len(machine.allowed_cpus()), help="of every contender (default: all CPUs)")
    add("--vocab-size", type=_positive, help="instead of the pairs' own")
    add("--batch-size", type=_positive, help="sequences, instead of the pairs' own")
    add("--length", type=_positive, help="tokens of a sequence, instead of the pairs' own")
    add("--quick", action="store_true", help="a tiny pair and one round: shows that everything runs")
    options = parser.parse_args(arguments)
    for name, value in (_QUICK_DEFAULTS if options.quick else _DEFAULTS).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _names_of(choices: dict[str, Any]) -> Any:
    """A parser of comma-separated names out of ``choices``, given in the order of ``choices``."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in choices:
                hint = did_you_mean(name, choices)
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(choices)}{hint}")
        return [name for name in choices if name in names]

    return parse


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
