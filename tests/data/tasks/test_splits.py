from __future__ import annotations

import numpy as np
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.parts import Part
from flashdistill.data.tasks.splits import hold_out, limit
from flashdistill.data.tasks.task import Sentences


def part(labels: list[int] | list[float], groups: list[int] | None = None) -> Part:
    values = np.array(labels, dtype=np.float32 if isinstance(labels[0], float) else np.int64)
    rows = Sentences([f"text {row}" for row in range(len(labels))], None, values)
    grouped = None if groups is None else np.array(groups, dtype=np.int64)
    return Part(rows, "rows.csv", range(2, len(labels) + 2), grouped)


def texts(part: Part) -> list[str]:
    assert isinstance(part.rows, Sentences)
    return part.rows.texts


def counts(part: Part) -> list[int]:
    assert isinstance(part.rows, Sentences)
    assert part.rows.labels is not None
    return np.bincount(part.rows.labels.astype(int)).tolist()


def test_classes_keep_their_shares_on_both_sides() -> None:
    train, validation = hold_out(part([0] * 60 + [1] * 30 + [2] * 10), 0.1, "a")
    assert counts(train) == [54, 27, 9]
    assert counts(validation) == [6, 3, 1]
    assert sorted(texts(train) + texts(validation)) == sorted(f"text {row}" for row in range(100))


def test_rows_keep_their_order_and_their_places() -> None:
    train, validation = hold_out(part([0, 1] * 20), 0.25, "a")
    for side in (train, validation):
        rows = [int(text.split()[1]) for text in texts(side)]
        assert rows == sorted(rows)
        assert [side.place(i) for i in range(len(side))] == [f"rows.csv:{row + 2}" for row in rows]


def test_a_class_of_one_row_stays_for_training() -> None:
    train, validation = hold_out(part([0] * 9 + [1]), 0.4, "a")
    assert counts(train) == [5, 1]
    assert counts(validation) == [4]


def test_the_stream_decides_and_nothing_else() -> None:
    rows = part([0, 1] * 50)
    first, again, other = (hold_out(rows, 0.1, "v", seed)[1] for seed in (0, 0, 1))
    assert texts(first) == texts(again) != texts(other)


def test_values_are_drawn_uniformly() -> None:
    train, validation = hold_out(part([0.5 * row for row in range(40)]), 0.25, "a")
    assert (len(train), len(validation)) == (30, 10)


def test_groups_stay_whole() -> None:
    groups = [row // 5 for row in range(100)]
    train, validation = hold_out(part([0, 1] * 50, groups), 0.2, "a")
    assert train.groups is not None
    assert validation.groups is not None
    assert not set(train.groups) & set(validation.groups)
    assert len(validation) == 20


def test_the_last_group_is_left_for_training() -> None:
    train, validation = hold_out(part([0] * 12, [0] * 6 + [1] * 6), 0.49, "a")
    assert (len(train), len(validation)) == (6, 6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (part([0]), "1 rows cannot be divided"),
        (part([0, 1, 2]), "every class has a single row"),
        (part([0, 1, 2], [4, 4, 4]), "all rows belong to one context"),
    ],
)
def test_what_cannot_be_divided(rows: Part, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hold_out(rows, 0.1, "a")


def test_a_limit_keeps_the_shares_and_loses_no_class() -> None:
    rows = part([0] * 80 + [1] * 19 + [2])
    assert counts(limit(rows, 10, "a")) == [8, 1, 1]
    assert counts(limit(rows, 3, "a")) == [1, 1, 1]
    assert limit(rows, 100, "a") is rows
    assert limit(rows, None, "a") is rows
    shorter = [int(text.split()[1]) for text in texts(limit(rows, 50, "a"))]
    assert shorter == sorted(set(shorter))
    with pytest.raises(InputError, match="2 rows cannot hold 3 classes"):
        limit(rows, 2, "a")
