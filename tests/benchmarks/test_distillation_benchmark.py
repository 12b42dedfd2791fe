"""The benchmark of distillation: all contenders learn the same, and its arithmetic is right."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import distillation
from benchmarks.distillation_peers import clock
from benchmarks.distillation_peers.clock import OTHER, PhaseTimer, StepClock
from benchmarks.distillation_peers.contender import Contender
from benchmarks.distillation_peers.floor import Floor
from benchmarks.distillation_peers.hf_trainer import HuggingFaceTrainer
from benchmarks.distillation_peers.naive import Naive
from benchmarks.distillation_peers.nvidia_modelopt import NvidiaModelOpt
from benchmarks.distillation_peers.ours import FirstCandidate, LaterCandidate, UncachedCandidate
from benchmarks.distillation_peers.pool import WorkerError
from benchmarks.distillation_peers.results import ContenderResult, PairResult, Visit, headlines, to_json
from benchmarks.distillation_peers.text_brewer import TextBrewer
from benchmarks.distillation_peers.workload import PAIRS, PRETRAINING, QUICK_PAIR, Task, Workload

PAIR = QUICK_PAIR
FIRST_STAGE, HEAD = Task("stage", 0), Task("head")


def losses(contender_class: type[Contender], directory: Path, steps: int = 1) -> dict[Task, list[float]]:
    """Losses of the first steps of every task that all contenders have."""
    found = {}
    directory.mkdir()
    timer = PhaseTimer()
    contender = contender_class(PAIR, timer, directory)
    for task in [*PAIR.stages(), PRETRAINING]:
        watch = StepClock(timer, warmup=steps - 1, seconds=0.0)
        contender.run(task, watch)
        found[task] = watch.losses
    return found


@pytest.fixture(scope="module")
def naive_losses(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, list[float]]:
    return losses(Naive, tmp_path_factory.mktemp("naive") / "work", steps=2)


@pytest.mark.parametrize("engine", [LaterCandidate, FirstCandidate, UncachedCandidate])
def test_our_losses_are_those_of_the_naive_recipe(
    engine: type[Contender],
    naive_losses: dict[Task, list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "precision", "single")
    for task, values in losses(engine, tmp_path / "work", steps=2).items():
        assert values == pytest.approx(naive_losses[task], rel=1e-5), str(task)


def test_half_precision_signals_hardly_change_the_losses(naive_losses: dict[Task, list[float]], tmp_path: Path) -> None:
    for task, values in losses(LaterCandidate, tmp_path / "work").items():
        assert values[0] == pytest.approx(naive_losses[task][0], rel=1e-3), str(task)


@pytest.mark.parametrize(
    ("peer", "library"), [(HuggingFaceTrainer, "accelerate"), (NvidiaModelOpt, "modelopt"), (TextBrewer, "textbrewer")]
)
def test_peers_have_the_losses_of_the_naive_recipe(
    peer: type[Contender], library: str, naive_losses: dict[Task, list[float]], tmp_path: Path
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    for task, values in losses(peer, tmp_path / "work", steps=2).items():
        assert values == pytest.approx(naive_losses[task], rel=1e-5), str(task)


def test_stage_and_pretraining_losses_differ_from_batch_to_batch(naive_losses: dict[Task, list[float]]) -> None:
    assert all(first != second for first, second in naive_losses.values())


def test_the_floor_runs_every_task(tmp_path: Path) -> None:
    timer = PhaseTimer()
    floor = Floor(PAIR, timer, tmp_path)
    for task in floor.shares():
        watch = StepClock(timer, warmup=1, seconds=0.0)
        with timer.watching_training():
            floor.run(task, watch)
        assert len(watch.step_seconds) == 1
        assert {"student", "backward"} <= set(watch.phase_shares())


@pytest.mark.parametrize("pair", [*PAIRS.values(), QUICK_PAIR])
def test_measured_stages_stand_for_all_where_the_cost_is_linear(pair: Workload) -> None:
    blocks = np.arange(pair.student_blocks)
    shares = pair.stage_shares()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert sum(share * (3.0 + 2.0 * task.block) for task, share in shares.items()) == pytest.approx(
        (3.0 + 2.0 * blocks).mean()
    )


def test_the_first_stage_of_the_first_candidate_stands_for_itself(tmp_path: Path) -> None:
    pair = PAIRS["12x384"]
    shares = FirstCandidate(pair, PhaseTimer(), tmp_path).shares()
    stages = {task.block: share for task, share in shares.items() if task.kind == "stage"}
    assert stages == pytest.approx({0: 1 / 12, 5: 11 / 24, 11: 11 / 24})


def test_nested_phases_do_not_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    timer = PhaseTimer()
    with timer.phase("student"), timer.phase("teacher"):
        pass
    timer.account()
    assert timer.seconds == {OTHER: 1.0 + 5.0, "student": 2.0 + 4.0, "teacher": 3.0}


def test_warm_up_steps_do_not_count() -> None:
    now = [0.0]
    watch = StepClock(PhaseTimer(), warmup=1, seconds=3.0, now=lambda: now[0])
    watch.start()
    answers = []
    for seconds in (9.0, 1.0, 2.0):
        now[0] += seconds
        answers.append(watch.step_done(0.5))
    assert answers == [False, False, True]
    assert watch.mean_seconds == 1.5
    assert watch.losses == [0.5, 0.5, 0.5]


def visit(seconds: float, memory: int = 100) -> Visit:
    return Visit(seconds, 1, 0.0, {"backward": 0.75, OTHER: 0.25}, memory, memory // 2)


def contender(
    stage: list[float], pretraining: list[float], head: float | None = None, memory: int = 100
) -> ContenderResult:
    """A contender with one value a round."""
    visits = {
        FIRST_STAGE: [visit(seconds, memory) for seconds in stage],
        PRETRAINING: [visit(seconds, memory) for seconds in pretraining],
    }
    if head is not None:
        visits[HEAD] = [visit(head, memory) for _ in stage]
    return ContenderResult("name", {}, dict.fromkeys(visits, 1.0), visits)


def pair_result(name: str = "pair", pretraining: float = 1.0) -> PairResult:
    return PairResult(
        QUICK_PAIR,
        {
            "floor": contender([0.05, 0.05], [0.5, 0.5]),
            "ours": contender([0.1, 0.2], [pretraining, pretraining], head=0.05, memory=150),
            "ours-first": contender([0.5, 0.5], [2.0, 2.0], head=0.05, memory=200),
            "naive": contender([1.0, 2.0], [4.0, 8.0], memory=400),
            "hf-trainer": contender([2.0, 1.0], [4.0, 4.0], memory=250),
        },
        {"modelopt": "ImportError: no"},
    )


def test_ratios_are_taken_within_a_round() -> None:
    ours = [12 * (0.1 + 0.05) + 25 * 1.0, 12 * (0.2 + 0.05) + 25 * 1.0]
    naive = [12 * 1.0 + 25 * 4.0, 12 * 2.0 + 25 * 8.0]
    trainer = [12 * 2.0 + 25 * 4.0, 12 * 1.0 + 25 * 4.0]
    floor = 12 * 0.05 + 25 * 0.5
    ratios = pair_result().ratios()
    expected = {
        "whole_vs_naive": [naive[0] / ours[0], naive[1] / ours[1]],
        "whole_vs_best_peer": [naive[0] / ours[0], trainer[1] / ours[1]],
        "whole_vs_floor": [ours[0] / floor, ours[1] / floor],
        "stage_vs_naive": [10.0, 10.0],
        "pretraining_vs_naive": [4.0, 8.0],
        "first_whole_vs_naive": [value / (12 * (0.5 + 0.05) + 25 * 2.0) for value in naive],
        "peak_memory_vs_best_peer": [200 / 250, 200 / 250],
    }
    assert set(ratios) == set(expected)
    for name, values in expected.items():
        assert ratios[name].median == pytest.approx(np.median(values)), name
        assert (ratios[name].low, ratios[name].high) == pytest.approx((min(values), max(values))), name


def test_the_first_candidate_pays_for_the_signals() -> None:
    result = pair_result()
    first, second, tenth = (result.candidate_seconds("ours", number).median for number in (1, 2, 10))
    assert first == pytest.approx(1000 * (12 * 0.55 + 25 * 2.0))
    assert second == tenth == pytest.approx(1000 * (12 * 0.2 + 25 * 1.0))
    assert result.candidate_seconds("naive", 1) == result.candidate_seconds("naive", 10)


def test_the_worst_pair_makes_the_headline() -> None:
    fast, slow = pair_result(pretraining=0.6), pair_result(pretraining=1.0)
    worst = headlines([fast, slow])
    assert worst["whole_vs_naive"] == slow.ratios()["whole_vs_naive"]
    assert worst["whole_vs_floor"] == slow.ratios()["whole_vs_floor"]
    written = to_json([fast, slow], {"rounds": 2})
    assert written["whole_vs_naive"] == worst["whole_vs_naive"].median
    assert written["spread"]["whole_vs_naive"] == [worst["whole_vs_naive"].low, worst["whole_vs_naive"].high]


class FakeWorker:
    """Answers with a fixed number of seconds, or fails at a task."""

    def __init__(self, seconds: float, fails_at: Task | None = None):
        self._seconds, self._fails_at = seconds, fails_at
        self.asked: list[tuple[Task, int]] = []

    def visit(self, task: Task, warmup: int, seconds: float, clock: str) -> Visit:
        self.asked.append((task, warmup))
        if task == self._fails_at:
            raise WorkerError("out of memory")
        return visit(self._seconds)


def run_rounds(result: PairResult, workers: dict[str, FakeWorker], rounds: int) -> None:
    options = Namespace(seconds=0.0, clock="wall")
    for number in range(rounds):
        distillation._round(result, workers, number, options, Console(quiet=True))  # type: ignore[arg-type]


def empty(tasks: list[Task], borrowed: list[Task] | None = None) -> ContenderResult:
    return ContenderResult("name", {}, dict.fromkeys(tasks, 1.0), {task: [] for task in tasks}, set(borrowed or []))


def test_a_round_visits_every_task_and_takes_over_what_is_borrowed() -> None:
    tasks = [FIRST_STAGE, PRETRAINING]
    result = PairResult(QUICK_PAIR, {"ours": empty(tasks), "ours-first": empty(tasks, [FIRST_STAGE])}, {})
    workers = {"ours": FakeWorker(1.0), "ours-first": FakeWorker(2.0)}
    run_rounds(result, workers, 2)
    assert workers["ours"].asked == [(FIRST_STAGE, 1), (PRETRAINING, 1), (FIRST_STAGE, 0), (PRETRAINING, 1)]
    assert [task for task, _ in workers["ours-first"].asked] == [PRETRAINING, PRETRAINING]
    assert [result.contenders["ours-first"].step_seconds("stage", number) for number in range(2)] == [1.0, 1.0]
    assert result.contenders["ours-first"].step_seconds("pretraining", 1) == 2.0


def test_a_contender_that_fails_is_left_out_of_all_rounds() -> None:
    tasks = [FIRST_STAGE, PRETRAINING]
    result = PairResult(QUICK_PAIR, {"ours": empty(tasks), "naive": empty(tasks)}, {})
    workers = {"ours": FakeWorker(1.0), "naive": FakeWorker(2.0, fails_at=PRETRAINING)}
    run_rounds(result, workers, 2)
    assert result.missing == {"naive": "out of memory"}
    assert set(result.contenders) == {"ours"}
    assert len(workers["naive"].asked) == 2


def test_the_command_goes_on_without_a_broken_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "textbrewer.py").write_text('raise ImportError("made for another torch")')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    target = tmp_path / "results.json"
    arguments = ["--quick", "--threads", "1", "--contenders", "floor,ours,textbrewer", "--json", str(target)]
    assert distillation.main(arguments) == 0
    written = json.loads(target.read_text(encoding="utf-8"))
    pair = written["pairs"]["quick"]
    assert set(pair["contenders"]) == {"floor", "ours"}
    assert pair["missing"] == {"textbrewer": "ImportError: made for another torch"}
    assert set(pair["contenders"]["ours"]["step_seconds"]) == {"stage 1", "stage 2", "head", "pretraining"}
    assert pair["contenders"]["ours"]["peak_memory_bytes"] > 50e6
    assert written["whole_vs_floor"] == pair["ratios"]["whole_vs_floor"]["median"] > 0
    assert "made for another torch" in capsys.readouterr().out


def test_an_unknown_contender_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        distillation.main(["--contenders", "flor"])
    message = capsys.readouterr().err
    assert "'flor' is none of floor, ours" in message
    assert "did you mean 'floor'?" in message
