"""Preparing a teacher outside of a run: the directory, its card, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from transformers import AutoModelForMaskedLM, AutoTokenizer

from flashdistill import teacher_command
from flashdistill.config import RunConfig, load_config
from flashdistill.core.errors import InputError
from flashdistill.core.files import read_json
from flashdistill.core.progress import Silent
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.data.token_cache import prepare_corpus
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.models.inputs import model_inputs
from flashdistill.models.teacher_templates import load_with_next_sentence_head
from flashdistill.teacher_command import FinishedTeacher, pretrain_teacher
from flashdistill.training.compute import Compute

CONFIG = """\
name: tiny
teacher:
  pretrain: {template: ib-bert, hidden_size: 16, bottleneck_size: 24, num_layers: 1, num_heads: 2,
             intermediate_size: 16, vocab_size: 200, steps: 4, batch_size: 8}
corpus: {source: {files: DIRECTORY/text.txt}, max_length: 24, validation_fraction: 0.2, validation_sequences: 40}
space: {num_blocks: 1, embedding_size: 8, hidden_size: [16], bottleneck_size: [8]}
baseline: 16_8_2_16_1
flash: {seconds: 3}
regular: {seconds: 6}
cache: DIRECTORY/cache
"""
BERT = "{hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 16, vocab_size: 200, steps: 4, batch_size: 8}"
WORDS = ("the cat", "a dog", "my friend", "one student"), ("sees", "likes", "follows"), ("a house", "the road")


def configured(directory: Path, *overrides: str) -> RunConfig:
    return load_config(directory / "tiny.yaml", overrides)


def made(config: RunConfig, output: Path | None) -> FinishedTeacher:
    finished = pretrain_teacher(config, output, Silent())
    assert finished is not None
    return finished


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, configuration, a cache, and the teacher of the configuration in ``teacher``."""
    place = tmp_path_factory.mktemp("teachers")
    choose = random.Random(0)
    pages = [
        " ".join(" ".join(choose.choice(part) for part in WORDS).capitalize() + "." for _ in range(10))
        for _ in range(30)
    ]
    (place / "text.txt").write_text("\n\n\n".join(pages), encoding="utf-8")
    (place / "tiny.yaml").write_text(CONFIG.replace("DIRECTORY", str(place)), encoding="utf-8")
    made(configured(place), place / "teacher")
    return place


def card_of(path: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return YAML(typ="safe").load(front), text


def test_what_is_made_is_told(directory: Path) -> None:
    finished = made(configured(directory), directory / "teacher")
    facts = dict(finished.facts)
    assert list(facts) == [
        "name", "parameters", "shape", "vocabulary", "preparation", "steps", "time of training", "text",
        "MLM accuracy", "MLM loss", "MLM perplexity", "NSP accuracy",
    ]  # fmt: skip
    assert (facts["name"], facts["steps"]) == ("IB-BERT 1x16", "4")
    assert facts["shape"] == "1 block, width 16, 2 heads"
    assert "±" in facts["MLM accuracy"]
    assert "±" in facts["NSP accuracy"]
    assert finished.yaml == f"teacher: {{model: {directory / 'teacher'}}}"
    assert FinishedTeacher(Path("with space"), []).yaml == 'teacher: {model: "with space"}'


def test_the_directory_can_be_named_by_a_run_of_any_seed(directory: Path) -> None:
    config = configured(directory, f"teacher={{model: {directory / 'teacher'}}}", "seed=5")
    given = prepare_teacher(config.teacher, config.corpus, config.cache_directory, Silent(), Compute())
    own = configured(directory, "seed=6")
    cached = prepare_teacher(own.teacher, own.corpus, own.cache_directory, Silent(), Compute())
    assert given.report.steps == 0
    for name, values in cached.teacher.model.state_dict().items():
        assert torch.equal(values, given.teacher.model.state_dict()[name])


def test_others_may_read_it_as_any_new_file(directory: Path) -> None:
    (directory / "any new file").touch()
    usual = (directory / "any new file").stat().st_mode
    assert {path.name for path in (directory / "teacher").iterdir() if path.stat().st_mode != usual} == set()


@torch.no_grad()
def test_the_scores_are_those_of_both_heads_on_held_out_text(directory: Path) -> None:
    config = configured(directory)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory / "teacher")
    corpus = prepare_corpus(config.corpus, tokenizer, directory / "cache" / "corpora", Silent())
    model = load_with_next_sentence_head(directory / "teacher")
    assert model is not None
    right = {"mlm_accuracy": [], "nsp_accuracy": []}
    for batch in PretrainingData(corpus, tokenizer, config.corpus, seed=9).validation_batches(7):
        output = model(**model_inputs(batch))
        guesses = output.prediction_logits.flatten(0, 1).argmax(-1).numpy()[batch.masked_positions]
        right["mlm_accuracy"] += (guesses == batch.masked_labels).tolist()
        answers = output.seq_relationship_logits.argmax(-1).numpy()
        right["nsp_accuracy"] += (answers == batch.next_sentence_labels).tolist()
    stored = read_json(directory / "teacher" / "prepared.json")["measurements"]
    for name, hits in right.items():
        assert stored[name]["value"] == pytest.approx(np.mean(hits))
        assert stored[name]["samples"] == len(hits)
        assert stored[name]["stderr"] > 0


def test_the_card_says_what_it_is_and_how_to_load_it(directory: Path) -> None:
    front, text = card_of(directory / "teacher")
    assert front == {
        "library_name": "transformers", "pipeline_tag": "fill-mask", "tags": ["fill-mask", "flashdistill"],
    }  # fmt: skip
    assert "# IB-BERT 1x16" in text
    assert "from flashdistill.models.foreign import load_config, load_masked_lm" in text
    assert "- bottleneck_size: 24" in text
    assert "- corpus.max_length: 24" in text
    assert "NSP accuracy: " in text


def test_a_head_is_fitted_and_the_licence_goes_along(directory: Path, tmp_path: Path) -> None:
    made(configured(directory, f"teacher.pretrain={BERT}"), tmp_path / "bert")
    front, text = card_of(tmp_path / "bert")
    assert "AutoModelForMaskedLM.from_pretrained(directory)" in text
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "bert").config.hidden_size == 16
    card = (tmp_path / "bert" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "bert" / "README.md").write_text(card.replace("tags:", "license: mit\ntags:"), encoding="utf-8")
    fit = f"teacher={{model: {tmp_path / 'bert'}, fit_mlm_head: {{steps: 3, batch_size: 8, freeze_body: true}}}}"
    facts = dict(made(configured(directory, fit), tmp_path / "fitted").facts)
    assert facts["preparation"] == "masked-LM head trained further, body frozen"
    assert "NSP accuracy" not in facts
    front, text = card_of(tmp_path / "fitted")
    assert front["license"] == "mit"
    assert "The model that this one was made from states: mit." in text
    assert "- freeze_body: yes" in text


def test_the_default_place_bears_the_name_of_the_configuration(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert made(configured(directory), None).directory == Path("teachers/tiny")
    assert (tmp_path / "teachers" / "tiny" / "config.json").is_file()
    assert [path.name for path in (tmp_path / "teachers").iterdir()] == ["tiny"]


def test_a_teacher_that_needs_no_preparation(directory: Path, tmp_path: Path) -> None:
    given = f"model: {directory / 'teacher'}"
    with pytest.raises(InputError, match="is used as it comes, there is nothing to prepare; set teacher.pretrain"):
        pretrain_teacher(configured(directory, f"teacher={{{given}}}"), tmp_path / "new", Silent())
    with pytest.raises(InputError, match="is no larger than teacher.vocabulary already"):
        pretrain_teacher(configured(directory, f"teacher={{{given}, vocabulary: 5000}}"), tmp_path / "new", Silent())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["another configuration", "a file", "a directory of something else"])
def test_what_is_there_is_not_written_over(
    kind: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("began to prepare the teacher")

    monkeypatch.setattr(teacher_command, "prepare_teacher", no_work)
    output, overrides = directory / "teacher", ["teacher.pretrain.steps=5"]
    if kind != "another configuration":
        output, overrides = tmp_path / "there", []
    if kind == "a file":
        output.touch()
    elif kind == "a directory of something else":
        output.mkdir()
        (output / "notes.txt").touch()
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(InputError, match="is there already and is not a teacher of this configuration; choose another"):
        pretrain_teacher(configured(directory, *overrides), output, Silent())
    assert sorted(output.parent.rglob("*")) == before
