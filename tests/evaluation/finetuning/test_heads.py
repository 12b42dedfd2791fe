"""Bodies of every origin with a task's head: what is loaded, what is new, and what loads it back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    PreTrainedConfig,
)

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.task import Answer, Question, Questions, Task
from flashdistill.evaluation.finetuning.heads import load_finetuned, load_for_task
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.evaluation.finetuning.sources import FromScratch, locate_source, with_length
from flashdistill.models.delivered import load_encoder, load_student
from flashdistill.models.students import build_student
from tests.evaluation.finetuning.tiny_task import (
    ARCHITECTURE,
    deliver_student,
    polarity,
    save_bert,
    strength,
    student_family,
    tokenizer,
)

IDS = torch.tensor([[2, 9, 11, 30, 3], [2, 17, 8, 21, 3]])


def questions() -> Task:
    rows = Questions([Question("1", "the film", "the story", (Answer("story", 4),))])
    return Task("questions", "question-answering", rows, {"validation": rows}, ("answer_f1",))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    return outputs.logits if "logits" in outputs else torch.stack([outputs.start_logits, outputs.end_logits])


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
@pytest.mark.parametrize("kind", ["classification", "regression", "question-answering"])
def test_a_delivered_student_keeps_its_body_and_reads_back_the_same(tmp_path: Path, template: str, kind: str) -> None:
    task = {"classification": polarity, "regression": strength, "question-answering": questions}[kind]()
    deliver_student(tmp_path / "student", template)
    loaded = load_for_task(str(tmp_path / "student"), task, seed=1)
    assert loaded.new_head
    student = load_student(tmp_path / "student")
    body: Any = loaded.model.base_model
    for name, weight in body.state_dict().items():
        assert torch.equal(weight, student.mobilebert.state_dict()[name]), name
    loaded.model.save_pretrained(tmp_path / "tuned")
    loaded.tokenizer.save_pretrained(str(tmp_path / "tuned"))
    again, _ = load_finetuned(str(tmp_path / "tuned"))
    assert again.state_dict().keys() == loaded.model.state_dict().keys()
    assert all(map(torch.equal, again.state_dict().values(), loaded.model.state_dict().values()))
    # Not bit for bit: a kernel may round otherwise where a file places a weight at another address.
    torch.testing.assert_close(logits(again), logits(loaded.model))
    if template == "mobilebert":
        stock: Any = (
            AutoModelForQuestionAnswering if kind == "question-answering" else AutoModelForSequenceClassification
        )
        torch.testing.assert_close(logits(stock.from_pretrained(tmp_path / "tuned")), logits(loaded.model))
    # What measures and exports encoders takes the directory, too.
    expected = body.eval()(input_ids=IDS).last_hidden_state
    served = load_encoder(tmp_path / "tuned")(IDS, torch.ones_like(IDS), torch.zeros_like(IDS))
    torch.testing.assert_close(served, expected)


def test_a_new_head_depends_on_the_seed_alone_and_the_body_on_nothing(tmp_path: Path) -> None:
    save_bert(tmp_path)
    before = torch.get_rng_state()
    first, same, other = (load_for_task(tmp_path, polarity(), seed).model for seed in (0, 0, 1))
    weights: list[Any] = [model.classifier.weight for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert all(map(torch.equal, first.base_model.parameters(), other.base_model.parameters()))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_head_is_kept_for_its_own_labels_and_no_others(tmp_path: Path) -> None:
    save_bert(tmp_path / "body")
    task = polarity()
    tuned = load_for_task(tmp_path / "body", task, 0)
    tuned.model.save_pretrained(tmp_path / "tuned")
    tuned.tokenizer.save_pretrained(str(tmp_path / "tuned"))
    head: Any = tuned.model.classifier  # type: ignore[attr-defined]
    kept = load_for_task(tmp_path / "tuned", task, 7)
    assert not kept.new_head
    assert torch.equal(kept.model.classifier.weight, head.weight)  # type: ignore[union-attr]
    for labels in (("no", "yes"), ("bad", "middling", "good")):
        renewed = load_for_task(tmp_path / "tuned", dataclasses.replace(task, labels=labels), 7)
        weight: Any = renewed.model.classifier.weight  # type: ignore[union-attr]
        assert renewed.new_head
        assert weight.shape == (len(labels), 32)
        assert not torch.equal(weight[:2], head.weight)
        assert renewed.model.config.id2label == dict(enumerate(labels))
        assert all(map(torch.equal, renewed.model.base_model.parameters(), tuned.model.base_model.parameters()))


def test_an_architecture_from_scratch(tmp_path: Path) -> None:
    tokenizer().save_pretrained(str(tmp_path))
    source = FromScratch(ARCHITECTURE, student_family(), tmp_path)
    loaded = load_for_task(source, polarity(), seed=3)
    body = build_student(ARCHITECTURE, student_family(), 3).mobilebert
    assert all(map(torch.equal, loaded.model.base_model.parameters(), body.parameters()))
    assert not torch.equal(logits(loaded.model), logits(load_for_task(source, polarity(), seed=4).model))
    assert load_for_task(source, questions(), seed=3).model.config.num_labels == 2


def test_dropout_is_set_everywhere_or_left_alone(tmp_path: Path) -> None:
    deliver_student(tmp_path, "mobilebert")

    def probabilities(dropout: float | None) -> set[float]:
        model = load_for_task(tmp_path, polarity(), 0, dropout).model
        return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}

    assert probabilities(None) == {0.0}
    assert probabilities(0.25) == {0.25}


def test_a_model_that_was_not_fine_tuned_is_no_teacher(tmp_path: Path) -> None:
    save_bert(tmp_path)
    with pytest.raises(InputError, match="has not been fine-tuned: its config.json says BertModel"):
        load_finetuned(tmp_path)


def test_weights_that_lack_a_block_are_refused(tmp_path: Path) -> None:
    save_bert(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(InputError, match=r"lack bert.encoder.layer.1.attention.* do not belong to its config.json"):
        load_for_task(tmp_path, polarity(), 0)
    config.write_text(config.read_text().replace('"intermediate_size": 32', '"intermediate_size": 64'))
    with pytest.raises(InputError, match="in another size"):
        load_for_task(tmp_path, polarity(), 0)


def test_a_tokenizer_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    save_bert(tmp_path)
    tokenizer("quite another vocabulary jumps").save_pretrained(str(tmp_path))
    with pytest.raises(
        InputError, match="the tokenizer has .* entries, the model only .*; they do not belong together"
    ):
        locate_source(tmp_path)


def test_sequences_beyond_the_positions_are_refused(tmp_path: Path) -> None:
    located = locate_source(save_bert(tmp_path))
    assert with_length(TuningSettings(max_length=32), "classification", located).tokens == 32
    with pytest.raises(
        InputError, match="takes at most 32 tokens, but finetune.max_length is 33; set it to 32 or less"
    ):
        with_length(TuningSettings(max_length=33), "classification", located)


def test_the_length_adapts_to_the_task_and_to_both_models(tmp_path: Path) -> None:
    short = locate_source(save_bert(tmp_path))
    endless = dataclasses.replace(short, config=PreTrainedConfig())
    long = dataclasses.replace(short, config=BertConfig(max_position_embeddings=512))
    usual = TuningSettings()
    assert with_length(usual, "classification", long, None).tokens == 128
    assert with_length(usual, "question-answering", long, endless).tokens == 384
    assert with_length(usual, "question-answering", long, short).tokens == 32
    with pytest.raises(ValueError, match="not known yet"):
        _ = usual.tokens


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^there is no directory"):
        locate_source(tmp_path / "missing")
    save_bert(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="a pickle that can run code"):
        locate_source(tmp_path)


def test_a_masked_lm_checkpoint_lends_its_body_without_pooler(tmp_path: Path) -> None:
    save_bert(tmp_path)
    BertForMaskedLM.from_pretrained(tmp_path).save_pretrained(tmp_path)
    first, second = (load_for_task(tmp_path, polarity(), seed) for seed in (0, 1))
    assert first.new_head
    pooler: list[Any] = [one.model.bert.pooler.dense.weight for one in (first, second)]  # type: ignore[union-attr]
    assert not torch.equal(*pooler)
