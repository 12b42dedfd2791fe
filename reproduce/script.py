"""What the scripts of the tables and figures share: options, a dry run, an open working directory, results.

A script has ``demands`` or another plan of what it would train, and a function that trains what is
missing and makes a table, a figure, numbers and a paragraph of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from flashdistill import pipeline
from flashdistill.budgets import resolve_budgets
from flashdistill.config import RunConfig
from flashdistill.console import ConsoleProgress
from flashdistill.core.errors import FlashDistillError
from flashdistill.core.files import write_json, write_text
from flashdistill.ledger import Ledger
from flashdistill.scored_distillations import ScoredDistillations
from flashdistill.workbench import Workbench
from reproduce.scales import ROOT, SCALES, Scale

INTERRUPTED = 130
"""The exit status of a script that was told to stop."""


@dataclass(frozen=True)
class Place:
    """An open working directory: what trains, and what keeps the scores."""

    scale: Scale
    bench: Workbench
    ledger: Ledger
    store: ScoredDistillations


@dataclass(frozen=True)
class Made:
    """What a script has to show.

    Attributes:
        found: the numbers.
        reading: a paragraph: what agrees with the paper and what does not.
        table: Markdown.
    """

    figure: Figure
    found: Mapping[str, Any]
    reading: str
    table: str = ""


def script(
    name: str,
    description: str | None,
    plan: Callable[[Scale, RunConfig], Sequence[str]],
    prepare: Callable[[Scale, RunConfig], Callable[[Place], Made]],
    section: Callable[[Scale], Sequence[str]] = lambda scale: (),
) -> None:
    """A script's whole life: train what is missing, then draw, tabulate and read off.

    Args:
        name: of the table or figure, and of its files.
        plan: what would be trained and what it costs, in lines.
        prepare: checks what can be checked before anything is trained; returns what does it.
        section: overrides of the script itself.

    Raises:
        SystemExit: with a message, where the work cannot be done or was stopped.
    """
    given = arguments(description)
    scale = SCALES[given.scale]
    try:
        config = configuration(given, section(scale))
        if given.dry_run or (scale.heavy and not given.really):
            print("\n".join(plan(scale, config)))
        if given.dry_run:
            return
        require_allowed(scale, given.really)
        work = prepare(scale, config)
    except FlashDistillError as error:
        raise SystemExit(f"error: {error}") from error
    with opened(scale, config) as place:
        if place is not None:
            finish(name, results_directory(given), work(place))


@contextmanager
def opened(scale: Scale, config: RunConfig) -> Iterator[Place | None]:
    """Teacher and text, prepared or from the cache; None in processes that only help.

    Raises:
        SystemExit: with the message, where the work cannot be done.
    """
    try:
        with ConsoleProgress() as progress, pipeline.opened(config, progress) as life:
            if life is None:
                yield None
                return
            resolve_budgets(life.bench, life.ledger.costs)
            yield Place(scale, life.bench, life.ledger, ScoredDistillations(life.bench, life.ledger, "reproduction"))
    except FlashDistillError as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def arguments(description: str | None) -> argparse.Namespace:
    """The options that all scripts of the tables and figures share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="mini")
    parser.add_argument("--work", type=Path, help="where trainings are kept; default: runs/reproduce-SCALE")
    parser.add_argument("--output", type=Path, help="default: reproduce/results/SCALE")
    parser.add_argument("--dry-run", action="store_true", help="print what it would train and cost, and stop")
    parser.add_argument("--really", action="store_true", help="start the scale `paper`, too")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the configuration")
    return parser.parse_args()


def results_directory(given: argparse.Namespace) -> Path:
    return given.output or ROOT / "reproduce" / "results" / given.scale


def configuration(given: argparse.Namespace, own: Sequence[str] = ()) -> RunConfig:
    """The scale's configuration, working in ``--work``.

    Args:
        own: overrides of the script itself, before those that are given.

    Raises:
        ConfigError: it is not valid.
    """
    work = given.work or Path("runs") / f"reproduce-{given.scale}"
    return SCALES[given.scale].load([*own, *given.overrides, f"output={work}"])


def finish(name: str, output: Path, made: Made) -> None:
    """Write ``NAME.png``, ``NAME.json`` and ``NAME.md``, and say what was read off."""
    output.mkdir(parents=True, exist_ok=True)
    made.figure.savefig(output / f"{name}.png", dpi=150)
    write_json(output / f"{name}.json", {**made.found, "reading": made.reading})
    told = f"{made.table}\n\n{made.reading}".lstrip()
    write_text(output / f"{name}.md", f"{told}\n")
    Console().print(told, markup=False, highlight=False)


def require_allowed(scale: Scale, really: bool) -> None:
    """Refuse to start what only large machines finish.

    Raises:
        SystemExit: says how to start it nevertheless.
    """
    if scale.heavy and not really:
        raise SystemExit(
            f"error: the scale {scale.name} needs accelerators for a long time; the plan above says how long. "
            "Start it with --really"
        )
