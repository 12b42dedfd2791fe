"""Tokenizers and questions for the tests of question answering."""

from __future__ import annotations

import random
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from flashdistill.data.tasks.task import Answer, Question
from flashdistill.data.tokenizer import train_wordpiece

TEXT = (
    "The Café in Zürich opened in 1984, near the old harbour. Its owner, Anna O'Neill-Müller, paid 300 for it; "
    "the naïve neighbours laughed 😀 at the price. Today the building belongs to the city, and every summer "
    "thousands of visitors remember the opening with music, long speeches and free coffee."
)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: lower case without accents, two segments."""
    return train_wordpiece([TEXT] * 2, 120)


def byte_level() -> PreTrainedTokenizerFast:
    """RoBERTa's: bytes, spaces belong to words, one segment, two separators."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend: Any = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )  # type: ignore[call-arg]
    backend.train_from_iterator([TEXT], trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", cls_token="<s>", sep_token="</s>", eos_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", padding_side="left",
    )  # fmt: skip


TOKENIZERS = {"wordpiece": wordpiece, "byte-level": byte_level}


def question(
    context: str, answer: str | None = None, start: int | None = None, text: str = "Where?", id: str = "q"
) -> Question:
    """A question about a context with one answer or none."""
    if answer is None:
        return Question(id, text, context, ())
    return Question(id, text, context, (Answer(answer, context.index(answer) if start is None else start),))


def marker_questions(count: int, seed: int, unanswerable: float = 0.0) -> list[dict[str, Any]]:
    """Questions whose answer is the word behind the marker that they name, as SQuAD's ``paragraphs``.

    Args:
        unanswerable: the share of questions about a marker that the context does not have.
    """
    choose = random.Random(seed)
    paragraphs: list[dict[str, Any]] = []
    for number in range(count):
        markers, missing = choose.sample(MARKERS, 3), None
        if choose.random() < unanswerable:
            missing = markers.pop()
        context = " ".join(part for marker in markers for part in (marker, choose.choice(WORDS), "."))
        wanted = missing or choose.choice(markers)
        answers = []
        if missing is None:
            start = context.index(wanted) + len(wanted) + 1
            answers = [{"text": context[start:].split()[0], "answer_start": start}]
        qa = {"id": f"{seed}-{number}", "question": f"{wanted} ?", "answers": answers, "is_impossible": bool(missing)}
        paragraphs.append({"context": context, "qas": [qa]})
    return paragraphs


MARKERS = ["red", "blue", "green", "white"]
WORDS = ["river", "stone", "cloud", "horse", "bread", "night", "music", "glass", "queen", "paper"]
