"""The identity of rows, by which results on the same data are known to be comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from flashdistill.data.tasks.task import Questions, Rows


def rows_identity(labels: tuple[str, ...], splits: Mapping[str, Rows]) -> str:
    """A short hash of the labels' names and of all rows, their labels and their order."""
    digest = hashlib.sha256()
    for part in ((list(labels),), *_described(splits)):
        digest.update((json.dumps(part, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]


def _described(splits: Mapping[str, Rows]) -> Iterator[tuple]:
    for name, rows in splits.items():
        yield name, len(rows)
        if isinstance(rows, Questions):
            for row in rows.rows:
                yield row.id, row.question, row.context, [(answer.text, answer.start) for answer in row.answers]
            continue
        nothing = [None] * len(rows)
        yield from zip(
            rows.texts,
            nothing if rows.pairs is None else rows.pairs,
            nothing if rows.labels is None else rows.labels.tolist(),
            strict=True,
        )
