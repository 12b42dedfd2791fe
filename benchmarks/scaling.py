"""From 1 to 64 workers: throughput against ideal, what a trial costs beside its training, quality of the search.

    python -m benchmarks.scaling --output scaling

Candidates are simulated: the real search, study and executors, but a worker sleeps for the seconds
that training this architecture really took (times ``--scale``) and gives what it really reached.

*Throughput* is measured in real time, with random search, whose suggestions cost nothing. What a
trial costs beside its training (starting a process, its result, the study) does not shrink with
``--scale``, so the efficiency measured with scaled seconds is lower than that of real ones, which
is given beside it.

*Quality* needs no real time: which results a search knows when it makes a suggestion depends on the
order in which trainings end, and that on the recorded seconds alone. So time is virtual there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from benchmarks.scaling_job import sleep
from benchmarks.scaling_simulation import Recorded, VirtualTime, ideal_seconds, search
from benchmarks.search_replay.measured import DEFAULT_TABLE
from flashdistill.core.files import read_json, write_json
from flashdistill.execution.executor import Executor, Job, Surroundings
from flashdistill.execution.opening import open_executor
from flashdistill.execution.settings import ExecutionSettings
from flashdistill.hardware import machine
from flashdistill.trainings import PRELOAD

PARTS = ("throughput", "quality")

FIVE_MINUTES = 300.0

WORKERS = (1, 2, 4, 8, 16, 32, 64)

DEFINITIONS = {
    "throughput": "trials per second of wall time, the recorded seconds scaled",
    "ideal": "the same, if nothing but the sleeping took time",
    "efficiency": "throughput / ideal",
    "overhead": "seconds of a worker per trial that are not sleep: (wall - ideal wall) x workers / trials",
    "coordinator": "wall seconds beyond the ideal, per trial: what limits the number of workers in the end",
    "efficiency_unscaled": "efficiency expected at the recorded seconds: wall time beyond the ideal as measured",
    "efficiency_minutes": "the same at trainings of five minutes on average",
    "hypervolume": "true hypervolume of what was trained, as a share of the whole front's; mean over seeds",
    "stderr": "its standard error; the difference to one worker has its own, over the same seeds",
    "speedup": "virtual seconds of the search with one worker / with n workers",
    "thinking": "seconds per suggestion in the algorithm",
}

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; then print the tables, and write ``scaling.json`` and ``scaling.png``."""
    options = _parse(arguments)
    recorded = Recorded.read(options.table)
    console = Console(stderr=True)
    path = options.output / "scaling.json"
    record = read_json(path) if path.exists() else {}
    work = Path(tempfile.mkdtemp(prefix="scaling-", dir=options.work))
    try:
        if "throughput" in options.parts:
            rates = []
            for kind in options.kinds:
                for workers in options.workers:
                    rates.append(throughput(recorded, work / f"{kind}-{workers}", kind, workers, options))
                    console.print(_words(rates[-1]))
            record["throughput"] = _part(options, rates, "scale", "trials")
            record["throughput"]["mean_recorded_seconds"] = recorded.mean_seconds
        if "quality" in options.parts:
            qualities = []
            for workers in options.workers:
                qualities.append(quality(recorded, work / f"quality-{workers}", workers, options))
                console.print(_words(qualities[-1]))
            compare(qualities)
            record["quality"] = _part(options, qualities, "quality_trials", "seeds", "algorithm")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(path, {"definitions": DEFINITIONS} | record)
    if all(part in record for part in PARTS):
        draw(record["throughput"], record["quality"], options.output / "scaling.png")
    for part in options.parts:
        Console().print(_table(part.capitalize(), [_without_seeds(row) for row in record[part]["rows"]]))
    return 0


def _part(options: argparse.Namespace, rows: list[Row], *settings: str) -> dict[str, Any]:
    """What is kept of a part: its rows, and where and how they came about."""
    return {
        "machine": machine.fingerprint(),
        "settings": {name: getattr(options, name) for name in settings},
        "rows": rows,
    }


def throughput(recorded: Recorded, directory: Path, kind: str, workers: int, options: argparse.Namespace) -> Row:
    """Random search in real time."""
    settings = ExecutionSettings.model_validate({"kind": kind, "workers": workers, "threads": 1, "memory_gib": 1})
    preload = PRELOAD
    if kind == "ray":  # Sleeping needs no processor, nor does each of many workers PyTorch's memory.
        light = {"num_cpus": 0.01, "num_gpus": 0}
        settings = ExecutionSettings.model_validate(settings.model_dump() | {"resources_per_training": light})
        preload = ()
    with open_executor(settings, Surroundings(directory / "workers", preload=preload)) as executor:
        _warm_up(executor, workers)
        found = search(
            recorded, executor, directory, algorithm="random", trials=options.trials, seed=0, scale=options.scale
        )
    trials = len(found.order)
    durations = [recorded.seconds[architecture] for architecture in found.order]
    ideal = ideal_seconds([seconds * options.scale for seconds in durations], workers)
    beyond, unscaled = found.seconds - ideal, ideal_seconds(durations, workers)
    minutes = unscaled * FIVE_MINUTES / recorded.mean_seconds
    return {
        "kind": kind,
        "workers": workers,
        "trials": trials,
        "seconds": found.seconds,
        "throughput": trials / found.seconds,
        "ideal": trials / ideal,
        "efficiency": ideal / found.seconds,
        "overhead": beyond * workers / trials,
        "coordinator": beyond / trials,
        "efficiency_unscaled": unscaled / (unscaled + beyond),
        "efficiency_minutes": minutes / (minutes + beyond),
    }


def _warm_up(executor: Executor, workers: int) -> None:
    """Have every worker there before time counts: a run lasts for hours, and starting them seconds."""
    for number in range(workers):
        executor.submit(Job(f"warm up {number}", partial(sleep, 0.2)))
    for _ in range(workers):
        executor.completed().get()


def quality(recorded: Recorded, directory: Path, workers: int, options: argparse.Namespace) -> Row:
    """What a search with so many trainings pending finds, over several seeds."""
    shares, ends, thinking = [], [], []
    for seed in range(options.seeds):
        executor = VirtualTime(workers)
        found = search(
            recorded,
            executor,
            directory / str(seed),
            algorithm=options.algorithm,
            trials=options.quality_trials,
            seed=seed,
        )
        shares.append(float(recorded.problem.hypervolume_shares(found.order)[-1]))
        ends.append(executor.now)
        thinking.append(found.thinking / options.quality_trials)
    return {
        "workers": workers,
        "hypervolume": statistics.fmean(shares),
        "stderr": _stderr(shares),
        "virtual_seconds": statistics.fmean(ends),
        "thinking": statistics.fmean(thinking),
        "by_seed": shares,
    }


def compare(qualities: list[Row]) -> None:
    """Add to each row how it differs from that of the fewest workers, seed by seed."""
    first = qualities[0]
    for row in qualities:
        differences = [one - other for one, other in zip(row["by_seed"], first["by_seed"], strict=True)]
        row["difference"] = statistics.fmean(differences)
        row["difference_stderr"] = _stderr(differences)
        row["speedup"] = first["virtual_seconds"] / row["virtual_seconds"]


def _stderr(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def draw(throughputs: dict[str, Any], qualities: dict[str, Any], path: Path) -> None:
    """What of the ideal throughput is left, and the quality."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    recorded = throughputs["mean_recorded_seconds"]
    for number, kind in enumerate(dict.fromkeys(row["kind"] for row in throughputs["rows"])):
        rows = [row for row in throughputs["rows"] if row["kind"] == kind]
        workers = [row["workers"] for row in rows]
        for name, seconds, line in (
            ("efficiency_minutes", FIVE_MINUTES, "-"),
            ("efficiency_unscaled", recorded, "--"),
        ):
            shares = [100 * row[name] for row in rows]
            label = f"{kind}, trainings of {seconds:.3g} s"
            left.plot(workers, shares, line, color=f"C{number}", marker="o", label=label)
    left.set(xscale="log", ylim=(0, 105), ylabel="% of the ideal throughput", title="Throughput")
    left.legend()
    rows = qualities["rows"]
    means, errors = ([100 * row[name] for row in rows] for name in ("hypervolume", "stderr"))
    right.errorbar([row["workers"] for row in rows], means, yerr=errors, marker="o", capsize=3)
    trials = qualities["settings"]["quality_trials"]
    right.set(xscale="log", ylabel="% of the front's hypervolume", title=f"Quality after {trials} trainings")
    workers = [row["workers"] for row in rows]
    for axes in (left, right):
        axes.set_xlabel("workers")
        axes.set_xticks(workers, [str(count) for count in workers], minor=False)
        axes.minorticks_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def _without_seeds(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "by_seed"}


def _words(row: Row) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in _without_seeds(row).items()
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("scaling"))
    parser.add_argument("--work", type=Path, help="where temporary studies are kept")
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the other's results are kept")
    parser.add_argument("--kinds", nargs="+", choices=("processes", "ray"), default=["processes"])
    parser.add_argument("--workers", nargs="+", type=int, default=list(WORKERS))
    parser.add_argument("--trials", type=int, default=256, help="of each measurement of the throughput")
    parser.add_argument("--scale", type=float, default=0.1, help="of the recorded seconds that are slept")
    parser.add_argument("--quality-trials", type=int, default=64)
    parser.add_argument("--algorithm", default="bayesian", help="of the searches whose quality is compared")
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
