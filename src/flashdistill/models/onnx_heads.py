"""A fine-tuned student's ONNX graph: `onnx_writer`'s encoder with the head of a task.

Shapes: as in `onnx_writer`; C classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto, helper
from transformers import MobileBertForQuestionAnswering, MobileBertForSequenceClassification

from flashdistill.models.onnx_writer import StudentGraph, check_supported, linear, save


def write_task_onnx(model: MobileBertForSequenceClassification | MobileBertForQuestionAnswering, path: Path) -> None:
    """Write the inference graph of a fine-tuned student of either template.

    Inputs are those of `onnx_writer.write_onnx`. Outputs are ``logits`` ``[B, C]``, or ``start_logits``
    and ``end_logits`` ``[B, S]``.

    Raises:
        ValueError: the model's configuration is not one of our templates.
    """
    check_supported(model.config)
    graph = _TaskGraph(model)
    with torch.no_grad():
        hidden = graph.encoder()
        if isinstance(model, MobileBertForQuestionAnswering):
            graph.answers(hidden)
        else:
            graph.classes(hidden)
    save(graph.builder.model(), path)


class _TaskGraph(StudentGraph):
    def classes(self, hidden: str) -> None:
        """Pooler and classifier of the first token; rows ``[T, h]`` → ``[B, C]``."""
        g, pooler = self.builder, self.student.pooler
        tokens = g.node("Reshape", hidden, self._token_shape_with(self.config.hidden_size))
        rows = g.node("Gather", tokens, g.integers(0), axis=1)
        rows = g.node("Reshape", rows, g.integers(-1, self.config.hidden_size))
        if pooler.do_activate:
            rows = g.node("Tanh", g.gemm("pooler", rows, *linear(pooler.dense)))
        weight, bias = linear(self.model.classifier)
        self._declare(g.gemm("logits", rows, weight, bias), ["batch", len(bias)])

    def answers(self, hidden: str) -> None:
        """Where an answer starts and ends; rows ``[T, h]`` → twice ``[B, S]``."""
        g = self.builder
        ends = g.gemm("qa_outputs", hidden, *linear(self.model.qa_outputs))
        for column, name in enumerate(("start_logits", "end_logits")):
            one = g.node("Gather", ends, g.integers(column), axis=1)
            self._declare(g.node("Reshape", one, self.token_shape, name=name), ["batch", "sequence"])

    def _declare(self, name: str, shape: list[str | int]) -> None:
        self.builder.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
