"""What models are called on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import InputError
from flashdistill.evaluation.finetuning.sources import FromScratch
from flashdistill.finetune_models import named_models, untrained
from flashdistill.models.students import build_student
from tests.evaluation.finetuning.tiny_task import ARCHITECTURE, deliver_student, save_bert, student_family, tokenizer
from tests.tiny_run import CONFIG, in_directory


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    return load_config(tmp_path / "tiny.yaml", [f"output={tmp_path / 'run'}"])


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    for place in ("a/models/x", "b/models/x", "c/y"):
        (tmp_path / place).mkdir(parents=True)
    with in_directory(tmp_path):
        found = named_models(["a/models/x", "b/models/x/", "c/y", "google/some-bert"], None, scratch=False)
    assert list(found) == ["a/models/x", "b/models/x", "y", "google/some-bert"]


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
def test_a_students_control_has_its_architecture_and_no_weights(tmp_path: Path, template: str) -> None:
    deliver_student(tmp_path / "student", template)
    found = named_models([str(tmp_path / "student")], None, scratch=True)
    assert list(found) == ["student", "student from scratch"]
    control = found["student from scratch"]
    assert isinstance(control, FromScratch)
    assert (control.architecture, control.family) == (ARCHITECTURE, student_family(template))
    own, other = (build_student(ARCHITECTURE, family, 0) for family in (control.family, student_family(template)))
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in other.parameters())


def test_an_architecture_needs_a_configuration_and_a_tokenizer(tmp_path: Path, config: RunConfig) -> None:
    with pytest.raises(InputError, match="name a run's YAML file with --config"):
        named_models(["32_16_2_32_1"], None, scratch=False)
    with pytest.raises(InputError, match="flashdistill run it first"):
        named_models(["32_16_2_32_1"], config, scratch=False)
    deliver_student(tmp_path / "run" / "models" / "32_16_2_32_2", "mobilebert")
    (control,) = named_models(["16_8_2_32_1"], config, scratch=False).values()
    assert isinstance(control, FromScratch)
    assert control.architecture == Architecture(16, 8, 2, 32, 1)
    assert control.family.vocab_size == len(tokenizer())
    assert control.tokenizer == tmp_path / "run" / "models" / "32_16_2_32_2"
    with pytest.raises(InputError, match="embedding_size"):
        named_models(["4_4_2_32_1"], config, scratch=False)


def test_what_is_no_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "models" / "32_16_2_32_2").mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(InputError, match=r"is a run; name one of its models \(.*32_16_2_32_2\)"):
        named_models([str(run)], None, scratch=False)
    with pytest.raises(InputError, match="is no student of this tool"):
        untrained(save_bert(tmp_path / "bert"))
    with pytest.raises(InputError, match="name at least one model"):
        named_models([], None, scratch=False)
    with pytest.raises(InputError, match="is named twice"):
        named_models(["a/b", "a/b"], None, scratch=False)
