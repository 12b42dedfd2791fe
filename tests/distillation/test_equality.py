"""The cheap steps against the naive recipe: both models in full, all logits, plain formulas.

Losses and gradients must agree within 1e-5 relative.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, DistilBertConfig, MobileBertConfig, RobertaConfig

from flashdistill.core.architecture import Architecture
from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.progressive import Stage, StageInputs
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, VOCAB_SIZE, TinyData, tiny_teacher
from flashdistill.training.compute import WHOLE, Compute, Share

TOLERANCE = 1e-5

TEACHERS = {
    "bert, wider, deeper, more heads": None,
    "roberta, heads that do not divide": RobertaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24,
        max_position_embeddings=40, pad_token_id=1, type_vocab_size=1, initializer_range=0.2,
    ),
    "distilbert, as deep as the student": DistilBertConfig(
        vocab_size=VOCAB_SIZE, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=32,
        initializer_range=0.2,
    ),
    "bert, shallower, one head, narrower": BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
        max_position_embeddings=32, initializer_range=0.2,
    ),
    "mobilebert": MobileBertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=16,
        embedding_size=8, intra_bottleneck_size=8, max_position_embeddings=32, initializer_range=0.2,
        normalization_type="layer_norm",  # random weights without it give features of many orders of magnitude
    ),
}  # fmt: skip

PRESETS = {
    "paper": DistillationSettings(steps_per_block=3, pretraining_steps=3, batch_size=4, optimizer="adamw"),
    "mobilebert": DistillationSettings(
        preset="mobilebert", steps_per_block=3, pretraining_steps=3, batch_size=4, optimizer="adamw"
    ),
    "hot": DistillationSettings(
        steps_per_block=3,
        pretraining_steps=3,
        batch_size=4,
        optimizer="adamw",
        losses={"temperature": 2.0, "alpha": 0.3, "nsp": 0.5},  # type: ignore[arg-type]
    ),
}


def distillation(teacher: str, preset: str, architecture: Architecture = ARCHITECTURE, **kept: object) -> Distillation:
    settings = PRESETS[preset]
    source = TeacherSignals(
        tiny_teacher(TEACHERS[teacher]),
        TinyData(1),
        TinyData(2),
        settings.batch_size,
        SignalSettings(precision="single", **kept),  # type: ignore[arg-type]
        settings.losses,
    )
    return Distillation(architecture, FAMILY, source, settings, seed=3)


def gradients(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [g if g is not None else torch.tensor(0.0) for g in torch.autograd.grad(loss, parameters, allow_unused=True)]


def assert_same(cheap: torch.Tensor, naive: torch.Tensor, parameters: list[torch.nn.Parameter]) -> None:
    """Within the tolerance; gradients that vanish but for rounding (of key biases) count by the largest one."""
    assert cheap.item() == pytest.approx(naive.item(), rel=TOLERANCE, abs=1e-7)
    found, expected = gradients(cheap, parameters), gradients(naive, parameters)
    largest = max(gradient.abs().max() for gradient in expected)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= TOLERANCE * torch.maximum(b.abs().max(), 0.1 * largest)


def both_models(distil: Distillation, inputs: dict[str, torch.Tensor]):  # type: ignore[no-untyped-def]
    """Everything that the teacher and the student say about a batch."""
    teacher = distil.signals.teacher.model
    accepts_types = getattr(teacher.config, "type_vocab_size", 0) > 1
    accepted = inputs if accepts_types else {k: v for k, v in inputs.items() if k != "token_type_ids"}
    with torch.no_grad():
        of_teacher = teacher(**accepted, output_hidden_states=True, output_attentions=True)
    return of_teacher, distil.student(**inputs, output_hidden_states=True, output_attentions=True)


def naive_attention(stage: Stage, teacher: torch.Tensor, student: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Eq. 1, or the cross-entropy that differs from it by the teacher's entropy."""
    key_mask = mask[:, None, None, :].bool()
    log_student = torch.where(key_mask, student, torch.ones(())).log()
    of_teacher, of_student = stage.adapters["heads"](teacher, log_student.masked_fill(~key_mask, float("-inf")))
    of_student = of_student.masked_fill(~key_mask, 0.0)
    entropy = torch.where(of_teacher > 0, of_teacher * of_teacher.clamp_min(1e-30).log(), torch.zeros(()))
    per_head = (entropy - of_teacher * of_student).sum(-1)
    return (per_head * mask[:, None, :]).sum() / (mask.sum() * per_head.shape[1])


def naive_stage_loss(distil: Distillation, stage: Stage, index: int) -> torch.Tensor:
    batch = distil.signals.stage_batch(index)
    mask = batch.inputs["attention_mask"]
    of_teacher, of_student = both_models(distil, batch.inputs)
    teacher = of_teacher.hidden_states[stage.teacher_block + 1]
    student = stage.adapters["width"](of_student.hidden_states[stage.block + 1])

    def mean(per_token: torch.Tensor) -> torch.Tensor:
        return (per_token * mask).sum() / mask.sum()

    def normalized(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    weights = stage.settings.losses
    maps = of_teacher.attentions[stage.teacher_block], of_student.attentions[stage.block]
    loss = (
        weights.attention * naive_attention(stage, *maps, mask)
        + weights.feature_map * mean((teacher - student).square().mean(-1))
        + weights.normalized_feature_map * mean((normalized(teacher) - normalized(student)).square().mean(-1))
        + weights.feature_mean * mean((teacher.mean(-1) - student.mean(-1)).square())
        + weights.feature_variance * mean((teacher.var(-1, unbiased=False) - student.var(-1, unbiased=False)).abs())
    )
    return loss / (2 if weights.divide_by_blocks else 1)


def naive_pretraining_loss(distil: Distillation, index: int) -> torch.Tensor:
    batch, weights = distil.signals.pretraining_batch(index), distil.settings.losses
    of_teacher, of_student = both_models(distil, batch.inputs)
    rows = batch.masked_positions
    student = of_student.prediction_logits.flatten(0, 1)[rows]
    soft = (of_teacher.logits.flatten(0, 1)[rows] / weights.temperature).softmax(-1)
    hard = F.cross_entropy(student, batch.masked_labels)
    distilled = -(soft * (student / weights.temperature).log_softmax(-1)).sum(-1).mean() * weights.temperature**2
    next_sentence = F.cross_entropy(of_student.seq_relationship_logits, batch.next_sentence_labels)
    return weights.alpha * hard + (1 - weights.alpha) * distilled + weights.nsp * next_sentence


def whole(loss) -> Callable[[int], torch.Tensor]:  # type: ignore[no-untyped-def]
    return lambda index: loss(index, WHOLE, loss.sizes(index, WHOLE))


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("preset", ["paper", "mobilebert"])
@pytest.mark.parametrize("room", [1.0, 0.0], ids=["rolling", "truncated"])
def test_stage_steps(teacher: str, preset: str, room: float) -> None:
    distil = distillation(teacher, preset, memory_gib=room)
    inputs = StageInputs(distil.student, distil.signals)
    for block in range(2):
        stage, phase = distil.stage(block, inputs)
        for index in range(2):
            assert_same(whole(stage)(index), naive_stage_loss(distil, stage, index), phase.parameters)
        if block == 0:
            random = torch.Generator().manual_seed(0)
            with torch.no_grad():  # the block changes as its stage would change it
                for parameter in phase.parameters:
                    parameter.add_(0.01 * torch.randn(parameter.shape, generator=random))


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("preset", ["paper", "hot"])
def test_pretraining_steps(teacher: str, preset: str) -> None:
    distil = distillation(teacher, preset)
    phase = distil.pretraining()
    for index in range(2):
        assert_same(whole(phase.loss)(index), naive_pretraining_loss(distil, index), phase.parameters)


def test_head_steps_are_the_squared_difference_of_all_logits() -> None:
    """The decoder is the teacher's in another frame: logits need not be formed to compare them."""
    architecture = Architecture(24, 8, 2, 12, 2)  # as wide as the teacher, so that no direction is lost
    distil = distillation("bert, wider, deeper, more heads", "paper", architecture)
    phase = distil.head(StageInputs(distil.student, distil.signals))
    batch = distil.signals.stage_batch(0)
    of_teacher, of_student = both_models(distil, batch.inputs)
    student = of_student.prediction_logits.flatten(0, 1)[batch.masked_positions]
    teacher = of_teacher.logits.flatten(0, 1)[batch.masked_positions]
    naive = (student - teacher).square().mean(-1).mean()
    cheap = whole(phase.loss)(0)
    # The student's decoder carries the frame's scale; its logits are those of the loss only without it.
    assert cheap.item() == pytest.approx(naive.item(), rel=1e-3)


@pytest.mark.parametrize("shares", [2, 4])
def test_parts_of_a_batch_add_up(shares: int) -> None:
    distil = distillation("bert, wider, deeper, more heads", "paper")
    stage, stage_phase = distil.stage(1, StageInputs(distil.student, distil.signals))
    pretraining = distil.pretraining()
    for phase in (stage_phase, pretraining):
        totals = phase.loss.sizes(0, WHOLE)
        parts = [phase.loss(0, Share(index, shares), totals) for index in range(shares)]
        assert_same(torch.stack(parts).sum(), phase.loss(0, WHOLE, totals), phase.parameters)
    assert Compute(micro_batch_size=1).shares(stage.batch_size) == [Share(index, 4) for index in range(4)]
