"""Agreement with the teacher on distributions whose divergence is known by hand."""

from __future__ import annotations

import math

import pytest
import torch

from flashdistill.evaluation.agreement import divergence, top_match


def test_divergence_by_hand() -> None:
    teacher = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]).log()
    student = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]]).log()
    # 0.5 ln 2 + 0.25 ln 0.5 + 0, and nothing where both are the same.
    assert divergence(student, teacher) == pytest.approx([0.25 * math.log(2), 0.0], abs=1e-7)


def test_divergence_is_the_teachers_view() -> None:
    """KL(teacher ‖ student) is not KL(student ‖ teacher)."""
    sharp, flat = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert divergence(flat, sharp)[0] == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert divergence(sharp, flat)[0] == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(5.0))


def test_logits_need_not_be_normalised() -> None:
    teacher, student = torch.randn(4, 7), torch.randn(4, 7)
    assert divergence(student + 3.0, teacher - 2.0) == pytest.approx(divergence(student, teacher), abs=1e-6)
    assert (divergence(student, teacher) > 0).all()


def test_top_match() -> None:
    student = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    teacher = torch.tensor([[0.0, 9.0, 8.0], [3.0, 0.0, 1.0]])
    assert top_match(student, teacher).tolist() == [1.0, 0.0]
