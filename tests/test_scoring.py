"""When a student is compared with its teacher."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flashdistill.core.measurement import AGAINST_TEACHER, Objective
from flashdistill.distillation.distill import Distilled
from flashdistill.models.students import build_student
from flashdistill.scoring import held_out_scores
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, TinyData, tiny_teacher


def scores(metric: str, *, finished: bool) -> set[str]:
    bench: Any = SimpleNamespace(
        config=SimpleNamespace(objectives=[Objective(metric, "maximize")], constraints=[], tasks=["mlm"]),
        pretraining_data=TinyData(),
        prepared=SimpleNamespace(teacher=tiny_teacher()),
        teacher_features=lambda number, compute: compute(),
    )
    student = build_student(ARCHITECTURE, FAMILY, 0).eval()
    return set(held_out_scores(bench, Distilled(student, {}), finished=finished))


@pytest.mark.parametrize(
    ("metric", "finished", "compared"),
    [("mlm_accuracy", False, False), ("mlm_accuracy", True, True), ("teacher_agreement", False, True)],
)
def test_a_teacher_pass_is_paid_where_it_is_wanted(metric: str, finished: bool, compared: bool) -> None:
    """Every candidate of a search would pay for it; finished students are few."""
    found = scores(metric, finished=finished)
    assert found >= {"mlm_accuracy", "mlm_loss", "perplexity"}
    assert found.isdisjoint(AGAINST_TEACHER) != compared
