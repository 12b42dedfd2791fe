from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from flashdistill.core.errors import TeacherError
from flashdistill.data.tokenizer import (
    SPECIAL_TOKENS,
    PairTemplate,
    load_tokenizer,
    reduce_vocabulary,
    token_counts,
    tokenizer_hash,
    train_wordpiece,
)


def tokens(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_trained_vocabulary(documents: list[str], tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL_TOKENS)
    assert len(tokenizer) == 400
    encoding = tokenizer("Abc.", "Dé")
    assert encoding["token_type_ids"] == [0] * encoding["input_ids"].index(tokenizer.sep_token_id) + [0] + [1] * (
        len(encoding["input_ids"]) - encoding["input_ids"].index(tokenizer.sep_token_id) - 1
    )
    assert tokenizer.decode(encoding["input_ids"]).startswith("[CLS] abc. [SEP] de [SEP]")
    counts = token_counts(tokenizer, documents)
    assert counts.sum() > 0
    assert counts[: len(SPECIAL_TOKENS)].sum() == 0
    # Frequent words got an entry of their own, so most tokens are not single characters.
    assert counts.sum() < sum(len(text.replace(" ", "")) for text in documents) / 2


def test_training_is_deterministic(documents: list[str], tokenizer: Any) -> None:
    # The learner breaks ties at random unless the alphabet is fixed: several trials.
    for _ in range(3):
        assert tokenizer_hash(train_wordpiece(iter(documents), 400)) == tokenizer_hash(tokenizer)


def test_training_copes_with_more_characters_than_entries() -> None:
    text = " ".join(chr(0x4E00 + index) for index in range(3000)) + " abc abd" * 500
    trained = train_wordpiece([text], 100)
    assert len(trained) <= 100
    assert tokens(trained, "abc") == ["abc"]


def test_case_is_kept_on_request() -> None:
    assert tokens(train_wordpiece(["Big small Big small"] * 9, 60, lowercase=False), "Big") == ["Big"]


def test_saved_and_loaded_tokenizers_are_the_same(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_hash(load_tokenizer(tmp_path)) == tokenizer_hash(tokenizer)


def test_loading_drops_stored_truncation_and_padding(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert len(loaded.backend_tokenizer.encode("a b c d e f g h").ids) == 10
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)


def test_loading_says_what_is_wrong(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TeacherError, match="no tokenizer in "):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TeacherError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_loading_needs_a_mask_token(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="has no pad_token, cls_token, sep_token, mask_token"):
        load_tokenizer(tmp_path)


def test_no_code_of_the_directory_runs(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError, match="cannot be loaded"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()


def roberta_like() -> Any:
    """A tokenizer that writes ``<s> A </s></s> B </s>``, all of type 0."""
    vocabulary = {entry: number for number, entry in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def test_pair_templates(tokenizer: Any) -> None:
    assert PairTemplate.of(tokenizer) == PairTemplate((2,), (3,), (3,), 0, 1)
    template = PairTemplate.of(roberta_like())
    assert template == PairTemplate((0,), (2, 2), (2,), 0, 0)
    assert template.num_special_tokens == 4


def test_a_pair_needs_a_separator() -> None:
    bare = roberta_like()
    bare.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(TeacherError, match="no separator"):
        PairTemplate.of(bare)


def test_reduced_vocabulary_keeps_rows_and_segmentation(documents: list[str], tokenizer: Any) -> None:
    part = documents[:10]
    reduced, kept = reduce_vocabulary(tokenizer, part, 250)
    assert len(reduced) == len(kept) == 250
    assert (np.diff(kept) > 0).all()
    assert reduced.convert_ids_to_tokens(list(range(250))) == tokenizer.convert_ids_to_tokens(kept.tolist())
    # Under the new numbers, too, the special tokens are what the tokenizer calls them.
    assert reduced.mask_token_id == reduced.get_vocab()["[MASK]"]
    cls, sep = (reduced.get_vocab()[token] for token in ("[CLS]", "[SEP]"))
    assert PairTemplate.of(reduced) == PairTemplate((cls,), (sep,), (sep,), 0, 1)
    same = different = 0
    known = set(kept.tolist())
    for word in {word for text in documents for word in text.split()}:
        old, new = tokenizer(word)["input_ids"], reduced(word)["input_ids"]
        if known.issuperset(old):
            assert kept[new].tolist() == old
            same += 1
        else:
            # Written with smaller pieces, never as unknown: single characters stay.
            assert reduced.unk_token_id not in new
            assert reduced.decode(new) == tokenizer.decode(old)
            different += 1
    assert same > 50
    assert different > 5


def test_reduced_vocabulary_keeps_the_most_frequent(documents: list[str], tokenizer: Any) -> None:
    _, kept = reduce_vocabulary(tokenizer, documents, 250)
    counts = token_counts(tokenizer, documents)
    dropped = np.setdiff1d(np.arange(len(tokenizer)), kept)
    entries = tokenizer.convert_ids_to_tokens(kept.tolist())
    chosen = [number for number, entry in zip(kept, entries, strict=True) if len(entry.removeprefix("##")) > 1]
    chosen = [number for number in chosen if number >= len(SPECIAL_TOKENS)]
    assert counts[chosen].min() >= counts[dropped].max()


def test_reduced_vocabulary_survives_saving(tmp_path: Path, documents: list[str], tokenizer: Any) -> None:
    reduced, _ = reduce_vocabulary(tokenizer, documents, 250)
    reduced.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert tokenizer_hash(loaded) == tokenizer_hash(reduced)
    assert loaded(documents[0])["input_ids"] == reduced(documents[0])["input_ids"]


def test_reduction_limits(documents: list[str], tokenizer: Any) -> None:
    same, kept = reduce_vocabulary(tokenizer, documents, 10_000)
    assert same is tokenizer
    assert kept.tolist() == list(range(400))
    with pytest.raises(TeacherError, match="10 is too small; special tokens and single characters alone take"):
        reduce_vocabulary(tokenizer, documents, 10)
    with pytest.raises(TeacherError, match="only WordPiece vocabularies can be reduced, this one is WordLevel"):
        reduce_vocabulary(roberta_like(), documents, 5)


def test_special_tokens_in_a_text_are_text(tokenizer: Any) -> None:
    assert token_counts(tokenizer, ["a [MASK] b [SEP] [PAD]"])[[0, 2, 3, 4]].sum() == 0
