"""From what the user names to a teacher that can teach: vocabulary, masked-LM head, text.

What was prepared is kept in the cache and used again by every run with the same teacher
settings and text. A preparation that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from flashdistill.core.errors import TeacherError
from flashdistill.core.files import content_key, read_json, sha256_file, sync_directory, write_json
from flashdistill.core.progress import Progress
from flashdistill.core.seeds import derive_seed
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.data.readers.base import open_reader
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import TokenisedCorpus, prepare_corpus
from flashdistill.data.tokenizer import load_tokenizer, reduce_vocabulary, train_wordpiece
from flashdistill.models.foreign import WEIGHTS, load_config, load_masked_lm, locate
from flashdistill.models.inputs import model_inputs
from flashdistill.models.settings import PretrainSettings, TeacherSettings, TrainingBudget
from flashdistill.models.teacher import MaskedTokenHead, Teacher, model_shape, slice_vocabulary, usable_positions
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.loop import Phase, run_phase, seconds_per_step
from flashdistill.training.optimizers import Schedule, build_optimizer

log = logging.getLogger(__name__)

_FORMAT = 1
"""Raised when the same settings come to mean another teacher."""

_WEIGHT_DECAY = 0.01
_GRADIENT_CLIP = 1.0
_PRETRAINED_POSITIONS = 512


@dataclass(frozen=True)
class TeacherReport:
    """What a reader of the results must know about the teacher."""

    name: str
    preparation: str = ""
    source_vocab_size: int | None = None
    source_sha256: str = ""
    license: str = ""
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class PreparedTeacher:
    """A teacher with its tokenizer and the text in that tokenizer's tokens."""

    teacher: Teacher
    tokenizer: PreTrainedTokenizerFast
    corpus: TokenisedCorpus
    identity: str
    report: TeacherReport


@dataclass
class _Draft:
    """A teacher on its way: ``training`` is None where nothing needs to be fitted."""

    make_model: Callable[[TokenisedCorpus], PreTrainedModel]
    tokenizer: PreTrainedTokenizerFast
    training: TrainingBudget | None
    report: TeacherReport
    work: str = ""
    changed: bool = False
    identity_parts: list[Any] = field(default_factory=list)


def prepare_teacher(
    settings: TeacherSettings, corpus_settings: CorpusSettings, cache_root: Path, seed: int, progress: Progress
) -> PreparedTeacher:
    """Load, shrink, fit or pre-train the teacher as configured, or take it from the cache.

    Raises:
        TeacherError: the teacher is missing, unsafe, no encoder, without a head or a tokenizer.
        CorpusError: the text is missing, unreadable or too short.
    """
    if settings.pretrain is not None:
        draft = _draft_of_pretrained(settings.pretrain, corpus_settings, cache_root, seed, progress)
    else:
        draft = _draft_of_given(settings, corpus_settings, cache_root, progress)
    corpus = prepare_corpus(corpus_settings, draft.tokenizer, cache_root / "corpora", progress)
    identity = content_key(_FORMAT, draft.identity_parts, settings.model_dump(mode="json"), corpus.identity, seed)
    directory = cache_root / "teachers" / identity
    prepared = _open(directory)
    if prepared is None:
        prepared = _build(draft, corpus, corpus_settings, directory, seed, progress)
    model, report = prepared
    return PreparedTeacher(Teacher(model), draft.tokenizer, corpus, identity, report)


def _draft_of_given(
    settings: TeacherSettings, corpus_settings: CorpusSettings, cache_root: Path, progress: Progress
) -> _Draft:
    assert settings.model is not None
    directory = locate(settings.model)
    config = load_config(directory)
    positions = usable_positions(config)
    if positions < corpus_settings.max_length:
        raise TeacherError(
            f"the teacher takes at most {positions} tokens, but corpus.max_length is {corpus_settings.max_length}; "
            f"set it to {positions} or less"
        )
    tokenizer = load_tokenizer(directory)
    model, has_head = load_masked_lm(directory, config)
    if not has_head and settings.fit_mlm_head is None:
        raise TeacherError(
            f"the teacher {_name(settings)} has no masked-LM head; set teacher.fit_mlm_head, for example "
            "{seconds: 120}, to have one fitted on the corpus"
        )
    if has_head and settings.fit_mlm_head is not None:
        progress.message("the teacher has a masked-LM head already; it is trained further as teacher.fit_mlm_head says")
    source_sha256 = sha256_file(directory / WEIGHTS) if (directory / WEIGHTS).is_file() else ""
    source_size, kept = model.config.vocab_size, None
    if settings.vocabulary is not None:
        tokenizer, kept = _reduced_tokenizer(tokenizer, settings.vocabulary, corpus_settings, cache_root, progress)
    elif len(tokenizer) > source_size:
        raise TeacherError(
            f"the tokenizer of the teacher {_name(settings)} has {len(tokenizer)} entries, its model only "
            f"{source_size}; they do not belong together"
        )

    def make_model(corpus: TokenisedCorpus) -> PreTrainedModel:
        smaller = model if kept is None else slice_vocabulary(model, kept)
        if not has_head:
            begin_head(smaller, token_counts(corpus, smaller.config.vocab_size))
        return smaller

    did = [] if kept is None else [f"vocabulary reduced from {source_size:,} to {len(kept):,} entries"]
    fit = settings.fit_mlm_head
    if fit is not None:
        did.append("masked-LM head fitted with all weights" if not has_head else "masked-LM trained further")
    report = TeacherReport(
        name=_name(settings),
        preparation=", ".join(did),
        source_vocab_size=None if kept is None else source_size,
        source_sha256=source_sha256,
        license=_license(directory),
    )
    parts = [source_sha256 or str(directory), has_head]
    return _Draft(make_model, tokenizer, fit, report, "fit the teacher's head", bool(did), parts)


def _draft_of_pretrained(
    settings: PretrainSettings, corpus_settings: CorpusSettings, cache_root: Path, seed: int, progress: Progress
) -> _Draft:
    reader = open_reader(corpus_settings)

    def train() -> tuple[PreTrainedTokenizerFast, None]:
        progress.message(f"training a WordPiece vocabulary of {settings.vocab_size:,} entries on {reader.describe()}")
        return train_wordpiece(reader.documents(), settings.vocab_size, max_length=_PRETRAINED_POSITIONS), None

    key = content_key(_FORMAT, "wordpiece", reader.fingerprint(), settings.vocab_size)
    tokenizer, _ = _kept_tokenizer(cache_root / "tokenizers" / key, train)

    def make_model(corpus: TokenisedCorpus) -> PreTrainedModel:
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            intermediate_size=settings.intermediate_size,
            max_position_embeddings=_PRETRAINED_POSITIONS,
            **{"pad_token_id": tokenizer.pad_token_id},  # type: ignore[arg-type]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "teacher"))
            model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
        begin_head(model, token_counts(corpus, config.vocab_size))
        return model

    name = f"BERT {settings.num_layers}x{settings.hidden_size}"
    report = TeacherReport(name=name, preparation="pre-trained by the tool on the corpus")
    return _Draft(make_model, tokenizer, settings, report, "pre-train the teacher", True)


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
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(str(directory))
        write_json(facts, {"kept": None if kept is None else kept.tolist()})
    stored = read_json(facts)["kept"]
    return load_tokenizer(directory), None if stored is None else np.array(stored, dtype=np.int64)


def _open(directory: Path) -> tuple[PreTrainedModel, TeacherReport] | None:
    """A prepared teacher from the cache, its weights verified; None if there is none."""
    try:
        facts = read_json(directory / "prepared.json")
        intact = sha256_file(directory / WEIGHTS) == facts["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    if not intact:
        log.warning("the prepared teacher %s is damaged; preparing it again", directory)
        shutil.rmtree(directory)
        return None
    model, _ = load_masked_lm(directory, load_config(directory))
    return model, TeacherReport(**facts["report"])


def _build(
    draft: _Draft,
    corpus: TokenisedCorpus,
    corpus_settings: CorpusSettings,
    directory: Path,
    seed: int,
    progress: Progress,
) -> tuple[PreTrainedModel, TeacherReport]:
    work = directory.with_name(f"{directory.name}.work")
    data = PretrainingData(corpus, draft.tokenizer, corpus_settings, derive_seed(seed, "teacher-data"))
    model = draft.make_model(corpus)
    begin = time.perf_counter()
    steps = 0
    if draft.training is not None:
        steps = train_masked_lm(model, data, draft.training, work, draft.work, progress)
    report = TeacherReport(**asdict(draft.report) | {"steps": steps, "seconds": round(time.perf_counter() - begin, 1)})
    if draft.changed:
        _keep(model, draft.tokenizer, report, directory, work)
    return model, report


def _keep(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, report: TeacherReport, directory: Path, work: Path
) -> None:
    """Write a prepared teacher so that it is complete or absent."""
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir(parents=True)
    model.save_pretrained(finished)
    tokenizer.save_pretrained(str(finished))
    write_json(finished / "prepared.json", {"sha256": sha256_file(finished / WEIGHTS), "report": asdict(report)})
    shutil.rmtree(directory, ignore_errors=True)
    finished.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(work, ignore_errors=True)


def train_masked_lm(
    model: PreTrainedModel, data: PretrainingData, budget: TrainingBudget, work: Path, task: str, progress: Progress
) -> int:
    """Train all weights on the masked-LM task in place; resumes from ``work``.

    Dropout is off: these trainings are short and see no text twice.

    Returns:
        The number of steps of the whole training.
    """
    model.eval().requires_grad_(True)
    steps = budget.steps or _planned_steps(model, data, budget, work)
    phase = _masked_lm_phase(model, data, budget, steps, task)
    store = CheckpointStore(work / "checkpoints", every_seconds=20)
    progress.start(task, steps)
    run_phase(phase, {"model": model}, store, store.load_latest(), progress)
    progress.finish(task)
    return steps


def _masked_lm_phase(
    model: PreTrainedModel, data: PretrainingData, budget: TrainingBudget, steps: int, task: str
) -> Phase:
    head = MaskedTokenHead(model)
    takes_segments = getattr(model.config, "type_vocab_size", 0) > 1

    def loss(step: int) -> torch.Tensor:
        batch = data.batch(step, budget.batch_size)
        inputs = model_inputs(batch)
        if not takes_segments:
            del inputs["token_type_ids"]
        logits = head(inputs, torch.from_numpy(batch.masked_positions))
        return F.cross_entropy(logits, torch.from_numpy(batch.masked_labels))

    parameters = list(model.parameters())
    schedule = Schedule(steps, budget.learning_rate, int(steps * budget.warmup_fraction))
    optimizer = build_optimizer("adamw", parameters, budget.learning_rate, _WEIGHT_DECAY)
    return Phase("masked LM", loss, parameters, optimizer, schedule, _GRADIENT_CLIP, task)


def _planned_steps(model: PreTrainedModel, data: PretrainingData, budget: TrainingBudget, work: Path) -> int:
    """Steps that fit the seconds, timed on a throw-away copy; kept, so that a resumed run agrees."""
    plan = work / "plan.json"
    if plan.exists():
        return int(read_json(plan)["steps"])
    assert budget.seconds is not None
    phase = _masked_lm_phase(copy.deepcopy(model), data, budget, 1000, "calibration")
    seconds = seconds_per_step(phase.time_step, repeats=5, discard=2)
    steps = max(10, round(budget.seconds / seconds))
    write_json(plan, {"steps": steps, "seconds_per_step": seconds})
    return steps


def token_counts(corpus: TokenisedCorpus, vocab_size: int) -> np.ndarray:
    """How often each vocabulary entry occurs in (the first ten million tokens of) the corpus, [V]."""
    return np.bincount(np.asarray(corpus.tokens[:10_000_000]), minlength=vocab_size)


@torch.no_grad()
def begin_head(model: PreTrainedModel, counts: np.ndarray) -> None:
    """Start a new masked-LM head at the unigram distribution with an identity transform.

    A random head spends its first hundreds of steps on finding just that.

    Args:
        counts: [V], occurrences of each vocabulary entry.
    """
    output = model.get_output_embeddings()
    if output is not None and getattr(output, "bias", None) is not None:
        frequencies = torch.from_numpy(counts + 1.0)
        output.bias.copy_((frequencies / frequencies.sum()).log().to(output.bias.dtype))
    body = {id(module) for module in model.base_model.modules()}
    width = model_shape(model.config).hidden_size
    for module in model.modules():
        if id(module) not in body and isinstance(module, nn.Linear) and module.weight.shape == (width, width):
            nn.init.eye_(module.weight)
            nn.init.zeros_(module.bias)


def _name(settings: TeacherSettings) -> str:
    model = settings.model
    return model if isinstance(model, str) else model.wheel if model is not None else "pre-trained"


def _license(directory: Path) -> str:
    """The licence that the model card's front matter states, if any."""
    card = directory / "README.md"
    if not card.is_file():
        return ""
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
        if line.startswith("license:"):
            return line.partition(":")[2].strip()
    return ""
