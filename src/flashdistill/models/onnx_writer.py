"""A student's ONNX graph, written directly from its weights.

The general exporters trace a model operation by operation, which takes 5 to 40 seconds for 24
blocks. The structure of our students is known, so their graph can be written down in about one
second. It uses standard ONNX operators only (opset 17), so that any runtime reads it.

What makes the graph fast without changing the mathematics:

- Tokens of all sequences are the rows of one matrix, so every dense layer is a single ``Gemm``
  (runtimes pre-pack its weights and fuse the ReLU that follows).
- A ``NoNorm`` (``g * x + c``) behind a dense layer is folded into the layer's weights. Where a
  residual is added in between, it becomes the ``C`` operand of the ``Gemm``.
- The attention's ``1/sqrt(head size)`` is folded into the query layer.

Folding is done in float64 and rounded once. The nodes depend on the architecture and never on
the weights' values: a latency measured with random weights holds for the trained model.

Shape legend::

    B batch, S sequence, T = B*S tokens, h hidden, b bottleneck, e embedding, i intermediate,
    n heads, d = b/n head size, V vocabulary
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import MobileBertConfig, MobileBertForPreTraining, MobileBertPreTrainedModel
from transformers.models.mobilebert.modeling_mobilebert import NoNorm

OPSET = 17
IR_VERSION = 8
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
_INLINE_LIMIT_BYTES = 1_900_000_000
_MASKED = float(np.finfo(np.float32).min)

Outputs = Literal["encoder", "mlm"]
Array = NDArray[np.float64]


def write_onnx(model: MobileBertForPreTraining, path: Path, outputs: Outputs = "encoder") -> None:
    """Write the inference graph of a student of either template.

    Inputs are ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 ``[B, S]`` with
    both axes dynamic. The one output is ``last_hidden_state`` ``[B, S, h]`` for ``"encoder"`` and
    ``logits`` ``[B, S, V]`` for ``"mlm"``. Weights are stored in the file; beyond protobuf's
    limit of 2 GB they go to ``<path>.data`` beside it.

    Raises:
        ValueError: the model's configuration is not one of our templates.
    """
    check_supported(model.config)
    graph = StudentGraph(model)
    with torch.no_grad():
        hidden = graph.encoder()
        if outputs == "mlm":
            name, width, rows = "logits", model.config.vocab_size, graph.mlm_head(hidden)
        else:
            name, width, rows = "last_hidden_state", model.config.hidden_size, hidden
        graph.output(name, rows, width)
    save(graph.builder.model(), path)


def check_supported(config: MobileBertConfig) -> None:
    """Refuse configurations whose graph would differ from the one written here.

    Raises:
        ValueError: names the setting, its value and the only value that is written.
    """
    required = {
        "use_bottleneck": True,
        "use_bottleneck_attention": False,
        "normalization_type": "no_norm",
        "hidden_act": "relu",
        "trigram_input": True,
    }
    for key, value in required.items():
        if getattr(config, key) != value:
            raise ValueError(
                f"the direct ONNX writer handles {key}={value!r} only, this model has {getattr(config, key)!r}"
            )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the protobuf, with the weights in a second file where it would exceed 2 GB."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < _INLINE_LIMIT_BYTES:
        Path(path).write_bytes(model.SerializeToString())
        return
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{Path(path).name}.data")


class GraphBuilder:
    """Collects nodes and constants; every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """A one-dimensional int64 constant; equal ones are shared."""
        name = "integers_" + "_".join(map(str, values))
        return name if name in self.constants else self.constant(name, np.array(values, dtype=np.int64))

    def weights(self, name: str, value: Array) -> str:
        """A float32 constant from float64 values."""
        return self.constant(name, value.astype(np.float32))

    def gemm(self, name: str, rows: str, weight: Array, addend: Array | str) -> str:
        """``rows [T, in] @ weight [in, out] + addend``, a vector ``[out]`` or a tensor ``[T, out]``."""
        if not isinstance(addend, str):
            addend = self.weights(f"{name}.bias", addend)
        return self.node("Gemm", rows, self.weights(f"{name}.weight", weight), addend, name=name)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "student", self.inputs, self.outputs, initializer=list(self.constants.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="flashdistill",
        )


class StudentGraph:
    """The parts of a student as graph fragments, in the order of its forward pass.

    Modules of `transformers` blocks are typed `Any`: torch declares no attributes for them.
    """

    def __init__(self, model: MobileBertPreTrainedModel):
        self.model: Any = model
        self.config = model.config
        self.student = self.model.mobilebert
        self.builder = GraphBuilder()
        for name in INPUT_NAMES:
            self.builder.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        self.token_shape = self.builder.node("Shape", "input_ids", name="token_shape")
        self.num_heads = self.config.num_attention_heads
        self.head_size = self.config.true_hidden_size // self.num_heads
        self.head_shape = self._token_shape_with(self.num_heads, self.head_size)

    def encoder(self) -> str:
        """Embeddings and all blocks: the last hidden state as rows ``[T, h]``."""
        mask = self.attention_bias()
        hidden = self.embeddings()
        for index, block in enumerate(self.student.encoder.layer):
            hidden = self.block(f"block{index}", block, hidden, mask)
        return hidden

    def output(self, name: str, rows: str, width: int) -> None:
        """Declare ``rows [T, width]`` as the graph's output ``[B, S, width]``."""
        self.builder.node("Reshape", rows, self._token_shape_with(width), name=name)
        self.builder.outputs.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", width])
        )

    def attention_bias(self) -> str:
        """``[B, 1, 1, S]``: zero where a token may be attended to, else the lowest float."""
        g = self.builder
        lowest = g.constant("lowest", np.array(_MASKED, dtype=np.float32))
        one = g.constant("one", np.array(1.0, dtype=np.float32))
        padding = g.node("Sub", one, g.node("Cast", "attention_mask", to=TensorProto.FLOAT))
        return g.node("Unsqueeze", g.node("Mul", padding, lowest), g.integers(1, 2), name="attention_bias")

    def embeddings(self) -> str:
        """Trigrams of word embeddings, a dense layer, positions and segments: rows ``[T, h]``."""
        g, part = self.builder, self.student.embeddings
        gain, shift = _no_norm(part.LayerNorm)
        words = g.node(
            "Gather",
            g.constant("word_embeddings", _unchanged(part.word_embeddings.weight)),
            "input_ids",
        )
        # A zero row on either side turns both neighbours into slices: [B, S + 2, e].
        padded = g.node("Pad", words, g.integers(0, 1, 0, 0, 1, 0))
        following = g.node("Slice", padded, g.integers(2), g.integers(np.iinfo(np.int64).max), g.integers(1))
        preceding = g.node("Slice", padded, g.integers(0), g.integers(-2), g.integers(1))
        trigrams = g.node("Concat", following, words, preceding, axis=2)
        rows = g.node("Reshape", trigrams, g.integers(-1, 3 * self.config.embedding_size))

        sequence = g.node("Slice", self.token_shape, g.integers(1), g.integers(2))
        positions = g.weights("position_embeddings", _array(part.position_embeddings.weight) * gain)
        positions = g.node("Slice", positions, g.integers(0), sequence, g.integers(0))
        segments = g.weights("token_type_embeddings", _array(part.token_type_embeddings.weight) * gain)
        segments = g.node("Gather", segments, "token_type_ids")
        placed = g.node("Reshape", g.node("Add", segments, positions), g.integers(-1, self.config.hidden_size))

        weight, bias = linear(part.embedding_transformation)
        embedded = g.gemm("embedding_transformation", rows, weight * gain, bias * gain + shift)
        return g.node("Add", embedded, placed, name="embeddings")

    def block(self, name: str, block: Any, hidden: str, mask: str) -> str:
        """One block: bottleneck, attention, stacked feed-forward networks, output bottleneck.

        ``hidden`` and the result are rows ``[T, h]``.
        """
        g = self.builder
        state = self.attention(name, block, hidden, mask)
        for index, network in enumerate(getattr(block, "ffn", ())):
            state = self.feed_forward(
                f"{name}.ffn{index}", state, network.intermediate.dense, network.output.dense, network.output.LayerNorm
            )
        state = self.feed_forward(
            f"{name}.ffn_last", state, block.intermediate.dense, block.output.dense, block.output.LayerNorm
        )
        last = block.output.bottleneck
        gain, shift = _no_norm(last.LayerNorm)
        weight, bias = linear(last.dense)
        skip = self.scaled(f"{name}.skip", hidden, gain, bias * gain + shift)
        return g.gemm(f"{name}.output", state, weight * gain, skip)

    def attention(self, name: str, block: Any, hidden: str, mask: str) -> str:
        """Self-attention with its output layer and the bottleneck's residual: rows ``[T, b]``."""
        g, layer = self.builder, block.attention.self
        source = hidden
        if self.config.key_query_shared_bottleneck:
            gain, shift = _no_norm(block.bottleneck.attention.LayerNorm)
            weight, bias = linear(block.bottleneck.attention.dense)
            source = g.gemm(f"{name}.shared", hidden, weight * gain, bias * gain + shift)

        scale = self.head_size**-0.5
        weight, bias = linear(layer.query)
        query = self._heads(g.gemm(f"{name}.query", source, weight * scale, bias * scale), [0, 2, 1, 3])
        key = self._heads(g.gemm(f"{name}.key", source, *linear(layer.key)), [0, 2, 3, 1])
        value = self._heads(g.gemm(f"{name}.value", hidden, *linear(layer.value)), [0, 2, 1, 3])
        scores = g.node("Add", g.node("MatMul", query, key), mask)
        context = g.node("MatMul", g.node("Softmax", scores, axis=-1), value)
        context = g.node("Transpose", context, perm=[0, 2, 1, 3])
        context = g.node("Reshape", context, g.integers(-1, self.config.true_hidden_size))

        # output = gain * (dense(context) + bottleneck(hidden)) + shift: both summands are linear
        # in what comes in, so the outer NoNorm goes into the weights of both.
        gain, shift = _no_norm(block.attention.output.LayerNorm)
        input_gain, input_shift = _no_norm(block.bottleneck.input.LayerNorm)
        input_weight, input_bias = linear(block.bottleneck.input.dense)
        weight, bias = linear(block.attention.output.dense)
        constant = (input_bias * input_gain + input_shift + bias) * gain + shift
        residual = g.gemm(f"{name}.bottleneck", hidden, input_weight * input_gain * gain, constant)
        return g.gemm(f"{name}.attention", context, weight * gain, residual)

    def feed_forward(self, name: str, rows: str, first: nn.Linear, second: nn.Linear, norm: NoNorm) -> str:
        """``gain * (second(relu(first(rows))) + rows) + shift`` for rows ``[T, b]``."""
        g = self.builder
        gain, shift = _no_norm(norm)
        inner = g.node("Relu", g.gemm(f"{name}.first", rows, *linear(first)))
        weight, bias = linear(second)
        skip = self.scaled(f"{name}.skip", rows, gain, bias * gain + shift)
        return g.gemm(f"{name}.second", inner, weight * gain, skip)

    def mlm_head(self, hidden: str) -> str:
        """Dense layer, ReLU, LayerNorm and the vocabulary projection: rows ``[T, V]``."""
        g, head = self.builder, self.model.cls.predictions
        rows = g.node("Relu", g.gemm("mlm.transform", hidden, *linear(head.transform.dense)))
        norm = head.transform.LayerNorm
        rows = g.node(
            "LayerNormalization",
            rows,
            g.weights("mlm.norm.weight", _array(norm.weight)),
            g.weights("mlm.norm.bias", _array(norm.bias)),
            axis=-1,
            epsilon=float(norm.eps),
        )
        # The word embeddings, already in the file, are the first e rows of the projection [h, V];
        # runtimes do this concatenation once, when they load the file.
        weight = g.node("Transpose", "word_embeddings", perm=[1, 0])
        if self.config.hidden_size > self.config.embedding_size:
            weight = g.node("Concat", weight, g.constant("mlm.extra", _unchanged(head.dense.weight)), axis=0)
        return g.node("Gemm", rows, weight, g.weights("mlm.bias", _array(head.decoder.bias)))

    def scaled(self, name: str, rows: str, gain: Array, constant: Array) -> str:
        """``gain * rows + constant``: the residual's share of a NoNorm, ``[T, width]``."""
        g = self.builder
        scaled = g.node("Mul", rows, g.weights(f"{name}.gain", gain))
        return g.node("Add", scaled, g.weights(f"{name}.constant", constant))

    def _heads(self, rows: str, axes: list[int]) -> str:
        """Rows ``[T, b]`` as ``[B, S, n, d]``, then transposed."""
        return self.builder.node("Transpose", self.builder.node("Reshape", rows, self.head_shape), perm=axes)

    def _token_shape_with(self, *widths: int) -> str:
        """The shape tensor ``(B, S, *widths)``."""
        return self.builder.node("Concat", self.token_shape, self.builder.integers(*widths), axis=0)


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


def _unchanged(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A tensor that nothing is folded into."""
    return tensor.detach().cpu().float().numpy()


def linear(layer: nn.Linear) -> tuple[Array, Array]:
    """A linear layer's weight ``[in, out]`` and bias ``[out]``."""
    return _array(layer.weight).T, _array(layer.bias)


def _no_norm(norm: NoNorm) -> tuple[Array, Array]:
    """Gain and shift of a NoNorm, ``[width]`` each."""
    return _array(norm.weight), _array(norm.bias)
