"""Tasks from the excerpt of the English Wikipedia in the package gensim, under CC BY-SA."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flashdistill.core.seeds import generator
from flashdistill.data.readers.wikipedia import GensimWikipediaReader
from flashdistill.data.sentences import split_sentences
from flashdistill.data.tasks.cloze import cloze_questions, common_words
from flashdistill.data.tasks.package_files import PackagedRows, installed_package
from flashdistill.data.tasks.parts import Part
from flashdistill.data.tasks.task import Question, Questions, Rows, Sentences

_SEEN_BEFORE = (
    "a model pre-trained on gensim's Wikipedia excerpt has seen the articles of all splits; "
    "compare only models of the same pre-training"
)

_MIN_SENTENCE_WORDS, _MAX_SENTENCE_WORDS = 6, 50
_PAIRS_PER_ARTICLE = 100
_SENTENCE_ENDS = (".", "!", "?", '."', ".”")


def wikipedia_neighbours(name: str) -> PackagedRows:
    """Sentence pairs: the second follows the first, or stands elsewhere in the same article."""
    articles, place = _articles()
    random = generator(name, "pairs")
    firsts: list[str] = []
    seconds: list[str] = []
    values: list[int] = []
    groups: list[int] = []
    for article, sentences in enumerate(articles):
        good = _rows(sentences, _fits)
        starts = [row for row in sorted(good) if row + 1 in good]
        for row in np.sort(random.permutation(starts)[:_PAIRS_PER_ARTICLE]).tolist():
            # The next but one may follow as well; further ones hardly do.
            others = [other for other in good if abs(other - row) > 2]
            follows = int(random.integers(2))
            if not follows and not others:
                continue
            firsts.append(sentences[row])
            seconds.append(sentences[row + 1 if follows else int(random.choice(sorted(others)))])
            values.append(follows)
            groups.append(article)
    rows = Sentences(firsts, seconds, np.array(values, dtype=np.int64))
    source = f"sentence pairs of {place} (CC BY-SA)"
    return PackagedRows(_part(rows, place, groups), source, ("elsewhere", "follows"), notes=(_SEEN_BEFORE,))


def wikipedia_cloze(name: str) -> PackagedRows:
    """Sentences with a blank, to be filled from the four sentences before or after them."""
    articles, place = _articles()
    random = generator(name, "blanks")
    common = common_words(articles)
    rows: list[Question] = []
    groups: list[int] = []
    for article, sentences in enumerate(articles):
        usable = _rows(sentences, lambda text: _fits(text) and text.endswith(_SENTENCE_ENDS))
        rows += cloze_questions(str(article), sentences, common, usable, random)
        groups += [article] * (len(rows) - len(groups))
    return PackagedRows(
        _part(Questions(rows), place, groups),
        f"cloze questions about {place} (CC BY-SA)",
        kind="question-answering",
        metrics=("answer_f1", "exact_match"),
        notes=(_SEEN_BEFORE,),
    )


def _articles() -> tuple[list[list[str]], str]:
    """The sentences of every article, and what the collection is called."""
    installed_package("gensim", "wikipedia")
    reader = GensimWikipediaReader("gensim-wikipedia")
    return [split_sentences(document) for document in reader.documents()], reader.describe()


def _rows(sentences: list[str], good: Callable[[str], bool]) -> set[int]:
    return {row for row, text in enumerate(sentences) if good(text)}


def _fits(sentence: str) -> bool:
    return _MIN_SENTENCE_WORDS <= len(sentence.split()) <= _MAX_SENTENCE_WORDS


def _part(rows: Rows, place: str, groups: list[int]) -> Part:
    return Part(rows, place, range(len(rows)), np.array(groups, dtype=np.int64), lines=False)
