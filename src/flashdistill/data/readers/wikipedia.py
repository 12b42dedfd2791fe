"""Articles of a Wikipedia XML dump, and of the excerpt that the gensim package carries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import Element, ParseError, iterparse

from flashdistill.core.errors import CorpusError
from flashdistill.data.readers.base import CorpusReader
from flashdistill.data.readers.files import combined, hash_files, open_binary, reading
from flashdistill.data.readers.wikitext import VERSION, plain_text
from flashdistill.data.settings import WikipediaDumpSource

MIN_ARTICLE_CHARACTERS = 500
"""Shorter articles are stubs: a sentence and a table."""

_EXCERPT = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_NEEDS_GENSIM = "Wikipedia text needs gensim: pip install 'flashdistill[wikipedia]'"


class WikipediaDumpReader(CorpusReader):
    """One document per article of a MediaWiki dump (``.xml``, ``.xml.bz2`` or ``.xml.gz``).

    Redirects, pages outside the article namespace and stubs are left out.
    """

    def __init__(self, source: WikipediaDumpSource | str):
        self._source = source

    def _path(self) -> Path:
        assert isinstance(self._source, WikipediaDumpSource)
        path = Path(self._source.wikipedia_dump).expanduser()
        if not path.is_file():
            raise CorpusError(f"corpus.source.wikipedia_dump: no file {str(path)!r} (relative to {Path.cwd()})")
        return path

    def documents(self) -> Iterator[str]:
        strip_markup = _markup_filter()
        path = self._path()
        with reading(path), open_binary(path) as stream:
            for wikitext in articles(stream, path):
                text = plain_text(wikitext, strip_markup)
                if len(text) >= MIN_ARTICLE_CHARACTERS:
                    yield text

    def fingerprint(self) -> str:
        return combined(hash_files([self._path()]), "wikitext", VERSION, MIN_ARTICLE_CHARACTERS)

    def describe(self) -> str:
        return f"Wikipedia dump {self._path().name}"


class GensimWikipediaReader(WikipediaDumpReader):
    """The excerpt of the English Wikipedia in gensim's wheel: about a hundred long articles."""

    def _path(self) -> Path:
        package = importlib.util.find_spec("gensim")
        if package is None or package.origin is None:
            raise CorpusError(_NEEDS_GENSIM)
        path = Path(package.origin).parent / _EXCERPT
        if not path.is_file():
            raise CorpusError(f"{path} is missing; reinstall gensim from its wheel, or name another corpus.source")
        return path

    def describe(self) -> str:
        return "the Wikipedia excerpt of gensim"


def articles(stream: IO[bytes], path: Path) -> Iterator[str]:
    """The wiki mark-up of every article in a dump, in bounded memory.

    gensim's ``extract_pages`` does the same but keeps an empty element per page, gigabytes in
    a full dump, and knows redirects only by their English keyword; here each page is forgotten
    and the dump's own redirect element is asked.

    Raises:
        CorpusError: not a MediaWiki dump, or the XML breaks off; names ``path`` and the place.
    """
    try:
        # Expat, since 2.4.1, ends where entities expand beyond measure; external ones are not followed.
        events = iterparse(stream, events=("start", "end"))  # nosec B314
        _, root = next(events)
        if _local(root) != "mediawiki":
            raise CorpusError(f"{path}: not a MediaWiki dump (its root element is <{_local(root)}>)")
        for event, element in events:
            if event == "end" and _local(element) == "page":
                if wikitext := _article(element):
                    yield wikitext
                root.clear()
    except ParseError as error:
        raise CorpusError(f"{path}: not a complete MediaWiki XML dump ({error})") from error


def _article(page: Element) -> str | None:
    """The text of a page of the article namespace that is no redirect."""
    children = {_local(child): child for child in page}
    namespace = children.get("ns")
    revision = children.get("revision")
    if revision is None or "redirect" in children or (namespace is not None and namespace.text != "0"):
        return None
    text = next((child.text for child in revision if _local(child) == "text"), None)
    # Dumps before 2010 have no redirect element.
    return None if text is None or text.lstrip()[:9].lower() == "#redirect" else text


def _local(element: Element) -> str:
    """The tag without the namespace, which changes with every version of the format."""
    return element.tag.rpartition("}")[2]


def _markup_filter() -> Callable[[str], str]:
    try:
        from gensim.corpora.wikicorpus import filter_wiki
    except ImportError as error:
        raise CorpusError(_NEEDS_GENSIM) from error
    return filter_wiki
