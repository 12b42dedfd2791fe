"""Which rows are held out, and which are left when fewer are wanted: drawn, but the same every time.

Shapes: n rows, C classes.
"""

from __future__ import annotations

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.core.seeds import generator
from flashdistill.data.tasks.parts import Indices, Part
from flashdistill.data.tasks.task import Sentences


def hold_out(part: Part, fraction: float, *stream: object) -> tuple[Part, Part]:
    """Divide rows into training and validation, both in their original order.

    Groups stay whole. Without groups, classes keep their shares and each keeps at least one row
    for training; values and questions are drawn uniformly.

    Args:
        fraction: of the rows that validation gets, at least one row.
        stream: names the random stream, see `core.seeds.generator`.

    Raises:
        InputError: there is nothing to divide.
    """
    if len(part) < 2:
        raise InputError(f"{part.origin}: {len(part)} rows cannot be divided into training and validation rows")
    wanted = max(1, round(fraction * len(part)))
    if part.groups is not None:
        chosen = _whole_groups(part, wanted, *stream)
    else:
        chosen = _stratified(_classes(part), wanted, generator(*stream), spare=1)
        if not len(chosen):
            raise InputError(f"{part.origin}: every class has a single row, none can be held out; name validation rows")
    held_out = np.zeros(len(part), dtype=bool)
    held_out[chosen] = True
    return part.take(np.flatnonzero(~held_out)), part.take(np.flatnonzero(held_out))


def limit(part: Part, rows: int | None, *stream: object) -> Part:
    """At most ``rows`` rows, classes in their shares and none lost, in their original order.

    Raises:
        InputError: fewer rows are wanted than there are classes.
    """
    if rows is None or rows >= len(part):
        return part
    classes = _classes(part)
    if rows < (count := len(np.unique(classes))):
        raise InputError(f"{part.origin}: {rows} rows cannot hold {count} classes; raise the limit on the rows")
    return part.take(np.sort(_stratified(classes, rows, generator(*stream))))


def _classes(part: Part) -> Indices:
    """[n] the class of each row; all zero where rows have none."""
    rows = part.rows
    if isinstance(rows, Sentences) and rows.labels is not None and rows.labels.dtype.kind == "i":
        return rows.labels
    return np.zeros(len(part), dtype=np.int64)


def _stratified(classes: Indices, wanted: int, random: np.random.Generator, spare: int = 0) -> Indices:
    """Row indices of a sample in which classes have their shares.

    Args:
        spare: rows that every class keeps outside the sample. Without it, every class gets at
            least one row of the sample.
    """
    _, members, counts = np.unique(classes, return_inverse=True, return_counts=True)
    least = np.zeros_like(counts) if spare else np.ones_like(counts)
    shares = _apportioned(counts, min(wanted, int((counts - spare).sum())), least, counts - spare)
    return np.concatenate(
        [random.permutation(np.flatnonzero(members == k))[:share] for k, share in enumerate(shares)], dtype=np.int64
    )


def _apportioned(counts: Indices, wanted: int, least: Indices, most: Indices) -> Indices:
    """[C] ``wanted`` rows divided in proportion to ``counts``, by largest remainder within the bounds."""
    exact = counts * (wanted / counts.sum())
    shares = np.clip(np.floor(exact).astype(np.int64), least, most)
    while (missing := wanted - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = shares < most if missing > 0 else shares > least
        need = np.where(free, step * (exact - shares), -np.inf)
        shares[int(np.argmax(need))] += step
    return shares


def _whole_groups(part: Part, wanted: int, *stream: object) -> Indices:
    """Row indices of groups, drawn at random until they hold ``wanted`` rows."""
    assert part.groups is not None
    _, members, counts = np.unique(part.groups, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise InputError(
            f"{part.origin}: all rows belong to one context, which cannot be both trained and validated on; "
            "add others or name validation rows"
        )
    order = generator(*stream).permutation(len(counts))
    # The last group stays for training even where the others hold too few rows.
    enough = int(np.searchsorted(np.cumsum(counts[order[:-1]]), wanted)) + 1
    return np.flatnonzero(np.isin(members, order[:-1][:enough]))
