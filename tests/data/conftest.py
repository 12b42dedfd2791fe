"""A small made-up language, its tokenizer, and a corpus of it: built once for all tests here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashdistill.core.progress import Silent
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import TokenisedCorpus, prepare_corpus
from flashdistill.data.tokenizer import train_wordpiece


def make_documents(count: int, sentences: int, seed: int = 0) -> list[str]:
    """Documents of random sentences of 4 to 20 words over 300 made-up words."""
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abcdefghij"), size=random.integers(2, 7))) for _ in range(300)]
    return [
        " ".join(
            " ".join(random.choice(words, size=random.integers(4, 21))).capitalize() + "." for _ in range(sentences)
        )
        for _ in range(count)
    ]


def write_corpus(directory: Path, documents: list[str]) -> CorpusSettings:
    """One text file of the documents, and settings for sequences of 64 tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "corpus.txt").write_text("\n\n\n".join(documents), encoding="utf-8")
    return CorpusSettings.model_validate(
        {"source": {"files": str(directory / "corpus.txt")}, "max_length": 64, "validation_fraction": 0.1}
    )


@pytest.fixture(scope="session", name="make_documents")
def _make_documents() -> Callable[..., list[str]]:
    return make_documents


@pytest.fixture(scope="session", name="write_corpus")
def _write_corpus() -> Callable[[Path, list[str]], CorpusSettings]:
    return write_corpus


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return make_documents(30, 40)


@pytest.fixture(scope="session")
def tokenizer(documents: list[str]) -> Any:
    return train_wordpiece(documents, 400)


@pytest.fixture(scope="session")
def settings(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> CorpusSettings:
    return write_corpus(tmp_path_factory.mktemp("text"), documents)


@pytest.fixture(scope="session")
def corpus(settings: CorpusSettings, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    return prepare_corpus(settings, tokenizer, tmp_path_factory.mktemp("cache"), Silent())
