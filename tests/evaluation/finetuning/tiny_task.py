"""A task that a tiny model learns in a second, and tiny models with their tokenizer on disk."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.data.tasks.task import Sentences, Task
from flashdistill.data.tokenizer import train_wordpiece
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.models.delivered import save_student
from flashdistill.models.students import build_student

GOOD = ["lovely", "brilliant", "warm", "clever", "moving"]
BAD = ["dull", "clumsy", "cold", "tedious", "flat"]
THINGS = ["film", "story", "actor", "scene", "music", "ending"]
ARCHITECTURE = Architecture(32, 16, 2, 32, 1)
SETTINGS = TuningSettings(learning_rate=1e-2, epochs=2, batch_size=16, max_length=16, dropout=0.1)


def tokenizer(extra: str = "") -> PreTrainedTokenizerFast:
    return train_wordpiece([" ".join([*GOOD, *BAD, *THINGS, "the is and", extra])] * 5, 200, max_length=32)


def sentences(count: int, seed: int, pairs: bool = False) -> Sentences:
    """Label 1 where the adjective is a good one; in pairs it stands in the second text."""
    choose = random.Random(seed)
    labels = [choose.randrange(2) for _ in range(count)]
    texts = [
        " and ".join(
            f"the {choose.choice(THINGS)} is {choose.choice(GOOD if label else BAD)}" for _ in range(1 + i % 3)
        )
        for i, label in enumerate(labels)
    ]
    if pairs:
        return Sentences([choose.choice(THINGS) for _ in texts], texts, np.array(labels))
    return Sentences(texts, None, np.array(labels))


def polarity(pairs: bool = False) -> Task:
    return Task(
        name="polarity",
        kind="classification",
        train=sentences(72, 0, pairs),
        evaluation={"validation": sentences(30, 1, pairs)},
        test=sentences(20, 2, pairs),
        metrics=("accuracy", "matthews"),
        labels=("bad", "good"),
        identity="polarity",
    )


def strength() -> Task:
    """A regression: how many of up to three adjectives there are, and of which kind."""

    def rows(count: int, seed: int) -> Sentences:
        plain = sentences(count, seed)
        assert plain.labels is not None
        values = [(2 * label - 1) * (1 + i % 3) for i, label in enumerate(plain.labels)]
        return Sentences(plain.texts, None, np.array(values, dtype=np.float32))

    return Task(
        "strength", "regression", rows(72, 0), {"validation": rows(30, 1)}, ("pearson", "mse"), identity="strength"
    )


def save_bert(directory: Path, extra: str = "", positions: int = 32) -> Path:
    """An encoder without any head, as sentence-transformers publish them."""
    own = tokenizer(extra)
    config = BertConfig(
        vocab_size=len(own),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(directory)
    own.save_pretrained(str(directory))
    return directory


def student_family(template: str = "mobilebert") -> StudentFamily:
    return StudentFamily(template, 2, len(tokenizer()), 16, max_positions=32)


def deliver_student(directory: Path, template: str) -> Path:
    save_student(build_student(ARCHITECTURE, student_family(template), 0), tokenizer(), directory)
    return directory
