"""Teachers from a configuration: what is made, what is kept, what is used again."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, BertModel

from flashdistill.core.errors import InputError, TeacherError
from flashdistill.core.progress import Silent
from flashdistill.data.settings import CorpusSettings
from flashdistill.distillation import teacher_preparation
from flashdistill.distillation.masked_lm_training import TeacherTraining
from flashdistill.distillation.teacher_preparation import FACTS, PreparedTeacher, _sole_builder, prepare_teacher
from flashdistill.models.foreign import WEIGHTS
from flashdistill.models.settings import TeacherSettings
from flashdistill.models.teacher_templates import load_with_next_sentence_head
from flashdistill.training.compute import Compute
from tests.faults_catalogue import fault

WORDS = ("the cat", "a dog", "my friend", "one student"), ("sees", "likes", "follows"), ("a house", "the road")
BERT = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "vocab_size": 200}
IB_BERT = BERT | {"template": "ib-bert", "bottleneck_size": 24}
BUDGET = {"steps": 4, "batch_size": 8}


def write_corpus(directory: Path, documents: int = 30, sentences: int = 10) -> CorpusSettings:
    choose = random.Random(0)
    pages = [
        " ".join(" ".join(choose.choice(part) for part in WORDS).capitalize() + "." for _ in range(sentences))
        for _ in range(documents)
    ]
    (directory / "text.txt").write_text("\n\n\n".join(pages), encoding="utf-8")
    source = {"files": str(directory / "text.txt")}
    return CorpusSettings.model_validate(
        {"source": source, "max_length": 24, "validation_fraction": 0.1, "validation_sequences": 16}
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text and cache of all tests here."""
    return tmp_path_factory.mktemp("preparation")


@pytest.fixture(scope="module")
def corpus(place: Path) -> CorpusSettings:
    return write_corpus(place)


class Heard(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def prepare(place: Path, corpus: CorpusSettings, progress: Any = None, **teacher: Any) -> PreparedTeacher:
    settings = TeacherSettings.model_validate(teacher)
    return prepare_teacher(settings, corpus, place / "cache", progress or Silent(), Compute())


def state(prepared: PreparedTeacher) -> dict[str, torch.Tensor]:
    return prepared.teacher.model.state_dict()


def same(one: PreparedTeacher, other: PreparedTeacher) -> bool:
    theirs = state(other)
    return all(torch.equal(values, theirs[name]) for name, values in state(one).items())


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("trained again")

    monkeypatch.setattr(TeacherTraining, "run", refuse)


@pytest.fixture(scope="module", params=[BERT, IB_BERT], ids=["bert", "ib-bert"])
def trained(request: pytest.FixtureRequest, place: Path, corpus: CorpusSettings) -> tuple[dict[str, Any], Any]:
    settings = request.param | BUDGET
    return settings, prepare(place, corpus, pretrain=settings)


def test_a_template_is_pretrained(trained: tuple[dict[str, Any], PreparedTeacher]) -> None:
    settings, prepared = trained
    label = "IB-BERT" if settings.get("template") else "BERT"
    report = prepared.report
    assert (report.name, report.steps) == (f"{label} 1x16", 4)
    assert report.preparation == "pre-trained by the tool on the corpus"
    assert report.seconds >= 0
    assert not prepared.teacher.model.training
    assert prepared.directory is not None
    assert load_with_next_sentence_head(prepared.directory) is not None
    files = {path.name for path in prepared.directory.iterdir()}
    assert {"config.json", WEIGHTS, "tokenizer.json", FACTS} <= files
    left = [path.name for path in prepared.directory.parent.iterdir() if path.name.startswith(prepared.identity)]
    assert sorted(left) == [prepared.identity, f"{prepared.identity}.lock"]
    assert len(AutoTokenizer.from_pretrained(prepared.directory)) == prepared.teacher.shape.vocab_size


@pytest.mark.usefixtures("no_training")
def test_a_prepared_teacher_is_used_again(
    trained: tuple[dict[str, Any], PreparedTeacher], place: Path, corpus: CorpusSettings
) -> None:
    settings, prepared = trained
    again = prepare(place, corpus, pretrain=settings)
    assert (again.identity, again.report, again.directory) == (prepared.identity, prepared.report, prepared.directory)
    assert same(again, prepared)


@pytest.mark.usefixtures("no_training")
def test_its_directory_is_a_teacher_like_any_other(
    trained: tuple[dict[str, Any], PreparedTeacher], place: Path, corpus: CorpusSettings
) -> None:
    _, prepared = trained
    given = prepare(place, corpus, model=str(prepared.directory))
    assert same(given, prepared)
    assert (given.directory, given.report.preparation, given.report.steps) == (None, "", 0)
    assert given.corpus.identity == prepared.corpus.identity


def test_what_a_training_depends_on_makes_another_teacher(place: Path, corpus: CorpusSettings) -> None:
    first = prepare(place, corpus, pretrain=BERT | BUDGET)
    for changes in ({"seed": 1}, {"learning_rate": 1e-3}, {"nsp": 0.5}):
        other = prepare(place, corpus, pretrain=BERT | BUDGET | changes)
        assert other.identity != first.identity
        assert not same(other, first)
    masked_more = corpus.model_copy(update={"masked_fraction": 0.3})
    assert prepare(place, masked_more, pretrain=BERT | BUDGET).identity != first.identity
    scored_less = corpus.model_copy(update={"validation_sequences": 17})
    assert prepare(place, scored_less, pretrain=BERT | BUDGET).identity == first.identity
    given = {"model": str(first.directory)}
    assert prepare(place, masked_more, **given).identity == prepare(place, corpus, **given).identity


@fault(11, "teacher without next-sentence head", "goes without, and the report says so")
def test_without_next_sentences_there_is_no_such_head(place: Path, corpus: CorpusSettings, tmp_path: Path) -> None:
    prepared = prepare(place, corpus, pretrain=IB_BERT | BUDGET | {"nsp": 0})
    assert load_with_next_sentence_head(prepared.directory or place) is None
    heard = Heard()
    lonely = prepare(tmp_path, write_corpus(tmp_path, documents=300, sentences=1), heard, pretrain=BERT | BUDGET)
    assert load_with_next_sentence_head(lonely.directory or place) is None
    assert heard.messages[-1] == "no document has two sentences; the teacher is pre-trained on masked words alone"


def encoder(directory: Path, tokenizer: Any, with_head: bool = False) -> BertModel:
    """A random encoder's directory, with the licence in its card."""
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(1)
    model = BertForPreTraining(config)
    (model if with_head else model.bert).save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))
    (directory / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return model.bert


@pytest.mark.parametrize(
    ("freeze", "with_head", "words"),
    [
        (True, False, "masked-LM head fitted, body frozen"),
        (False, False, "masked-LM head fitted with all weights"),
        (True, True, "masked-LM head trained further, body frozen"),
        (False, True, "masked-LM trained further"),
    ],
)
def test_a_head_is_fitted(
    freeze: bool, with_head: bool, words: str, place: Path, corpus: CorpusSettings, tmp_path: Path
) -> None:
    tokenizer = prepare(place, corpus, pretrain=BERT | BUDGET).tokenizer
    body = encoder(tmp_path, tokenizer, with_head).state_dict()
    fitted = prepare(place, corpus, model=str(tmp_path), fit_mlm_head=BUDGET | {"freeze_body": freeze})
    assert (fitted.report.preparation, fitted.report.license, fitted.report.steps) == (words, "mit", 4)
    found = fitted.teacher.model.base_model.state_dict()
    unchanged = [torch.equal(values, body[name]) for name, values in found.items()]
    assert all(unchanged) if freeze else not all(unchanged)


@fault(11, "teacher without masked-LM head", "refused, unless one is to be fitted")
def test_an_encoder_without_head_needs_one(place: Path, corpus: CorpusSettings, tmp_path: Path) -> None:
    encoder(tmp_path, prepare(place, corpus, pretrain=BERT | BUDGET).tokenizer)
    with pytest.raises(TeacherError, match="has no masked-LM head; set teacher.fit_mlm_head"):
        prepare(place, corpus, model=str(tmp_path))


def test_a_vocabulary_that_is_small_enough_stays(place: Path, corpus: CorpusSettings) -> None:
    source = prepare(place, corpus, pretrain=BERT | BUDGET)
    assert source.teacher.shape.vocab_size <= 200
    kept = prepare(place, corpus, model=str(source.directory), vocabulary=200)
    assert (kept.report.preparation, kept.report.source_vocab_size, kept.directory) == ("", None, None)
    assert same(kept, source)


@fault(4, "prepared teacher changed", "prepared again")
def test_a_damaged_teacher_is_prepared_again(place: Path, corpus: CorpusSettings) -> None:
    settings = BERT | BUDGET | {"seed": 7}
    prepared = prepare(place, corpus, pretrain=settings)
    assert prepared.directory is not None
    weights = prepared.directory / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    again = prepare(place, corpus, pretrain=settings)
    assert again.identity == prepared.identity
    assert same(again, prepared)


def test_two_runs_do_not_prepare_the_same_teacher_at_once(tmp_path: Path) -> None:
    order: list[str] = []

    class Waits(Heard):
        def message(self, text: str) -> None:
            super().message(text)
            order.append("second waits")
            waiting.set()

    heard, waiting = Waits(), threading.Event()

    def second_run() -> None:
        with _sole_builder(tmp_path / "teacher", Compute(), heard):
            order.append("second builds")

    thread = threading.Thread(target=second_run)
    with _sole_builder(tmp_path / "teacher", Compute(), Silent()):
        thread.start()
        assert waiting.wait(20)
        order.append("first is done")
    thread.join(20)
    assert order == ["second waits", "first is done", "second builds"]
    assert heard.messages == ["another run is preparing this teacher; waiting for it"]


def test_a_missing_optimizer_is_said_before_any_work(
    tmp_path: Path, corpus: CorpusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise InputError(f"no {name}")

    monkeypatch.setattr(teacher_preparation, "require_optimizer", missing)
    with pytest.raises(InputError, match="no lamb"):
        prepare(tmp_path, corpus, pretrain=BERT | BUDGET | {"optimizer": "lamb"})
    assert list(tmp_path.iterdir()) == []


def test_text_longer_than_the_teacher_takes(place: Path, corpus: CorpusSettings) -> None:
    long = corpus.model_copy(update={"max_length": 513})
    with pytest.raises(TeacherError, match="takes at most 512 tokens, but corpus.max_length is 513"):
        prepare(place, long, pretrain=BERT | BUDGET)


def test_facts_are_plain_json(trained: tuple[dict[str, Any], PreparedTeacher]) -> None:
    directory = trained[1].directory
    assert directory is not None
    facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
    assert facts["report"]["steps"] == 4
    assert len(facts["sha256"]) == 64
