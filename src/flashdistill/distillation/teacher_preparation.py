"""From what the user names to a teacher that can teach: vocabulary, masked-LM head, text.

What was prepared is kept in the cache and used again by every run with the same teacher
settings and text, whatever its seed. A preparation that was interrupted goes on from its last
checkpoint.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core.files import content_key, read_json, sha256_file, sync_directory, write_json
from flashdistill.core.progress import Progress
from flashdistill.core.seeds import derive_seed
from flashdistill.core.sums import damaged_files, write_sums
from flashdistill.core.trust import private_directory
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import TokenisedCorpus, prepare_corpus
from flashdistill.distillation.masked_lm_training import TeacherTraining
from flashdistill.distillation.teacher_sources import Draft, TeacherReport, draft_teacher
from flashdistill.models.foreign import WEIGHTS, load_config, load_masked_lm
from flashdistill.models.settings import TeacherSettings
from flashdistill.models.teacher import Teacher
from flashdistill.training.compute import Compute
from flashdistill.training.optimizers import require_optimizer

log = logging.getLogger(__name__)

FACTS = "prepared.json"

_FORMAT = 2
"""Raised when the same settings come to mean another teacher."""


@dataclass(frozen=True)
class PreparedTeacher:
    """A teacher with its tokenizer and the text in that tokenizer's tokens.

    Attributes:
        identity: the same for the same teacher and text; a key for what is computed from them.
        directory: where a teacher that was changed is kept; None for one that is used as it came.
    """

    teacher: Teacher
    tokenizer: PreTrainedTokenizerFast
    corpus: TokenisedCorpus
    identity: str
    report: TeacherReport
    directory: Path | None = None


def prepare_teacher(
    settings: TeacherSettings, corpus_settings: CorpusSettings, cache_root: Path, progress: Progress, compute: Compute
) -> PreparedTeacher:
    """Load, shrink, fit or pre-train the teacher as configured, or take it from the cache.

    With several processes all of them call this, train together and get the same teacher.

    Raises:
        InputError: the optimizer is not installed.
        TeacherError: the teacher is missing, unsafe, no encoder, without a head or a tokenizer.
        CorpusError: the text is missing, unreadable or too short.
        DivergedError: its training diverged.
    """
    if (budget := settings.pretrain or settings.fit_mlm_head) is not None:
        require_optimizer(budget.optimizer)
    with compute.main_first():
        draft = draft_teacher(settings, corpus_settings, cache_root, progress)
        corpus = prepare_corpus(corpus_settings, draft.tokenizer, cache_root / "corpora", progress)
    # How sequences are made of the text matters to a teacher that learns from them.
    learnt_from = corpus_settings.model_dump(mode="json", exclude={"source", "validation_sequences"})
    identity = content_key(
        _FORMAT,
        draft.identity_parts,
        settings.model_dump(mode="json"),
        corpus.identity,
        learnt_from if draft.training is not None else None,
    )
    if not draft.changed:
        teacher = Teacher(draft.make_model(corpus))
        return PreparedTeacher(teacher, draft.tokenizer, corpus, identity, draft.report)
    directory = cache_root / "teachers" / identity
    with _sole_builder(directory, compute, progress):
        if not compute.from_main(compute.is_main and _is_intact(directory)):
            _build(draft, corpus, corpus_settings, directory, compute, progress)
    model, report = _open(directory)
    return PreparedTeacher(Teacher(model), draft.tokenizer, corpus, identity, report, directory)


@contextmanager
def _sole_builder(directory: Path, compute: Compute, progress: Progress) -> Iterator[None]:
    """Wait while another run prepares the same teacher; the system frees the lock of a dead one."""
    if not compute.is_main:
        yield
        return
    private_directory(directory.parent)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            progress.message("another run is preparing this teacher; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_intact(directory: Path) -> bool:
    """Whether a prepared teacher is there, all files verified."""
    try:
        intact = sha256_file(directory / WEIGHTS) == read_json(directory / FACTS)["sha256"]
    except (OSError, ValueError, KeyError):
        return False
    intact = intact and not damaged_files(directory)
    if not intact:
        log.warning("the prepared teacher %s is damaged; preparing it again", directory)
    return intact


def _open(directory: Path) -> tuple[PreTrainedModel, TeacherReport]:
    model, _ = load_masked_lm(directory, load_config(directory))
    return model, TeacherReport(**read_json(directory / FACTS)["report"])


def _build(
    draft: Draft,
    corpus: TokenisedCorpus,
    corpus_settings: CorpusSettings,
    directory: Path,
    compute: Compute,
    progress: Progress,
) -> None:
    """Make the model, train it where that is asked for, and write it to ``directory``."""
    work = directory.with_name(f"{directory.name}.work")
    model, steps = draft.make_model(corpus), 0
    begin = time.perf_counter()
    if (budget := draft.training) is not None:
        data = PretrainingData(corpus, draft.tokenizer, corpus_settings, derive_seed(budget.seed, "teacher-data"))
        steps = TeacherTraining(model, data, budget, work, draft.task).run(compute, progress)
    report = replace(draft.report, steps=steps, seconds=round(time.perf_counter() - begin, 1))
    if compute.is_main:
        _keep(model, draft.tokenizer, report, directory, work)
    compute.wait()


def _keep(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, report: TeacherReport, directory: Path, work: Path
) -> None:
    """Write a prepared teacher so that it is complete or absent."""
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir(parents=True)
    model.save_pretrained(finished)
    tokenizer.save_pretrained(str(finished))
    write_json(finished / FACTS, {"sha256": sha256_file(finished / WEIGHTS), "report": asdict(report)})
    write_sums(finished, but=[FACTS])
    shutil.rmtree(directory, ignore_errors=True)
    finished.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(work, ignore_errors=True)
