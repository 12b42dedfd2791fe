from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.inputs import model_inputs
from flashdistill.models.teacher import Teacher
from flashdistill.testing.tiny import TinyData, tiny_teacher

B = 4


class CountingTeacher(Teacher):
    """Counts how often it is asked."""

    calls = 0

    def feature_maps(self, inputs, blocks):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().feature_maps(inputs, blocks)

    def masked_features(self, inputs, positions):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().masked_features(inputs, positions)


def signals(directory: Path | None, budget: int = 10**8, teacher: str = "a", data: int = 1) -> TeacherSignals:
    counting = CountingTeacher(tiny_teacher().model)
    return TeacherSignals(counting, TinyData(data), TinyData(data + 1), B, directory, budget, teacher)


def ask(source: TeacherSignals) -> tuple[list[torch.Tensor], int]:
    answers = [*source.feature_map(0, 1), source.decoder_inputs(0), source.mlm_logits(0, source.pretraining_batch(0))]
    return answers, source.teacher.calls  # type: ignore[attr-defined]


def test_answers_are_the_teachers_in_half_precision(tmp_path: Path) -> None:
    source = signals(tmp_path)
    (features, attention, decoder_inputs, logits), _ = ask(source)
    teacher = tiny_teacher()
    inputs = model_inputs(source.stage_batch(0))
    [expected_features], [expected_attention] = teacher.feature_maps(inputs, [1])
    torch.testing.assert_close(features, expected_features.half().float())
    torch.testing.assert_close(attention, expected_attention.half().float())
    batch = source.pretraining_batch(0)
    expected = teacher.masked_features(model_inputs(batch), torch.from_numpy(batch.masked_positions))
    torch.testing.assert_close(logits, teacher.mlm_logits(expected), rtol=1e-2, atol=1e-2)
    assert decoder_inputs.shape == (len(source.stage_batch(0).masked_positions), teacher.shape.hidden_size)


def test_a_second_candidate_asks_nothing_of_the_teacher(tmp_path: Path) -> None:
    first, calls = ask(signals(tmp_path))
    assert calls == 2
    second, calls = ask(signals(tmp_path))
    assert calls == 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_beyond_the_byte_budget_nothing_is_kept(tmp_path: Path) -> None:
    ask(signals(tmp_path, budget=100))
    assert not list(tmp_path.iterdir())
    _, calls = ask(signals(tmp_path, budget=100))
    assert calls >= 2


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_files_are_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected, _ = ask(signals(tmp_path))
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        got, calls = ask(signals(tmp_path))
    assert calls == 2
    assert "computing the teacher's signals again" in caplog.text
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("other", [{"teacher": "b"}, {"data": 5}])
def test_files_of_another_teacher_or_text_are_not_used(tmp_path: Path, other: dict) -> None:  # type: ignore[type-arg]
    ask(signals(tmp_path))
    _, calls = ask(signals(tmp_path, **other))
    assert calls == 2


def test_values_beyond_half_precision_are_kept_in_full(tmp_path: Path) -> None:
    source = signals(tmp_path)
    with torch.no_grad():
        source.teacher.body.encoder.layer[1].output.LayerNorm.weight.mul_(1e6)
    features, _ = source.feature_map(0, 1)
    assert torch.isfinite(features).all()
    assert features.abs().max() > 65504
