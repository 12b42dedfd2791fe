"""Where an answer stands in its context."""

from __future__ import annotations

import re

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.task import Answer


def locate_answer(text: str, context: str, start: int | None, place: str) -> Answer:
    """An answer at ``start``, or at its occurrence nearest to it; white space around it is no part of it.

    Starts are off by a little where a data set counts bytes or has had its spaces cleaned. Where
    none is given, the answer is at its first occurrence as whole words, or else as part of one.

    Raises:
        InputError: the answer is empty, or the context does not have it; starts with ``place``.
    """
    if not (answer := text.strip()):
        raise InputError(f"{place}: an answer is empty; give no answer where the context does not answer the question")
    if start is None:
        whole = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", context)
        start = context.find(answer) if whole is None else whole.start()
        text = answer
    wanted = start + len(text) - len(text.lstrip())
    before = context.rfind(answer, 0, wanted + len(answer)) if wanted >= 0 else -1
    after = context.find(answer, max(wanted, 0))
    found = [position for position in (before, after) if position >= 0]
    if not found:
        raise InputError(
            f"{place}: the context does not contain the answer {_short(answer)}; answers are its exact text"
        )
    return Answer(answer, min(found, key=lambda position: abs(position - wanted)))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
