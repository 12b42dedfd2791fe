"""Disk: what a run leaves in its directory and in the cache, and what it needs meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.data.readers.files import matching_files
from flashdistill.data.settings import CorpusSettings, FileSource, TableSource, WikipediaDumpSource
from flashdistill.models.parameter_count import count_parameters
from flashdistill.planning.answers import Answers
from flashdistill.planning.memory import student_weights
from flashdistill.planning.teacher_shape import TeacherShape

_FLOAT = 4
_COPIES = 2
"""Of a checkpoint: the one before is removed when the new one has been read back."""

_WEIGHTS_AND_MOMENTS = 3
_CHARACTERS_PER_TOKEN, _TOKENS_PER_SENTENCE = 4.2, 32
"""Of English prose in BERT's vocabulary; smaller vocabularies have shorter tokens."""

_UNPACKED = {".gz": 3.0, ".bz2": 3.0}
"""Bytes of English text for each byte of its compressed file, roughly."""

_PARQUET = 1.8
_TEXT_OF_DUMP = 0.5
"""Of an unpacked Wikipedia dump; the rest is mark-up, redirects and stubs."""

_GRAPH_BYTES, _CHECKPOINT_BYTES = 4_000, 8_000
"""Beside the weights, for each block: names and nodes of an ONNX graph, names and places of tensors."""


@dataclass(frozen=True)
class DiskUse:
    """Bytes of one kind of files.

    Attributes:
        where: ``run`` or ``cache``.
        bytes: None where they are not known beforehand.
        lasting: whether they are there after the run.
    """

    what: str
    where: str
    bytes: float | None
    lasting: bool


def text_bytes(settings: CorpusSettings) -> float | None:
    """Bytes of the corpus's text, from the sizes of its files; None where only reading it would tell.

    Raises:
        CorpusError: files are missing.
    """
    if settings.max_documents is not None:
        return None
    source = settings.source
    if isinstance(source, FileSource | TableSource):
        patterns = source.files if isinstance(source, FileSource) else source.table
        return float(sum(_unpacked(path) for path in matching_files(patterns)))
    if isinstance(source, WikipediaDumpSource):
        dump = Path(source.wikipedia_dump).expanduser()
        return _unpacked(dump) * _TEXT_OF_DUMP if dump.is_file() else None
    return None


def corpus_bytes(text: float, vocab_size: int) -> float:
    """Of the tokenised corpus: two bytes a token, four where the vocabulary is large, and sentence offsets."""
    tokens = text / _CHARACTERS_PER_TOKEN
    return tokens * (2 if vocab_size < 2**16 else 4) + 8 * tokens / _TOKENS_PER_SENTENCE


def checkpoint_bytes(architectures: Iterable[Architecture], family: StudentFamily, side_by_side: int) -> int:
    """At most, while the largest of these are trained."""
    largest = max(student_weights(one, family) for one in architectures)
    return _COPIES * _WEIGHTS_AND_MOMENTS * _FLOAT * largest * side_by_side


def delivered_bytes(architecture: Architecture, family: StudentFamily) -> int:
    """A model's directory: the checkpoint, and ONNX files with the head and without.

    What is as small as the tokenizer, the card and the figures comes on top; what a target's
    runtime makes of the model too.
    """
    h, e, v = architecture.hidden_size, family.embedding_size, family.vocab_size
    head = h * h + 3 * h + (h - e) * v + v
    checkpoint = _FLOAT * student_weights(architecture, family) + _CHECKPOINT_BYTES * family.depth(architecture)
    return checkpoint + 2 * graph_bytes(architecture, family) + _FLOAT * head


def graph_bytes(architecture: Architecture, family: StudentFamily) -> int:
    """An exported encoder with random weights, kept for the next run."""
    return _FLOAT * count_parameters(architecture, family) + _GRAPH_BYTES * family.depth(architecture)


def teacher_bytes(teacher: TeacherShape, training: bool) -> tuple[int, int]:
    """A prepared teacher: what stays in the cache, and its checkpoints while it is trained."""
    kept = _FLOAT * teacher.num_weights
    return kept, _COPIES * _WEIGHTS_AND_MOMENTS * kept if training else 0


def run_disk(
    config: RunConfig,
    answers: Answers,
    typical: Sequence[Architecture],
    measured: int,
    delivered: int,
    text: float | None,
) -> list[DiskUse]:
    """All that a run writes.

    Args:
        typical: architectures that stand for those that are measured and delivered.
        measured: architectures at most, the baseline among them.
        delivered: models beside the baseline's.
        text: bytes of the corpus's text; None: from the sizes of its files.

    Raises:
        CorpusError: files are missing.
    """
    family, teacher = answers.family, answers.teacher
    text = text_bytes(config.corpus) if text is None else text
    models = delivered * _mean(delivered_bytes(one, family) for one in typical)
    models += config.select.include_baseline * delivered_bytes(config.baseline, family)
    hidden = sum(answers.hidden_bytes(model, beyond_memory=True) for model in ("student", "teacher"))
    found = [
        DiskUse("tokenised corpus", "cache", None if text is None else corpus_bytes(text, teacher.vocab_size), True)
    ]
    trained = bool(config.teacher.pretrain or config.teacher.fit_mlm_head)
    if trained or config.teacher.vocabulary:
        kept, meanwhile = teacher_bytes(teacher, trained)
        found.append(DiskUse("prepared teacher", "cache", kept, True))
        if trained:
            found.append(DiskUse("its checkpoints, at most", "cache", meanwhile, False))
    graphs = measured * _mean(graph_bytes(one, family) for one in typical)
    together = config.flash.students_per_teacher
    return [
        *found,
        DiskUse("exported graphs, at most", "cache", graphs, True),
        DiskUse("teacher's answers", "run", answers.bytes_on_disk(), False),
        DiskUse("hidden states, at most", "run", hidden, False),
        DiskUse("checkpoints, at most", "run", checkpoint_bytes([config.baseline, *typical], family, together), False),
        DiskUse("delivered models", "run", models, True),
    ]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _unpacked(path: Path) -> float:
    ratio = _PARQUET if path.suffix == ".parquet" else _UNPACKED.get(path.suffix, 1.0)
    return path.stat().st_size * ratio
