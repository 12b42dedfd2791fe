"""A teacher that has been fine-tuned on the task, asked once about every training row.

Its outputs do not depend on the student or the seed: they are kept in a file and shared by all.

Shapes: n sequences, C classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from flashdistill.core.errors import InputError
from flashdistill.core.files import atomic_path, content_key
from flashdistill.core.progress import Progress
from flashdistill.data.tasks.task import Task
from flashdistill.data.tokenizer import tokenizer_hash
from flashdistill.evaluation.finetuning.heads import finetuned_kind, labels_of, load_finetuned
from flashdistill.evaluation.finetuning.kinds import Features, Outputs, recipe_for
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.evaluation.finetuning.sources import Located, locate_source
from flashdistill.training.compute import Compute

_FORMAT = 1
"""Raised when the same settings come to mean other outputs."""

EVALUATION_BATCH = 32
"""Sequences that are predicted at a time."""


def locate_teacher(student: Located, task: Task, settings: TuningSettings) -> Located | None:
    """The configured teacher, its labels compared with the task's; None where none is configured.

    Raises:
        InputError: it cannot be found, has not been fine-tuned, or on another task, or it has
            another tokenizer where it may not.
    """
    if settings.distillation is None:
        return None
    teacher = locate_source(settings.distillation.teacher)
    kind = finetuned_kind(teacher)
    if kind != task.kind:
        raise InputError(
            f"finetune.distillation.teacher: {teacher.name} is fine-tuned for {kind}, but {task.name} is {task.kind}"
        )
    if kind == "classification":
        label_columns(teacher.config, task, teacher.name)
    if not recipe_for(kind).teacher_may_tokenise_otherwise and not _same_tokens(teacher, student.tokenizer):
        raise InputError(
            f"finetune.distillation.teacher: {teacher.name} has another tokenizer than {student.name}; "
            f"{kind} is learnt token by token and needs the same one"
        )
    return teacher


def _same_tokens(teacher: Located, tokenizer: PreTrainedTokenizerFast) -> bool:
    return tokenizer_hash(teacher.tokenizer) == tokenizer_hash(tokenizer)


def label_columns(config: PretrainedConfig, task: Task, name: str) -> list[int]:
    """For every class of the task, the teacher's index of it.

    Names are compared without regard to case. The names that `transformers` gives to labels
    without one (``LABEL_0``) stand for the task's in their order.

    Raises:
        InputError: the teacher has other labels.
    """
    names = list(labels_of(config))
    if names == [f"LABEL_{index}" for index in range(len(task.labels))]:
        return list(range(len(task.labels)))
    lowered, wanted = [label.lower() for label in names], [label.lower() for label in task.labels]
    if sorted(lowered) != sorted(wanted) or len(set(lowered)) != len(lowered):
        raise InputError(
            f"finetune.distillation.teacher: {name} knows the labels {', '.join(names)}, but {task.name} has "
            f"{', '.join(task.labels)}; take a teacher that has been fine-tuned on this task"
        )
    return [lowered.index(label) for label in wanted]


def teacher_outputs(
    teacher: Located,
    task: Task,
    features: Features,
    tokenizer: PreTrainedTokenizerFast,
    settings: TuningSettings,
    cache: Path,
    compute: Compute,
    progress: Progress,
) -> Outputs:
    """What the teacher says about the task's training rows, [n, …], classes in the task's order.

    Args:
        features: the student's, used for the teacher where their tokenizers agree.
        tokenizer: the student's.
        cache: a directory for the outputs, shared by students and seeds.

    Raises:
        InputError: the outputs are not finite.
    """
    recipe = recipe_for(task.kind)
    same = _same_tokens(teacher, tokenizer)
    # A teacher's own tokens do not depend on the student's.
    tokens = (settings.tokens, settings.document_stride, settings.max_query_length)
    data = (task.name, task.kind, task.labels, task.identity, len(features))
    key = content_key(_FORMAT, teacher.identity, data, tokens)
    path = cache / f"teacher-{key}.safetensors"
    with compute.main_first():
        if not path.exists():
            progress.message(f"asking {teacher.name} about the {len(task.train):,} training rows of {task.name}")
            own = features if same else recipe.features(task.train, task, teacher.tokenizer, settings)
            model = load_finetuned(teacher)[0].to(compute.device)  # type: ignore[arg-type]
            with compute.arithmetic(), torch.no_grad():
                outputs = recipe.outputs(model, own, EVALUATION_BATCH)
            if task.kind == "classification":
                outputs = outputs[:, label_columns(teacher.config, task, teacher.name)]
            # Padding has −∞ where a kind of task has logits for every token.
            if np.isnan(outputs).any() or np.isposinf(outputs).any():
                raise InputError(f"finetune.distillation.teacher: the outputs of {teacher.name} are not finite")
            with atomic_path(path) as temporary:
                save_file({"outputs": np.ascontiguousarray(outputs)}, temporary)
    return load_file(path)["outputs"]
