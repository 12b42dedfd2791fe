"""The procedure: what each stage trains, what it leaves alone, and that it can be resumed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import DistilBertConfig, ElectraConfig, RobertaConfig

from flashdistill.core.errors import DivergedError
from flashdistill.core.progress import Silent
from flashdistill.distillation.calibration import StepSeconds, resolve_steps, time_steps
from flashdistill.distillation.distill import HEAD, PRETRAINING, Distillation
from flashdistill.distillation.progressive import StageInputs
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.models.inputs import model_inputs
from flashdistill.models.teacher import Teacher
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, VOCAB_SIZE, TinyData, tiny_teacher
from flashdistill.training.checkpoint import CheckpointStore

SETTINGS = DistillationSettings(
    steps_per_block=4, pretraining_steps=6, batch_size=4, optimizer="adamw", learning_rate=5e-3
)


def signals(teacher: Teacher | None = None, directory: Path | None = None, budget: int = 0) -> TeacherSignals:
    return TeacherSignals(teacher or tiny_teacher(), TinyData(1), TinyData(2), SETTINGS.batch_size, directory, budget)


def distillation(**changes: object) -> Distillation:
    arguments = {"signals": signals(), "settings": SETTINGS, "seed": 3} | changes
    return Distillation(ARCHITECTURE, FAMILY, **arguments)  # type: ignore[arg-type]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


class Killer(Silent):
    """Stops the process at the n-th step."""

    def __init__(self, at: int):
        self.left = at

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.left -= bool(note) and steps
        if self.left == 0:
            raise KilledError


def test_a_stage_trains_its_block_and_nothing_else() -> None:
    distil = distillation()
    inputs = StageInputs(distil.student, distil.signals)
    inputs.advance(1)
    before = weights(distil.student)
    distil._run_stage(1, inputs, None)
    changed = {name for name, value in distil.student.state_dict().items() if not torch.equal(value, before[name])}
    block = {f"mobilebert.encoder.layer.1.{name}" for name in dict(blocks.block(distil.student, 1).named_parameters())}
    assert changed == block


def test_earlier_blocks_and_heads_are_bitwise_frozen_through_all_stages() -> None:
    class Recording(Distillation):
        def _run_stage(self, index, inputs, resume):  # type: ignore[no-untyped-def]
            super()._run_stage(index, inputs, resume)
            after[index] = weights(self.student)

        def _run_pretraining(self, resume):  # type: ignore[no-untyped-def]
            pass

    after: dict[int, dict[str, torch.Tensor]] = {}
    Recording(ARCHITECTURE, FAMILY, signals(), SETTINGS, 3).run()
    for name, value in after[0].items():
        if "encoder.layer.1." not in name:
            assert torch.equal(value, after[1][name]), name


def test_pretraining_trains_everything_that_eq_3_reaches() -> None:
    distil = distillation()
    phase = distil.pretraining()
    phase.loss(0).backward()
    assert {id(parameter) for parameter in phase.parameters} == {id(p) for p in distil.student.parameters()}
    # The norms in front of queries and keys start at an almost flat spot: attention is uniform.
    reached = {name for name, p in distil.student.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {name for name, _ in distil.student.named_parameters()}


def test_losses_fall_and_the_student_learns() -> None:
    settings = SETTINGS.with_steps(30, 120)
    result = distillation(settings=settings).run()
    for curve in result.curves.values():
        first, last = curve.points[0][1], curve.points[-1][1]
        assert last < first


def test_stage_loss_equals_full_forward_of_both_models() -> None:
    """The rolling cache changes the cost, not the mathematics (half precision of the signals aside)."""
    distil = distillation()
    inputs = StageInputs(distil.student, distil.signals)
    inputs.get(0)
    inputs.advance(1)
    stage, _ = distil.stage(1, inputs)
    batch = distil.signals.stage_batch(0)
    full = distil.student(**model_inputs(batch), output_hidden_states=True, output_attentions=True)
    hidden, mask = inputs.get(0)
    features, log_attention = blocks.run_block_with_attention(distil.student, 1, hidden, blocks.additive_mask(mask))
    torch.testing.assert_close(features, full.hidden_states[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_attention.exp(), full.attentions[1], rtol=1e-5, atol=1e-6)
    assert stage.teacher_block == 2


def test_a_batch_beyond_the_memory_budget_gives_the_same_features() -> None:
    distil = distillation()
    kept, recomputed = StageInputs(distil.student, distil.signals), StageInputs(distil.student, distil.signals, 0)
    for inputs in (kept, recomputed):
        inputs.get(1)
        inputs.advance(2)
    torch.testing.assert_close(kept.get(1), recomputed.get(1), rtol=0, atol=0)


@pytest.mark.parametrize("at", [1, 4, 5, 8, 9, 13])
def test_killed_and_resumed_gives_bitwise_the_same_student(tmp_path: Path, at: int) -> None:
    expected = distillation().run().student.state_dict()
    with pytest.raises(KilledError):
        distillation(store=CheckpointStore(tmp_path, every_seconds=0), progress=Killer(at)).run()
    resumed = distillation(store=CheckpointStore(tmp_path, every_seconds=0)).run().student.state_dict()
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name


def test_same_seed_same_student_other_seed_other_student() -> None:
    first, second, other = (distillation(seed=seed).run().student.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_a_candidates_result_does_not_depend_on_the_signal_cache(tmp_path: Path) -> None:
    computed = distillation().run().student.state_dict()
    for _ in ("filling the cache", "reading it"):
        cached = distillation(signals=signals(directory=tmp_path, budget=10**8)).run().student.state_dict()
        assert all(torch.equal(value, cached[name]) for name, value in computed.items())


def test_divergence_stops_before_the_weights_are_touched() -> None:
    distil = distillation(settings=SETTINGS.model_copy(update={"learning_rate": 1e9}))
    with pytest.raises(DivergedError, match=r"diverged: .* at step \d+"):
        distil.run()
    assert all(torch.isfinite(value).all() for value in distil.student.state_dict().values())


@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=20, num_hidden_layers=2, num_attention_heads=5, intermediate_size=24,
            max_position_embeddings=40, pad_token_id=1, type_vocab_size=1,
        ),
        DistilBertConfig(
            vocab_size=VOCAB_SIZE, dim=16, n_layers=4, n_heads=2, hidden_dim=24, max_position_embeddings=32
        ),
        ElectraConfig(
            vocab_size=VOCAB_SIZE, embedding_size=12, hidden_size=24, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=24, max_position_embeddings=32,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_teachers_of_other_families_depths_widths_and_heads(config) -> None:  # type: ignore[no-untyped-def]
    result = distillation(signals=signals(tiny_teacher(config))).run()
    assert result.curves.keys() == {"block 1", "block 2", HEAD, PRETRAINING}


def test_no_stages_and_no_pretraining_are_allowed() -> None:
    start = copy.deepcopy(distillation().student.state_dict())
    result = distillation(settings=SETTINGS.with_steps(0, 0)).run()
    assert all(torch.equal(value, start[name]) for name, value in result.student.state_dict().items())


def test_seconds_become_steps_in_the_configured_ratio() -> None:
    settings = DistillationSettings(seconds=100, progressive_ratio=0.48, batch_size=8, optimizer="adamw")
    resolved = resolve_steps(settings, StepSeconds(stage=0.5, pretraining=1.76), num_blocks=6)
    assert resolved.seconds is None
    assert resolved.pretraining_steps == 50  # 50 * (0.48 * 0.5 + 1.76) = 100
    assert resolved.steps_per_block == 4  # 50 * 0.48 / 6


def test_calibration_times_both_kinds_of_steps() -> None:
    seconds = time_steps(distillation())
    assert seconds.stage > 0
    assert seconds.pretraining > 0
