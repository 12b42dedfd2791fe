"""Which documents are held out for validation.

Shapes: D documents, N sentences.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flashdistill.core.errors import CorpusError
from flashdistill.core.seeds import generator

Ranges = npt.NDArray[np.int64]
"""[documents, 2] first sentence and the one after the last."""

MIN_TRAIN_SEQUENCES = 16
MIN_VALIDATION_SEQUENCES = 4


def split_documents(
    document_offsets: npt.NDArray[np.int64],
    sentence_offsets: npt.NDArray[np.int64],
    fraction: float,
    max_length: int,
    source: str,
) -> tuple[Ranges, Ranges]:
    """Hold out whole documents, drawn at random, the same for every run on this corpus.

    Documents are drawn until they hold ``fraction`` of the tokens and at least
    `MIN_VALIDATION_SEQUENCES` full sequences; one that would overshoot twice is passed over.
    Where only overlong documents are left, the end of the longest is cut off instead, at a
    sentence: without that, a single book could not be used.

    Args:
        document_offsets: [D + 1] index of each document's first sentence.
        sentence_offsets: [N + 1] index of each sentence's first token.
        source: the corpus in a few words, for the message.

    Returns:
        The sentence ranges of the training and of the validation documents, both in the order
        of the corpus.

    Raises:
        CorpusError: too little text; says how much there is and how much is needed.
    """
    ranges = np.stack([document_offsets[:-1], document_offsets[1:]], axis=1)
    starts = sentence_offsets[document_offsets]
    lengths = np.diff(starts)
    total = int(lengths.sum())
    wanted = max(int(fraction * total), MIN_VALIDATION_SEQUENCES * max_length)
    needed = MIN_TRAIN_SEQUENCES * max_length
    if total < wanted + needed:
        raise CorpusError(
            f"too little text in {source}: {total} tokens in {len(lengths)} documents; {wanted + needed} are needed "
            f"({MIN_TRAIN_SEQUENCES} sequences of {max_length} to train and {wanted} tokens to validate on); "
            "add text or lower corpus.max_length"
        )
    held_out = np.zeros(len(lengths), dtype=bool)
    tokens = 0
    for document in generator("validation documents").permutation(len(lengths)):
        if tokens >= wanted:
            break
        if tokens + lengths[document] <= 2 * wanted:
            held_out[document] = True
            tokens += int(lengths[document])
    train, validation = ranges[~held_out], ranges[held_out]
    if missing := max(0, wanted - tokens):
        train, tail = _cut_tail(train, sentence_offsets, missing)
        validation = np.concatenate([validation, tail])
    # A document of one endless sentence cannot be cut at a sentence.
    if _tokens(train, sentence_offsets) < needed or not len(validation):
        raise CorpusError(
            f"{source} is one text that cannot be divided into training and validation: it has too few sentences; "
            "use several documents, or text with punctuation"
        )
    return train, validation


def _cut_tail(train: Ranges, sentence_offsets: npt.NDArray[np.int64], tokens: int) -> tuple[Ranges, Ranges]:
    """Take the last sentences of the longest document, at least ``tokens`` tokens, out of ``train``."""
    lengths = sentence_offsets[train[:, 1]] - sentence_offsets[train[:, 0]]
    longest = int(np.argmax(lengths))
    first, last = train[longest]
    cut = int(np.searchsorted(sentence_offsets, sentence_offsets[last] - tokens, side="right")) - 1
    if cut <= first:
        return np.delete(train, longest, axis=0), train[longest : longest + 1]
    train = train.copy()
    train[longest, 1] = cut
    return train, np.array([[cut, last]], dtype=np.int64)


def _tokens(ranges: Ranges, sentence_offsets: npt.NDArray[np.int64]) -> int:
    return int((sentence_offsets[ranges[:, 1]] - sentence_offsets[ranges[:, 0]]).sum())
