"""The published formulas against plain NumPy; the functions give sums over tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashdistill.distillation.losses import (
    TopTokens,
    attention_divergence,
    masked_lm_loss,
    mean_difference,
    normalized_difference,
    relation_divergence,
    squared_difference,
    variance_difference,
)

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
    got = attention_divergence(torch.tensor(teacher), torch.tensor(student).log(), torch.ones(B, S))
    assert got.item() / (B * S) == pytest.approx(expected, rel=1e-9)


def test_attention_loss_is_zero_for_equal_maps(random: np.random.Generator) -> None:
    attention = torch.tensor(softmax(random.normal(size=(B, H, S, S))))
    assert attention_divergence(attention, attention.log(), torch.ones(B, S)).item() == pytest.approx(0, abs=1e-7)


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
    got = attention_divergence(torch.tensor(teacher), torch.tensor(student), mask)
    assert got.item() / sum(lengths) == pytest.approx(total / rows, rel=1e-9)


def test_attention_loss_has_finite_gradients_where_keys_are_padding() -> None:
    scores = torch.zeros(1, 1, 2, 3, requires_grad=True)
    masked = scores.masked_fill(torch.tensor([False, False, True]), float("-inf"))
    teacher = torch.tensor([[[[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]]]])
    attention_divergence(
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
    got = squared_difference(torch.tensor(teacher), torch.tensor(student), torch.ones(B, S))
    assert got.item() / (B * S) == pytest.approx(expected / B, rel=1e-9)


def test_padding_does_not_count_in_feature_maps(random: np.random.Generator) -> None:
    teacher, student = torch.tensor(random.normal(size=(1, S, N))), torch.tensor(random.normal(size=(1, S, N)))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    for loss in (squared_difference, normalized_difference, mean_difference, variance_difference):
        expected = loss(teacher[:, :3], student[:, :3], mask[:, :3])
        assert loss(teacher, student, mask).item() == pytest.approx(expected.item())


def test_terms_of_mobilebert_are_its_formulas(random: np.random.Generator) -> None:
    teacher, student = random.normal(size=(B, S, N)), 2 * random.normal(size=(B, S, N)) + 1

    def normalized(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    arguments = torch.tensor(teacher), torch.tensor(student), torch.ones(B, S)
    expected = ((normalized(teacher) - normalized(student)) ** 2).mean(-1).sum()
    assert normalized_difference(*arguments).item() == pytest.approx(expected, rel=1e-6)
    expected = ((teacher.mean(-1) - student.mean(-1)) ** 2).sum()
    assert mean_difference(*arguments).item() == pytest.approx(expected, rel=1e-9)
    expected = np.abs(teacher.var(-1) - student.var(-1)).sum()
    assert variance_difference(*arguments).item() == pytest.approx(expected, rel=1e-9)


def test_relations_are_those_of_minilm_v2(random: np.random.Generator) -> None:
    """Scaled products of all pairs of tokens, per relation head, whatever the widths."""
    heads = 2
    teacher, student = random.normal(size=(B, S, 12)), random.normal(size=(B, S, 8))

    def relation(x: np.ndarray, b: int, head: int) -> np.ndarray:
        width = x.shape[-1] // heads
        part = x[b, :, head * width : (head + 1) * width]
        return softmax(part @ part.T / np.sqrt(width))

    expected = 0.0
    for b in range(B):
        for head in range(heads):
            t, s = relation(teacher, b, head), relation(student, b, head)
            expected += (t * np.log(t / s)).sum() / heads
    got = relation_divergence(torch.tensor(teacher), torch.tensor(student), torch.ones(B, S), heads)
    assert got.item() == pytest.approx(expected, rel=1e-5)  # softmax in single precision


def test_padding_does_not_count_in_relations(random: np.random.Generator) -> None:
    teacher, student = torch.tensor(random.normal(size=(1, S, 8))), torch.tensor(random.normal(size=(1, S, 4)))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    expected = relation_divergence(teacher[:, :3], student[:, :3], mask[:, :3], 2)
    assert relation_divergence(teacher, student, mask, 2).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_mlm_loss_is_equation_3(random: np.random.Generator, alpha: float, temperature: float) -> None:
    student, teacher = random.normal(size=(M, V)), random.normal(size=(M, V))
    labels = random.integers(0, V, size=M)
    hard = -np.log(softmax(student)[np.arange(M), labels]).sum()
    target = softmax(teacher / temperature)
    soft = -(target * np.log(softmax(student / temperature))).sum() * temperature**2
    got = masked_lm_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), alpha, temperature)
    assert got.item() == pytest.approx(alpha * hard + (1 - alpha) * soft, rel=1e-9)


def test_mixed_target_has_the_gradient_of_separate_terms(random: np.random.Generator) -> None:
    teacher, labels = torch.tensor(random.normal(size=(M, V))), torch.tensor(random.integers(0, V, size=M))
    student = torch.tensor(random.normal(size=(M, V)), requires_grad=True)
    masked_lm_loss(student, teacher, labels, alpha=0.4).backward()
    separate = student.detach().clone().requires_grad_(True)
    divergence = torch.nn.functional.kl_div(separate.log_softmax(-1), teacher.softmax(-1), reduction="sum")
    (0.4 * torch.nn.functional.cross_entropy(separate, labels, reduction="sum") + 0.6 * divergence).backward()
    assert student.grad is not None
    assert separate.grad is not None
    torch.testing.assert_close(student.grad, separate.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_tokens_as_top_tokens_give_the_whole_distribution(random: np.random.Generator, temperature: float) -> None:
    student, teacher = torch.tensor(random.normal(size=(M, V))), torch.tensor(random.normal(size=(M, V)))
    labels = torch.tensor(random.integers(0, V, size=M))
    top = TopTokens(*reversed(teacher.topk(V)))
    expected = masked_lm_loss(student, teacher.clone(), labels, 0.3, temperature)
    assert masked_lm_loss(student, top, labels, 0.3, temperature).item() == pytest.approx(expected.item())


def test_top_tokens_are_scaled_to_sum_to_one(random: np.random.Generator) -> None:
    student, teacher = random.normal(size=(M, V)), random.normal(size=(M, V))
    cut = np.where(teacher >= np.sort(teacher)[:, -3:-2], teacher, -np.inf)
    expected = -(softmax(cut) * np.log(softmax(student))).sum()
    top = TopTokens(*reversed(torch.tensor(teacher).topk(3)))
    got = masked_lm_loss(torch.tensor(student), top, torch.zeros(M, dtype=torch.long), 0.0)
    assert got.item() == pytest.approx(expected, rel=1e-9)
