"""What Tables 3 and 4 share: the students of Table 2, the baseline and the teacher on tasks, over seeds.

The student with the best masked-word accuracy is fine-tuned with more seeds than the others, and beside
it the same architecture from random weights in as many steps: the control that says what distillation
was good for. It also learns from the fine-tuned teacher (two stages, marked ``*`` as in the paper).

What Table 2 has trained is taken from the shared working directory; what is missing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import DivergedError
from flashdistill.data.tasks.loading import load_task
from flashdistill.data.tasks.task import Sentences, Task
from flashdistill.delivery.json_form import encode
from flashdistill.evaluation.finetuning.plan import PlanResult, TuningPlan
from flashdistill.evaluation.finetuning.scores import TEST, TaskScore, averages, compare, scores_to_json
from flashdistill.evaluation.finetuning.settings import FinetuneSettings, TaskDistillation
from flashdistill.evaluation.finetuning.sources import ModelSource
from flashdistill.finetune_models import untrained
from flashdistill.hardware.machine import fingerprint
from flashdistill.task_results import task_facts
from reproduce.finetuning_cost import cost_lines
from reproduce.scales import FineTuning, Scale
from reproduce.script import Made, Place, script

DIRECTORY = "tasks"
"""Of the working directory: all fine-tunings, of both tables."""

Role = Literal["teacher", "baseline", "student", "best", "from scratch", "two-stage"]

Found = dict[str, Any]
"""What a table's JSON file has, and all that figure, table and sentences are made from."""


@dataclass(frozen=True)
class Row:
    """A model of the table.

    Attributes:
        parameters: of the encoder.
        mlm_accuracy: after regular distillation, on held-out text; None where there is none.
    """

    name: str
    role: Role
    source: ModelSource
    parameters: int
    mlm_accuracy: float | None = None


def make(
    name: str,
    description: str | None,
    draw: Callable[[Found], Figure],
    table: Callable[[Found], str],
    paragraph: Callable[[Found], str],
) -> None:
    """The whole life of the script of a table.

    Args:
        name: ``table3`` or ``table4``.
    """

    def plan(scale: Scale, config: RunConfig) -> list[str]:
        return cost_lines(scale, config, scale.finetuning[name])

    def prepare(scale: Scale, config: RunConfig) -> Callable[[Place], Made]:
        assert config.finetune is not None
        tasks = [load_task(task, config.seed) for task in config.finetune.tasks]

        def work(place: Place) -> Made:
            found = results(place, scale.finetuning[name], tasks)
            return Made(draw(found), found, paragraph(found), table(found))

        return work

    script(name, description, plan, prepare, lambda scale: [scale.finetuning[name].section])


def results(place: Place, part: FineTuning, tasks: Sequence[Task]) -> Found:
    """Fine-tune what is missing; all figures.

    Raises:
        DivergedError: no student has come through its distillation.
    """
    matrix = Matrix(place, part, tasks, _rows(place, part.students))
    done = matrix.run()
    scores = judged(done.scores, tasks)
    rows, best = matrix.rows, matrix.named("best")
    return {
        "scale": place.scale.name,
        "tasks": [encode(task_facts(task)) | {"chance": chance(task)} for task in tasks],
        "settings": matrix.settings.model_dump(mode="json", exclude={"tasks"}),
        "teacher_settings": dict(part.teacher),
        "rows": [
            {"name": row.name, "role": row.role, "parameters": row.parameters, "mlm_accuracy": row.mlm_accuracy}
            for row in rows
        ],
        "scores": scores_to_json(scores),
        "averages": [asdict(one) for one in averages(scores)],
        "against_scratch": [asdict(one) for one in compare(scores, best, matrix.named("from scratch"))],
        "two_stages": [asdict(one) for one in compare(scores, matrix.named("two-stage"), best)],
        "all_scores": scores_to_json(done.scores),
        "seconds": sum(record.seconds for records in done.records.values() for record in records),
        "failures": done.failures,
        "machine": fingerprint(),
    }


def judged(scores: Sequence[TaskScore], tasks: Sequence[Task]) -> list[TaskScore]:
    """The scores that a table shows: on test rows where their labels are there, else on validation rows.

    Beside an accuracy that selects, Matthews' correlation is left out: it would say the same.
    """
    by_name = {task.name: task for task in tasks}
    shown = []
    for score in scores:
        task = by_name[score.task]
        has_test = task.test is not None and not (isinstance(task.test, Sentences) and task.test.labels is None)
        said = score.metric == "matthews" and task.metrics[0] == "accuracy"
        if (score.split == TEST) == has_test and not said:
            shown.append(score)
    return shown


def chance(task: Task) -> float | None:
    """The accuracy of always naming the commonest class of the training rows; None for other kinds."""
    judged_on = task.test or task.evaluation[task.selecting_split]
    if task.kind != "classification" or not isinstance(task.train, Sentences) or not isinstance(judged_on, Sentences):
        return None
    if task.train.labels is None or judged_on.labels is None:
        return None
    return float(np.mean(judged_on.labels == np.bincount(task.train.labels).argmax()))


def _rows(place: Place, students_at_most: int | None) -> list[Row]:
    """The teacher, then the students by masked-word accuracy with what is made of the best, then the baseline."""
    bench, baseline = place.bench, place.scale.students[0]
    trained = place.store.score(place.scale.students, "regular", with_weights=True)
    accuracy = {one: found.measurements["mlm_accuracy"].value for one, found in trained.items() if not found.failure}
    students = sorted((one for one in accuracy if one != baseline), key=lambda one: -accuracy[one])
    if not students:
        raise DivergedError("no student has come through regular distillation, so there is none to fine-tune")

    def row(one: Architecture, role: Role) -> Row:
        return Row(str(one), role, place.store.student(one), bench.num_parameters(one), accuracy[one])

    students = students[:students_at_most]
    best = row(students[0], "best")
    source = bench.prepared.directory or bench.config.teacher.model
    assert source is not None
    teacher = Row(f"teacher {bench.prepared.report.name}", "teacher", source, _encoder_parameters(place))
    return [
        teacher,
        replace(best, name=f"{best.name}*", role="two-stage"),
        best,
        *(row(one, "student") for one in students[1:]),
        *([row(baseline, "baseline")] if baseline in accuracy else []),
        Row(f"{best.name} from scratch", "from scratch", untrained(Path(str(best.source))), best.parameters),
    ]


def _encoder_parameters(place: Place) -> int:
    """Of the teacher's embeddings and blocks; pooler and heads are not counted, as in the paper."""
    body = place.bench.prepared.teacher.body
    return sum(weight.numel() for name, weight in body.named_parameters() if not name.startswith("pooler"))


@dataclass(frozen=True)
class Matrix:
    """All fine-tunings of a table, kept under ``DIRECTORY`` of the working directory."""

    place: Place
    part: FineTuning
    tasks: Sequence[Task]
    rows: Sequence[Row]
    done: PlanResult = field(default_factory=PlanResult)

    @property
    def settings(self) -> FinetuneSettings:
        settings = self.place.bench.config.finetune
        assert settings is not None
        return settings

    def named(self, role: Role) -> str:
        """The name of the one row of a role."""
        return next(row.name for row in self.rows if row.role == role)

    def run(self) -> PlanResult:
        """Do what is left, the teacher first: the two-stage rows learn from it."""
        others, teachers, two_stage = self.part.seeds
        self._plan(["teacher"], teachers, self.settings.model_copy(update={"sweep": None, **self.part.teacher}))
        self._plan(["best", "from scratch"], self.settings.seeds, self.settings)
        for task in self.tasks:
            if (tuned := self.done.best.get((self.named("teacher"), task.name))) is not None:
                learning = TaskDistillation.model_validate({"teacher": str(tuned.model)})
                settings = self.settings.model_copy(update={"distillation": learning})
                self._plan(["two-stage"], two_stage, settings, [task])
        self._plan(["student", "baseline"], others, self.settings)
        return self.done

    def _plan(
        self, roles: Sequence[Role], seeds: int, settings: FinetuneSettings, tasks: Sequence[Task] | None = None
    ) -> None:
        models: Mapping[str, ModelSource] = {row.name: row.source for row in self.rows if row.role in roles}
        plan = replace(TuningPlan.of(models, tasks or self.tasks, settings), seeds=range(seeds))
        bench = self.place.bench
        # Processes beside the main one take part in distillations only.
        alone = replace(bench.compute, rank=0, world_size=1)
        found = plan.run(bench.directory.path / DIRECTORY, alone, bench.progress)
        self.done.records.update(found.records)
        self.done.best.update(found.best)
        self.done.failures.extend(found.failures)


def means(found: Found) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """By (task, split, metric) and by model the scores of its seeds, in the order of the rows."""
    order = [row["name"] for row in found["rows"]]
    values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for score in found["scores"]:
        own = values.setdefault((score["task"], score["split"], score["metric"]), {})
        own.setdefault(score["model"], []).append(score["value"])
    tasks = [task["name"] for task in found["tasks"]]
    return {
        key: {name: values[key][name] for name in order if name in values[key]}
        for key in sorted(values, key=lambda key: tasks.index(key[0]))
    }
