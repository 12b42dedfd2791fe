"""Preparing a teacher outside of a run, to be named by any number of runs.

configuration → preparation (as a run would do it, from the same cache) → score on held-out
  text → directory with weights, tokenizer and card
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashdistill.config import RunConfig
from flashdistill.core.errors import InputError
from flashdistill.core.files import read_json, sync_directory, write_json, write_text
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, Silent, tracked
from flashdistill.data.batch import Batch
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.delivery.formatting import (
    capitalized,
    flattened,
    format_measurement,
    format_seconds,
    metric_name,
)
from flashdistill.delivery.json_form import encode
from flashdistill.delivery.model_card import CARD_FILE
from flashdistill.distillation.teacher_preparation import FACTS, PreparedTeacher, prepare_teacher
from flashdistill.evaluation.pretraining_accuracy import Predict, pretraining_accuracy, teacher_predictor
from flashdistill.models.ib_bert import projects_block_input
from flashdistill.models.inputs import model_inputs
from flashdistill.models.settings import TeacherSettings
from flashdistill.models.teacher_templates import PretrainingHeads, load_with_next_sentence_head
from flashdistill.preflight import quiet_libraries
from flashdistill.results import version_lines
from flashdistill.teacher_card import teacher_card
from flashdistill.training.compute import open_compute

SCORED_AT_A_TIME = 32
"""Held-out sequences in a batch."""


@dataclass(frozen=True)
class FinishedTeacher:
    """A teacher's directory and what a user wants to know about it, names and values."""

    directory: Path
    facts: list[tuple[str, str]]

    @property
    def yaml(self) -> str:
        """How a configuration names it."""
        path = str(self.directory)
        plain = re.fullmatch(r"[\w./-]+", path)
        return f"teacher: {{model: {path if plain else json.dumps(path)}}}"


def pretrain_teacher(config: RunConfig, output: Path | None, progress: Progress) -> FinishedTeacher | None:
    """Prepare the configured teacher and write it to ``output``; the same command resumes.

    Args:
        output: ``teachers/NAME`` unless given.

    Returns:
        None in all but the main process, where there are several.

    Raises:
        InputError: the teacher needs no preparation, or ``output`` belongs to something else.
        FlashDistillError: as `prepare_teacher`.
    """
    quiet_libraries()
    output = output or Path("teachers") / config.name
    require_preparation(config.teacher)
    requested = {"teacher": config.teacher.model_dump(mode="json"), "corpus": config.corpus.model_dump(mode="json")}
    _require_own(output, requested)
    compute = open_compute(config.training)
    progress = progress if compute.is_main else Silent()
    prepared = prepare_teacher(config.teacher, config.corpus, config.cache_directory, progress, compute)
    if prepared.directory is None:
        raise InputError(f"the vocabulary of {prepared.report.name} is no larger than teacher.vocabulary already")
    if not compute.is_main:
        return None
    with tracked(progress, "score the teacher"):
        scores = score_teacher(prepared, config, compute.device)
    facts = _facts(prepared, scores)
    _publish(prepared.directory, output, requested, scores, _card(prepared, config, facts))
    return FinishedTeacher(output, facts)


def require_preparation(settings: TeacherSettings) -> None:
    """Refuse a teacher that a run would use as it is.

    Raises:
        InputError: says what to set.
    """
    if settings.pretrain is None and settings.fit_mlm_head is None and settings.vocabulary is None:
        raise InputError(
            "this configuration's teacher is used as it comes, there is nothing to prepare; set teacher.pretrain "
            "to train one from scratch, teacher.fit_mlm_head to train a given one, or teacher.vocabulary to shrink it"
        )


def _require_own(output: Path, requested: Mapping[str, Any]) -> None:
    """Refuse, before any training, to write over what another command made."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        made_for = read_json(output / FACTS).get("requested")
    except (OSError, ValueError, AttributeError):
        made_for = None
    if made_for != requested:
        raise InputError(
            f"{output} is there already and is not a teacher of this configuration; choose another with --output"
        )


def score_teacher(prepared: PreparedTeacher, config: RunConfig, device: torch.device) -> dict[str, Measurement]:
    """Accuracy on the held-out text; on next sentences, too, where the teacher learnt to tell them."""
    data = PretrainingData(prepared.corpus, prepared.tokenizer, config.corpus, seed=0)  # held-out pairs have no seed
    model = load_with_next_sentence_head(prepared.directory) if prepared.directory else None
    if model is None:
        predict = teacher_predictor(prepared.teacher.to(device))
    else:
        predict = _both_heads(PretrainingHeads(model).to(device), device)
    return pretraining_accuracy(predict, data.validation_batches(SCORED_AT_A_TIME))


def _both_heads(heads: PretrainingHeads, device: torch.device) -> Predict:
    def predict(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.from_numpy(batch.masked_positions).to(device)
        mlm_logits, nsp_logits = heads(model_inputs(batch, device), positions)
        return mlm_logits.cpu(), nsp_logits.cpu()

    return predict


def _facts(prepared: PreparedTeacher, scores: Mapping[str, Measurement]) -> list[tuple[str, str]]:
    teacher, report, text = prepared.teacher, prepared.report, prepared.corpus.statistics
    shape = teacher.shape
    blocks = f"{shape.num_blocks} block{'s' if shape.num_blocks > 1 else ''}"
    whole, encoder = (sum(one.numel() for one in part.parameters()) for part in (teacher.model, teacher.body))
    facts = [
        ("name", report.name),
        ("parameters", f"{whole:,}, of these {encoder:,} in the encoder"),
        ("shape", f"{blocks}, width {shape.hidden_size}, {shape.num_heads} heads"),
        ("vocabulary", f"{shape.vocab_size:,} entries"),
        ("preparation", report.preparation),
    ]
    if report.steps:
        facts += [("steps", f"{report.steps:,}"), ("time of training", format_seconds(report.seconds))]
    facts += [("text", f"{text.source}, {text.tokens:,} tokens")]
    return facts + [(capitalized(metric_name(name)), format_measurement(one)) for name, one in scores.items()]


def _card(prepared: PreparedTeacher, config: RunConfig, facts: list[tuple[str, str]]) -> str:
    settings = config.teacher.pretrain or config.teacher.fit_mlm_head
    training = flattened(settings.model_dump(mode="json")) if settings is not None else []
    stock = not projects_block_input(prepared.teacher.model.config)
    corpus = flattened(config.corpus.model_dump(mode="json"), "corpus.")
    report, versions = prepared.report, list(version_lines().items())
    return teacher_card(report.name, report.license, stock, facts, [*training, *corpus], versions)


def _publish(
    prepared: Path,
    output: Path,
    requested: Mapping[str, Any],
    scores: Mapping[str, Measurement],
    card: str,
) -> None:
    """Copy a prepared teacher out of the cache, with its card; complete or absent."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(prepared, unfinished, copy_function=shutil.copyfile)  # weights are private in the cache
    facts = read_json(unfinished / FACTS)
    write_json(unfinished / FACTS, {**facts, "requested": requested, "measurements": encode(scores)})
    write_text(unfinished / CARD_FILE, card)
    shutil.rmtree(output, ignore_errors=True)
    unfinished.rename(output)
    sync_directory(output.parent)
