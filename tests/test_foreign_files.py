"""Directories that were made to do harm: models, tokenizers and data sets whose files name or hold code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from flashdistill.core.errors import CorpusError, FlashDistillError, InputError, TargetError, TeacherError
from flashdistill.core.trust import harmless
from flashdistill.data.readers.base import open_reader
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.tokenizer import load_tokenizer, train_wordpiece
from flashdistill.evaluation.finetuning.sources import locate_source
from flashdistill.models.delivered import load_encoder, load_student, save_student
from flashdistill.models.foreign import load_config, load_masked_lm, locate, read_config
from flashdistill.models.students import build_student
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY

SENTENCES = ["the cat sees the house", "a dog likes the blue sky", "my friend follows a bird"] * 5
KEYS = {
    "auto_map": {
        "AutoConfig": "payload.Config",
        "AutoModel": "payload.Model",
        "AutoModelForMaskedLM": "payload.Model",
        "AutoTokenizer": ["payload.Slow", "payload.Fast"],
    },
    "custom_pipelines": {"fill-mask": {"impl": "payload.Pipeline"}},
    "attn_implementation": "somebody/kernel",
    "_attn_implementation": "somebody/kernel",
    "_name_or_path": "/home/somebody/secret",
    "_private": {"auto_map": "payload.Config"},
}


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    """A file that exists once any code of a malicious directory has run."""
    return tmp_path / "harm"


@pytest.fixture
def payload(harm: Path) -> Callable[[Path], None]:
    """Puts code that does harm when it is imported, or unpickled, into a directory."""

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (harm,)

    def put(directory: Path) -> None:
        code = f"import pathlib\npathlib.Path({str(harm)!r}).touch()\n"
        for name in ("payload.py", f"{directory.name}.py", "modeling_bert.py", "setup.py", "conftest.py"):
            (directory / name).write_text(code)
        for name in ("pytorch_model.bin", "training_args.bin", "data.pkl", "optimizer.pt"):
            (directory / name).write_bytes(pickle.dumps(Bomb()))

    return put


@pytest.fixture
def model(tmp_path: Path, payload: Callable[[Path], None], harm: Path) -> Path:
    """A working BERT with tokenizer, all of whose JSON files name the code beside them."""
    directory = tmp_path / "model"
    tokenizer = train_wordpiece(SENTENCES, 80)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    payload(directory)
    for name in ("config.json", "tokenizer_config.json"):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | KEYS))
    assert not harm.exists()
    return directory


def everything_written(directory: Path) -> str:
    return "\n".join(path.read_text() for path in directory.rglob("*.json"))


def test_the_trap_works(model: Path, harm: Path) -> None:
    """A reader that trusts the directory runs its code, so that the tests below can fail."""
    with pytest.raises(Exception, match=r".+"):
        AutoModelForMaskedLM.from_pretrained(str(model), trust_remote_code=True, local_files_only=True)
    assert harm.exists()
    harm.unlink()
    pickle.loads((model / "pytorch_model.bin").read_bytes())
    assert harm.exists()


def test_a_malicious_teacher_is_data(model: Path, harm: Path, tmp_path: Path) -> None:
    config = load_config(locate(str(model)))
    teacher, has_head = load_masked_lm(model, config)
    assert has_head
    assert teacher.config._attn_implementation == "eager"
    tokenizer = load_tokenizer(model)
    kept = tmp_path / "kept"
    teacher.save_pretrained(kept)
    tokenizer.save_pretrained(kept)
    assert not harm.exists()
    written = everything_written(kept)
    assert not any(word in written for word in ("payload", "somebody", "auto_map", '"_'))


def test_a_malicious_model_to_fine_tune_or_measure_is_data(model: Path, harm: Path) -> None:
    located = locate_source(model)
    assert not hasattr(located.config, "auto_map")
    encoder = load_encoder(model)
    assert not hasattr(encoder.body.config, "auto_map")
    assert not harm.exists()


def test_a_malicious_student_is_delivered_clean(harm: Path, payload: Callable[[Path], None], tmp_path: Path) -> None:
    tokenizer: PreTrainedTokenizerFast = train_wordpiece(SENTENCES, 80)
    student = build_student(ARCHITECTURE, FAMILY.with_vocab_size(len(tokenizer)), 0)
    first, second = tmp_path / "first", tmp_path / "second"
    save_student(student, tokenizer, first)
    payload(first)
    for name in ("config.json", "tokenizer_config.json"):
        path = first / name
        path.write_text(json.dumps(json.loads(path.read_text()) | KEYS))
    save_student(load_student(first), load_tokenizer(first), second)
    assert not harm.exists()
    assert not any(word in everything_written(second) for word in ("payload", "somebody", "auto_map", '"_'))


@pytest.mark.parametrize("load", [locate, lambda path: load_encoder(path), lambda path: locate_source(Path(path))])
def test_pickled_weights_are_refused(model: Path, harm: Path, load: Callable[[str], object]) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises((TeacherError, TargetError, InputError), match="a pickle that can run code"):
        load(str(model))
    assert not harm.exists()


def test_weights_that_are_a_pickle_by_another_name(model: Path, harm: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "pytorch_model.bin").read_bytes())
    with pytest.raises(TeacherError):
        load_masked_lm(model, load_config(model))
    with pytest.raises(TargetError):
        load_encoder(model)
    assert not harm.exists()


def test_a_model_that_needs_its_own_code_is_refused(model: Path, harm: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "ours"}))
    for load in (read_config, load_config, locate_source, load_encoder):
        with pytest.raises(FlashDistillError, match="its own code, which is never run"):
            load(model)
    assert not harm.exists()


def test_a_tokenizer_that_needs_its_own_code_is_refused(model: Path, harm: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (model / name).unlink(missing_ok=True)
    (model / "vocab.json").write_text("{}")
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "Fast"}))
    with pytest.raises(TeacherError):
        load_tokenizer(model)
    assert not harm.exists()


def test_an_adapter_of_another_model_is_refused(model: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    with pytest.raises(TeacherError, match="merge the adapter"):
        locate(str(model))


@pytest.mark.parametrize("files", [["data.pkl"], ["data.py"], ["data.py", "data.pkl", "pytorch_model.bin"]])
def test_a_malicious_data_set_is_data(
    tmp_path: Path, harm: Path, payload: Callable[[Path], None], files: list[str]
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    payload(directory)
    for path in directory.iterdir():
        if path.name not in files:
            path.unlink()
    reader = open_reader(CorpusSettings.model_validate({"source": {"dataset": str(directory)}}))
    with pytest.raises(CorpusError):
        list(reader.documents())
    assert not harm.exists()


def test_code_beside_rows_is_not_run(tmp_path: Path, harm: Path, payload: Callable[[Path], None]) -> None:
    directory = tmp_path / "rows"
    directory.mkdir()
    (directory / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    payload(directory)
    for path in directory.glob("*.bin"):
        path.unlink()
    reader = open_reader(CorpusSettings.model_validate({"source": {"dataset": str(directory)}}))
    with suppress(CorpusError):  # `datasets` may refuse the directory; it must not run it
        assert list(reader.documents()) == ["one", "two"]
    assert not harm.exists()


def test_what_is_harmless_stays() -> None:
    raw = {
        "hidden_size": 4,
        "auto_map": {},
        "_private": 1,
        "label2id": {"_odd": 0, "auto_map": 1},
        "text_config": {"auto_map": {}, "size": 3, "_x": 1, "deep_config": {"custom_pipelines": {}}},
    }
    assert harmless(raw) == {
        "hidden_size": 4,
        "label2id": {"_odd": 0, "auto_map": 1},
        "text_config": {"size": 3, "deep_config": {}},
    }
