"""SQuAD v1.1 and v2.0 (Rajpurkar et al. 2016, 2018), from their JSON files or by `datasets`.

The official metric F1 of answers selects; exact match stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdistill.core.errors import InputError
from flashdistill.data.readers.files import reading
from flashdistill.data.tasks.answers import locate_answer
from flashdistill.data.tasks.hub import columns_of, is_dataset_copy, load_splits, read_copy, required_split
from flashdistill.data.tasks.parts import Part, RawTask, context_groups
from flashdistill.data.tasks.settings import SplitFiles, TaskSettings
from flashdistill.data.tasks.task import Question, Questions

METRICS = ("answer_f1", "exact_match")


@dataclass(frozen=True)
class SquadVersion:
    """``config`` is the directory in a copy of the hub's data set."""

    version: str
    dataset: str
    config: str
    unanswerable: bool


VERSIONS = {
    "squad": SquadVersion("1.1", "rajpurkar/squad", "plain_text", unanswerable=False),
    "squad2": SquadVersion("2.0", "rajpurkar/squad_v2", "squad_v2", unanswerable=True),
}


def load_squad(settings: TaskSettings) -> RawTask:
    """SQuAD; the official test questions are not public.

    Raises:
        InputError: files are missing or are not SQuAD's; names the file and the question.
    """
    name, data = settings.name, settings.data
    spec = VERSIONS[name]
    if data is None:
        where = spec.dataset + (f" at {settings.revision}" if settings.revision else "")
        parts = _from_splits(load_splits(spec.dataset, None, settings.revision), where)
    elif isinstance(data, str) and is_dataset_copy(directory := Path(data).expanduser()):
        where = str(directory)
        parts = _from_splits(read_copy(directory, spec.config), where)
    else:
        parts, where = _from_files(data, name, spec), "the official JSON files"
    return RawTask(
        name,
        "question-answering",
        parts["train"],
        METRICS,
        f"SQuAD {spec.version}, {where}",
        {split: part for split, part in parts.items() if split == "validation"},
        parts.get("test"),
        unanswerable=spec.unanswerable,
    )


def _from_files(data: str | SplitFiles, name: str, spec: SquadVersion) -> dict[str, Part]:
    if isinstance(data, SplitFiles):
        named = {"train": data.train, "validation": data.validation, "test": data.test}
        paths = {split: Path(path).expanduser() for split, path in named.items() if path is not None}
    elif (path := Path(data).expanduser()).is_dir():
        paths = {split: path / f"{stem}-v{spec.version}.json" for split, stem in _STEMS.items()}
    else:
        paths = {"train": path}
    for path in paths.values():
        if not path.is_file():
            raise InputError(
                f"the task {name}: no file {str(path)!r} (relative to {Path.cwd()}); data names the directory with "
                f"{' and '.join(f'{stem}-v{spec.version}.json' for stem in _STEMS.values())}"
            )
    return {split: read_squad(path, spec) for split, path in paths.items()}


_STEMS = {"train": "train", "validation": "dev"}


def read_squad(path: Path, spec: SquadVersion) -> Part:
    """The questions of one of SQuAD's JSON files, in its order.

    Raises:
        InputError: not JSON, not SQuAD's form, a question without an answer in v1.1, or an answer
            that its context does not have.
    """
    with reading(path):
        content = path.read_bytes()
    try:
        articles = json.loads(content)["data"]
        questions = [
            _question(entry, paragraph["context"], f"{path}, {article.get('title', 'untitled')!r}", spec)
            for article in articles
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not SQuAD's form, data → paragraphs → context and qas → id, question, answers "
            f"({type(error).__name__}: {error})"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not complete JSON ({error})") from error
    return _part(questions, str(path))


def _question(entry: Mapping[str, Any], context: str, where: str, spec: SquadVersion) -> Question:
    place = f"{where} (id {entry['id']!r})"
    # Of an impossible question only plausible answers are given, which are wrong.
    impossible = bool(entry.get("is_impossible", False))
    if impossible and not spec.unanswerable:
        raise InputError(f"{place}: a question that its context does not answer; for SQuAD v2.0 name the task squad2")
    found = [] if impossible else [(answer["text"], answer["answer_start"]) for answer in entry["answers"]]
    answers = tuple(locate_answer(text, context, start, place) for text, start in found)
    return Question(str(entry["id"]), entry["question"], context, answers)


def _from_splits(splits: dict[str, Any], where: str) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for split in ("train", "validation"):
        place = f"data set {where}, split {split}"
        names = ("id", "question", "context", "answers")
        columns = columns_of(required_split(splits, split, where), names, place)
        parts[split] = _part(
            [
                Question(
                    str(identifier),
                    question,
                    context,
                    _spans(answers, context, f"{place}, row {row} (id {identifier!r})"),
                )
                for row, (identifier, question, context, answers) in enumerate(
                    zip(*(columns[name] for name in names), strict=True)
                )
            ],
            place,
        )
    return parts


def _spans(answers: Mapping[str, Iterable[Any]], context: str, place: str) -> tuple:
    starts = zip(answers["text"], answers["answer_start"], strict=True)
    return tuple(locate_answer(text, context, start, place) for text, start in starts)


def _part(questions: list[Question], origin: str) -> Part:
    return Part(Questions(questions), origin, range(len(questions)), context_groups(questions), lines=False)
