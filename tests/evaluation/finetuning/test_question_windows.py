from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.task import Question
from flashdistill.evaluation.finetuning.question_windows import (
    LEAST_CONTEXT,
    NULL,
    QuestionFeatures,
    lay_windows,
    question_features,
)
from tests.evaluation.finetuning.question_cases import TEXT, TOKENIZERS, question, wordpiece

QUERY = "Who opened the Café?"


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def features(
    rows: list[Question], tokenizer: PreTrainedTokenizerFast, length: int = 60, stride: int = 10, query: int = 64
) -> QuestionFeatures:
    return question_features(rows, tokenizer, max_length=length, document_stride=stride, max_query_length=query)


def sequence(made: QuestionFeatures, window: int) -> tuple[list[int], list[int]]:
    place = slice(made.sequences.offsets[window], made.sequences.offsets[window + 1])
    return made.sequences.tokens[place].tolist(), made.sequences.segments[place].tolist()


def target_text(made: QuestionFeatures, window: int, context: str) -> str:
    number = made.windows.question[window]
    first, last = made.targets[window] - made.begins[window] + made.windows.first[window]
    return context[made.contexts.characters(made.context_of[number], first, last)]


def test_windows_by_hand() -> None:
    made = lay_windows(np.array([20, 8, 0]), np.array([8, 8, 8]), stride=3)
    assert made.question.tolist() == [0, 0, 0, 0, 1, 2]
    assert made.first.tolist() == [0, 5, 10, 15, 0, 0]
    assert made.length.tolist() == [8, 8, 8, 5, 8, 0]
    # Tokens 5, 6 and 7 are in two windows; 6 has two tokens beside it in each, and stays in the first.
    assert made.owned.tolist() == [[0, 7], [2, 7], [2, 7], [2, 5], [0, 8], [0, 0]]


def test_windows_cover_the_context_and_own_every_token_where_it_has_most_context() -> None:
    choose = np.random.default_rng(0)
    tokens, room = choose.integers(0, 90, 60), choose.integers(8, 40, 60)
    for stride in (1, 4, 7, 100):
        made = lay_windows(tokens, room, stride)
        for number in range(60):
            own = np.flatnonzero(made.question == number)
            stretches = [range(made.first[w], made.first[w] + made.length[w]) for w in own]
            assert stretches[0].start == 0
            assert stretches[-1].stop == tokens[number]
            for one, other in pairwise(stretches):
                assert len(one) == room[number]
                assert one.stop - other.start == min(stride, room[number] // 2)
            for token in range(tokens[number]):
                contexts = [min(token - s.start, s.stop - 1 - token) if token in s else -1 for s in stretches]
                owners = [
                    i for i, w in enumerate(own)
                    if made.owned[w, 0] <= token - made.first[w] < made.owned[w, 1]
                ]  # fmt: skip
                assert owners == [int(np.argmax(contexts))]


def test_windows_are_what_the_tokenizer_itself_makes(tokenizer: Any) -> None:
    made = features([question(TEXT, text=QUERY)], tokenizer, length=60, stride=10)
    expected = tokenizer(
        QUERY, TEXT, truncation="only_second", max_length=60, stride=10,
        return_overflowing_tokens=True, return_token_type_ids=True,
    )  # fmt: skip
    assert len(made) == len(expected["input_ids"]) > 2
    for window, (ids, types) in enumerate(zip(expected["input_ids"], expected["token_type_ids"], strict=True)):
        assert sequence(made, window) == (ids, types)


def test_padding_is_the_tokenizers_token_and_masked(tokenizer: Any) -> None:
    made = features([question(TEXT, text=QUERY), question("Short text here.", text="Why?")], tokenizer)
    rows = np.array([0, len(made) - 1])
    batch = made.sequences.batch(rows)
    shorter = int(made.sequences.lengths[rows[1]])
    assert batch["attention_mask"].sum(1).tolist() == made.sequences.lengths[rows].tolist()
    assert set(batch["input_ids"][1, shorter:].tolist()) == {tokenizer.pad_token_id}


def test_targets_are_the_answers_texts(tokenizer: Any) -> None:
    """Answers at the edges of words come back unchanged, from every window that holds them."""
    choose = random.Random(1)
    words = list(re.finditer(r"[^\W_]+", TEXT))
    rows = []
    for number in range(60):
        first = choose.randrange(len(words))
        last = min(first + choose.randrange(4), len(words) - 1)
        start, end = words[first].start(), words[last].end()
        rows.append(question(TEXT, TEXT[start:end], start, QUERY, str(number)))
    made = features(rows, tokenizer, length=90, stride=30)
    found = np.flatnonzero(made.targets[:, 0] != NULL)
    assert made.unreachable == 0
    assert set(made.windows.question[found]) == set(range(60))
    for window in found:
        row = rows[made.windows.question[window]]
        assert target_text(made, window, TEXT).strip() == row.answers[0].text
    absent = np.flatnonzero(made.targets[:, 0] == NULL)
    assert (made.targets[absent] == NULL).all()
    for window in absent:
        row, context = rows[made.windows.question[window]], made.context_of[made.windows.question[window]]
        covered = made.contexts.covering(context, row.answers[0].start, row.answers[0].start + len(row.answers[0].text))
        assert covered is not None
        shown = range(made.windows.first[window], made.windows.first[window] + made.windows.length[window])
        assert covered[0] not in shown or covered[1] not in shown


def test_answers_inside_a_piece_take_the_whole_piece() -> None:
    tokenizer: Any = wordpiece()
    assert tokenizer.tokenize("the") == ["the"]
    made = features([question(TEXT, "h", TEXT.index("the old") + 1)], tokenizer, length=90)
    assert target_text(made, int(np.flatnonzero(made.targets[:, 0])[0]), TEXT) == "the"


def test_characters_that_are_several_tokens_are_covered_whole() -> None:
    made = features([question(TEXT, "😀")], TOKENIZERS["byte-level"](), length=90)
    window = int(np.flatnonzero(made.targets[:, 0])[0])
    assert made.targets[window, 1] > made.targets[window, 0]
    assert "😀" in target_text(made, window, TEXT)


def test_questions_without_an_answer_point_at_the_first_token(tokenizer: Any) -> None:
    made = features([question(TEXT, text=QUERY)], tokenizer)
    assert (made.targets == NULL).all()
    assert made.unreachable == 0
    assert (made.sequences.tokens[made.sequences.offsets[:-1]] == tokenizer.cls_token_id).all()


def test_answers_that_no_window_holds_are_counted() -> None:
    rows = [question(TEXT, TEXT), question(TEXT, "Café"), question("one two", "one")]
    made = features(rows, wordpiece(), length=40)
    assert made.unreachable == 1
    assert (made.targets[made.windows.question == 0] == NULL).all()
    # Characters that the tokenizer drops have no token.
    assert features([question("ab ​ cd", "​")], wordpiece()).unreachable == 1


def test_long_questions_are_shortened() -> None:
    made = features([question("a b c", text="the " * 50)], wordpiece(), query=5)
    tokens, _ = sequence(made, 0)
    the = tokens[1]
    assert tokens[: 5 + 2].count(the) == 5
    assert made.begins[0] == 1 + 5 + 1


def test_no_room_for_the_context_is_an_error() -> None:
    long = question(TEXT, text="the " * 50)
    with pytest.raises(
        InputError, match=r"max_length: 30 tokens leave 0 .* question of 50 and 3 special .* raise max_"
    ):
        features([long], wordpiece(), length=30)
    assert len(features([long], wordpiece(), length=3 + 50 + LEAST_CONTEXT)) > 10


def test_contexts_without_tokens_and_special_words_as_text() -> None:
    made = features([question(""), question("[SEP] end [MASK]")], wordpiece())
    assert made.windows.length[0] == 0
    tokens, _ = sequence(made, 1)
    special = wordpiece().convert_tokens_to_ids(["[SEP]", "[MASK]"])
    assert [tokens.count(token) for token in special] == [2, 0]


def test_a_context_is_tokenised_once(tokenizer: Any) -> None:
    one = features([question(TEXT)], tokenizer)
    many = features([question(TEXT, text=f"{number}?") for number in range(5)], tokenizer)
    assert len(one.contexts.ids) == len(many.contexts.ids)
    assert many.contexts.begins is not None
    assert many.contexts.begins.dtype == many.contexts.ids.dtype == np.int32
