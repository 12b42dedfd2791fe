from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flashdistill import cli, plan_command, plan_text
from flashdistill.config import RunConfig, load_config
from flashdistill.core.errors import NothingFeasibleError
from flashdistill.core.progress import Silent
from flashdistill.planning.devices import DEVICES, UTILISATION, Device
from flashdistill.planning.planner import Planner
from flashdistill.planning.run_plan import RunPlan
from flashdistill.planning.teacher_shape import TeacherShape
from tests.tiny_run import in_directory, write_run

PAPER = Path(__file__).parents[1] / "configs" / "paper.yaml"
BERT_BASE = TeacherShape(12, 768, 3072, 30522)


def paper(*overrides: str) -> RunConfig:
    return load_config(PAPER, ["flash.transfer_head=false", "search.trials=110", *overrides])


def planned(config: RunConfig, *devices: Device, measured: int = 4) -> RunPlan:
    return Planner(config, BERT_BASE, measured, 20e9).plan(devices or tuple(DEVICES.values()))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def test_the_papers_search_in_numbers() -> None:
    plan = planned(paper())
    assert (plan.space_size, plan.trained) == (576, 110)
    assert (plan.measuring.least, plan.measuring.most) == (110, 440)
    counts = {demand.what: (demand.trainings, demand.steps) for demand in plan.demands}
    assert counts == {
        "baseline": (1, 37_000),
        "candidates": (pytest.approx(110), 37_000),
        "confirmation, baseline": (2, 37_000),
        "confirmation": (pytest.approx(6), 37_000),
        "regular": (pytest.approx(3), 740_000),
        "regular, baseline": (1, 740_000),
    }
    tokens = {demand.what: demand.tokens for demand in plan.demands}
    assert tokens["baseline"] == 37_000 * 2048 * 128


def test_savings_save() -> None:
    plan = planned(paper())
    for rates in plan.rates:
        roomy, configured, none = (plan.seconds_on(rates, savings) for savings in ("roomy", "configured", "none"))
        assert roomy < configured < none
    assert plan.total("roomy").teacher < 0.2 * plan.total("none").teacher


def test_a_budget_that_is_given_twice_costs_twice() -> None:
    once, twice = planned(paper("search.confirm_seeds=1")), planned(paper("search.confirm_seeds=2"))
    first, second = (next(demand for demand in plan.demands if demand.what == "confirmation") for plan in (once, twice))
    assert first.flops is not None
    assert second.flops is not None
    assert second.flops["none"].student == pytest.approx(2 * first.flops["none"].student)
    assert {demand.what for demand in planned(paper("search.confirm_seeds=0")).demands} == {
        "baseline", "candidates", "regular", "regular, baseline",
    }  # fmt: skip


def test_students_side_by_side_share_what_is_not_kept() -> None:
    alone, beside = planned(paper()), planned(paper("flash.students_per_teacher=4"))
    one, four = (next(d for d in plan.demands if d.what == "candidates").flops for plan in (alone, beside))
    assert one is not None
    assert four is not None
    assert four["configured"].student == one["configured"].student
    assert one["configured"].teacher / 4 < four["configured"].teacher < one["configured"].teacher / 3
    assert four["none"] == one["none"]


def test_a_device_ends_at_arithmetic_or_at_memory() -> None:
    device = Device("d", "float32", 100.0, 10.0, None, "here")
    assert device.sustained(1.0) == 0.8 * 10
    assert device.sustained(1000.0) == UTILISATION * 100
    plan = Planner(paper(), BERT_BASE).plan([], flops_per_s=1e12)
    total = plan.total("configured")
    assert plan.seconds_on(plan.rates[0], "configured") == pytest.approx((total.student + total.teacher) / 1e12)


def test_seconds_are_said_to_be_seconds(tiny: Path) -> None:
    with in_directory(tiny):
        config = load_config(
            Path("tiny.yaml"),
            ["flash={seconds: 10, batch_size: 8}", "regular={seconds: 60}", "search.confirm_seeds=1"],
        )
        plan = plan_command.plan_run(config, Silent())
    assert not plan.in_steps
    # Baseline and three candidates, baseline and winner again; winner and baseline in full.
    assert plan.training_seconds == pytest.approx(10 * (1 + 3 + 2) + 60 * 2)
    text = plan_text.plan_text(plan)
    assert "distillation  at most 3 minutes, on any device" in text
    assert "10 s  unknown" in text
    assert "not known before" in text
    assert "one device" not in text


def test_the_command(tiny: Path) -> None:
    with in_directory(tiny):
        result = CliRunner().invoke(
            cli.app, ["plan", "tiny.yaml", "search.trials=2", "--flops-per-s", "1e9", "--json", "plan.json"]
        )
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "plan of tiny"
    assert all(line == line.rstrip() for line in lines)
    assert any(line.split()[:3] == ["baseline", "1", "12"] for line in lines)
    assert "pre-trained by the tool in 20 steps" in result.stdout
    written = json.loads((tiny / "plan.json").read_text())
    assert written["demands"][1]["trainings"] == pytest.approx(2)
    assert not (tiny / "run").exists()
    assert not (tiny / "cache").exists(), "nothing is made"


def test_a_terminal_gets_ruled_tables() -> None:
    plan, console = planned(paper()), Console(file=io.StringIO(), force_terminal=True, width=140)
    plan_text._show(console, plan)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "━" in shown or "─" in shown
    assert "─" not in plan_text.plan_text(plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h10"], "did you mean 'h100'"),
        (["--device", "h100", "--flops-per-s", "1e12"], "exclude each other"),
        (["--teacher-shape", "12"], "write LAYERSxHIDDEN"),
        (["teacher={model: ./nowhere}"], "no directory"),
        (['corpus.source={files: "none*.txt"}'], "matches no file"),
    ],
)
def test_wrong_requests_are_told(tiny: Path, arguments: list[str], message: str) -> None:
    with in_directory(tiny):
        result = CliRunner().invoke(cli.app, ["plan", "tiny.yaml", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")


def test_limits_that_exclude_everything(tiny: Path) -> None:
    with in_directory(tiny):
        config = load_config(Path("tiny.yaml"), ["constraints=[num_parameters <= 10]"])
        with pytest.raises(NothingFeasibleError):
            plan_command.plan_run(config, Silent())


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashdistill.hardware.peaks import MatrixPeak, Peaks

    peaks = Peaks("cpu", "a CPU", 2, (0, 1), {"float32": MatrixPeak(1e11, "1x1x1", "torch", False)}, {}, 1e10, False)
    monkeypatch.setattr(plan_command, "measure_on", lambda *_: peaks)
    plan = plan_command.plan_run(
        paper(), Silent(), devices=["this", "this", "a100"], teacher="12x768x3072x30522x12", text_bytes=1e9
    )
    assert [rates.device for rates in plan.rates] == ["this machine, 2 threads", "a100"]
    assert plan.rates[0].teacher == UTILISATION * 1e11
