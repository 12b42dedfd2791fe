from __future__ import annotations

import pytest
import torch

from flashdistill.distillation.adapters import HeadAdapter, WidthAdapter
from flashdistill.models.initialisation import principal_directions

B, S = 2, 5


def attention(heads: int, seed: int) -> torch.Tensor:
    return torch.randn(B, heads, S, S, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_more_teacher_heads_are_averaged_in_groups() -> None:
    teacher, student = attention(6, 0), attention(2, 1)
    of_teacher, of_student = HeadAdapter(2, 6)(teacher, student.log())
    torch.testing.assert_close(of_teacher[:, 0], teacher[:, :3].mean(1))
    torch.testing.assert_close(of_teacher[:, 1], teacher[:, 3:].mean(1))
    torch.testing.assert_close(of_student, student.log())


def test_more_student_heads_are_averaged_in_groups() -> None:
    teacher, student = attention(2, 0), attention(4, 1)
    of_teacher, of_student = HeadAdapter(4, 2)(teacher, student.log())
    torch.testing.assert_close(of_teacher, teacher)
    torch.testing.assert_close(of_student.exp()[:, 1], student[:, 2:].mean(1))


def test_equal_heads_are_left_alone() -> None:
    adapter = HeadAdapter(3, 3)
    assert not list(adapter.parameters())
    teacher, student = attention(3, 0), attention(3, 1).log()
    of_teacher, of_student = adapter(teacher, student)
    assert of_teacher is teacher
    assert of_student is student


def test_other_head_counts_are_mixed_by_a_trained_matrix() -> None:
    adapter = HeadAdapter(3, 4)
    assert [parameter.shape for parameter in adapter.parameters()] == [(4, 3)]
    scores = torch.randn(B, 3, S, S, generator=torch.Generator().manual_seed(0))
    scores[..., -1] = float("-inf")
    teacher = attention(4, 1)
    _, mixed = adapter(teacher, scores.log_softmax(-1))
    assert mixed.shape == (B, 4, S, S)
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(B, 4, S))
    assert (mixed[..., -1] == float("-inf")).all()
    # Adding a constant to a row of scores changes no softmax, so log-probabilities serve as scores.
    with torch.no_grad():
        adapter.mixing.copy_(torch.randn(4, 3))
        _, from_probabilities = adapter(teacher, scores.log_softmax(-1))
        by_hand = torch.einsum("ts,bsqk->btqk", adapter.mixing, scores[..., :-1]).log_softmax(-1)
    torch.testing.assert_close(from_probabilities[..., :-1], by_hand, rtol=1e-4, atol=1e-5)
    mixed[..., :-1].sum().backward()
    assert torch.isfinite(adapter.mixing.grad).all()


def test_width_adapter_starts_as_the_projection() -> None:
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    projection = principal_directions(table, 4)
    features = torch.randn(B, S, 8)
    projected = features @ projection
    torch.testing.assert_close(WidthAdapter(projection)(projected), projected @ projection.T)


@pytest.mark.parametrize("width", [3, 8, 12])
def test_principal_directions_is_orthonormal_and_keeps_the_most_variance(width: int) -> None:
    table = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9.0)
    projection = principal_directions(table, width)
    kept = min(width, 8)
    gram = projection.T @ projection
    torch.testing.assert_close(gram[:kept, :kept], torch.eye(kept), atol=1e-5, rtol=0)
    assert (gram[kept:].abs() < 1e-6).all()
    singular = torch.linalg.svdvals(table.double())
    kept_energy = (table @ projection).square().sum()
    assert kept_energy.item() == pytest.approx(singular[:kept].square().sum().item(), rel=1e-4)
