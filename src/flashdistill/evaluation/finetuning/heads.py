"""Models in the form that a task needs: a body that is given, and a head that may be new.

A head is the family's own in `transformers`, so that a fine-tuned model loads there without this
tool. The exception is the student template ``autodistill``, whose blocks stock MobileBERT cannot
run: its classes are here, and `load_finetuned` reads their directories back.

Shapes: B sequences, S tokens, C classes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MobileBertConfig,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from flashdistill.core.errors import InputError, first_line
from flashdistill.core.seeds import derive_seed
from flashdistill.data.tasks.task import Task, TaskKind
from flashdistill.evaluation.finetuning.sources import Located, ModelSource, locate_source
from flashdistill.models.delivered import quiet_loading
from flashdistill.models.ib_bert import projects_block_input
from flashdistill.models.students import build_student, project_block_input

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_dropout",
    "attention_dropout",
    "dropout",
    "embedding_dropout",
    "mlp_dropout",
    "pooler_dropout",
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
    "qa_dropout",
)
"""What families call the dropout of their parts."""


class AutoDistillForSequenceClassification(MobileBertForSequenceClassification):
    """A student of the template ``autodistill`` with a head for classes or a value; logits [B, C]."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        project_block_input(self.mobilebert, config)
        self.post_init()


class AutoDistillForQuestionAnswering(MobileBertForQuestionAnswering):
    """A student of the template ``autodistill`` with a head for answers' ends; two logits [B, S]."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        project_block_input(self.mobilebert, config)
        self.post_init()


@dataclasses.dataclass(frozen=True)
class TaskModel:
    """A model in a task's form, on the CPU and in evaluation mode, with its tokenizer.

    Attributes:
        new_head: whether the head's weights are random; False for one that knows the task.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    new_head: bool


def load_for_task(source: ModelSource | Located, task: Task, seed: int, dropout: float | None = None) -> TaskModel:
    """A body that is given, and a head for the task.

    A head in the directory is kept where it is one for this very task, the labels' names telling;
    otherwise it begins with random weights that depend on ``seed`` alone.

    Args:
        dropout: of head and body; None: what the model's configuration says.

    Raises:
        InputError: the model cannot be found, loaded or given such a head.
    """
    located = source if isinstance(source, Located) else locate_source(source)
    config = copy.deepcopy(located.config)
    known = labels_of(config)
    _configure(config, task)
    if dropout is not None:
        set_dropout(config, dropout)
    family = task_class(config, task.kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "task head"))
        if located.directory is None:
            return TaskModel(_from_scratch(family, config, located, seed), located.tokenizer, new_head=True)
        model, had_head = _load(family, config, located.directory)
        suits = had_head and (task.kind != "classification" or known == tuple(task.labels))
        if had_head and not suits:
            _renew_head(model, family._from_config(config))
    return TaskModel(model.eval(), located.tokenizer, not suits)


def load_finetuned(source: ModelSource | Located) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A fine-tuned model, in evaluation mode, float32, and its tokenizer.

    Raises:
        InputError: it cannot be found or loaded, or it has not been fine-tuned: its head is missing.
    """
    located = source if isinstance(source, Located) else locate_source(source)
    if located.directory is None:
        raise InputError(f"{located.name} has not been fine-tuned")
    kind = finetuned_kind(located)
    model, has_head = _load(task_class(located.config, kind), located.config, located.directory)
    if not has_head:
        raise InputError(f"{located.name} has not been fine-tuned: its weights have no head for {kind}")
    return model.eval(), located.tokenizer


def finetuned_kind(located: Located) -> TaskKind:
    """The kind of task that a fine-tuned model is for, by its configuration.

    Raises:
        InputError: the configuration names no task head.
    """
    name = next(iter(getattr(located.config, "architectures", None) or ()), "")
    if name.endswith("ForQuestionAnswering"):
        return "question-answering"
    if name.endswith("ForSequenceClassification"):
        values = located.config.problem_type == "regression" or located.config.num_labels == 1
        return "regression" if values else "classification"
    raise InputError(f"{located.name} has not been fine-tuned: its config.json says {name or 'no architecture'}")


def task_class(config: PretrainedConfig, kind: TaskKind) -> Any:
    """The class of a model with a head for a kind of task.

    Raises:
        InputError: `transformers` knows none for this family.
    """
    answers = kind == "question-answering"
    if projects_block_input(config):
        return AutoDistillForQuestionAnswering if answers else AutoDistillForSequenceClassification
    known: Any = MODEL_FOR_QUESTION_ANSWERING_MAPPING if answers else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in known or config.is_encoder_decoder:
        raise InputError(f"a {config.model_type} model is no encoder that transformers has a {kind} head for")
    return known[type(config)]


def set_dropout(config: PretrainedConfig, probability: float) -> None:
    """Give every part of a model that can drop units the same probability.

    Raises:
        InputError: the family has no such parts that are known here.
    """
    parts = [name for name in DROPOUTS if hasattr(config, name)]
    if not parts:
        raise InputError(f"finetune.dropout: it is not known how a {config.model_type} model sets it; leave it null")
    for name in parts:
        setattr(config, name, probability)


def labels_of(config: PretrainedConfig) -> tuple[str, ...]:
    """The names of a head's classes, in the order of its outputs."""
    return tuple(str(label) for _, label in sorted((config.id2label or {}).items()))


def _configure(config: PretrainedConfig, task: Task) -> None:
    """Tell a configuration the task's outputs."""
    if task.kind == "question-answering":
        config.num_labels = 2
        return
    labels: Sequence[str] = task.labels if task.kind == "classification" else ("value",)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if task.kind == "classification" else "regression"


def _from_scratch(family: Any, config: PretrainedConfig, located: Located, seed: int) -> PreTrainedModel:
    assert located.scratch is not None
    model = family._from_config(config)
    body = build_student(located.scratch.architecture, located.scratch.family, seed).mobilebert
    # A form without pooler takes over the rest.
    model.mobilebert.load_state_dict(body.state_dict(), strict=False)
    return model.eval()


def _load(family: Any, config: PretrainedConfig, directory: Path) -> tuple[PreTrainedModel, bool]:
    """The model and whether its weights had a head of this form.

    Raises:
        InputError: weights are missing, damaged or of other sizes.
    """
    try:
        with quiet_loading():
            model, info = family.from_pretrained(
                str(directory),
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
    except Exception as error:  # safetensors' exception and those of torch share no base
        raise InputError(f"cannot load {directory}: {first_line(error)}") from error
    prefix = f"{model.base_model_prefix}."
    lacking = set(info["missing_keys"]) | {str(key[0]) for key in info["mismatched_keys"]}
    body = sorted(key for key in lacking if key.startswith(prefix) and "pooler" not in key)
    if body:
        raise InputError(
            f"cannot load {directory}: its weights lack {body[0]} and {len(body) - 1} more, or have them in "
            "another size; they do not belong to its config.json"
        )
    return model, not any(not key.startswith(prefix) for key in lacking)


@torch.no_grad()
def _renew_head(model: PreTrainedModel, fresh: PreTrainedModel) -> None:
    """Replace everything outside the body by the weights of a new model."""
    prefix = f"{model.base_model_prefix}."
    new = dict(fresh.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith(prefix):
            parameter.copy_(new[name])
