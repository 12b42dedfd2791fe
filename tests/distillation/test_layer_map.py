from __future__ import annotations

import pytest

from flashdistill.distillation.layer_map import layer_map


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (3, 6, [1, 3, 5]),
        (6, 3, [0, 0, 1, 1, 2, 2]),
        (4, 6, [1, 2, 4, 5]),
        (1, 12, [11]),
        (5, 2, [0, 0, 1, 1, 1]),
    ],
)
def test_last_block_of_each_group_teaches(student: int, teacher: int, expected: list[int]) -> None:
    assert layer_map(student, teacher) == expected


@pytest.mark.parametrize("student", range(1, 30))
@pytest.mark.parametrize("teacher", [1, 2, 6, 12, 24])
def test_ascending_and_ends_with_the_teachers_last(student: int, teacher: int) -> None:
    blocks = layer_map(student, teacher)
    assert blocks == sorted(blocks)
    assert blocks[-1] == teacher - 1
    assert blocks[0] >= 0
