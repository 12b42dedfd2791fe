"""The scales: what each would train, checked as far as a dry run goes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.exploration.space import DesignSpace
from flashdistill.models.parameter_count import count_parameters
from reproduce import figure5, figure6, table2
from reproduce.plan import Demand, memory, plan_lines, training_cost
from reproduce.scales import PAPER_TABLE_2, SCALES, Scale, require_allowed, table_2


@pytest.mark.parametrize("scale", SCALES.values(), ids=str)
def test_every_scale_loads(scale: Scale) -> None:
    config = scale.load()
    space = DesignSpace(config.space, config.student_family(scale.teacher.vocab_size))
    assert config.baseline == scale.students[0]
    assert all(one in space for one in scale.students[1:])
    assert space.size == 576
    assert scale.audited >= 16
    share = config.flash.total_steps(1) / config.regular.total_steps(1)
    assert share == pytest.approx(0.1 if scale.name == "mini" else 0.05)


def test_the_papers_scale_is_the_papers() -> None:
    scale = SCALES["paper"]
    config = scale.load()
    assert (config.flash.total_steps(24), config.regular.total_steps(24)) == (37_000, 740_000)
    assert (config.flash.batch_size, config.flash.optimizer) == (2048, "lamb")
    assert config.corpus.predictions_cap == 5, "20 of 512, at sequences of 128"
    family = config.student_family(scale.teacher.vocab_size)
    for name, printed in PAPER_TABLE_2.items():
        assert count_parameters(Architecture.parse(name), family) / 1e6 == pytest.approx(printed, abs=0.0999)
    shortened = figure5.shortened(config.regular, 0.05)
    assert shortened.total_steps(24) == 37_000
    assert shortened.warmup_steps == 500


def test_divided_widths() -> None:
    assert [str(one) for one in table_2(4)[:3]] == ["128_32_4_128_4", "128_32_1_96_4", "128_32_1_160_2"]
    assert str(table_2(4)[-1]) == "128_40_2_128_2"


def test_cost_by_hand() -> None:
    """Two stage steps and one pre-training step, every product counted on paper."""
    scale = SCALES["mini"]
    teacher = replace(scale.teacher, num_layers=3, hidden_size=8, intermediate_size=16, vocab_size=50)
    config = scale.load(["corpus.max_length=16", "corpus.max_predictions=2", "flash.steps_per_block=2"])
    settings = config.flash.with_steps(2, 1).model_copy(update={"batch_size": 4})
    architecture = Architecture(32, 16, 1, 96, 2)
    tokens = 4 * 16
    taught = 2 * tokens * (4 * 8 * 8 + 2 * 16 * 8 + 2 * 8 * 16)
    # Bottleneck, shared bottleneck, query and key, value, output, feed-forward networks, output bottleneck, attention.
    per_token = 32 * 16 + 32 * 16 + 2 * 16 * 16 + 32 * 16 + 16 * 16 + 2 * 2 * 16 * 96 + 16 * 32 + 2 * 16 * 16
    block = 2 * tokens * per_token
    embeddings = 2 * tokens * 3 * 32 * 32
    student_head, teacher_head = 2 * 8 * 50 * 32, 2 * 8 * 50 * 8
    found = training_cost(architecture, settings, config, teacher)
    assert found.steps == 7
    assert found.student == 6 * 3 * block + 3 * (embeddings + 3 * block + student_head)
    assert found.teacher == 6 * taught + 3 * taught + teacher_head


def test_memory_grows_with_the_student_and_the_sequence() -> None:
    scale = SCALES["paper"]
    config, (small, *_, large) = scale.load(), sorted(scale.students)
    fixed, each = memory(small, config, scale.teacher)
    assert memory(large, config, scale.teacher)[0] > fixed
    assert memory(small, scale.load(["corpus.max_length=256"]), scale.teacher)[1] > 2 * each
    # The student's weights four times over; BERT's blocks and words once.
    blocks = 12 * (4 * 768**2 + 2 * 768 * 3072)
    parameters = count_parameters(small, config.student_family(30522))
    assert fixed == 16 * parameters + 4 * (blocks + 30522 * 768)


@pytest.mark.parametrize("script", [table2, figure5, figure6])
def test_a_dry_run_prints_the_plan_and_trains_nothing(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--scale", "paper", "--dry-run"])
    monkeypatch.setattr(script, "opened", None)
    script.main()
    printed = capsys.readouterr().out
    assert "regular: 740,000 steps" in printed
    assert "512_160_2_512_2      22,796,288 parameters  (paper: 22.8 M)" in printed
    assert "hours of one machine" in printed
    assert "memory of one process" in printed


@pytest.mark.parametrize("script", [table2, figure5, figure6])
def test_the_papers_scale_is_not_started_by_mistake(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--scale", "paper"])
    monkeypatch.setattr(script, "opened", None)
    with pytest.raises(SystemExit, match="--really"):
        script.main()
    require_allowed(SCALES["paper"], really=True)


def test_a_plan_adds_up() -> None:
    scale = SCALES["mini"]
    config: RunConfig = scale.load()
    one = training_cost(scale.students[0], config.flash, config, scale.teacher)
    lines = plan_lines(scale, config, [Demand("twice", scale.students[:1], config.flash, 2)])
    assert any(
        f"twice: 2 trainings of {one.steps} steps, {2 * one.student:.2e} FLOP of students" in line for line in lines
    )


def test_wrong_overrides_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--dry-run", "flash.stepz=3"])
    with pytest.raises(SystemExit, match="flash.stepz"):
        table2.main()
