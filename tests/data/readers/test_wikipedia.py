from __future__ import annotations

import builtins
import bz2
import importlib.util
import tracemalloc
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.data.readers.wikipedia import GensimWikipediaReader, WikipediaDumpReader, articles
from flashdistill.data.settings import Source, WikipediaDumpSource
from flashdistill.testing.corpus_reader import CorpusReaderConformance
from tests.faults_catalogue import fault

HEADER = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo/>'


def page(text: str, namespace: str = "0", extra: str = "") -> str:
    return (
        f"<page><title>T</title><ns>{namespace}</ns><id>1</id>{extra}<revision><id>2</id>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(path: Path, *pages: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bz2.compress((HEADER + "".join(pages) + "</mediawiki>").encode()))
    return path


def read(path: Path) -> list[str]:
    return list(WikipediaDumpReader(WikipediaDumpSource(wikipedia_dump=str(path))).documents())


class TestWikipediaDump(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        return WikipediaDumpSource(wikipedia_dump=str(dump(directory / "wiki.xml.bz2", *map(page, documents))))

    def missing(self, directory: Path) -> Source:
        return WikipediaDumpSource(wikipedia_dump=str(directory / "wiki.xml.bz2"))


PROSE = "This is a sentence of an article that goes on for a while. " * 20


def test_only_articles_are_kept(tmp_path: Path) -> None:
    path = dump(
        tmp_path / "wiki.xml.bz2",
        page("#REDIRECT [[Other]] " + PROSE),
        page("#WEITERLEITUNG [[Andere]] " + PROSE, extra='<redirect title="Andere"/>'),
        page("Talk. " + PROSE, namespace="1"),
        page("A stub of one sentence."),
        page("An article. " + PROSE),
        page(""),
    )
    (document,) = read(path)
    assert document.startswith("An article. This is a sentence")


@fault(9, "Wikipedia dump cut or no dump")
def test_broken_dumps_are_named(tmp_path: Path) -> None:
    whole = dump(tmp_path / "whole.xml.bz2", *[page(f"{number} {PROSE}") for number in range(50)])
    cut = tmp_path / "cut.xml.bz2"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(CorpusError, match=r"cut\.xml\.bz2: the compressed file is truncated"):
        read(cut)
    for name, text, message in [
        ("half.xml", HEADER + page(PROSE), "not a complete MediaWiki XML dump"),
        ("other.xml", "<html></html>", "not a MediaWiki dump .*<html>"),
        ("empty.xml", "", "not a complete MediaWiki XML dump"),
        ("plain.xml.bz2", "no archive", r"plain\.xml\.bz2: cannot be read: the file is damaged"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(CorpusError, match=message):
            read(tmp_path / name)


def test_memory_does_not_grow_with_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "wiki.xml"
    with path.open("w") as handle:
        handle.write(HEADER)
        for _ in range(5_000):
            handle.write(page("#REDIRECT [[Other]]"))
        handle.write("</mediawiki>")
    tracemalloc.start()
    with path.open("rb") as stream:
        assert not list(articles(stream, path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


def test_the_excerpt_of_gensim() -> None:
    reader = GensimWikipediaReader("gensim-wikipedia")
    documents = list(reader.documents())
    text = "\n".join(documents)
    assert 90 <= len(documents) <= 110
    assert 2.4e6 < len(text) < 2.8e6
    assert documents[0].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    for junk in ("thumb|", "|", "{{", "}}", "[[", "<ref", "&nbsp;", "'''", "==", "http://", "()", "( ", " ,"):
        assert junk not in text
    assert reader.fingerprint() == GensimWikipediaReader("gensim-wikipedia").fingerprint()


def test_without_gensim_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import, real_find = builtins.__import__, importlib.util.find_spec

    def no_gensim(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("gensim"):
            raise ModuleNotFoundError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_gensim)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gensim" else real_find(name))
    with pytest.raises(CorpusError, match=r"flashdistill\[wikipedia\]"):
        read(dump(tmp_path / "wiki.xml.bz2", page(PROSE)))
    with pytest.raises(CorpusError, match=r"flashdistill\[wikipedia\]"):
        GensimWikipediaReader("gensim-wikipedia").fingerprint()
