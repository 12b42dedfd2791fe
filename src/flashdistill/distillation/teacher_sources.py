"""Where a teacher comes from: a model that was given, or a template to pre-train; and its tokenizer.

What is decided here is cheap. Training, and keeping the result, is left to `teacher_preparation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core.errors import TeacherError
from flashdistill.core.files import content_key, read_json, sha256_file, write_json
from flashdistill.core.progress import Progress
from flashdistill.core.seeds import derive_seed
from flashdistill.core.trust import private_directory
from flashdistill.data.readers.base import open_reader
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import TokenisedCorpus
from flashdistill.data.tokenizer import load_tokenizer, reduce_vocabulary, train_wordpiece
from flashdistill.distillation.masked_lm_training import Budget, begin_head, token_counts
from flashdistill.models.foreign import WEIGHTS, load_config, load_masked_lm, locate
from flashdistill.models.settings import FitSettings, PretrainSettings, TeacherSettings
from flashdistill.models.teacher import slice_vocabulary, usable_positions
from flashdistill.models.teacher_templates import POSITIONS, build_teacher, teacher_config, teacher_name

_FORMAT = 1
"""Raised when the same settings come to mean another tokenizer."""


@dataclass(frozen=True)
class TeacherReport:
    """What a reader of the results must know about the teacher.

    Attributes:
        seconds: of the training; of the last stretch alone where it was interrupted.
    """

    name: str
    preparation: str = ""
    source_vocab_size: int | None = None
    source_sha256: str = ""
    license: str = ""
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Draft:
    """A teacher on its way.

    Attributes:
        make_model: the model before any training; for the text in the tokenizer's tokens.
        training: None where nothing needs to be fitted.
        task: under which the training is shown.
        changed: False for a model that is used as it was given.
        identity_parts: what tells it from other teachers of the same settings.
    """

    make_model: Callable[[TokenisedCorpus], PreTrainedModel]
    tokenizer: PreTrainedTokenizerFast
    training: Budget | None
    report: TeacherReport
    task: str
    changed: bool
    identity_parts: tuple[Any, ...] = ()


def draft_teacher(settings: TeacherSettings, corpus: CorpusSettings, cache_root: Path, progress: Progress) -> Draft:
    """Look at what is configured, and load or learn the tokenizer.

    Raises:
        TeacherError: the teacher is missing, unsafe, no encoder, without a head or a tokenizer.
        CorpusError: the text is missing or unreadable.
    """
    if settings.pretrain is not None:
        return _draft_of_template(settings.pretrain, corpus, cache_root, progress)
    return _draft_of_given(settings, corpus, cache_root, progress)


def _draft_of_given(settings: TeacherSettings, corpus: CorpusSettings, cache_root: Path, progress: Progress) -> Draft:
    assert settings.model is not None
    name = settings.model if isinstance(settings.model, str) else settings.model.wheel
    directory = locate(settings.model)
    config = load_config(directory)
    _require_length(usable_positions(config), corpus)
    tokenizer = load_tokenizer(directory)
    model, has_head = load_masked_lm(directory, config)
    fit = settings.fit_mlm_head
    if not has_head and fit is None:
        raise TeacherError(
            f"the teacher {name} has no masked-LM head; set teacher.fit_mlm_head, for example "
            "{seconds: 120}, to have one fitted on the corpus"
        )
    if has_head and fit is not None:
        progress.message("the teacher has a masked-LM head already; it is trained further as teacher.fit_mlm_head says")
    source_sha256 = sha256_file(directory / WEIGHTS) if (directory / WEIGHTS).is_file() else ""
    source_size, kept = model.config.vocab_size, None
    if settings.vocabulary is not None:
        tokenizer, kept = _reduced_tokenizer(tokenizer, settings.vocabulary, corpus, cache_root, progress)
        kept = kept if len(kept) < source_size else None
    elif len(tokenizer) > source_size:
        raise TeacherError(
            f"the tokenizer of the teacher {name} has {len(tokenizer)} entries, its model only "
            f"{source_size}; they do not belong together"
        )

    def make_model(text: TokenisedCorpus) -> PreTrainedModel:
        smaller = model if kept is None else slice_vocabulary(model, kept)
        if not has_head:
            begin_head(smaller, token_counts(text, smaller.config.vocab_size))
        return smaller

    did = [] if kept is None else [f"vocabulary reduced from {source_size:,} to {len(kept):,} entries"]
    if fit is not None:
        did.append(_fit_in_words(fit, has_head))
    report = TeacherReport(
        name=name,
        preparation=", ".join(did),
        source_vocab_size=None if kept is None else source_size,
        source_sha256=source_sha256,
        license=_license(directory),
    )
    parts = (source_sha256 or str(directory), has_head)
    return Draft(make_model, tokenizer, fit, report, "fit the teacher's head", bool(did), parts)


def _fit_in_words(fit: FitSettings, has_head: bool) -> str:
    if has_head:
        return "masked-LM head trained further, body frozen" if fit.freeze_body else "masked-LM trained further"
    return f"masked-LM head fitted{', body frozen' if fit.freeze_body else ' with all weights'}"


def _draft_of_template(
    settings: PretrainSettings, corpus: CorpusSettings, cache_root: Path, progress: Progress
) -> Draft:
    _require_length(POSITIONS, corpus)
    reader = open_reader(corpus)

    def train() -> tuple[PreTrainedTokenizerFast, None]:
        progress.message(f"training a WordPiece vocabulary of {settings.vocab_size:,} entries on {reader.describe()}")
        return train_wordpiece(reader.documents(), settings.vocab_size, max_length=POSITIONS), None

    key = content_key(_FORMAT, "wordpiece", reader.fingerprint(), settings.vocab_size)
    tokenizer, _ = _kept_tokenizer(cache_root / "tokenizers" / key, train)

    def make_model(text: TokenisedCorpus) -> PreTrainedModel:
        next_sentence = settings.nsp > 0 and has_sentence_pairs(text)
        if settings.nsp > 0 and not next_sentence:
            progress.message("no document has two sentences; the teacher is pre-trained on masked words alone")
        pad_token_id: Any = tokenizer.pad_token_id
        config = teacher_config(settings, len(tokenizer), pad_token_id)
        model = build_teacher(config, derive_seed(settings.seed, "teacher"), next_sentence)
        begin_head(model, token_counts(text, len(tokenizer)))
        return model

    report = TeacherReport(name=teacher_name(settings), preparation="pre-trained by the tool on the corpus")
    return Draft(make_model, tokenizer, settings, report, "pre-train the teacher", changed=True)


def has_sentence_pairs(corpus: TokenisedCorpus) -> bool:
    """Whether any training document has two sentences, of which the second follows the first."""
    return bool((corpus.train[:, 1] - corpus.train[:, 0]).max() > 1)


def _require_length(positions: int, corpus: CorpusSettings) -> None:
    if positions < corpus.max_length:
        raise TeacherError(
            f"the teacher takes at most {positions} tokens, but corpus.max_length is {corpus.max_length}; "
            f"set it to {positions} or less"
        )


def _reduced_tokenizer(
    tokenizer: PreTrainedTokenizerFast, size: int, corpus: CorpusSettings, cache_root: Path, progress: Progress
) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    reader = open_reader(corpus)

    def reduce() -> tuple[PreTrainedTokenizerFast, np.ndarray]:
        progress.message(f"choosing the {size:,} most frequent of the teacher's {len(tokenizer):,} vocabulary entries")
        return reduce_vocabulary(tokenizer, reader.documents(), size)

    identity = tokenizer.backend_tokenizer.to_str()
    key = content_key(_FORMAT, "reduced", reader.fingerprint(), size, identity)
    reduced, kept = _kept_tokenizer(cache_root / "tokenizers" / key, reduce)
    assert kept is not None
    return reduced, kept


def _kept_tokenizer(
    directory: Path, make: Callable[[], tuple[PreTrainedTokenizerFast, np.ndarray | None]]
) -> tuple[PreTrainedTokenizerFast, np.ndarray | None]:
    """A tokenizer from the cache, with the old ids of its entries where it is a reduced one."""
    facts = directory / "facts.json"
    if not facts.exists():
        tokenizer, kept = make()
        private_directory(directory)
        tokenizer.save_pretrained(str(directory))
        write_json(facts, {"kept": None if kept is None else kept.tolist()})
    stored = read_json(facts)["kept"]
    return load_tokenizer(directory), None if stored is None else np.array(stored, dtype=np.int64)


def _license(directory: Path) -> str:
    """The licence that the model card's front matter states, if any."""
    card = directory / "README.md"
    if not card.is_file():
        return ""
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
        if line.startswith("license:"):
            return line.partition(":")[2].strip()
    return ""
