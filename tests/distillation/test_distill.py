"""The procedure: what each stage trains, what it leaves alone, and that it can be resumed."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch
from transformers import DistilBertConfig, ElectraConfig, RobertaConfig

from flashdistill.core.errors import DivergedError
from flashdistill.distillation.calibration import StepSeconds, resolve_steps, time_steps
from flashdistill.distillation.distill import HEAD, PRETRAINING, Distillation
from flashdistill.distillation.progressive import StageInputs
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.models.teacher import Teacher
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, VOCAB_SIZE, TinyData, tiny_teacher
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.compute import WHOLE, Compute
from tests.faults_catalogue import fault
from tests.progress_doubles import KilledError, Killer

SETTINGS = DistillationSettings(
    steps_per_block=4, pretraining_steps=6, batch_size=4, optimizer="adamw", learning_rate=5e-3
)


PRESETS = {
    "paper": SETTINGS,
    "mobilebert": DistillationSettings(
        preset="mobilebert",
        steps_per_block=4,
        pretraining_steps=6,
        batch_size=4,
        optimizer="adamw",
        learning_rate=2e-3,
    ),
}


def signals(
    teacher: Teacher | None = None,
    directory: Path | None = None,
    settings: DistillationSettings = SETTINGS,
    **kept: object,
) -> TeacherSignals:
    kept_settings = SignalSettings(**kept)  # type: ignore[arg-type]
    source = teacher or tiny_teacher()
    return TeacherSignals(source, TinyData(1), TinyData(2), 4, kept_settings, settings.losses, directory)


def distillation(settings: DistillationSettings = SETTINGS, **changes: object) -> Distillation:
    arguments = {"signals": signals(settings=settings), "settings": settings, "seed": 3} | changes
    return Distillation(ARCHITECTURE, FAMILY, **arguments)  # type: ignore[arg-type]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def after_phases(settings: DistillationSettings) -> dict[str, dict[str, torch.Tensor]]:
    """The weights at the end of every phase."""
    distil = distillation(settings)
    found: dict[str, dict[str, torch.Tensor]] = {"start": weights(distil.student)}
    for position in distil.steps():
        found[distil.phase_names[position.phase]] = weights(distil.student)
    return found


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def block_weights(index: int) -> set[str]:
    block = blocks.block(distillation().student, index)
    return {f"mobilebert.encoder.layer.{index}.{name}" for name, _ in block.named_parameters()}


def test_a_stage_trains_its_block_and_nothing_else() -> None:
    after = after_phases(PRESETS["paper"])
    assert changed(after["start"], after["block 1"]) == block_weights(0)
    assert changed(after["block 1"], after["block 2"]) == block_weights(1)
    head = changed(after["block 2"], after[HEAD])
    assert head
    assert all(name.startswith("cls.predictions.transform") for name in head)


def test_a_soft_freeze_goes_on_training_earlier_blocks_slowly() -> None:
    after = after_phases(PRESETS["mobilebert"])
    assert changed(after["start"], after["block 1"]) == block_weights(0)
    assert changed(after["block 1"], after["block 2"]) == block_weights(0) | block_weights(1)
    name = "mobilebert.encoder.layer.{}.attention.self.value.weight"
    step = [(after["block 2"][name.format(i)] - after["block 1"][name.format(i)]).abs().mean() for i in (0, 1)]
    assert step[0] < 0.3 * step[1]


def test_moments_outlive_a_stage_where_they_are_not_reset() -> None:
    """A second stage with old moments differs from one with fresh ones, and only then."""
    settings = PRESETS["mobilebert"]
    fresh = settings.model_copy(update={"reset_moments": True})
    kept, reset = after_phases(settings), after_phases(fresh)
    assert not changed(kept["block 1"], reset["block 1"])
    assert block_weights(0) <= changed(kept["block 2"], reset["block 2"])


def test_pretraining_trains_everything_that_eq_3_reaches() -> None:
    distil = distillation()
    phase = distil.pretraining()
    phase.loss(0, WHOLE, phase.loss.sizes(0, WHOLE)).backward()
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


@pytest.mark.parametrize("room", [1.0, 0.0])
def test_what_enters_a_block_does_not_depend_on_what_is_kept(room: float) -> None:
    expected = distillation()
    other = distillation(signals=signals(memory_gib=room))
    kept, found = StageInputs(expected.student, expected.signals), StageInputs(other.student, other.signals)
    for block in (0, 1, 2, 1):
        for a, b in zip(kept.get(1, WHOLE, block), found.get(1, WHOLE, block), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("at", [1, 4, 5, 8, 9, 13])
@fault(1, "break of a distillation at each of its phases", "bit for bit the same student")
def test_killed_and_resumed_gives_bitwise_the_same_student(tmp_path: Path, preset: str, at: int) -> None:
    settings = PRESETS[preset]
    expected = distillation(settings).run().student.state_dict()
    with pytest.raises(KilledError):
        distillation(settings, store=CheckpointStore(tmp_path, every_seconds=0), progress=Killer(at)).run()
    resumed = distillation(settings, store=CheckpointStore(tmp_path, every_seconds=0)).run().student.state_dict()
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name


def test_same_seed_same_student_other_seed_other_student() -> None:
    first, second, other = (distillation(seed=seed).run().student.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_a_candidates_result_does_not_depend_on_the_signal_cache(tmp_path: Path) -> None:
    computed = distillation().run().student.state_dict()
    for _ in ("filling the cache", "reading it"):
        cached = distillation(signals=signals(directory=tmp_path)).run().student.state_dict()
        assert all(torch.equal(value, cached[name]) for name, value in computed.items())


@fault(6, "loss of NaN in a distillation", "stopped before the weights change")
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


def test_a_compiled_student_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for compilation, but run by PyTorch itself, which needs no C++ compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    settings = SETTINGS.with_steps(0, 3)
    expected = distillation(settings).run()
    compiled = distillation(settings, compute=Compute(compile=True)).run()
    for (_, a), (_, b) in zip(compiled.curves[PRETRAINING].points, expected.curves[PRETRAINING].points, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_no_stages_and_no_pretraining_are_allowed() -> None:
    start = copy.deepcopy(distillation().student.state_dict())
    result = distillation(settings=SETTINGS.with_steps(0, 0)).run()
    assert all(torch.equal(value, start[name]) for name, value in result.student.state_dict().items())


@pytest.mark.parametrize(
    ("given", "per_block", "pretraining"),
    [
        ({"pretraining_steps": 25000}, 500, 25000),
        ({"steps": 37000}, 500, 25000),
        ({"pretraining_steps": 500000}, 10000, 500000),
        ({"pretraining_steps": 100, "steps_per_block": 7}, 7, 100),
        ({"pretraining_steps": 100, "progressive_ratio": 0.0}, 0, 100),
    ],
)
def test_the_ratio_fills_in_step_counts(given: dict[str, float], per_block: int, pretraining: int) -> None:
    """0.48 of 25,000 are the paper's 12,000 steps of 24 blocks."""
    resolved = DistillationSettings.model_validate(given).with_ratio(num_blocks=24)
    assert (resolved.steps_per_block, resolved.pretraining_steps) == (per_block, pretraining)
    assert resolved.resolved


def test_a_preset_sets_what_is_left_out_and_nothing_else() -> None:
    settings = DistillationSettings.model_validate(
        {"preset": "mobilebert", "steps": 10, "learning_rate": 1e-3, "losses": {"feature_mean": 7.0}}
    )
    assert settings.block_learning_rate == pytest.approx(3e-3)
    assert settings.earlier_block_rate == 0.1
    assert settings.losses.feature_mean == 7.0
    assert settings.losses.normalized_feature_map == 100.0
    assert settings.losses.feature_map == 0.0
    again = DistillationSettings.model_validate(settings.model_dump())
    assert again == settings
    given = {"preset": "mobilebert", "steps": 10, "block_learning_rate": 5e-4, "earlier_block_rate": 0.0}
    settings = DistillationSettings.model_validate(given)
    assert (settings.block_learning_rate, settings.earlier_block_rate) == (5e-4, 0.0)


def test_a_stage_without_a_feature_map_term_is_refused() -> None:
    with pytest.raises(ValueError, match="give one of the feature-map terms a weight"):
        DistillationSettings.model_validate({"steps": 10, "losses": {"feature_map": 0.0}})


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
