"""Parity: what is refused, what is accepted, in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.hardware.parity import REDUCED_TOLERANCES, check_parity, example_inputs
from flashdistill.hardware.settings import Precision, TargetSettings
from flashdistill.hardware.targets.onnxruntime import OnnxRuntimeTarget
from flashdistill.hardware.targets.openvino import OpenVinoTarget
from flashdistill.models import blocks
from flashdistill.models.lively_student import lively_student
from flashdistill.models.onnx_writer import write_onnx
from tests.faults_catalogue import fault

SETTINGS = TargetSettings(runtime="fake", batch_size=1, sequence_length=64)
ARCHITECTURE = Architecture(128, 64, 2, 96, 2)
VOCAB_SIZE = 200


def test_example_inputs_have_padding_and_two_segments() -> None:
    settings = TargetSettings(batch_size=3, sequence_length=40)
    inputs = example_inputs(settings, vocab_size=100, seed=0)
    assert all(value.shape == (3, 40) and value.dtype == np.int64 for value in inputs.values())
    used = inputs["attention_mask"].sum(axis=1)
    assert ((used >= 20) & (used <= 25)).all()
    assert (np.diff(inputs["attention_mask"], axis=1) <= 0).all()
    assert set(inputs["token_type_ids"].ravel()) == {0, 1}
    assert inputs["input_ids"].max() < 100
    again = example_inputs(settings, vocab_size=100, seed=0)
    assert all((again[name] == value).all() for name, value in inputs.items())


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_short_sequences_have_a_token(length: int) -> None:
    inputs = example_inputs(TargetSettings(sequence_length=length), vocab_size=5, seed=0)
    assert inputs["attention_mask"][0, 0] == 1


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ([], "0 outputs instead of 1"),
        ([np.zeros((2, 2))], r"shape \(2, 2\) instead of \(2, 3\)"),
        ([np.full((2, 3), 10.002)], "off by 0.0002 of its largest value 10"),
        ([np.full((2, 3), np.nan)], "off by nan"),
    ],
)
def test_parity_errors(got: list[np.ndarray], message: str) -> None:
    with pytest.raises(TargetError, match=f"^export: .*{message}"):
        check_parity("512_128_4_512_4", got, [np.full((2, 3), 10.0)])


def test_parity_is_relative_to_the_scale() -> None:
    error = check_parity("a", [np.full((2, 3), 1000.05)], [np.full((2, 3), 1000.0)])
    assert error == pytest.approx(5e-5)


@pytest.mark.parametrize("precision", REDUCED_TOLERANCES)
def test_reduced_precision_is_judged_by_the_mean_square(precision: Precision) -> None:
    expected, allowed = np.full((4, 25), -3.0), REDUCED_TOLERANCES[precision]
    one_off = expected.copy()
    one_off[0, 0] += 9 * allowed * 3  # a hundredth of the values: 0.9 of what is allowed
    assert check_parity("a", [one_off], [expected], precision) == pytest.approx(0.9 * allowed)
    with pytest.raises(TargetError, match=f"^export: .* root mean square 3 .allowed in {precision}"):
        check_parity("a", [expected * (1 + 1.1 * allowed)], [expected], precision)
    with pytest.raises(TargetError, match="off by nan"):
        check_parity("a", [np.full_like(expected, np.nan)], [expected], precision)
    with pytest.raises(TargetError, match="off by inf"):
        check_parity("a", [np.full_like(expected, np.inf)], [expected], precision)


def features(student: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [blocks.last_hidden(student, {name: torch.from_numpy(x) for name, x in inputs.items()}).numpy()]


def without_mask(student: Any, inputs: dict[str, np.ndarray]) -> None:
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])


def without_a_block(student: Any, inputs: dict[str, np.ndarray]) -> None:
    del student.mobilebert.encoder.layer[1]


def permuted(path: str) -> Callable[[Any, dict[str, np.ndarray]], None]:
    def permute(student: Any, inputs: dict[str, np.ndarray]) -> None:
        layer = student.mobilebert.encoder.layer[1].get_submodule(path)
        layer.weight.data = layer.weight.data.roll(1, dims=0)

    permute.__name__ = path
    return permute


BREAKS = [
    without_mask,
    without_a_block,
    permuted("attention.self.value"),
    permuted("intermediate.dense"),
    permuted("output.bottleneck.dense"),
]

SERVED = [(OnnxRuntimeTarget, "int8"), (OpenVinoTarget, "int8"), (OpenVinoTarget, "bfloat16")]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
@pytest.mark.parametrize("template", ["autodistill", "mobilebert"])
@fault(14, "an export that answers otherwise", "refused in every precision")
def test_a_broken_export_is_refused_in_every_precision(template: str, broken: Callable[[Any, Any], None]) -> None:
    """Without any rounding: what the break alone does is more than any precision is allowed."""
    family = StudentFamily(template, num_blocks=4, vocab_size=VOCAB_SIZE, embedding_size=32, max_positions=64)
    student, inputs = lively_student(ARCHITECTURE, family, seed=0), example_inputs(SETTINGS, VOCAB_SIZE, seed=0)
    expected = features(student, inputs)
    broken(student, inputs)
    got = features(student, inputs)
    for precision in ("float32", *REDUCED_TOLERANCES):
        with pytest.raises(TargetError, match="is off by"):
            check_parity("a", got, expected, precision)


@pytest.mark.parametrize(("target", "precision"), SERVED)
@pytest.mark.parametrize(("template", "num_blocks"), [("autodistill", 12), ("mobilebert", 4)])
def test_an_honest_export_is_accepted_with_room(
    target: Any, precision: Precision, template: str, num_blocks: int, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"runtime": "fake", "precision": precision})
    try:
        serving = target(settings)
    except TargetError as error:
        pytest.skip(str(error))
    family = StudentFamily(template, num_blocks=num_blocks, vocab_size=VOCAB_SIZE, embedding_size=32, max_positions=64)
    student, inputs = lively_student(ARCHITECTURE, family, seed=1), example_inputs(SETTINGS, VOCAB_SIZE, seed=1)
    write_onnx(student, tmp_path / "student.onnx")
    serving.load(serving.prepare(tmp_path / "student.onnx", tmp_path))
    error = check_parity("a", serving.infer(inputs), features(student, inputs), precision)
    assert REDUCED_TOLERANCES[precision] / 100 < error < 0.7 * REDUCED_TOLERANCES[precision]
