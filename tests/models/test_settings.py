from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from flashdistill.config import load_config
from flashdistill.core.errors import ConfigError
from flashdistill.models.settings import PretrainSettings, TeacherSettings

RUN = """\
name: small
teacher:
  pretrain: PRETRAIN
corpus: {source: gensim-wikipedia}
baseline: 512_128_4_512_4
flash: {seconds: 30}
regular: {seconds: 60}
"""


def sizes(**given: object) -> dict[str, int | None]:
    settings = PretrainSettings.model_validate({"steps": 1, **given})
    names = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "vocab_size")
    extra = ("bottleneck_size", "num_feedforward", "embedding_size")
    return {name: getattr(settings, name) for name in (*names, *extra)}


def test_each_template_has_its_own_default_sizes() -> None:
    none = {"bottleneck_size": None, "num_feedforward": None, "embedding_size": None}
    small = {"hidden_size": 256, "num_layers": 6, "num_heads": 4, "intermediate_size": 1024, "vocab_size": 8192}
    assert sizes() == small | none
    assert sizes(template="ib-bert") == {
        "hidden_size": 512, "num_layers": 24, "num_heads": 4, "intermediate_size": 4096, "vocab_size": 30522,
        "bottleneck_size": 1024, "num_feedforward": 1, "embedding_size": 128,
    }  # fmt: skip


def test_given_sizes_win_and_a_word_table_is_never_wider_than_the_feature_maps() -> None:
    given = sizes(template="ib-bert", hidden_size=64, num_layers=3, num_feedforward=2, embedding_size=None)
    assert (given["hidden_size"], given["num_layers"], given["num_feedforward"]) == (64, 3, 2)
    assert given["embedding_size"] == 64
    assert sizes(template="ib-bert", hidden_size=64, embedding_size=16)["embedding_size"] == 16
    assert sizes(template="ib-bert", hidden_size=256)["embedding_size"] == 128


@pytest.mark.parametrize("template", ["bert", "ib-bert"])
def test_resolved_settings_load_again(template: str) -> None:
    settings = TeacherSettings.model_validate({"pretrain": {"template": template, "seconds": 3, "optimizer": "lamb"}})
    assert TeacherSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"bottleneck_size": 64, "num_feedforward": 2},
            "the template bert has no bottleneck_size and no num_feedforward; its sizes are hidden_size, num_layers, "
            "num_heads, intermediate_size, vocab_size",
        ),
        ({"hidden_size": 30}, "4 heads do not divide the hidden size of 30"),
        ({"template": "ib-bert", "bottleneck_size": 30}, "4 heads do not divide the bottleneck of 30"),
        (
            {"template": "ib-bert", "hidden_size": 64, "embedding_size": 128},
            "the embedding size of 128 exceeds the hidden size of 64",
        ),
        ({"seconds": 4}, "set exactly one of steps and seconds"),
    ],
)
def test_what_does_not_belong_together(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sizes(**given)


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ("{steps: 5, bottleneck_size: 64}", "teacher.pretrain: the template bert has no bottleneck_size; its sizes"),
        ("{steps: 5, template: ib_bert}", "teacher.pretrain.template: got 'ib_bert', allowed: 'bert', 'ib-bert'; did"),
        ("{steps: 5, botleneck_size: 64}", "teacher.pretrain.botleneck_size: unknown key; did you mean 'bottleneck_s"),
        ("{steps: 5, optimizer: sgd}", "teacher.pretrain.optimizer: got 'sgd', allowed: 'adamw', 'lamb'"),
    ],
)
def test_mistakes_are_reported_where_they_stand(pretrain: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("PRETRAIN", pretrain), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    first, *others = [str(problem) for problem in caught.value.problems]
    assert first.startswith(f"{path}:3: {message}")
    # A misspelt key is taken for the key that was meant, which this template has not.
    assert len(others) == ("botleneck" in pretrain)


def test_the_teacher_of_the_paper_is_a_configuration() -> None:
    config = load_config(Path(__file__).parents[2] / "configs" / "ib-bert-teacher.yaml")
    assert config.teacher.pretrain is not None
    assert sizes(template="ib-bert").items() <= config.teacher.pretrain.model_dump().items()
    assert config.expected_vocab_size == (30522, True)
