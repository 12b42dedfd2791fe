from __future__ import annotations

import pytest

from flashdistill.data.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "Then it stopped!", "Did it?", "Yes."],
        ["Dr. Smith met Mrs. Jones, e.g. at St. Paul.", "They spoke."],
        ["J. R. R. Tolkien wrote it.", "He was British."],
        ["The U.S. Army came at 5 p.m. Monday.", "It left."],
        ["He lived in the U.S.", "The weather was fine."],
        ["Pi is 3.14 and no. 5 of vol. 2 costs $4.50.", "See pp. 3 ff. there."],
        ['He said "Go."', '"No!" she cried.', "(They went.)", "Nobody saw."],
        ["Wait...", "What?!", "Nothing."],
        ["It began in 1990.", "50 people came."],
        ["这是第一句。", "这是第二句！", "好吗？"],
        ["Élan is a word.", "Ärger is another."],
    ],
)
def test_sentences_of_a_line(sentences: list[str]) -> None:
    joiner = "" if "。" in sentences[0] else " "
    assert split_sentences(joiner.join(sentences)) == sentences


def test_an_exclamation_inside_a_sentence_does_not_end_it() -> None:
    assert split_sentences("The band Wham! was famous. It split.") == ["The band Wham! was famous.", "It split."]


def test_lines_and_paragraphs() -> None:
    wrapped = (
        "This is a text that is wrapped at a fixed width by\n"
        "its author, as Gutenberg's books are. It has two\nsentences."
    )
    assert split_sentences(wrapped) == [
        "This is a text that is wrapped at a fixed width by its author, as Gutenberg's books are.",
        "It has two sentences.",
    ]
    assert split_sentences("A heading\nThe text.\n\nno end\n \nNew  one\n") == [
        "A heading",
        "The text.",
        "no end",
        "New one",
    ]


def test_nothing_gives_nothing() -> None:
    assert split_sentences(" \n\n \n") == []


def test_no_character_is_lost() -> None:
    text = 'A. b. C "d." (E) f! G... h?\n\nI.J. "K" 3. 4 L' * 50
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())
