from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    ElectraConfig,
    MobileBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from flashdistill.core.errors import TeacherError
from flashdistill.core.progress import Silent
from flashdistill.distillation import masked_lm_training
from flashdistill.distillation.masked_lm_training import (
    MaskedLMLoss,
    PretrainingLoss,
    TeacherTraining,
    begin_head,
    trained_parameters,
)
from flashdistill.models.inputs import model_inputs
from flashdistill.models.settings import FitSettings, PretrainSettings
from flashdistill.models.teacher_templates import build_teacher, teacher_config
from flashdistill.testing.tiny import VOCAB_SIZE, TinyData
from flashdistill.training.compute import Compute, Share
from tests.faults_catalogue import fault

DATA: Any = TinyData()
SIZES: dict[str, Any] = {
    "bert": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 16},
    "ib-bert": {
        "hidden_size": 16, "bottleneck_size": 24, "num_layers": 2, "num_heads": 2, "intermediate_size": 16,
        "embedding_size": 8,
    },
}  # fmt: skip
BERT = BertConfig(
    vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
)
FAMILIES: list[PretrainedConfig] = [
    BERT,
    RobertaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        type_vocab_size=1,
    ),
    ElectraConfig(
        vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16,
    ),
    MobileBertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        embedding_size=8, intra_bottleneck_size=8,
    ),
]  # fmt: skip
UNTIED = BertConfig(**{**BERT.to_dict(), "tie_word_embeddings": False})


def pretrain(template: str = "bert", **given: Any) -> PretrainSettings:
    budget = {"steps": 12, "batch_size": 6, "learning_rate": 3e-3, "template": template}
    return PretrainSettings.model_validate(budget | SIZES[template] | given)


def fit(**given: Any) -> FitSettings:
    return FitSettings.model_validate({"steps": 5, "batch_size": 6, "learning_rate": 3e-3, **given})


def fresh(settings: PretrainSettings, next_sentence: bool = True) -> PreTrainedModel:
    return build_teacher(teacher_config(settings, VOCAB_SIZE, 0), 0, next_sentence).eval()


def family(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(copy.deepcopy(config), attn_implementation="eager").eval()


def train(model: PreTrainedModel, budget: Any, work: Path, compute: Compute | None = None, progress: Any = None) -> int:
    return TeacherTraining(model, DATA, budget, work, "train").run(compute or Compute(), progress or Silent())


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: PreTrainedModel) -> set[str]:
    return {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}


@pytest.mark.parametrize("template", ["bert", "ib-bert"])
@torch.no_grad()
def test_the_pretraining_loss_is_the_sum_of_two_means_however_it_is_shared_out(template: str) -> None:
    model = fresh(pretrain(template))
    batch = DATA.batch(3, 6)
    output = model(**model_inputs(batch))
    labels = torch.from_numpy(batch.masked_labels)
    masked = F.cross_entropy(output.prediction_logits.flatten(0, 1)[torch.from_numpy(batch.masked_positions)], labels)
    pairs = F.cross_entropy(output.seq_relationship_logits, torch.from_numpy(batch.next_sentence_labels))
    loss = PretrainingLoss(model, DATA, 6, nsp=0.7)
    shares = [Share(index, 3) for index in range(3)]
    totals = [sum(column) for column in zip(*(loss.sizes(3, share) for share in shares), strict=True)]
    assert totals == [len(labels), 6]
    torch.testing.assert_close(sum(loss(3, share, totals) for share in shares), masked + 0.7 * pairs)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
@torch.no_grad()
def test_the_masked_lm_loss_is_that_of_transformers(config: PretrainedConfig) -> None:
    model = family(config)
    batch = DATA.batch(1, 6)
    inputs = model_inputs(batch)
    if config.model_type == "roberta":
        del inputs["token_type_ids"]
    labels = torch.full((inputs["input_ids"].numel(),), -100)
    labels[torch.from_numpy(batch.masked_positions)] = torch.from_numpy(batch.masked_labels)
    expected = model(**inputs, labels=labels.view_as(inputs["input_ids"])).loss
    loss = MaskedLMLoss(model, DATA, 6)
    torch.testing.assert_close(loss(1, Share(), loss.sizes(1, Share())), expected)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
@pytest.mark.parametrize("template", ["bert", "ib-bert"])
def test_pretraining_trains_every_weight(template: str, optimizer: str, tmp_path: Path) -> None:
    settings = pretrain(template, optimizer=optimizer, learning_rate=2e-2, steps=40)
    model = fresh(settings)
    before = weights(model)
    assert train(model, settings, tmp_path) == 40
    # A key's bias adds the same to all scores of a query, and the softmax is blind to that.
    assert {name for name in set(before) - changed(before, model) if not name.endswith("key.bias")} == set()
    loss = PretrainingLoss(model, DATA, 32, nsp=1.0)
    untrained = PretrainingLoss(fresh(settings), DATA, 32, nsp=1.0)
    with torch.no_grad():
        totals = loss.sizes(999, Share())
        # From uniform guesses (log 40 + log 2) to the words that occur would be 0.13.
        assert loss(999, Share(), totals) < untrained(999, Share(), totals) - 0.05


@pytest.mark.parametrize("config", [*FAMILIES, UNTIED], ids=lambda c: f"{c.model_type}-{c.tie_word_embeddings}")
def test_a_frozen_body_stays_bitwise_the_same(config: PretrainedConfig, tmp_path: Path) -> None:
    model = family(config)
    before = weights(model)
    train(model, fit(freeze_body=True), tmp_path)
    body = {id(parameter) for parameter in model.base_model.parameters()}
    own = {name for name, values in model.named_parameters() if id(values) not in body}
    if not config.tie_word_embeddings:
        own.remove("cls.predictions.bias")  # an untied decoder has a bias of its own, and this one is not used
    found = changed(before, model)
    assert own <= found
    assert not [name for name in found if name.startswith(f"{model.base_model_prefix}.")]
    decoder: Any = model.get_output_embeddings()
    table: Any = model.get_input_embeddings()
    assert (decoder.weight is table.weight) == config.tie_word_embeddings


def test_without_freezing_the_body_is_trained(tmp_path: Path) -> None:
    model = family(BERT)
    before = weights(model)
    train(model, fit(), tmp_path)
    assert "bert.embeddings.word_embeddings.weight" in changed(before, model)


def test_a_model_that_is_all_body_cannot_be_frozen() -> None:
    model: Any = family(BERT)
    model.base_model_prefix = "absent"
    with pytest.raises(TeacherError, match="freeze_body: a bert model has no weights besides its body"):
        trained_parameters(model, fit(freeze_body=True))


class StopsAt(Silent):
    """Presses Ctrl-C after a step."""

    def __init__(self, step: int):
        self.left = step

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("template", ["bert", "ib-bert"])
@fault(1, "break of the teacher's training", "the same weights")
def test_an_interrupted_training_ends_with_the_same_weights(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_lm_training, "CHECKPOINT_SECONDS", 0)
    settings = pretrain(template, steps=6)
    undisturbed, resumed = fresh(settings), fresh(settings)
    train(undisturbed, settings, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(resumed, settings, tmp_path / "b", progress=StopsAt(3))
    assert changed(weights(undisturbed), resumed)
    again = fresh(settings)
    train(again, settings, tmp_path / "b")
    assert changed(weights(undisturbed), again) == set()


def test_gradients_of_parts_of_a_batch_add_up(tmp_path: Path) -> None:
    settings = pretrain("ib-bert")
    whole, parts = fresh(settings), fresh(settings)
    train(whole, settings, tmp_path / "a")
    train(parts, settings, tmp_path / "b", Compute(micro_batch_size=2))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_seconds_become_steps_that_a_resumed_training_keeps(tmp_path: Path) -> None:
    settings = pretrain(steps=None, seconds=0.2)
    model = fresh(settings)
    before = weights(model)
    training = TeacherTraining(model, DATA, settings, tmp_path, "train")
    steps = training._planned_steps(Compute())
    assert steps >= masked_lm_training.LEAST_STEPS
    assert changed(before, model) == set()
    slower = TeacherTraining(model, DATA, pretrain(steps=None, seconds=1000.0), tmp_path, "train")
    assert slower._planned_steps(Compute()) == steps


@torch.no_grad()
def test_a_new_head_begins_at_the_frequencies_of_the_text() -> None:
    model: Any = family(BERT)
    counts = torch.arange(VOCAB_SIZE).numpy()
    begin_head(model, counts)
    frequencies = (counts + 1) / (counts + 1).sum()
    bias = model.cls.predictions.decoder.bias
    torch.testing.assert_close(bias.exp(), torch.from_numpy(frequencies).float())
    assert torch.equal(model.cls.predictions.transform.dense.weight, torch.eye(16))
