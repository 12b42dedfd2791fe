"""Masked-LM masking (Devlin et al. 2019, section 3.1): 80 % mask, 10 % random, 10 % kept.

Shapes: B sequences, S tokens, M masked tokens of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from flashdistill.core.seeds import derive_seed

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


def mask_draws(examples: Iterable[int], length: int, *stream: object) -> npt.NDArray[np.float64]:
    """[B, 3, length] uniform numbers that depend on the stream and the example's number alone.

    A counter-based generator (Philox) starts anywhere at no cost, so an example's mask is the
    same in every batch and on every rank.
    """
    key = derive_seed(*stream)
    return np.stack(
        [
            # The lowest word counts the draws, the next one is the example.
            np.random.Generator(np.random.Philox(key=key, counter=[0, example, 0, 0])).random((3, length))
            for example in examples
        ]
    )


def mask_tokens(
    input_ids: Ids,
    maskable: Flags,
    draws: npt.NDArray[np.float64],
    *,
    mask_id: int,
    replacement_ids: Ids,
    fraction: float,
    max_predictions: int | None = None,
) -> tuple[Ids, Ids, Ids]:
    """Choose tokens to predict and disguise them.

    Args:
        input_ids: [B, S].
        maskable: [B, S] True for real tokens that are not special.
        draws: [B, 3, at least S] uniform in [0, 1): which tokens, what becomes of them, and
            the random replacements.
        replacement_ids: [R] the tokens that a random replacement is drawn from.
        fraction: share of the maskable tokens of each sequence, rounded, at least one token.
        max_predictions: cap on it per sequence.

    Returns:
        The disguised [B, S] ids; [M] ascending flat positions ``b * S + s``; [M] the tokens
        that stood there.
    """
    length = input_ids.shape[1]
    which, fate, replacement = (draws[:, index, :length] for index in range(3))
    available = maskable.sum(axis=1)
    count = np.maximum(np.rint(fraction * available).astype(np.int64), 1)
    if max_predictions is not None:
        count = np.minimum(count, max_predictions)
    count = np.minimum(count, available)
    order = np.argsort(np.where(maskable, which, np.inf), axis=1, kind="stable")
    chosen = np.zeros_like(maskable)
    np.put_along_axis(chosen, order, np.arange(length) < count[:, None], axis=1)
    positions = np.flatnonzero(chosen)
    labels = input_ids.reshape(-1)[positions]
    random_ids = replacement_ids[(replacement[chosen] * len(replacement_ids)).astype(np.int64)]
    fate = fate[chosen]
    disguised = np.where(fate < MASK_SHARE, mask_id, np.where(fate < MASK_SHARE + RANDOM_SHARE, random_ids, labels))
    masked = input_ids.copy()
    masked.reshape(-1)[positions] = disguised
    return masked, positions, labels
