"""All tables and figures of the paper at one scale, one after the other, and a page that collects them.

Each script runs in a process of its own and keeps what it has trained, so an interrupted call goes
on where it was, and what fails does not keep the others from their turn.

    python -m reproduce --scale mini
    python -m reproduce --scale paper --dry-run
    python -m reproduce --only table2 figure6
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search_replay.measured import MEASURED
from flashdistill.core.files import write_text
from flashdistill.delivery.formatting import format_seconds
from reproduce.scales import ROOT, SCALES
from reproduce.script import INTERRUPTED

COLLECTION = "README.md"
"""The page with all paragraphs and pictures, beside the files it shows."""


@dataclass(frozen=True)
class Script:
    """A module of this package.

    Attributes:
        title: what the paper shows there.
        scaled: whether it trains at a scale; the others search a table of students that were trained
            before, by as many seeds as the scale allows.
        option: of the others, the last one for the number of seeds.
        seeds: how many of them at `mini`, and at the larger scales.
    """

    title: str
    scaled: bool = True
    option: Sequence[str] = ()
    seeds: tuple[int, int] = (0, 0)


SCRIPTS = {
    "table2": Script("Table 2: the seven students and MobileBERT"),
    "figure5": Script("Figure 5: accuracy and time over the length of flash distillation"),
    "figure6": Script("Figure 6: does flash rank as regular distillation does?"),
    "table3": Script("Table 3: sentence tasks (GLUE)"),
    "table4": Script("Table 4: question answering (SQuAD)"),
    "figure3": Script(
        "Figure 3: how fast each search finds better students",
        False,
        ("--", "--problems", MEASURED, "--seeds"),
        (10, 20),
    ),
    "figure4": Script("Figure 4: accuracy and latency together, or one alone", False, ("--seeds",), (10, 20)),
}
"""In the order of their turns: what is measured comes first, when the machine is still cool and quiet."""


def main() -> None:
    """Run what was asked for, write the page, and fail if a script did."""
    given = parse()
    output = given.output or ROOT / "reproduce" / "results" / given.scale
    failed: list[str] = []
    for number, name in enumerate(given.only, start=1):
        print(f"\n{number} of {len(given.only)}: {SCRIPTS[name].title}", flush=True)
        if given.dry_run and not SCRIPTS[name].scaled:
            print("Searches a table of students that were trained before: minutes, at every scale.")
            continue
        started = time.monotonic()
        status = subprocess.run(command(name, given, output), check=False).returncode
        print(f"{name}: {'ended' if status == 0 else 'failed'} after {format_seconds(time.monotonic() - started)}")
        if status == INTERRUPTED:
            raise SystemExit(status)
        if status:
            failed.append(name)
    if not given.dry_run:
        print(f"\nThe page: {collect(output, given.scale)}")
    if failed:
        raise SystemExit(f"error: failed: {', '.join(failed)}; the same command tries them again")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="mini")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), metavar="NAME")
    parser.add_argument("--work", type=Path, help="where trainings are kept; default: runs/reproduce-SCALE")
    parser.add_argument("--output", type=Path, help="default: reproduce/results/SCALE")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained and cost, and stop")
    parser.add_argument("--really", action="store_true", help="start the scale `paper`, too")
    return parser.parse_args()


def command(name: str, given: argparse.Namespace, output: Path) -> list[str]:
    """How a script is called."""
    script = SCRIPTS[name]
    line = [sys.executable, "-m", f"reproduce.{name}", "--output", str(output)]
    if script.scaled:
        line += ["--scale", given.scale]
        line += ["--work", str(given.work)] if given.work else []
        line += [flag for flag, set_ in (("--dry-run", given.dry_run), ("--really", given.really)) if set_]
        return line
    return [*line, *script.option, str(script.seeds[given.scale != "mini"])]


def collect(output: Path, scale: str) -> Path:
    """Write the page over what is in ``output``; what is not there yet is left out."""
    parts = [f"# The paper's tables and figures at the scale `{scale}`"]
    for name, script in SCRIPTS.items():
        text = output / f"{name}.md"
        if text.is_file():
            parts += [f"## {script.title}", f"![{script.title}]({name}.png)", text.read_text(encoding="utf-8").strip()]
    path = output / COLLECTION
    write_text(path, "\n\n".join(parts) + "\n")
    return path


if __name__ == "__main__":
    main()
