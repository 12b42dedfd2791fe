"""The directly written graph computes what PyTorch computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.models import onnx_writer
from flashdistill.models.onnx_writer import Outputs, write_onnx
from flashdistill.models.students import build_student

FAMILY = StudentFamily(num_blocks=2, vocab_size=101, embedding_size=16, max_positions=24)
ARCHITECTURE = Architecture(32, 16, 4, 24, 3)


def make_student(architecture: Architecture = ARCHITECTURE, template: str = "mobilebert", **family: int):
    """A student in which no weight has a value that would hide a mistake, such as a gain of one."""
    model = build_student(architecture, dataclasses.replace(FAMILY, template=template, **family), seed=0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return model


def make_inputs(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    used = np.linspace(length // 2, length, batch).astype(int)[:, None]
    return {
        "input_ids": random.integers(0, FAMILY.vocab_size, (batch, length)),
        "attention_mask": (np.arange(length) < used).astype(np.int64),
        "token_type_ids": random.integers(0, 2, (batch, length)),
    }


def run_torch(model: MobileBertForPreTraining, inputs: dict[str, np.ndarray], outputs: Outputs) -> np.ndarray:
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        if outputs == "mlm":
            return model(**tensors).prediction_logits.numpy()
        return model.mobilebert(**tensors).last_hidden_state.numpy()


def run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
@pytest.mark.parametrize("outputs", ["encoder", "mlm"])
def test_same_as_torch(template: str, outputs: Outputs, tmp_path: Path) -> None:
    model = make_student(template=template)
    write_onnx(model, tmp_path / "model.onnx", outputs)
    for batch, length in ((1, 24), (3, 7), (2, 1)):  # one file for every shape
        inputs = make_inputs(batch, length)
        error = relative_error(run_onnx(tmp_path / "model.onnx", inputs), run_torch(model, inputs, outputs))
        assert error < 1e-5, (batch, length)


# torch warns that the empty projection of hidden size = embedding size has nothing to initialise.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("name", ["32_16_1_24_1", "16_16_2_24_2"])
def test_edges_of_the_space(name: str, tmp_path: Path) -> None:
    """One head; a single feed-forward network; hidden size = embedding size, so no extra projection."""
    model = make_student(Architecture.parse(name))
    write_onnx(model, tmp_path / "model.onnx", "mlm")
    inputs = make_inputs(2, 9)
    assert relative_error(run_onnx(tmp_path / "model.onnx", inputs), run_torch(model, inputs, "mlm")) < 1e-5


def test_a_fully_padded_sequence_is_finite(tmp_path: Path) -> None:
    model = make_student()
    write_onnx(model, tmp_path / "model.onnx")
    inputs = make_inputs(2, 8)
    inputs["attention_mask"][0] = 0
    got = run_onnx(tmp_path / "model.onnx", inputs)
    assert relative_error(got, run_torch(model, inputs, "encoder")) < 1e-5


def test_the_mask_matters(tmp_path: Path) -> None:
    model = make_student()
    write_onnx(model, tmp_path / "model.onnx")
    inputs = make_inputs(2, 8)
    masked = run_onnx(tmp_path / "model.onnx", inputs)
    inputs["attention_mask"][:] = 1
    assert relative_error(run_onnx(tmp_path / "model.onnx", inputs), masked) > 1e-3


def test_the_graph_does_not_depend_on_the_weights(tmp_path: Path) -> None:
    """A latency measured with random weights must hold for trained ones."""
    fresh = build_student(ARCHITECTURE, FAMILY, seed=3)
    graphs = []
    for index, model in enumerate((fresh, make_student())):
        path = tmp_path / f"{index}.onnx"
        write_onnx(model, path)
        graphs.append(onnx.load(path))
    assert [(n.op_type, list(n.input)) for n in graphs[0].graph.node] == [
        (n.op_type, list(n.input)) for n in graphs[1].graph.node
    ]
    assert [(i.name, list(i.dims)) for i in graphs[0].graph.initializer] == [
        (i.name, list(i.dims)) for i in graphs[1].graph.initializer
    ]


def test_interface_and_portability(tmp_path: Path) -> None:
    write_onnx(make_student(), tmp_path / "model.onnx", "mlm")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in model.graph.output] == ["logits"]
    shape = model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", "sequence", FAMILY.vocab_size]
    assert {node.domain for node in model.graph.node} == {""}, "only standard operators"


def test_word_embeddings_are_stored_once(tmp_path: Path) -> None:
    model = make_student(vocab_size=4000)
    write_onnx(model, tmp_path / "encoder.onnx", "encoder")
    write_onnx(model, tmp_path / "mlm.onnx", "mlm")
    extra = (tmp_path / "mlm.onnx").stat().st_size - (tmp_path / "encoder.onnx").stat().st_size
    projection, bias, transform = 4000 * (32 - 16) * 4, 4000 * 4, (32 * 32 + 3 * 32) * 4
    assert abs(extra - (projection + bias + transform)) < 2000


def test_large_models_use_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_writer, "_INLINE_LIMIT_BYTES", 1000)
    model = make_student()
    write_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").exists()
    inputs = make_inputs(2, 8)
    error = relative_error(run_onnx(tmp_path / "model.onnx", inputs), run_torch(model, inputs, "encoder"))
    assert error < 1e-5


def test_other_configurations_are_refused(tmp_path: Path) -> None:
    model = make_student()
    model.config.hidden_act = "gelu"
    with pytest.raises(ValueError, match="hidden_act='relu' only, this model has 'gelu'"):
        write_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
