"""Delivered students: writing them to a directory and reading them back, whole or as served.

Shapes: B sequences, S tokens, h hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_MAPPING,
    MobileBertConfig,
    MobileBertForPreTraining,
    MobileBertModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from flashdistill.core.errors import TargetError, TeacherError, first_line
from flashdistill.models.foreign import check_directory, read_config
from flashdistill.models.ib_bert import projects_block_input
from flashdistill.models.students import STUDENT_CLASSES, no_empty_tensor_warning, project_block_input


def save_student(student: MobileBertForPreTraining, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer, ready for `from_pretrained`."""
    student.save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))


def load_student(directory: Path | str) -> MobileBertForPreTraining:
    """A delivered student of either template, in evaluation mode.

    Students of the template ``mobilebert`` load with `transformers` alone; those of the
    template ``autodistill`` need this function.

    Raises:
        TeacherError: the directory has no usable configuration.
    """
    config = read_config(directory)
    template = "autodistill" if projects_block_input(config) else "mobilebert"
    with no_empty_tensor_warning():
        model = STUDENT_CLASSES[template].from_pretrained(
            str(directory), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    return model.eval()


class AutoDistillModel(MobileBertModel):
    """The body of `models.students.AutoDistillForPreTraining`; loads its checkpoints."""

    def __init__(self, config: MobileBertConfig, add_pooling_layer: bool = True):
        super().__init__(config, add_pooling_layer)
        project_block_input(self, config)
        self.post_init()


class ServedEncoder(nn.Module):
    """What every target runs: token ids, attention mask and segments in, the last feature map out.

    Segments are ignored where the model knows none, so that all encoders are served alike.
    """

    def __init__(self, body: PreTrainedModel):
        super().__init__()
        self.body = body
        self._segments = takes_segments(body)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Integers [B, S] → [B, S, h]."""
        segments = {"token_type_ids": token_type_ids} if self._segments else {}
        return self.body(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state


def takes_segments(model: PreTrainedModel) -> bool:
    """Whether a model tells a first segment from a second."""
    accepts = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepts and getattr(model.config, "type_vocab_size", 0) > 1


def load_encoder(
    directory: Path | str, dtype: torch.dtype = torch.float32, attention: str | None = None
) -> ServedEncoder:
    """A `transformers` encoder of any kind, students of both templates included, ready to be served.

    Heads are not loaded, nor is the pooler where the model can do without. No code from the
    directory runs.

    Args:
        attention: the attention implementation; None: what `transformers` chooses for its users.

    Raises:
        TargetError: the directory holds no such model, or weights are missing or damaged.
    """
    try:
        check_directory(Path(directory))
        config = read_config(directory)
    except TeacherError as error:
        raise TargetError(f"cannot load {directory}: {first_line(error)}") from error
    if config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
        raise TargetError(f"cannot load {directory}: {config.model_type} is not an encoder that transformers knows")
    body_class = _body_class(config)
    without_pooler = "add_pooling_layer" in inspect.signature(body_class.__init__).parameters
    try:
        with quiet_loading():
            body, info = body_class.from_pretrained(
                str(directory),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=dtype,
                attn_implementation=attention,
                **({"add_pooling_layer": False} if without_pooler else {}),
            )
    except Exception as error:  # safetensors' exception and those of torch share no base
        raise TargetError(f"cannot load {directory}: {first_line(error)}") from error
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):
        raise TargetError(
            f"cannot load {directory}: its weights lack {missing[0]} and {len(missing) - 1} more; "
            "they do not belong to its config.json"
        )
    return ServedEncoder(body.eval())


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars, no report about heads that are left out on purpose."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _body_class(config: PretrainedConfig) -> Any:
    return AutoDistillModel if projects_block_input(config) else MODEL_MAPPING[type(config)]
