from __future__ import annotations

import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.answers import locate_answer
from flashdistill.data.tasks.task import Answer

CONTEXT = "Rain in spring: in 2010, 10 mm."


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("in", 16, Answer("in", 16)),
        ("in", 15, Answer("in", 16)),
        ("in", 6, Answer("in", 5)),
        (" in ", 15, Answer("in", 16)),
        ("in", None, Answer("in", 5)),  # not that of Rain
        ("10", None, Answer("10", 25)),  # not that of 2010
        ("sprin", None, Answer("sprin", 8)),
        ("mm.", None, Answer("mm.", 28)),
        ("Rain", 400, Answer("Rain", 0)),
        ("Rain", -3, Answer("Rain", 0)),
    ],
)
def test_where_an_answer_stands(text: str, start: int | None, found: Answer) -> None:
    assert locate_answer(text, CONTEXT, start, "row 1") == found
    assert CONTEXT[found.start :].startswith(found.text)


def test_what_is_no_answer() -> None:
    with pytest.raises(InputError, match="^row 1: an answer is empty"):
        locate_answer(" ", CONTEXT, 3, "row 1")
    for start in (None, 0):
        with pytest.raises(InputError, match="^row 1: the context does not contain the answer 'rain'"):
            locate_answer("rain", CONTEXT, start, "row 1")
