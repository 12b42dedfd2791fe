"""Fine-tuned models exported with their heads, and checked.

Shapes: B sequences, S tokens, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MobileBertConfig, PreTrainedModel

from flashdistill.delivery.export import Arrays, tensors
from flashdistill.delivery.foreign_export import export_module
from flashdistill.hardware.parity import Expected
from flashdistill.models.delivered import takes_segments
from flashdistill.models.onnx_heads import write_task_onnx
from flashdistill.models.onnx_writer import check_supported

TASK_FILE = "model.onnx"
"""A fine-tuned model with its head: ``logits`` [B, C], or ``start_logits`` and ``end_logits`` [B, S]."""


class ServedTask(nn.Module):
    """Token ids, attention mask and segments in, the head's outputs out; see `models.delivered.ServedEncoder`."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self._segments = takes_segments(model)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Integers [B, S] → [B, C], or twice [B, S]."""
        segments = {"token_type_ids": token_type_ids} if self._segments else {}
        answer: Any = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments)
        return answer.logits if "logits" in answer else (answer.start_logits, answer.end_logits)


def is_student(model: PreTrainedModel) -> bool:
    """Whether the graph of a fine-tuned model can be written directly."""
    if not isinstance(model.config, MobileBertConfig):
        return False
    try:
        check_supported(model.config)
    except ValueError:
        return False
    return True


def export_task_model(model: Any, path: Path, name: str) -> None:
    """Write a fine-tuned model in evaluation mode as ONNX.

    Inputs are ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [B, S] with both axes dynamic.

    Args:
        model: its attention is set to the plain one, which every runtime reads.

    Raises:
        TargetError: torch cannot export a model that is not one of our students, or its exporter is missing.
    """
    if is_student(model):
        write_task_onnx(model, path)
        return
    model.set_attn_implementation("eager")
    answers = model.config.architectures[0].endswith("ForQuestionAnswering")
    export_module(ServedTask(model), path, ["start_logits", "end_logits"] if answers else ["logits"], name)


@torch.no_grad()
def expected_answers(model: PreTrainedModel, inputs: Arrays) -> Expected:
    """What an exported fine-tuned model must answer."""
    answers = ServedTask(model)(**tensors(inputs))
    return Expected(inputs, [one.numpy() for one in (answers if isinstance(answers, tuple) else (answers,))])
