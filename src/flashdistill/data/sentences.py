"""Rule-based sentence splitting.

Sentences are only the grain in which pairs are packed, so a rare wrong cut costs little; rules
need no model, run at tens of megabytes per second and give the same result everywhere.
"""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？]+[」』”’）]*\s*""")
_OPENING = "\"'“‘«([¿¡„"
_PARAGRAPH = re.compile(r"\n\s*\n")
_LINE_END = re.compile(r"""[.!?:;…。！？]["'”’»)\]」』）]*$""")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER_LAST = _words(
    "mr mrs ms dr prof st sr jr rev hon gen col lt capt sgt maj cmdr adm gov sen rep pres messrs mme mlle "
    "vs cf viz i.e e.g ca approx esp incl al seq trans ed eds repr univ dept mt ft"
)
"""Abbreviations that hardly ever end a sentence."""

_BEFORE_NUMBER = _words("no nos vol vols ch pp p fig figs eq eqs art sec par op cap c v nr")
"""Abbreviations when a number follows, words or letters otherwise."""

_STARTERS = _words(
    "The In It He She They This These Those There However On At His Her Its Their As But After Before When "
    "While For We You If By From With Although Since During Some Many Most Other Another And Or So"
)
"""Words that begin a sentence even after an abbreviation such as ``U.S.``."""

_WRAPPED_LINE = 40
"""Lines at least this long are taken for wrapped text; shorter ones (headings, verse) stand alone."""


def split_sentences(document: str) -> list[str]:
    """The sentences of a document in order, white space normalised, none empty.

    A blank line ends a sentence. So does a line break, unless the text is wrapped there: the
    line is long and does not end as sentences do, or the next one goes on in lower case.
    """
    return [
        sentence
        for paragraph in _PARAGRAPH.split(document)
        for line in _unwrapped(paragraph)
        for sentence in _split_line(line)
    ]


def _unwrapped(paragraph: str) -> list[str]:
    lines: list[list[str]] = []
    previous = ""
    for raw in paragraph.split("\n"):
        line = " ".join(raw.split())
        if not line:
            continue
        if previous and _goes_on(previous, line):
            # A hyphen at the end of a line stays: whether it belongs to the word is unknown.
            lines[-1] += [line] if previous.endswith("-") else [" ", line]
        else:
            lines.append([line])
        previous = line
    return ["".join(parts) for parts in lines]


def _goes_on(line: str, following: str) -> bool:
    if _LINE_END.search(line):
        return False
    return len(line) >= _WRAPPED_LINE or following[0].islower()


def _split_line(line: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    for match in _BOUNDARY.finditer(line):
        if match.end() < len(line) and _is_boundary(line, start, match):
            sentences.append(line[start : match.end()].rstrip())
            start = match.end()
    if rest := line[start:].strip():
        sentences.append(rest)
    return sentences


def _is_boundary(line: str, start: int, match: re.Match[str]) -> bool:
    mark = match.group().rstrip()
    if mark[0] in "。！？":
        return True
    following = line[match.end() : match.end() + 40].lstrip(_OPENING)
    if not following or following[0].islower():
        return False
    if mark != ".":
        return True
    word = line[max(start, line.rfind(" ", start, match.start()) + 1) : match.start()].lstrip(_OPENING)
    lower = word.lower()
    if lower in _NEVER_LAST:
        return False
    if lower in _BEFORE_NUMBER:
        return not following[0].isdigit() and len(word) > 1
    if all(len(part) <= 2 and part.isalpha() for part in word.split(".")) and ("." in word or len(word) == 1):
        # Initials and dotted abbreviations end a sentence only before a word that begins one.
        return re.split(r"\W", following, maxsplit=1)[0] in _STARTERS
    return True
