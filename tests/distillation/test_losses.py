"""The paper's formulas against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashdistill.distillation.losses import attention_loss, feature_map_loss, mlm_distillation_loss

B, H, S, N, M, V = 3, 4, 7, 5, 6, 11


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_attention_loss_is_equation_1(random: np.random.Generator) -> None:
    teacher, student = softmax(random.normal(size=(B, H, S, S))), softmax(random.normal(size=(B, H, S, S)))
    expected = 0.0
    for b in range(B):
        for s in range(S):
            for h in range(H):
                expected += (teacher[b, h, s] * np.log(teacher[b, h, s] / student[b, h, s])).sum() / (S * H)
    expected /= B
    got = attention_loss(torch.tensor(teacher), torch.tensor(student).log(), torch.ones(B, S))
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_attention_loss_is_zero_for_equal_maps(random: np.random.Generator) -> None:
    attention = torch.tensor(softmax(random.normal(size=(B, H, S, S))))
    assert attention_loss(attention, attention.log(), torch.ones(B, S)).item() == pytest.approx(0, abs=1e-7)


def test_padding_does_not_count_in_attention(random: np.random.Generator) -> None:
    """A padded batch gives what its sequences give alone."""
    lengths = [7, 4, 2]
    mask = torch.zeros(B, S)
    teacher, student = np.zeros((B, H, S, S)), np.full((B, H, S, S), -np.inf)
    total, rows = 0.0, 0
    for b, length in enumerate(lengths):
        mask[b, :length] = 1
        t = softmax(random.normal(size=(H, length, length)))
        s = softmax(random.normal(size=(H, length, length)))
        teacher[b, :, :length, :length], student[b, :, :length, :length] = t, np.log(s)
        # Queries at padding hold rubbish that must not matter.
        teacher[b, :, length:, :length] = 1 / length
        student[b, :, length:, :length] = np.log(1 / length) - 3
        total += (t * np.log(t / s)).sum()
        rows += length * H
    got = attention_loss(torch.tensor(teacher), torch.tensor(student), mask)
    assert got.item() == pytest.approx(total / rows, rel=1e-9)


def test_attention_loss_has_finite_gradients_where_keys_are_padding() -> None:
    scores = torch.zeros(1, 1, 2, 3, requires_grad=True)
    masked = scores.masked_fill(torch.tensor([False, False, True]), float("-inf"))
    teacher = torch.tensor([[[[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]]]])
    attention_loss(
        torch.cat([teacher, teacher[:, :, :1]], 2),
        torch.cat([masked.log_softmax(-1), masked.log_softmax(-1)[:, :, :1]], 2),
        torch.tensor([[1.0, 1.0, 0.0]]),
    ).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0


def test_feature_map_loss_is_equation_2(random: np.random.Generator) -> None:
    teacher, student = random.normal(size=(B, S, N)), random.normal(size=(B, S, N))
    expected = sum(
        ((teacher[b, s, i] - student[b, s, i]) ** 2) / (S * N) for b in range(B) for s in range(S) for i in range(N)
    )
    got = feature_map_loss(torch.tensor(teacher), torch.tensor(student), torch.ones(B, S))
    assert got.item() == pytest.approx(expected / B, rel=1e-9)


def test_padding_does_not_count_in_feature_maps(random: np.random.Generator) -> None:
    teacher, student = torch.tensor(random.normal(size=(1, S, N))), torch.tensor(random.normal(size=(1, S, N)))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    expected = feature_map_loss(teacher[:, :3], student[:, :3], mask[:, :3])
    assert feature_map_loss(teacher, student, mask).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_mlm_loss_is_equation_3(random: np.random.Generator, alpha: float, temperature: float) -> None:
    student, teacher = random.normal(size=(M, V)), random.normal(size=(M, V))
    labels = random.integers(0, V, size=M)
    hard = -np.log(softmax(student)[np.arange(M), labels]).mean()
    target = softmax(teacher / temperature)
    soft = -(target * np.log(softmax(student / temperature))).sum(-1).mean() * temperature**2
    got = mlm_distillation_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), alpha, temperature)
    assert got.item() == pytest.approx(alpha * hard + (1 - alpha) * soft, rel=1e-9)


def test_mixed_target_has_the_gradient_of_separate_terms(random: np.random.Generator) -> None:
    teacher, labels = torch.tensor(random.normal(size=(M, V))), torch.tensor(random.integers(0, V, size=M))
    student = torch.tensor(random.normal(size=(M, V)), requires_grad=True)
    mlm_distillation_loss(student, teacher, labels, alpha=0.4).backward()
    separate = student.detach().clone().requires_grad_(True)
    divergence = torch.nn.functional.kl_div(separate.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    (0.4 * torch.nn.functional.cross_entropy(separate, labels) + 0.6 * divergence).backward()
    assert student.grad is not None
    assert separate.grad is not None
    torch.testing.assert_close(student.grad, separate.grad, rtol=1e-9, atol=1e-12)
