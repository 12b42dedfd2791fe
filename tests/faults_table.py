"""Write what `tests.faults_plugin` counted into docs/reliability.md.

python -m tests.faults_table build/faults*.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.faults_catalogue import ROWS

DOCUMENT = Path("docs/reliability.md")
BEGIN, END = "<!-- the table: written by make faults -->", "<!-- end of the table -->"

Found = Mapping[str, Any]
"""One test that ran: row, injected, happened, outcome, injections."""


def table(found: Iterable[Found]) -> str:
    """The results as a table in Markdown: one line for everything injected in the same way."""
    groups: dict[tuple[int, str, str], list[Found]] = {}
    for one in sorted(found, key=lambda each: each["row"]):
        groups.setdefault((one["row"], one["injected"], one["happened"]), []).append(one)
    lines = ["| # | injected | times | what happened |", "|---|---|---|---|"]
    shown = 0
    for (row, injected, happened), tests in groups.items():
        if row != shown:
            lines.append(f"| **{row}** | **{ROWS[row].title}** | **{_times(found_of(groups, row))}** | |")
            shown = row
        lines.append(f"| | {_cell(injected)} | {_times(tests)} | {_cell(_told(tests, happened))} |")
    missing = [f"{row} ({ROWS[row].title})" for row in ROWS if not any(key[0] == row for key in groups)]
    if missing:
        lines += ["", f"Not injected: {', '.join(missing)}."]
    return "\n".join(lines)


def found_of(groups: Mapping[tuple[int, str, str], list[Found]], row: int) -> list[Found]:
    return [one for key, tests in groups.items() if key[0] == row for one in tests]


def _times(tests: Iterable[Found]) -> str:
    """Injections of the tests that ran."""
    return f"{sum(one['injections'] for one in tests if one['outcome'] != 'skipped'):,}"


def _told(tests: list[Found], happened: str) -> str:
    failed = sum(one["outcome"] == "failed" for one in tests)
    skipped = sum(one["outcome"] == "skipped" for one in tests)
    if skipped == len(tests):
        return "not tried on this machine"
    return "; ".join(
        [
            *([happened] if failed + skipped < len(tests) else []),
            *([f"**FAILED in {failed} of {len(tests)} tests**"] if failed else []),
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(paths: list[str]) -> int:
    """Renew the table; 1 if a test failed."""
    found = [one for path in paths for one in json.loads(Path(path).read_text(encoding="utf-8"))]
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}", encoding="utf-8")
    return int(any(one["outcome"] == "failed" for one in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
