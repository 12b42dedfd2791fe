"""Plain prose from the wiki mark-up of one article.

gensim's filter does the bulk (links, tags, entities). It works on innermost mark-up first and
leaves remnants where mark-up is nested or unbalanced, so whole structures that hold no prose
are taken out before it runs, and lines that are no prose are dropped after.
"""

from __future__ import annotations

import re
from collections.abc import Callable

VERSION = 1
"""Raised with every change of the output, so that caches made of older output are not used."""

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_EMPTY_ELEMENT = re.compile(r"<(?:ref|references|gallery|section|br|hr)\b[^<>]*/\s*>", re.IGNORECASE)
_ELEMENT = re.compile(
    r"<(ref|references|math|chem|gallery|timeline|imagemap|source|syntaxhighlight|score|pre|code|table|hiero)"
    r"\b[^<>]*>.*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_SWITCH = re.compile(r"__[A-Z]{3,}__")
# Templates that stand for words of the sentence around them.
_TEXT_TEMPLATE = re.compile(
    r"\{\{\s*(?:(?:lang|transl|transliteration)\s*\|[^{}|]*\||(?:nowrap|nobr|small|abbr)\s*\|(?:1=)?)([^{}|]*)(?:\|[^{}]*)?\}\}",
    re.IGNORECASE,
)
_CONVERSION = re.compile(r"\{\{\s*(?:convert|cvt)\s*\|\s*([-−\d.,]+)\s*\|\s*([^{}|]+)[^{}]*\}\}", re.IGNORECASE)
_BRACES = re.compile(r"\{\{|\}\}")
_TABLE = re.compile(r"^[ \t:*#]*\{\||^[ \t]*\|\}", re.MULTILINE)
_LINK = re.compile(r"\[\[|\]\]")
_MEDIA_LINK = re.compile(r"\s*:?(?:file|image|media|category|datei|bild|fichier|archivo|immagine)\s*:", re.IGNORECASE)

_HEADING = re.compile(r"^(={1,6})\s*(.+?)\s*\1\s*$")
_NO_PROSE = re.compile(
    r"^(?:(?:explanatory |foot|end)?notes\b.*|notes and references|(?:general |additional )?references\b.*|citations|"
    r"sources|bibliography|works cited|literature|publications|discography|filmography|further (?:reading|information)|"
    r"see also|related pages|external (?:links|sources)|gallery)$",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"'{2,5}")
_URL = re.compile(r"(?:https?|ftp)://\S+|\bwww\.\S+")
_LIST_MARK = re.compile(r"^[*#:;]+\s*")
_SPACES = re.compile(r"[ \t\u00a0\u2009\u200a\u202f]+")
_ZERO_WIDTH = re.compile(r"[\u200b\u200e\u200f\ufeff\u00ad]")
_EMPTY_BRACKETS = re.compile(r"\(\s*(?:(?:[,;:/–-]|or|and)\s*)*\)|\[\s*\]")
_AFTER_OPENING = re.compile(r"\(\s*(?:[,;:]\s*)+|\(\s+")
_BEFORE_CLOSING = re.compile(r"(?:\s*[,;:])+\s*\)|\s+\)")
_REPEATED_MARK = re.compile(r"([,;])(?:\s*[,;])+")
_REPEATED_STOP = re.compile(r"(?<!\.)\.\s*\.(?!\s*\.)")
_BEFORE_MARK = re.compile(r"\s+([,.;:!?])(?=\s|$)")
_REMNANT = re.compile(
    r"\||\{\{|\}\}|\{\||\[\[|\]\]|</?\w+[^<>]*>|\bISBN\b|\b\d+px\b|\bthumb\b|^\W*(?:style|align|class)="
)
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’»)\]]*$")

_MIN_WORDS = 5
"""A line of fewer words is a caption, a label or a leftover."""

_MIN_LETTERS = 0.6
"""Share of letters and spaces below which a line is a formula or a table row."""


def plain_text(wikitext: str, strip_markup: Callable[[str], str]) -> str:
    """The prose of an article: paragraphs separated by a blank line, case and punctuation kept.

    Headings, tables, media, references, formulas, lists of names and the closing sections
    (references, links, …) are left out; list items that are sentences stay.

    Args:
        wikitext: the article as its authors wrote it.
        strip_markup: removes the remaining mark-up; gensim's ``filter_wiki``.
    """
    text = strip_markup(_without_structures(wikitext))
    return "\n\n".join(_prose_lines(text))


def _without_structures(text: str) -> str:
    text = _SWITCH.sub("", _COMMENT.sub("", text))
    text = _ELEMENT.sub("", _EMPTY_ELEMENT.sub("", text))
    text = _CONVERSION.sub(r"\1 \2", _TEXT_TEMPLATE.sub(r"\1", text))
    text = drop_nested(text, _BRACES, "{{")
    text = drop_nested(text, _TABLE, "{|")
    return drop_nested(text, _LINK, "[[", _MEDIA_LINK)


def drop_nested(text: str, marks: re.Pattern[str], opening: str, only: re.Pattern[str] | None = None) -> str:
    """Remove balanced, possibly nested spans; what is unbalanced ends with its line.

    Args:
        marks: matches an opening or a closing mark.
        opening: what an opening mark ends with.
        only: what must follow the opening mark of a span that is removed; inside a removed
            span everything goes. None removes all.
    """
    spans: list[tuple[int, int]] = []
    open_spans: list[tuple[int, bool]] = []  # start, whether it is to be removed
    for mark in marks.finditer(text):
        if mark.group().endswith(opening):
            open_spans.append((mark.start(), only is None or only.match(text, mark.end()) is not None))
        elif open_spans:
            start, removed = open_spans.pop()
            if removed:
                spans.append((start, mark.end()))
    # Without a limit an author's missing brace would swallow the rest of the article.
    for start, removed in open_spans:
        if removed:
            line_end = text.find("\n", start)
            spans.append((start, len(text) if line_end < 0 else line_end))
    kept: list[str] = []
    position = 0
    for start, end in sorted(spans):
        kept.append(text[position:start])  # empty for a span inside another
        position = max(position, end)
    return "".join(kept) + text[position:]


def _prose_lines(text: str) -> list[str]:
    lines: list[str] = []
    skipped_level: int | None = None
    for line in text.split("\n"):
        if heading := _HEADING.match(line.strip()):
            level = len(heading.group(1))
            if skipped_level is None or level <= skipped_level:
                skipped_level = level if _NO_PROSE.match(_EMPHASIS.sub("", heading.group(2))) else None
        elif skipped_level is None and (prose := _prose(line)):
            lines.append(prose)
    return lines


def _prose(line: str) -> str | None:
    """The cleaned line, or None where it is no running text."""
    is_item = bool(_LIST_MARK.match(line))
    line = _URL.sub("", _EMPHASIS.sub("", _LIST_MARK.sub("", line)))
    line = _SPACES.sub(" ", _ZERO_WIDTH.sub("", line))
    line = _EMPTY_BRACKETS.sub("", line)
    line = _BEFORE_CLOSING.sub(")", _AFTER_OPENING.sub("(", line))
    line = _BEFORE_MARK.sub(r"\1", _REPEATED_STOP.sub(".", _REPEATED_MARK.sub(r"\1", line)))
    line = _SPACES.sub(" ", line).strip()
    if len(line.split()) < _MIN_WORDS or _REMNANT.search(line):
        return None
    if is_item and not _SENTENCE_END.search(line):
        return None
    letters = sum(character.isalpha() or character == " " for character in line)
    return line if letters >= _MIN_LETTERS * len(line) else None
