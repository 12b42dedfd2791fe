from __future__ import annotations

import numpy as np
import pytest

from flashdistill.data.masking import mask_draws, mask_tokens

MASK, VOCABULARY = 4, 1000
REPLACEMENTS = np.arange(5, VOCABULARY)


def mask(ids: np.ndarray, maskable: np.ndarray, *stream: object, **options: object):
    draws = mask_draws(range(len(ids)), ids.shape[1], *stream)
    values = {"mask_id": MASK, "replacement_ids": REPLACEMENTS, "fraction": 0.15} | options
    return mask_tokens(ids, maskable, draws, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(5, VOCABULARY, (2000, 100))
    maskable = np.arange(100) < random.integers(20, 101, (2000, 1))
    maskable &= random.random((2000, 100)) < 0.9
    return ids, maskable


def test_shares_are_80_10_10_of_15(text: tuple[np.ndarray, np.ndarray]) -> None:
    ids, maskable = text
    masked, positions, labels = mask(ids, maskable, "shares")
    count = len(positions)
    expected = np.rint(0.15 * maskable.sum(axis=1)).astype(int).clip(1)
    np.testing.assert_array_equal(np.bincount(positions // 100, minlength=2000), expected)
    now = masked.reshape(-1)[positions]
    for share, observed in (
        (0.8, np.sum(now == MASK)),
        # A random token is the right one by chance once in 995 times.
        (0.1 + 0.1 / 995, np.sum(now == labels)),
        (0.1 - 0.1 / 995, np.sum((now != MASK) & (now != labels))),
    ):
        assert abs(observed - share * count) < 4 * np.sqrt(count * share * (1 - share))


def test_only_chosen_tokens_change(text: tuple[np.ndarray, np.ndarray]) -> None:
    ids, maskable = text
    masked, positions, labels = mask(ids, maskable, "unchanged")
    assert (np.diff(positions) > 0).all()
    assert maskable.reshape(-1)[positions].all()
    np.testing.assert_array_equal(labels, ids.reshape(-1)[positions])
    restored = masked.copy()
    restored.reshape(-1)[positions] = labels
    np.testing.assert_array_equal(restored, ids)


def test_every_place_is_equally_likely() -> None:
    ids = np.full((6000, 40), 7)
    _, positions, _ = mask(ids, np.ones_like(ids, dtype=bool), "places")
    counts = np.bincount(positions % 40, minlength=40)
    assert np.abs(counts - 900).max() < 5 * np.sqrt(900)


def test_random_replacements_cover_the_regular_tokens_only() -> None:
    ids = np.full((3000, 100), 7)
    regular = np.array([6, 8, 9])
    masked, positions, _ = mask(ids, np.ones_like(ids, dtype=bool), "regular", replacement_ids=regular)
    now = masked.reshape(-1)[positions]
    assert set(np.unique(now)) == {MASK, 6, 7, 8, 9}
    counts = [np.sum(now == token) for token in regular]
    assert max(counts) < 1.15 * min(counts)


@pytest.mark.parametrize(
    ("tokens", "cap", "expected"), [(1, None, 1), (2, None, 1), (0, None, 0), (40, 3, 3), (40, None, 6)]
)
def test_number_of_predictions(tokens: int, cap: int | None, expected: int) -> None:
    ids = np.full((1, 40), 7)
    _, positions, _ = mask(ids, np.arange(40)[None, :] < tokens, "count", max_predictions=cap)
    assert len(positions) == expected


def test_an_example_has_its_mask_in_every_batch(text: tuple[np.ndarray, np.ndarray]) -> None:
    draws = mask_draws(range(10), 50, "a", 1)
    np.testing.assert_array_equal(mask_draws([7, 3], 50, "a", 1), draws[[7, 3]])
    assert not np.array_equal(mask_draws([7], 50, "a", 2)[0], draws[7])
    ids, maskable = (array[:10, :50] for array in text)
    whole, positions, _ = mask(ids, maskable, "a", 1)
    # A wider batch has more padding and the same masks.
    wide_ids, wide_maskable = np.pad(ids, ((0, 0), (0, 9))), np.pad(maskable, ((0, 0), (0, 9)))
    options = {"mask_id": MASK, "replacement_ids": REPLACEMENTS, "fraction": 0.15}
    draws = mask_draws(range(10), 80, "a", 1)
    wide, _, _ = mask_tokens(wide_ids, wide_maskable, draws, **options)  # type: ignore[arg-type]
    narrow, _, _ = mask_tokens(ids, maskable, draws, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(wide[:, :50], narrow)
    assert len(positions)
    assert whole.shape == narrow.shape
