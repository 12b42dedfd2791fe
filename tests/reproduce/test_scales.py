"""The scales: what each would train, checked as far as a dry run goes."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.exploration.space import DesignSpace
from flashdistill.models.parameter_count import count_parameters
from flashdistill.planning.planner import Planner
from reproduce import figure5, figure6, table2
from reproduce import script as life
from reproduce.plan import Demand, plan_lines
from reproduce.scales import PAPER_TABLE_2, SCALES, Scale, table_2
from reproduce.script import require_allowed


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


@pytest.mark.parametrize("script", [table2, figure5, figure6])
def test_a_dry_run_prints_the_plan_and_trains_nothing(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--scale", "paper", "--dry-run"])
    monkeypatch.setattr(life, "opened", None)
    script.main()
    printed = capsys.readouterr().out
    assert "regular: 740,000 steps" in printed
    assert "512_160_2_512_2      22,796,288 parameters  (paper: 22.8 M)" in printed
    assert "hours of one machine" in printed
    assert "memory of one process" in printed


@pytest.mark.parametrize("script", [table2, figure5, figure6])
def test_the_papers_scale_is_not_started_by_mistake(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--scale", "paper"])
    monkeypatch.setattr(life, "opened", None)
    with pytest.raises(SystemExit, match="--really"):
        script.main()
    require_allowed(SCALES["paper"], really=True)


def test_a_plan_adds_up() -> None:
    scale = SCALES["mini"]
    config: RunConfig = scale.load()
    one = Planner(config, scale.teacher).distillation(scale.students[0], config.flash, "configured")
    lines = plan_lines(scale, config, [Demand("twice", scale.students[:1], config.flash, 2)])
    assert any(
        f"twice: 2 trainings of {one.steps} steps, {2 * one.student:.2e} FLOP of students" in line for line in lines
    )


def test_wrong_overrides_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--dry-run", "flash.stepz=3"])
    with pytest.raises(SystemExit, match="flash.stepz"):
        table2.main()
