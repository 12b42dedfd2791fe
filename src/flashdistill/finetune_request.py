"""What ``flashdistill finetune`` is asked to do, from its options, its overrides and a configuration.

Torch is not needed to find out what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from flashdistill.config import RunConfig
from flashdistill.core.errors import ConfigError, InputError
from flashdistill.core.section_check import checked_fields
from flashdistill.core.yaml_source import Origin, YamlSource
from flashdistill.evaluation.finetuning.settings import FinetuneSettings
from flashdistill.hardware.settings import TargetSettings
from flashdistill.training.settings import TrainingSettings

COLUMNS = ("text", "pair", "label")


class FinetuneRequest(FinetuneSettings):
    """Section ``finetune``, and of a configuration what fine-tuning and measuring need beside it."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="decides which rows are held out where a task has no split")
    target: TargetSettings = TargetSettings.model_validate({})
    training: TrainingSettings = TrainingSettings.model_validate({})

    def shape_of(self, tokens: int) -> TargetSettings:
        """The target with sequences of so many tokens: those that a fine-tuning's settings have."""
        return self.target.model_copy(update={"sequence_length": tokens})

    @classmethod
    def of_run(cls, config: RunConfig) -> FinetuneRequest:
        """What a run's configuration says."""
        return cls.model_validate(_from_config(config))


@dataclass(frozen=True)
class TaskOptions:
    """The options that name tasks.

    Attributes:
        tasks: ``--task``, names.
        files: ``--data``, ``--validation`` and ``--test`` by split (``train``, ``validation``, ``test``).
        kind: ``--kind``.
        columns: ``--text``, ``--pair`` and ``--label``, by these names.
    """

    tasks: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.tasks or self.files or self.kind or self.columns)

    def settings(self, known: Sequence[str]) -> list[dict[str, Any]]:
        """Raw settings of the tasks.

        Args:
            known: names of public tasks.

        Raises:
            InputError: the options do not go together.
        """
        if not self.files:
            if self.kind or self.columns:
                raise InputError("--kind, --text, --pair and --label describe rows of your own: name them with --data")
            return [{"name": name} for name in self.tasks]
        if len(self.tasks) > 1:
            raise InputError(f"--data has the rows of one task, but several are named: {', '.join(self.tasks)}")
        if "train" not in self.files:
            raise InputError("--validation and --test stand beside the training rows: name these with --data")
        data = self.files["train"] if len(self.files) == 1 else dict(self.files)
        name = self.tasks[0] if self.tasks else Path(self.files["train"]).name.partition(".")[0]
        public = bool(self.tasks) and name in known and self.kind is None
        if public and self.columns:
            raise InputError(f"the rows of {name} have columns of their own; leave out --text, --pair and --label")
        own = {} if public else {"kind": self.kind or "classification", **self.columns}
        return [{"name": name, "data": data, **own}]


def finetune_request(
    options: TaskOptions,
    overrides: Sequence[str],
    known_tasks: Sequence[str],
    *,
    config: RunConfig | None = None,
    seeds: int | None = None,
    teacher: str | None = None,
) -> FinetuneRequest:
    """Put a request together; a configuration comes first, options and then overrides change it.

    An override is a key of the section ``finetune`` (``learning_rate=3e-5``), or begins with
    ``target.``, ``training.`` or ``task.``, the one task that is named.

    Raises:
        ConfigError: everything that is wrong, at once.
        InputError: the options do not go together, or no task is named.
    """
    source = YamlSource(_from_config(config) if config is not None else {})
    if options.any:
        source.values["tasks"] = options.settings(known_tasks)
    if seeds is not None:
        _set(source, "--seeds", seeds, "seeds")
    if teacher is not None:
        distillation = source.values.get("distillation") or {}
        _set(source, "--teacher", {**distillation, "teacher": teacher}, "distillation")
    for override in overrides:
        source.override(override)
    _merge_task(source)
    values, _ = checked_fields(FinetuneRequest, source.values, (), source)
    if source.problems:
        raise ConfigError(source.problems)
    request = FinetuneRequest.model_validate(values)
    require_tasks(request, "name a task with --task NAME, or rows of your own with --data FILE")
    return request


def require_tasks(settings: FinetuneSettings, advice: str) -> None:
    """Raises InputError where there is nothing to do, or two tasks would be one in every table."""
    names = [task.name for task in settings.tasks]
    if not names:
        raise InputError(f"there is no task to fine-tune on; {advice}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"the task {repeated[0]} is named twice; give each a name of its own")


def _from_config(config: RunConfig) -> dict[str, Any]:
    section = config.finetune.model_dump(mode="json") if config.finetune is not None else {}
    shared = {name: getattr(config, name).model_dump(mode="json") for name in ("target", "training")}
    return {**section, **shared, "seed": config.seed}


def _set(source: YamlSource, option: str, value: Any, key: str) -> None:
    source.values[key] = value
    source.origins[(key,)] = Origin(f"option {option}")


def _merge_task(source: YamlSource) -> None:
    """Overrides of ``task.KEY`` are keys of the one task."""
    own = source.values.pop("task", None)
    if own is None:
        return
    tasks = source.values.get("tasks") or []
    if len(tasks) != 1 or not isinstance(own, dict):
        source.report(("task",), f"task.KEY=VALUE changes the one task that is named; there are {len(tasks)}")
        return
    given = tasks[0] if isinstance(tasks[0], dict) else {"name": tasks[0]}
    source.values["tasks"] = [{**given, **own}]
    for path, origin in list(source.origins.items()):
        if path[0] == "task" and len(path) > 1:
            source.origins["tasks", 0, *path[1:]] = origin
