"""The corpus as token ids: tokenised once, kept in a directory, memory-mapped.

A cache directory holds three flat arrays and their manifest:

    tokens.bin      uint16 or uint32, all tokens of all documents, no special tokens
    sentences.bin   int64 [N + 1], where each sentence starts in ``tokens.bin``
    documents.bin   int64 [D + 1], where each document starts in ``sentences.bin``
    manifest.json   counts, sizes and SHA-256 of the arrays; written last
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashdistill.core.errors import CorpusError, FlashDistillError
from flashdistill.core.files import content_key, read_json, sha256_file, sync_directory, write_json
from flashdistill.core.progress import Progress, tracked
from flashdistill.core.trust import private_directory
from flashdistill.data.readers.base import CorpusReader, open_reader
from flashdistill.data.sentences import split_sentences
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.split import Ranges, split_documents
from flashdistill.data.tokenizer import batches_of_text, plain_backend, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FORMAT = 1
"""Raised when sentence splitting or the layout changes, so that older caches are not used."""

_ARRAYS = ("tokens.bin", "sentences.bin", "documents.bin")
_MANY_UNKNOWN = 0.02
_TASK = "tokenise corpus"
_verified: set[tuple[str, str]] = set()
"""Caches whose hashes this process has checked: directory and manifest."""


@dataclass(frozen=True)
class CorpusStatistics:
    """What a corpus amounts to. ``unknown`` counts tokens that the vocabulary has no entry for."""

    source: str
    documents: int = 0
    sentences: int = 0
    characters: int = 0
    tokens: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class TokenisedCorpus:
    """Token ids on disk, divided into training and validation documents.

    Attributes:
        directory: where the arrays lie; enough, with the settings, to `open_corpus` elsewhere.
        identity: the same for the same text and tokenizer, on every machine.
        tokens: [T] memory-mapped, uint16 or uint32.
        sentence_offsets: [N + 1] memory-mapped, int64.
        train, validation: [documents, 2] sentence ranges of whole documents.
    """

    directory: Path
    identity: str
    tokens: npt.NDArray[Any]
    sentence_offsets: npt.NDArray[np.int64]
    train: Ranges
    validation: Ranges
    statistics: CorpusStatistics


def prepare_corpus(
    settings: CorpusSettings, tokenizer: PreTrainedTokenizerFast, cache_root: Path, progress: Progress
) -> TokenisedCorpus:
    """Open the tokenised corpus, building it first if there is none or it is damaged.

    Only one process builds; others that want the same corpus wait for it. An interrupted
    build leaves nothing that could be taken for a cache.

    Raises:
        CorpusError: the text is missing, unreadable or too short.
    """
    reader = open_reader(settings)
    key = content_key(_FORMAT, reader.fingerprint(), tokenizer_hash(tokenizer))
    directory = Path(cache_root) / f"corpus-{key}"
    with _exclusive(directory):
        damage = _damage(directory)
        if damage is not None:
            if directory.exists():
                progress.message(f"the cache {directory} is damaged ({damage}); building it again")
                shutil.rmtree(directory)
            _build(directory, reader, tokenizer, progress)
    return open_corpus(directory, settings)


def open_corpus(directory: Path, settings: CorpusSettings) -> TokenisedCorpus:
    """Map a tokenised corpus that `prepare_corpus` has built.

    Raises:
        CorpusError: it is missing or damaged, or too short for the settings.
    """
    if (damage := _damage(directory)) is not None:
        raise CorpusError(f"the tokenised corpus {directory} is unusable: {damage}")
    manifest = read_json(directory / "manifest.json")
    tokens, sentences, documents = (
        np.memmap(directory / name, dtype=dtype, mode="r")
        for name, dtype in zip(_ARRAYS, (manifest["dtype"], np.int64, np.int64), strict=True)
    )
    statistics = CorpusStatistics(**manifest["statistics"])
    train, validation = split_documents(
        np.asarray(documents), sentences, settings.validation_fraction, settings.max_length, statistics.source
    )
    return TokenisedCorpus(directory, directory.name, tokens, sentences, train, validation, statistics)


def _damage(directory: Path) -> str | None:
    """What is wrong with a cache; None if it can be used. Hashes are checked once per process."""
    try:
        text = (directory / "manifest.json").read_text(encoding="utf-8")
        files = json.loads(text)["files"]
        for name in _ARRAYS:
            if (size := (directory / name).stat().st_size) != files[name]["bytes"]:
                return f"{name} has {size} bytes instead of {files[name]['bytes']}"
        if (str(directory), text) not in _verified:
            for name in _ARRAYS:
                if sha256_file(directory / name) != files[name]["sha256"]:
                    return f"the content of {name} has changed"
            _verified.add((str(directory), text))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Hold the lock of a cache directory; the system frees it when the process dies."""
    private_directory(directory.parent)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(directory: Path, reader: CorpusReader, tokenizer: PreTrainedTokenizerFast, progress: Progress) -> None:
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    dtype = np.dtype(np.uint16 if len(tokenizer) < 2**16 else np.uint32)
    try:
        with tracked(progress, _TASK):
            statistics = _write_arrays(unfinished, reader, tokenizer, dtype, progress)
        files = {
            name: {"bytes": (unfinished / name).stat().st_size, "sha256": sha256_file(unfinished / name)}
            for name in _ARRAYS
        }
        manifest = {"format": _FORMAT, "dtype": dtype.name, "statistics": asdict(statistics), "files": files}
        write_json(unfinished / "manifest.json", manifest)
        unfinished.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        size = sum(path.stat().st_size for path in unfinished.glob("*.bin"))
        raise FlashDistillError(
            f"the tokenised corpus cannot be written to {directory.parent}: {error.strerror or error} "
            f"(after {size} bytes); free space there or choose another place"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    unknown = statistics.unknown / statistics.tokens
    if unknown > _MANY_UNKNOWN:
        progress.message(f"{unknown:.0%} of the tokens of {reader.describe()} are unknown to the tokenizer")


def _write_arrays(
    directory: Path, reader: CorpusReader, tokenizer: PreTrainedTokenizerFast, dtype: np.dtype[Any], progress: Progress
) -> CorpusStatistics:
    counts = dict.fromkeys(("documents", "sentences", "characters", "tokens", "unknown"), 0)
    zero = np.zeros(1, dtype=np.int64)
    with (
        (directory / "tokens.bin").open("wb") as tokens_file,
        (directory / "sentences.bin").open("wb") as sentences_file,
        (directory / "documents.bin").open("wb") as documents_file,
    ):
        sentences_file.write(zero.tobytes())
        documents_file.write(zero.tobytes())
        for texts, document_lengths, tokens, sentence_lengths in _tokenised(reader.documents(), tokenizer):
            tokens_file.write(tokens.astype(dtype).tobytes())
            sentences_file.write((counts["tokens"] + np.cumsum(sentence_lengths)).tobytes())
            documents_file.write((counts["sentences"] + np.cumsum(document_lengths)).tobytes())
            counts["documents"] += len(document_lengths)
            counts["sentences"] += len(sentence_lengths)
            counts["characters"] += sum(map(len, texts))
            counts["tokens"] += len(tokens)
            counts["unknown"] += int(np.count_nonzero(tokens == tokenizer.unk_token_id))
            progress.advance(_TASK, len(document_lengths), note=f"{counts['tokens'] / 1e6:.1f} M tokens")
    if not counts["tokens"]:
        raise CorpusError(f"there is no text in {reader.describe()}")
    return CorpusStatistics(source=reader.describe(), **counts)


Lengths = npt.NDArray[np.int64]


def _tokenised(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[list[str], Lengths, Lengths, Lengths]]:
    """Batches of documents as texts, sentences per document, tokens, and tokens per sentence.

    Sentences without a token and documents without a sentence are left out.
    """
    backend = plain_backend(tokenizer)
    for texts in batches_of_text(documents):
        sentences = [split_sentences(text) for text in texts]
        flat = [sentence for document in sentences for sentence in document]
        ids = [encoding.ids for encoding in backend.encode_batch_fast(flat, add_special_tokens=False)]
        lengths = np.array([len(sentence) for sentence in ids], dtype=np.int64)
        owners = np.repeat(np.arange(len(texts)), [len(document) for document in sentences])
        per_document = np.bincount(owners[lengths > 0], minlength=len(texts))
        tokens = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum()))
        yield texts, per_document[per_document > 0], tokens, lengths[lengths > 0]
