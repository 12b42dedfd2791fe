"""What can go wrong, and the mark of the tests that make it go wrong: ``@fault(4, "a flipped byte")``.

``make faults`` runs all of them and writes what happened into docs/reliability.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Row:
    """A kind of fault.

    Attributes:
        title: what is injected.
        expected: what happens then, every time.
    """

    title: str
    expected: str


ROWS = {
    1: Row(
        "SIGKILL at random times", "the same command resumes; every trial once; the result of the uninterrupted run"
    ),
    2: Row(
        "crash while a checkpoint is written", "the last complete one is used; none is dropped before its successor"
    ),
    3: Row("disk full", "stopped at once with path and bytes; goes on when there is space again"),
    4: Row("flipped byte, truncated file", "found by SHA-256 before use; the one before, or made anew, or refused"),
    5: Row("study database cut or deleted", "told to the user, never an empty study in its place"),
    6: Row("NaN or infinite loss", "stopped before the weights change; trial failed as diverged; the search goes on"),
    7: Row("candidate over its memory limit, or crashing", "that trial failed with the reason; the next one starts"),
    8: Row("two processes in one run directory", "the second refuses and names the first"),
    9: Row("bad text", "file and place named before any training, in bounded memory"),
    10: Row("bad YAML", "refused within a second with file, line and advice, all errors at once"),
    11: Row(
        "unusable or malicious teacher", "refused, or reduced where the configuration allows it; no code of it runs"
    ),
    12: Row("limits that exclude everything", "by size: before any training; by latency: exit 3 with the nearest"),
    13: Row("degenerate spaces and budgets", "a defined result, no endless loop"),
    14: Row("export that fails or gives other numbers", "the candidate failed with the reason, never on the front"),
    15: Row("read-only places, odd names, links", "works, or one clear message"),
    16: Row("database server or cluster worker lost in mid-run", "repeated until done; nothing lost or doubled"),
    17: Row("busy neighbour during a measurement", "honest interval, right order, marked as noisy"),
}


def fault(row: int, injected: str, happened: str = "") -> pytest.MarkDecorator:
    """Mark a test that injects a fault and passes only if what must happen did.

    Each run of the test counts as one injection; one that injects more says how many with
    ``record_property("injections", count)``.

    Args:
        row: of `ROWS`.
        injected: what exactly, in a few words.
        happened: what a pass proves, where the row's own words are too general.
    """
    return pytest.mark.faults(row=row, injected=injected, happened=happened or ROWS[row].expected)
