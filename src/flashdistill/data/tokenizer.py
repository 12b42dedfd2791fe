"""Tokenizers: loaded from a teacher, trained on the text, or reduced to what the text uses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from flashdistill.core.errors import TeacherError
from flashdistill.core.trust import harmless

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The special tokens of a trained WordPiece vocabulary, in the order of their ids."""

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_REQUIRED = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
_TRAINING_CHARACTERS = 100_000_000
"""Text that a vocabulary is learnt from: more changes it little and would not fit in memory."""

_MAX_ALPHABET = 1000
"""Characters that get an entry of their own, the most frequent ones (as in BERT's vocabularies)."""

_CHARACTERS_PER_BATCH = 500_000
"""Text encoded at once: enough to keep all cores busy, a bound on memory (encodings are bulky)."""


@dataclass(frozen=True)
class PairTemplate:
    """How a tokenizer writes a sentence pair: ``prefix A middle B suffix``.

    BERT's is ``[CLS] A [SEP] B [SEP]`` with types ``0 0 0 1 1``.

    Attributes:
        prefix, middle, suffix: the special token ids around the two segments.
        first_type, second_type: token type of segment A with ``prefix`` and ``middle``, and of
            segment B with ``suffix``.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    first_type: int
    second_type: int

    @property
    def num_special_tokens(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> PairTemplate:
        """Read the template off an encoded pair.

        Raises:
            TeacherError: the tokenizer puts no special token between the segments.
        """
        encoding = plain_backend(tokenizer).encode("a", "b")
        sequences = encoding.sequence_ids  # 0 or 1, None for special tokens
        if 0 not in sequences or 1 not in sequences:
            raise TeacherError("the tokenizer cannot encode the letters a and b; its vocabulary is unusable")
        ids, types = encoding.ids, encoding.type_ids
        first, second = sequences.index(0), sequences.index(1)
        first_end = max(i for i, sequence in enumerate(sequences) if sequence == 0) + 1
        second_end = max(i for i, sequence in enumerate(sequences) if sequence == 1) + 1
        if first_end == second:
            raise TeacherError("the tokenizer puts no separator between the sentences of a pair; use one that does")
        return cls(
            tuple(ids[:first]), tuple(ids[first_end:second]), tuple(ids[second_end:]), types[first], types[second]
        )


def load_tokenizer(directory: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model directory; no code of the directory runs.

    Raises:
        TeacherError: there is none, it cannot be read, or it lacks a token that masked-LM
            training on sentence pairs needs.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    directory = Path(directory)
    if not any((directory / name).is_file() for name in _FILES):
        raise TeacherError(f"no tokenizer in {directory}: none of {', '.join(_FILES)}; copy the teacher's there")
    try:
        name = str(directory)  # a directory, which has no revisions
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=True)  # nosec B615
    except Exception as error:
        # Damaged JSON, unknown classes, missing converters: each raises its own type.
        raise TeacherError(f"the tokenizer in {directory} cannot be loaded: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TeacherError(f"the tokenizer in {directory} has no fast version; save it as tokenizer.json")
    missing = [name for name in _REQUIRED if getattr(tokenizer, name, None) is None]
    if missing:
        raise TeacherError(f"the tokenizer in {directory} has no {', '.join(missing)}; a masked-LM teacher needs them")
    tokenizer.init_kwargs = harmless(tokenizer.init_kwargs)  # it goes into everything that is saved
    # Truncation and padding are stored with some tokenizers and would act on the corpus.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the `tokenizers` object that neither truncates nor pads.

    A text that contains ``[MASK]`` or another special token gets its characters, not the token.
    """
    backend: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of everything that decides on the token ids of a text."""
    return hashlib.sha256(plain_backend(tokenizer).to_str().encode()).hexdigest()


def train_wordpiece(
    documents: Iterable[str], vocab_size: int, *, lowercase: bool = True, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A BERT tokenizer with a WordPiece vocabulary learnt from the first documents.

    The special tokens come first, in the order of `SPECIAL_TOKENS`, then single characters. The
    vocabulary is smaller than ``vocab_size`` where the text has not enough distinct pieces.
    Same documents, same vocabulary.

    Args:
        documents: read once, up to `_TRAINING_CHARACTERS`.
        max_length: longest input in tokens that the tokenizer announces.
    """
    from transformers import BertTokenizer

    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    texts = [normalizer.normalize_str(text) for text in _first_characters(documents, _TRAINING_CHARACTERS)]
    counts = Counter(character for text in texts for character in text if not character.isspace())
    # A quarter of the places at most, so that pieces of several characters find room.
    room = min(_MAX_ALPHABET, (vocab_size - len(SPECIAL_TOKENS)) // 4)
    alphabet = sorted(sorted(counts, key=lambda character: (-counts[character], character))[:room])
    rare = str.maketrans(dict.fromkeys(counts.keys() - set(alphabet), " "))

    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # `tokenizers` numbers the continuations in the order of a hash map, and ties between merges
    # are broken by number: without the characters given here, every run learns another vocabulary.
    fixed = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    learner.train_from_iterator((text.translate(rare) for text in texts), trainer=trainer)
    # Built anew, because the trainer left every fixed entry marked as special.
    return BertTokenizer(vocab=learner.get_vocab(), do_lower_case=lowercase, model_max_length=max_length)


def _first_characters(documents: Iterable[str], limit: int) -> Iterator[str]:
    for text in documents:
        yield text[:limit]
        limit -= len(text)
        if limit <= 0:
            return


def reduce_vocabulary(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[str], size: int
) -> tuple[PreTrainedTokenizerFast, npt.NDArray[np.int64]]:
    """The same WordPiece tokenizer with the entries that this text uses most.

    Special tokens and single characters (alone and as ``##`` continuation) stay, so every text
    can still be written; the other places go to the most frequent entries. Text that the full
    tokenizer writes with kept entries is written the same way, because WordPiece takes the
    longest entry that matches.

    Returns:
        The reduced tokenizer, and [size] the old id of every new id, ascending: row ``i`` of
        the new embedding table is row ``kept[i]`` of the old one. ``size`` is the full
        vocabulary's if that is smaller.

    Raises:
        TeacherError: the tokenizer is no WordPiece, or ``size`` has no room for what must stay.
    """
    data: dict[str, Any] = json.loads(plain_backend(tokenizer).to_str())
    if data["model"]["type"] != "WordPiece":
        raise TeacherError(
            f"teacher.vocabulary: only WordPiece vocabularies can be reduced, this one is {data['model']['type']}; "
            "set it to null"
        )
    old_size = len(tokenizer)
    if size >= old_size:
        return tokenizer, np.arange(old_size, dtype=np.int64)
    kept = _kept_ids(tokenizer, data, documents, size)
    new_ids = {int(old): new for new, old in enumerate(kept)}
    vocabulary: dict[str, int] = data["model"]["vocab"]
    data["model"]["vocab"] = {entry: new_ids[old] for entry, old in vocabulary.items() if old in new_ids}
    for added in data["added_tokens"]:
        added["id"] = new_ids[added["id"]]
    data["post_processor"] = _renumbered(data["post_processor"], new_ids)
    return _like(tokenizer, Tokenizer.from_str(json.dumps(data))), kept


def _kept_ids(
    tokenizer: PreTrainedTokenizerFast, data: dict[str, Any], documents: Iterable[str], size: int
) -> npt.NDArray[np.int64]:
    prefix = data["model"]["continuing_subword_prefix"]
    vocabulary: dict[str, int] = data["model"]["vocab"]
    # ``added_tokens`` holds every special token.
    needed = {added["id"] for added in data["added_tokens"]}
    needed |= {number for entry, number in vocabulary.items() if len(entry.removeprefix(prefix)) == 1}
    if len(needed) > size:
        raise TeacherError(
            f"teacher.vocabulary: {size} is too small; special tokens and single characters alone take {len(needed)}"
        )
    counts = token_counts(tokenizer, documents)
    counts[list(needed)] = np.iinfo(np.int64).max
    # A stable sort of the negated counts breaks ties by the lower id.
    return np.sort(np.argsort(-counts, kind="stable")[:size])


def token_counts(tokenizer: PreTrainedTokenizerFast, documents: Iterable[str]) -> npt.NDArray[np.int64]:
    """[vocabulary] how often every entry occurs in the documents; special tokens are not added."""
    backend = plain_backend(tokenizer)
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for batch in batches_of_text(documents):
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            counts += np.bincount(encoding.ids, minlength=len(counts))
    return counts


def batches_of_text(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists that are worth encoding together."""
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= _CHARACTERS_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _renumbered(post_processor: Any, new_ids: dict[int, int]) -> Any:
    """The post-processor with new ids, in each of the forms that `tokenizers` writes."""
    if post_processor is None:
        return None
    result = dict(post_processor)
    if result["type"] == "Sequence":
        result["processors"] = [_renumbered(processor, new_ids) for processor in result["processors"]]
    elif result["type"] == "TemplateProcessing":
        result["special_tokens"] = {
            token: entry | {"ids": [new_ids[old] for old in entry["ids"]]}
            for token, entry in result["special_tokens"].items()
        }
    else:
        for name in ("cls", "sep"):
            if name in result:
                token, old = result[name]
                result[name] = [token, new_ids[old]]
    return result


def _like(tokenizer: PreTrainedTokenizerFast, backend: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer of the same class and settings over another backend."""
    settings = {name: getattr(tokenizer, name) for name in _REQUIRED}
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "model_max_length"):
        if name in tokenizer.init_kwargs:
            settings[name] = tokenizer.init_kwargs[name]
    return type(tokenizer)(tokenizer_object=backend, **settings)
