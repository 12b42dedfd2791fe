"""Table 2, Figures 5 and 6 at a scale of seconds, and what they say about given numbers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flashdistill import trainings
from flashdistill.audit_command import Auditor
from flashdistill.core.architecture import Architecture
from flashdistill.core.rank_fidelity import Interval
from reproduce import figure5, figure6, table2
from reproduce.scales import Scale, TeacherShape
from reproduce.script import Made, finish, opened
from tests.delivery.test_audit import AUDIT
from tests.tiny_run import in_directory, write_run

STUDENTS = tuple(Architecture.parse(name) for name in ("32_16_2_32_2", "16_8_1_16_1", "32_8_1_32_2", "16_16_2_16_2"))


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    directory = tmp_path_factory.mktemp("reproduce")
    write_run(directory)
    overrides = (
        "flash={steps_per_block: 1, pretraining_steps: 2, batch_size: 8, optimizer: adamw, transfer_head: false}",
        "regular={steps_per_block: 10, pretraining_steps: 20}",
    )
    return Scale("tiny", directory / "tiny.yaml", overrides, STUDENTS, 2, 2, 5, TeacherShape(2, 32, 64, 250), 1e10)


def test_all_three_share_their_trainings(scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, str, int]] = []
    original = trainings.train

    def note(training: trainings.Training, bench: Any) -> list[trainings.Trained]:
        trained.extend((str(one), training.budget, training.repeat) for one in training.architectures)
        return original(training, bench)

    monkeypatch.setattr(trainings, "train", note)
    with in_directory(scale.config.parent), opened(scale, scale.load()) as place:
        assert place is not None
        table = table2.results(place)
        assert len(trained) == 2 * 4 + 4 + 2
        curve = figure5.results(place)
        audit = Auditor(place.bench, place.ledger, on_the_way=False).audit(scale.audited, scale.repeats)
        assert len(trained) == len(set(trained)), "nothing is trained twice"
        before = len(trained)
        table2.results(place)
        figure5.results(place)
        assert len(trained) == before, "all is kept"
    assert [row["architecture"] for row in table["rows"]] == [str(one) for one in STUDENTS]
    assert [len(row["flash_accuracy"]) for row in table["rows"]] == [2] * 4
    assert [len(row["regular_accuracy"]) for row in table["rows"]] == [2, 2, 1, 1]
    assert 0.5 < table["rows"][0]["latency_ratio"] < 2, "the baseline beside itself"
    assert {"perplexity", "teacher_agreement", "teacher_kl"} <= set(table["rows"][0])
    # 10 % of the regular steps are flash here, which Table 2 has trained.
    assert [point["steps"] for point in curve["points"]] == [1, 1, 1, 4, 40]
    assert {budget for _, budget, _ in trained} == {"flash", "regular", "share-0.0125", "share-0.025", "share-0.05"}
    assert {one.architecture for one in audit.students} >= set(STUDENTS)
    assert len(audit.students) == 5
    for name, script, found in (("table2", table2, table), ("figure5", figure5, curve)):
        finish(name, tmp_path, Made(script.draw(found), found, script.paragraph(found)))
        assert json.loads((tmp_path / f"{name}.json").read_text())["reading"] in (tmp_path / f"{name}.md").read_text()
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert table2.markdown_table(table).count("\n") == 5
    assert "students" in figure6.paragraph(audit)


def row(name: str, ratio: float, flash: list[float], regular: list[float]) -> dict[str, Any]:
    return {
        "architecture": name,
        "num_parameters": 20_000_000,
        "parameter_ratio": 0.8,
        "latency_ms": 10 * ratio,
        "latency_stderr": 0.01,
        "latency_ratio": ratio,
        "latency_ratio_interval": [ratio - 0.02, ratio + 0.02],
        "flash_accuracy": flash,
        "regular_accuracy": regular,
    }


TABLE: dict[str, Any] = {
    "template": "mobilebert",
    "baseline": "a",
    "steps": {"flash": 50, "regular": 1000},
    "seed_deviation": {"flash": 0.001, "regular": 0.001},
    "rows": [
        row("a", 1.0, [0.099, 0.1, 0.101], [0.199, 0.2, 0.201]),
        row("b", 0.8, [0.12], [0.22]),
        row("c", 1.2, [0.08], [0.18]),
        row("d", 0.99, [0.101], [0.201]),
    ],
}


def test_what_the_table_says_follows_from_its_numbers() -> None:
    text = table2.paragraph(TABLE)
    assert "for certain are 1 (b); slower for certain are 1 (c)" in text
    assert (
        "After regular distillation more accurate than the baseline are 1 (b), less accurate 1 (c), within what" in text
    )
    assert "here 1 (b) do by their means, 1 (b) of them by more than seeds change, which agrees in part" in text
    assert "tau 1.00" in text
    better = copy.deepcopy(TABLE)
    for one in better["rows"][1:]:
        one |= {"latency_ratio_interval": [0.7, 0.8], "regular_accuracy": [0.25]}
    assert "here 3 (b, c and d) do by their means" in table2.paragraph(better)
    assert "by more than seeds change, which agrees." in table2.paragraph(better)
    hardly = copy.deepcopy(TABLE)
    hardly["rows"][1]["regular_accuracy"] = [0.2001]
    assert "1 (b) do by their means, none of them by more than seeds change, so this is open" in table2.paragraph(
        hardly
    )


def test_sizes_are_compared_at_full_width_only() -> None:
    full = TABLE | {
        "template": "autodistill",
        "rows": [row("512_128_4_512_4", 1.0, [0.1], [0.2])],
        "baseline": "512_128_4_512_4",
    }
    full["rows"][0]["num_parameters"] = 25_459_104
    assert "25.46 M, paper 25.3 M" in table2.paragraph(full)
    full["rows"][0]["num_parameters"] = 25_359_104
    assert "All parameter counts agree" in table2.paragraph(full)
    assert "cannot be compared" in table2.paragraph(TABLE)


@pytest.mark.parametrize(
    ("means", "times", "taus", "agreeing"),
    [
        ((0.05, 0.08, 0.12, 0.15, 0.3), (0.01, 0.03, 0.05, 0.1, 1.0), (0.1, 0.4, 0.7, 0.8, 1.0), 3),
        ((0.05, 0.08, 0.07, 0.15, 0.3), (0.1, 0.2, 0.3, 0.4, 1.0), (0.1, 0.0, 0.2, 0.8, 1.0), 0),
    ],
)
def test_what_figure_5_says(
    means: tuple[float, ...], times: tuple[float, ...], taus: tuple[float, ...], agreeing: int
) -> None:
    found = {"mean_accuracy": means, "time_share": times, "tau": taus, "students": ["a", "b"], "spread": 0.0125}
    text, apart = figure5.paragraph(found).split(". After all steps ")
    agreement, difference = text.split("In agreement with it: ")[1].split(". Not so: ")
    assert (agreement == "nothing") == (agreeing == 0)
    assert (difference == "nothing") == (agreeing == 3)
    assert apart.startswith("these students lie 1.25 points apart")


def test_a_lost_student_is_left_out_of_the_means() -> None:
    points = [
        {"share": 0.5, "accuracy": {"a": 0.1, "b": None, "c": 0.2}, "seconds": {"a": 1.0, "b": 9.0, "c": 2.0}},
        {"share": 1.0, "accuracy": {"a": 0.2, "b": 0.3, "c": 0.4}, "seconds": {"a": 4.0, "b": 4.0, "c": 4.0}},
    ]
    found = figure5.summary(points)
    assert found["students"] == ["a", "c"]
    assert found["mean_accuracy"] == pytest.approx([0.15, 0.3])
    assert found["spread"] == pytest.approx(0.2)
    assert found["median_seconds"] == [2.0, 4.0]
    assert found["tau"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("tau", "words"),
    [
        (Interval(0.8, 0.5, 0.9), "this agrees with it."),
        (Interval(0.4, 0.1, 0.7), "agrees with it in part"),
        (Interval(0.3, -0.1, 0.7), "leaves it open"),
        (Interval(-0.2, -0.6, 0.3), "does not agree with it."),
    ],
)
def test_what_figure_6_says(tau: Interval, words: str) -> None:
    text = figure6.paragraph(replace(AUDIT, tau=tau))
    assert words in text
    assert "loses 2.00 points against the best of all, one drawn at random 3.00 points" in text
