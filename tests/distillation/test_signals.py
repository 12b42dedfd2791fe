"""What the teacher says: kept on disk, in hidden states, or computed, always the same."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from flashdistill.core.errors import TeacherError
from flashdistill.distillation.losses import TopTokens
from flashdistill.distillation.settings import LossSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.single_blocks import BlockMaps
from flashdistill.models.teacher import Teacher
from flashdistill.testing.tiny import TinyData, tiny_teacher
from flashdistill.training.compute import WHOLE, Share
from tests.faults_catalogue import fault

B = 4
GIB = 1024**3
PLAIN = LossSettings()
RELATIONS = LossSettings(relations=1.0, relation_heads=4)


class CountingBlocks:
    """Counts how many blocks run, and how often the maps of one are formed."""

    def __init__(self, teacher: Teacher):
        self._inner = teacher.blocks
        self.blocks_run = self.maps_formed = 0

    def embed(self, inputs) -> torch.Tensor:  # type: ignore[no-untyped-def]
        return self._inner.embed(inputs)

    def run(self, hidden, inputs, first: int, last: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
        self.blocks_run += last - first
        return self._inner.run(hidden, inputs, first, last)

    def maps(self, hidden, inputs, block: int, projections: bool = False) -> BlockMaps:  # type: ignore[no-untyped-def]
        self.blocks_run += 1
        self.maps_formed += 1
        return self._inner.maps(hidden, inputs, block, projections)

    def require_projections(self, length: int) -> None:
        self._inner.require_projections(length)


class Source:
    """Signals whose teacher counts."""

    def __init__(self, directory: Path | None = None, losses: LossSettings = PLAIN, **changes):  # type: ignore[no-untyped-def]
        teacher = tiny_teacher()
        self.counts = CountingBlocks(teacher)
        teacher.blocks = self.counts  # type: ignore[assignment]
        names = {"teacher": "a", "data": 1, "taught": None, "remember": False, "steps": 0}
        names |= {key: changes.pop(key) for key in list(changes) if key in names}
        self.signals = TeacherSignals(
            teacher, TinyData(names["data"]), TinyData(names["data"] + 1), B, SignalSettings(**changes), losses,
            directory, names["teacher"], names["taught"], names["remember"], names["steps"],
        )  # fmt: skip


def answers(source: Source, share: Share = WHOLE) -> list[torch.Tensor]:
    signals = source.signals
    stages = [signals.stage(0, share, block) for block in range(3)]
    target = signals.mlm_target(0, share)
    found = [signals.decoder_inputs(0, share), *(target if isinstance(target, TopTokens) else [target])]
    for stage in stages:
        found += [stage.features, *([] if stage.attention is None else [stage.attention]), *stage.projections]
    return found


@pytest.mark.parametrize(("precision", "tolerance"), [("half", 1e-3), ("single", 1e-6)])
@pytest.mark.parametrize("kept", [True, False])
def test_answers_are_the_whole_models(tmp_path: Path, precision: str, tolerance: float, kept: bool) -> None:
    source = Source(tmp_path if kept else None, precision=precision)
    model = tiny_teacher().model
    batch = source.signals.stage_batch(0)
    with torch.no_grad():
        expected = model(**batch.inputs, output_hidden_states=True, output_attentions=True)
    for block in range(3):
        found = source.signals.stage(0, WHOLE, block)
        assert found.attention is not None
        torch.testing.assert_close(found.features, expected.hidden_states[block + 1], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found.attention, expected.attentions[block], rtol=tolerance, atol=tolerance)
    later = source.signals.pretraining_batch(0)
    with torch.no_grad():
        logits = model(**later.inputs).logits.flatten(0, 1)[later.masked_positions]
    target = source.signals.mlm_target(0)
    assert isinstance(target, torch.Tensor)
    torch.testing.assert_close(target, logits, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(
    "losses", [LossSettings(), RELATIONS, LossSettings(attention=0.0)], ids=["maps", "relations", "features"]
)
@pytest.mark.parametrize("top_k", [None, 5])
def test_kept_rolled_and_computed_answers_are_bitwise_the_same(
    tmp_path: Path, losses: LossSettings, top_k: int | None
) -> None:
    expected = answers(Source(tmp_path / "kept", losses, top_k=top_k))
    others = [
        Source(tmp_path / "kept", losses, top_k=top_k),
        Source(None, losses, top_k=top_k),
        Source(None, losses, top_k=top_k, memory_gib=0),
        Source(tmp_path / "spilled", losses, top_k=top_k, memory_gib=0, disk_gib=6e-5),
        Source(None, losses, top_k=top_k, remember=True),
    ]
    for other in others:
        for a, b in zip(expected, answers(other), strict=True):
            assert torch.equal(a, b)


def test_a_second_candidate_asks_nothing_of_the_teacher(tmp_path: Path) -> None:
    first = Source(tmp_path)
    answers(first)
    assert first.counts.maps_formed == 3
    second = Source(tmp_path)
    answers(second)
    assert second.counts.blocks_run == 0


def test_a_stage_costs_one_teacher_block_where_hidden_states_are_kept() -> None:
    source = Source()
    for block in range(3):
        for index in range(2):
            source.signals.stage(index, WHOLE, block)
    assert source.counts.blocks_run == 3 * 2
    source.signals.decoder_inputs(0)
    assert source.counts.blocks_run == 3 * 2


def test_without_room_the_teacher_runs_up_to_the_block_only() -> None:
    source = Source(memory_gib=0)
    source.signals.stage(0, WHOLE, 1)
    assert source.counts.blocks_run == 2


def test_new_batches_for_every_stage_are_answered_by_one_block_each(tmp_path: Path) -> None:
    source = Source(tmp_path)
    kept = source.signals.stage(7, WHOLE, 1, shared=False)
    assert source.counts.blocks_run == 2
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    again = Source(tmp_path)
    assert torch.equal(again.signals.stage(7, WHOLE, 1, shared=False).features, kept.features)
    assert again.counts.blocks_run == 0


def test_only_blocks_that_teach_are_kept(tmp_path: Path) -> None:
    Source(tmp_path / "all").signals.stage(0, WHOLE, 2)
    Source(tmp_path / "one", taught=[2]).signals.stage(0, WHOLE, 2)
    sizes = [next((tmp_path / name / "stages").glob("stage-*")).stat().st_size for name in ("all", "one")]
    assert sizes[0] > 2.5 * sizes[1]


def test_several_students_share_one_answer() -> None:
    source = Source(memory_gib=0, remember=True)
    for _ in range(3):
        source.signals.stage(0, Share(0, 2), 1)
        source.signals.stage(0, Share(1, 2), 1)
    assert source.counts.maps_formed == 2
    source.signals.stage(1, Share(0, 2), 1)
    source.signals.stage(0, Share(0, 2), 1)
    assert source.counts.maps_formed == 4


def test_shares_together_are_the_whole_batch() -> None:
    source = Source(precision="single")
    whole = source.signals.stage(0, WHOLE, 2).features
    parts = [source.signals.stage(0, Share(index, 2), 2).features for index in range(2)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_top_tokens_are_the_most_probable_ones(tmp_path: Path) -> None:
    full = Source(precision="single").signals.mlm_target(0)
    for _ in ("computed", "read"):
        top = Source(tmp_path, precision="single", top_k=3).signals.mlm_target(0)
        assert isinstance(full, torch.Tensor)
        assert isinstance(top, TopTokens)
        expected = full.topk(3)
        assert torch.equal(top.indices, expected.indices)
        torch.testing.assert_close(top.logits, expected.values)


def test_the_byte_budget_holds(tmp_path: Path) -> None:
    room = 3 * 10**4
    source = Source(tmp_path, disk_gib=room / GIB, memory_gib=0)
    for index in range(8):
        source.signals.stage(index, WHOLE, 0)
        source.signals.mlm_target(index)
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert 0 < kept <= room


def test_stages_leave_room_for_the_pretraining(tmp_path: Path) -> None:
    """Its answers are small and save a whole forward each."""
    source = Source(tmp_path, disk_gib=1e5 / GIB, memory_gib=0, steps=6)
    for index in range(8):
        source.signals.stage(index, WHOLE, 0)
    for index in range(6):
        source.signals.mlm_target(index)
    assert len(list((tmp_path / "pretraining").iterdir())) == 6
    assert 0 < len(list((tmp_path / "stages").glob("stage-*"))) < 8


@pytest.mark.parametrize("damage", ["flip", "cut"])
@fault(4, "teacher's kept answers changed or cut", "computed again")
def test_damaged_files_are_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = answers(Source(tmp_path))
    for path in tmp_path.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    source = Source(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = answers(source)
    assert source.counts.maps_formed == 3
    assert "computing the teacher's signals again" in caplog.text
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "other", [{"teacher": "b"}, {"data": 5}, {"top_k": 4}, {"precision": "single"}, {"taught": [0, 1]}]
)
def test_files_of_another_origin_are_not_used(tmp_path: Path, other: dict) -> None:  # type: ignore[type-arg]
    Source(tmp_path).signals.stage(0, WHOLE, 0)
    source = Source(tmp_path, **other)
    source.signals.stage(0, WHOLE, 0)
    assert source.counts.maps_formed > 0


def test_values_beyond_half_precision_are_kept_in_full(tmp_path: Path) -> None:
    source = Source(tmp_path)
    with torch.no_grad():
        source.signals.teacher.body.encoder.layer[1].output.LayerNorm.weight.mul_(1e6)  # type: ignore[union-attr,index]
    features = source.signals.stage(0, WHOLE, 1).features
    assert torch.isfinite(features).all()
    assert features.abs().max() > 65504


def test_relation_heads_must_divide_the_teachers_width() -> None:
    with pytest.raises(TeacherError, match="16 does not divide the teacher's hidden size of 24"):
        Source(None, LossSettings(relations=1.0, relation_heads=16))
