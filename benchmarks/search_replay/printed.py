"""The search benchmark's results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.search_replay.methods import METHODS


def print_record(record: Mapping[str, Any], console: Console) -> None:
    """A table for every problem and density."""
    for name, densities in record["problems"].items():
        for density, group in densities.items():
            console.print(_table(name, density, group))
            for stopped, effect in group["early_stopping"].items():
                console.print(
                    f"{METHODS[stopped].label}: {effect['steps_saved']:.1%} of the training steps saved, hypervolume "
                    f"{effect['hypervolume_change']:+.4f}, winners stopped {effect['winners_stopped']:.2f} a run",
                    highlight=False,
                )


def _table(name: str, density: str, group: Mapping[str, Any]) -> Table:
    expected = group["random_expected"]
    winners = ", ".join(map(str, group["winners"]))
    table = Table(
        title=f"{name}: {winners} of {group['architectures'][0]} dominate the baseline; random without repeats "
        f"finds 1 in {expected['1']:.0f} and 3 in {expected['3']:.0f} (theory)",
        box=SIMPLE,
    )
    methods = group["methods"].values()
    common = min(len(found["hypervolume"]["mean"]) for found in methods) - 1
    table.add_column("method")
    for column in ("runs", "to 1 [95 %]", "to 3 [95 %]", "of random", "repeats free", "repeats", f"front at {common}"):
        table.add_column(column, justify="right")
    table.add_column("s at 50 / 200 / 500", justify="right")
    for found in methods:
        censored = found["iterations_to_3"]["censored"]
        table.add_row(
            found["label"],
            str(found["iterations_to_3"]["runs"]),
            _shown(found["iterations_to_1"]),
            _shown(found["iterations_to_3"]) + (f", {censored} not" if censored else ""),
            f"{found['of_random_to_3']:.2f}",
            f"{found['distinct_iterations_to_3']['mean']:.1f}",
            f"{found['repeated_share']:.0%}",
            f"{found['hypervolume']['mean'][common]:.3f}",
            " / ".join(f"{seconds:.2f}" for seconds in found["seconds_per_suggestion"].values()),
        )
    return table


def _shown(item: Mapping[str, float]) -> str:
    return f"{item['mean']:.1f} [{item['low']:.1f}, {item['high']:.1f}]"
