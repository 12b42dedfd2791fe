"""Options, overrides and a configuration become one request, and all mistakes are told at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flashdistill.config import RunConfig, config_identity, load_config
from flashdistill.core.errors import ConfigError, InputError
from flashdistill.finetune_request import TaskOptions, finetune_request
from tests.tiny_run import CONFIG

KNOWN = ["sst2", "mrpc"]
FINETUNE = """\
finetune: {tasks: [mrpc, {name: mine, data: rows.csv, kind: regression}], seeds: 5, max_length: 32,
           distillation: {teacher: big, weight: 0.9}}
"""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "run.yaml").write_text(CONFIG + FINETUNE, encoding="utf-8")
    return load_config(tmp_path / "run.yaml")


def test_options_alone() -> None:
    request = finetune_request(TaskOptions(["sst2", "mrpc"]), ["epochs=2"], KNOWN, seeds=4, teacher="big")
    assert [task.name for task in request.tasks] == ["sst2", "mrpc"]
    assert (request.seeds, request.epochs, request.target.runtime) == (4, 2, "onnxruntime")
    assert request.distillation is not None
    assert (request.distillation.teacher, request.distillation.weight) == ("big", 0.5)
    assert request.max_length is None
    assert request.shape_of(384).sequence_length == 384


def test_a_configuration_is_the_start(config: RunConfig) -> None:
    request = finetune_request(TaskOptions(), ["seeds=2", "target.threads=2"], KNOWN, config=config, teacher="other")
    assert [task.name for task in request.tasks] == ["mrpc", "mine"]
    assert (request.seeds, request.max_length, request.seed) == (2, 32, 0)
    assert request.distillation is not None
    assert (request.distillation.teacher, request.distillation.weight) == ("other", 0.9)
    assert (request.target.threads, request.target.measurement.seconds) == (2, 0.2)
    named = finetune_request(TaskOptions(["sst2"]), [], KNOWN, config=config)
    assert [task.name for task in named.tasks] == ["sst2"]


def test_rows_of_ones_own() -> None:
    options = TaskOptions([], {"train": "data/a.csv", "test": "b.csv"}, None, {"text": "review"})
    (task,) = finetune_request(options, ["task.max_train_rows=9"], KNOWN).tasks
    assert (task.name, task.kind, task.text, task.max_train_rows) == ("a", "classification", "review", 9)
    assert not isinstance(task.data, str)
    assert task.data is not None
    assert (task.data.train, task.data.validation, task.data.test) == ("data/a.csv", None, "b.csv")
    (public,) = finetune_request(TaskOptions(["sst2"], {"train": "glue/SST-2"}), [], KNOWN).tasks
    assert (public.kind, public.data) == (None, "glue/SST-2")
    (own,) = finetune_request(TaskOptions(["sst2"], {"train": "x.csv"}, "regression"), [], KNOWN).tasks
    assert own.kind == "regression"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TaskOptions(), "name a task with --task NAME"),
        (TaskOptions(["sst2", "sst2"]), "named twice"),
        (TaskOptions(["sst2", "mrpc"], {"train": "x.csv"}), "several are named: sst2, mrpc"),
        (TaskOptions(["sst2"], {}, None, {"text": "t"}), "name them with --data"),
        (TaskOptions(["sst2"], {"train": "x"}, None, {"text": "t"}), "columns of their own"),
        (TaskOptions([], {"test": "x.csv"}), "name these with --data"),
    ],
)
def test_options_that_do_not_go_together(options: TaskOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        finetune_request(options, [], KNOWN)


def test_everything_wrong_is_told_at_once() -> None:
    overrides = ["learning_rat=1", "sweep.trails=3", "epochs=-1", "task.labl=x", "target.runtime=onnxruntim"]
    with pytest.raises(ConfigError) as caught:
        finetune_request(TaskOptions(["sst2"]), overrides, KNOWN, seeds=0)
    text = str(caught.value)
    for words in (
        "did you mean 'learning_rate'?",
        "sweep.trails: unknown key; did you mean 'trials'?",
        "epochs: got -1",
        "tasks[0].labl: unknown key; did you mean 'label'?",
        "did you mean 'onnxruntime'?",
        "option --seeds: seeds: got 0",
    ):
        assert words in text
    assert len(caught.value.problems) == 6


def test_task_overrides_need_one_task(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="changes the one task that is named; there are 2"):
        finetune_request(TaskOptions(), ["task.label=x"], KNOWN, config=config)


def test_the_section_of_a_run_says_what_is_wrong_and_changes_no_identity(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "plain.yaml").write_text(CONFIG, encoding="utf-8")
    assert config_identity(load_config(tmp_path / "plain.yaml")) == config_identity(config)
    section = "finetune: {tasks: [mrpc, {name: mine, dta: rows.csv}, 3], max_length: 600}\n"
    (tmp_path / "wrong.yaml").write_text(CONFIG + section, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "wrong.yaml")
    messages = [str(problem) for problem in caught.value.problems]
    assert any("finetune.tasks[1].dta: unknown key; did you mean 'data'?" in message for message in messages)
    assert all("wrong.yaml:" in message for message in messages)


def test_no_torch_is_needed() -> None:
    code = "import sys, flashdistill.finetune_request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
