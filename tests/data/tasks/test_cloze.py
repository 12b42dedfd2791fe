"""Cloze questions by their rules, on sentences whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from flashdistill.data.tasks.cloze import BLANK, Span, cloze_questions, common_words, spans
from flashdistill.data.tasks.task import Answer, Question


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("In 1866 Ada Lovelace met Charles.", ["1866", "Ada Lovelace", "Charles"]),
        ("The river Elbe's source lies in the Duchy of Saxony.", ["Elbe", "Duchy of Saxony"]),
        ("Lovelace wrote it.", ["Lovelace"]),
        ("(Lovelace and the Bank of the West agreed.)", ["Lovelace", "Bank of the West"]),
        ("It rose by 12.5% to 1,200,000 in 7 years, the 1990s, 3-15 or 10:30.", ["12.5%", "1,200,000"]),
        ("A. B. Smith's work is at A.", ["A. B. Smith"]),
        ("Émile Zola’s novel", ["Émile Zola"]),
        ("One Two Three Four Five Six", []),
    ],
)
def test_names_and_numbers(sentence: str, found: list[str]) -> None:
    kept = spans(sentence, {"in", "the", "it", "one"} if "Six" not in sentence else set())
    assert [span.text for span in kept] == found
    assert all(sentence[span.start : span.start + len(span.text)] == span.text for span in kept)
    assert [span.kind for span in kept] == ["number" if span.text[0].isdigit() else "name" for span in kept]


def test_a_capital_at_the_beginning_says_nothing_of_an_ordinary_word() -> None:
    assert spans("Rivers of Saxony flood.", {"rivers"}) == []
    assert spans("Rivers Saxony flood.", {"rivers"}) == [Span("Saxony", 7, "name")]
    assert spans("Rivers flood.", set()) == [Span("Rivers", 0, "name")]


def test_words_of_many_articles_are_common() -> None:
    articles = [["The river runs."], ["The sea.", "The hill."], ["A river."], ["Rain."], ["the end"]]
    assert common_words(articles) == {"the", "river"}


TOLD = [
    "The bridge in Dresden was built by Anna Weber.",
    "Before it the engineer Paul Klein lived in Leipzig.",
    "It crosses the river near Meissen.",
    "Stones came from Pirna.",
]
ASKED = "Years later Anna Weber built another bridge across the river."


def questions(sentences: list[str], usable: set[int] | None = None) -> list[Question]:
    rows = set(range(len(sentences))) if usable is None else usable
    return list(cloze_questions("7", sentences, {"the", "in", "it", "by", "was"}, rows, np.random.default_rng(0)))


def test_a_question_and_all_its_answers() -> None:
    told = [TOLD[0], TOLD[1], "Anna Weber crosses the river near Meissen.", TOLD[3]]
    found = {one.id: one for one in questions([*told, ASKED])}["7-4-before"]
    context = " ".join(told)
    assert found.question == f"Years later {BLANK} built another bridge across the river."
    assert found.context == context
    assert found.answers == (Answer("Anna Weber", 35), Answer("Anna Weber", context.rindex("Anna Weber")))
    assert all(context[one.start :].startswith(one.text) for one in found.answers)


def test_the_context_may_follow_the_question() -> None:
    found = {one.id: one for one in questions([ASKED, *TOLD])}
    assert found["7-0-after"].context == " ".join(TOLD)


@pytest.mark.parametrize(
    "asked",
    [
        "Years later Anna Weber and Weber's son built another bridge across the river.",  # given away
        "Years later Anna Weber married.",  # about something else
        "Years later Anna built another bridge across the river.",  # not the very name
        "Years later she built another bridge across the river.",  # nothing to ask for
    ],
)
def test_what_is_no_question(asked: str) -> None:
    assert "7-4-before" not in {one.id for one in questions([*TOLD, asked])}


def test_a_context_offers_several_candidates_and_shows_usable_sentences_only() -> None:
    assert questions([*TOLD, ASKED], {0, 1, 2, 4}) == []
    plain = ["The bridge was built by Anna Weber.", "It crosses a river.", "It is long.", "Stones were cut in Pirna."]
    elsewhere = "there it is with the stones of years"
    assert questions([*plain, ASKED, elsewhere], set(range(5))) == []
