from __future__ import annotations

import pytest
from gensim.corpora.wikicorpus import filter_wiki

from flashdistill.data.readers.wikitext import plain_text


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        (
            "The '''[[River Thames|Thames]]''' ({{IPAc-en|t|ɛ|m|z}}; ''Tamesis'') is {{convert|346|km|mi}} long.",
            "The Thames (Tamesis) is 346 km long.",
        ),
        (
            "Oil is a liquid<ref name=a/b />, mostly black,<ref>{{cite|title=x}} p. 5</ref> &amp; heavy.<!-- no -->",
            "Oil is a liquid, mostly black, & heavy.",
        ),
        ("The word {{lang|fr|bonjour}} is a greeting in French.", "The word bonjour is a greeting in French."),
        ("Some say that {{nowrap|1=E = mc}} is his best line.", "Some say that E = mc is his best line."),
        ("It was 3.5&nbsp;m tall ( , or ) and  very  old .", "It was 3.5 m tall and very old."),
        (
            "He wrote in 1990.. Later he wrote again... and stopped.",
            "He wrote in 1990. Later he wrote again... and stopped.",
        ),
        ("See [http://example.org/x the site of them] for more of it.", "See the site of them for more of it."),
        (
            "* This item is a whole sentence of the article.\n* Not this\n# [[Name]] (1990)",
            "This item is a whole sentence of the article.",
        ),
    ],
)
def test_markup_goes_and_prose_stays(wikitext: str, prose: str) -> None:
    assert plain_text(wikitext, filter_wiki) == prose


FIRST = "The first paragraph of this article is here."
SECOND = "The second paragraph of this article is here."


@pytest.mark.parametrize(
    "structure",
    [
        "{| class=wikitable\n|-\n! Head || Other\n|-\n| a cell of the table with words || 5\n{| \n| nested\n|}\n|}",
        "[[File:A.jpg|thumb|200px|A caption with [[a link|link]] of the picture is no running text.]]",
        "{{Infobox person\n| name = {{nowrap|Some One}}\n| text = words and words and words.\n}}",
        "<gallery>\nA.jpg|The caption of a picture in a gallery.\n</gallery>",
        "<math>\\frac{{a}}{b}</math>",
        "== Heading of a section with words ==",
        "[[Category:People of the world and others]]",
        ":<syntaxhighlight lang=python>\nprint('a b c d e f g')\n</syntaxhighlight>",
        "__NOTOC__",
        "5 6 7 8 9 10 11 12",
        "{{unbalanced template that an author forgot to close",
    ],
)
def test_structures_without_prose_go(structure: str) -> None:
    assert plain_text(f"{FIRST}\n\n{structure}\n\n{SECOND}", filter_wiki) == f"{FIRST}\n\n{SECOND}"


def test_closing_sections_go_until_the_next_section_of_their_level() -> None:
    wikitext = (
        f"{FIRST}\n== References ==\nA book about this with a long title.\n=== More of them ===\n"
        f"Another book about this with a long title.\n==History==\n{SECOND}\n"
        "==See also==\nAnother article to be read as well."
    )
    assert plain_text(wikitext, filter_wiki) == f"{FIRST}\n\n{SECOND}"
