from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashdistill.core.errors import CorpusError, FlashDistillError
from flashdistill.core.progress import Silent
from flashdistill.data import token_cache
from flashdistill.data.sentences import split_sentences
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import TokenisedCorpus, open_corpus, prepare_corpus
from flashdistill.data.tokenizer import reduce_vocabulary
from tests.faults_catalogue import fault

WriteCorpus = Callable[[Path, list[str]], CorpusSettings]


class Log(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.started: list[str] = []
        self.steps = 0

    def start(self, task: str, total: int | None = None) -> None:
        self.started.append(task)

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.steps += steps

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are checked once per process; every test stands for one."""
    monkeypatch.setattr(token_cache, "_verified", set())


def test_holds_the_corpus(corpus: TokenisedCorpus, documents: list[str], tokenizer: Any) -> None:
    sentences = [sentence for text in documents for sentence in split_sentences(text)]
    ids = [tokenizer(sentence, add_special_tokens=False)["input_ids"] for sentence in sentences]
    assert corpus.tokens.dtype == np.uint16
    assert isinstance(corpus.tokens, np.memmap)
    np.testing.assert_array_equal(corpus.tokens, np.concatenate(ids))
    np.testing.assert_array_equal(np.diff(corpus.sentence_offsets), [len(sentence) for sentence in ids])
    statistics = corpus.statistics
    assert (statistics.documents, statistics.sentences) == (30, len(sentences))
    assert statistics.tokens == len(corpus.tokens)
    assert statistics.unknown == 0


def test_train_and_validation_share_nothing(corpus: TokenisedCorpus) -> None:
    assert len(corpus.validation) >= 2
    train, validation = (
        {sentence for begin, end in ranges for sentence in range(begin, end)}
        for ranges in (corpus.train, corpus.validation)
    )
    assert not train & validation
    assert train | validation == set(range(corpus.statistics.sentences))


def test_built_once(
    tmp_path: Path,
    documents: list[str],
    tokenizer: Any,
    write_corpus: WriteCorpus,
) -> None:
    settings = write_corpus(tmp_path / "text", documents)
    first, second = Log(), Log()
    one = prepare_corpus(settings, tokenizer, tmp_path / "cache", first)
    two = prepare_corpus(settings, tokenizer, tmp_path / "cache", second)
    assert first.started == ["tokenise corpus"]
    assert first.steps == 30
    assert not second.started
    assert one.identity == two.identity
    np.testing.assert_array_equal(one.validation, two.validation)


def test_a_moved_corpus_hits_and_an_edited_one_misses(
    tmp_path: Path,
    documents: list[str],
    tokenizer: Any,
    write_corpus: WriteCorpus,
) -> None:
    def prepare(directory: str, texts: list[str], **changes: Any) -> str:
        settings = write_corpus(tmp_path / directory, texts).model_copy(update=changes)
        return prepare_corpus(settings, tokenizer, tmp_path / "cache", Silent()).identity

    here = prepare("here", documents)
    assert prepare("there", documents) == here
    assert prepare("here", documents, max_length=32, masked_fraction=0.2) == here
    assert prepare("edited", [*documents[:-1], "Another text. " * 50]) != here
    assert prepare("here", documents, max_documents=20) != here
    reduced, _ = reduce_vocabulary(tokenizer, documents, 250)
    other = prepare_corpus(write_corpus(tmp_path / "here", documents), reduced, tmp_path / "cache", Silent())
    assert other.identity != here


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("name", ["tokens.bin", "sentences.bin", "documents.bin", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@fault(4, "tokenised text changed, cut or gone", "made anew")
def test_damage_is_found_and_mended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Any,
    name: str,
    damage: Any,
    write_corpus: WriteCorpus,
    make_documents: Callable[..., list[str]],
) -> None:
    settings = write_corpus(tmp_path / "text", make_documents(8, 40))
    good = prepare_corpus(settings, tokenizer, tmp_path / "cache", Silent())
    tokens = np.array(good.tokens)
    damage(good.directory / name)
    if name == "manifest.json" and damage is flip:
        (good.directory / name).write_text("no JSON")
    monkeypatch.setattr(token_cache, "_verified", set())
    with pytest.raises(CorpusError, match="is unusable"):
        open_corpus(good.directory, settings)
    log = Log()
    mended = prepare_corpus(settings, tokenizer, tmp_path / "cache", log)
    assert ["damaged" in message for message in log.messages] == [True]
    np.testing.assert_array_equal(mended.tokens, tokens)


@fault(2, "break while the text is tokenised", "nothing that could be taken for a cache")
def test_an_interrupted_build_leaves_no_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    documents: list[str],
    tokenizer: Any,
    write_corpus: WriteCorpus,
) -> None:
    settings = write_corpus(tmp_path / "text", documents)

    class Interrupting(Silent):
        def advance(self, task: str, steps: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(settings, tokenizer, tmp_path / "cache", Interrupting())
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    # A killed process cannot tidy up; its remains must not matter.
    (lock,) = (tmp_path / "cache").iterdir()
    remains = lock.with_suffix(".unfinished")
    remains.mkdir()
    (remains / "tokens.bin").write_bytes(b"rubbish")
    log = Log()
    prepare_corpus(settings, tokenizer, tmp_path / "cache", log)
    assert not log.messages
    assert not remains.exists()


def test_only_one_of_two_builds(
    tmp_path: Path,
    documents: list[str],
    tokenizer: Any,
    write_corpus: WriteCorpus,
) -> None:
    """Two threads with their own locks stand for two processes."""
    settings = write_corpus(tmp_path / "text", documents)
    logs = [Log(), Log()]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda log: prepare_corpus(settings, tokenizer, tmp_path / "cache", log), logs)
    assert one.identity == two.identity
    assert sorted(len(log.started) for log in logs) == [0, 1]
    assert not any(log.messages for log in logs)


@fault(3, "disk full while the text is tokenised", "stopped with path and bytes")
def test_a_full_disk_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    documents: list[str],
    tokenizer: Any,
    write_corpus: WriteCorpus,
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "write_json", full)
    with pytest.raises(FlashDistillError, match=r"cache: No space left on device \(after \d+ bytes\)"):
        prepare_corpus(write_corpus(tmp_path / "text", documents), tokenizer, tmp_path / "cache", Silent())


@pytest.mark.parametrize(
    ("text", "message"),
    [(" \n", "there is no text in files"), ("Too little. " * 10, r"too little text in files .*: \d+ tokens in 1 doc")],
)
@fault(9, "no text, or far too little")
def test_too_little_text(
    tmp_path: Path,
    tokenizer: Any,
    text: str,
    message: str,
    write_corpus: WriteCorpus,
) -> None:
    with pytest.raises(CorpusError, match=message):
        prepare_corpus(write_corpus(tmp_path / "text", [text]), tokenizer, tmp_path / "cache", Silent())


def test_text_that_the_tokenizer_does_not_know_is_reported(
    tmp_path: Path,
    tokenizer: Any,
    write_corpus: WriteCorpus,
) -> None:
    documents = ["Ωψ φχ υτ. " * 300] * 4
    log = Log()
    corpus = prepare_corpus(write_corpus(tmp_path / "text", documents), tokenizer, tmp_path / "cache", log)
    assert corpus.statistics.unknown > corpus.statistics.tokens / 2
    assert any("unknown to the tokenizer" in message for message in log.messages)


def test_manifest_is_readable(corpus: TokenisedCorpus) -> None:
    manifest = json.loads((corpus.directory / "manifest.json").read_text())
    assert manifest["statistics"]["tokens"] == len(corpus.tokens)
    assert set(manifest["files"]) == {"tokens.bin", "sentences.bin", "documents.bin"}
