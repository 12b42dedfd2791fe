"""``flashdistill evaluate``: what a run's delivered models, its baseline and its teacher are worth on tasks.

The table goes to ``report.html`` and to the cards of the delivered models; the fine-tuned models are
in ``tasks/`` of the run. The same call resumes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from flashdistill.config import RunConfig, config_differences, config_identity, load_config
from flashdistill.core.errors import InputError, RunDirectoryError
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.run_directory import RunDirectory
from flashdistill.delivery.deliver import delivered
from flashdistill.delivery.model_card import write_model_card
from flashdistill.delivery.record import RESULTS_FILE, DeliveredModel, RunRecord
from flashdistill.delivery.report import write_report
from flashdistill.delivery.task_record import TASKS_FILE, FinetunedModel, TasksRecord
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.evaluation.finetuning.sources import ModelSource
from flashdistill.finetune_command import Subject, finetune
from flashdistill.finetune_request import FinetuneRequest, require_tasks
from flashdistill.preflight import quiet_libraries
from flashdistill.training.compute import Compute, open_compute

TASKS_DIRECTORY = "tasks"
"""Of a run: the output directory of its fine-tunings."""


def evaluate(run: Path, overrides: Sequence[str], progress: Progress) -> tuple[TasksRecord, Path] | None:
    """Fine-tune what a run has delivered on ``finetune.tasks``, and add the table to its report.

    Args:
        run: a run directory with delivered models.
        overrides: ``dotted.key=YAML value`` of ``finetune`` or ``training``.

    Returns:
        The scores and the report's path; None in all but the main process, where there are several.

    Raises:
        InputError: there is nothing to fine-tune, or no task, or an override changes the run itself.
    """
    quiet_libraries()
    directory = RunDirectory(run)
    config = _configuration(directory, overrides)
    request = FinetuneRequest.of_run(config)
    require_tasks(request, f"name some: flashdistill evaluate {run} 'finetune.tasks=[sst2, mrpc]'")
    models = _delivered_models(directory)
    if not models:
        raise InputError(f"{run} has no delivered model yet; flashdistill run makes some")
    if not (run / RESULTS_FILE).exists():
        raise RunDirectoryError(f"{run} has no {RESULTS_FILE} yet; it is written when its search ends")
    subjects = {
        str(model.architecture): Subject(
            str(run / model.directory), "baseline" if model.is_baseline else "student", model.directory
        )
        for model in models
    }
    reference = next((str(model.architecture) for model in models if model.is_baseline), "")
    compute = open_compute(config.training)
    with directory.locked() if compute.is_main else nullcontext():
        name, source = _teacher(config, progress, compute)
        subjects[name] = Subject(source, "teacher")
        found = finetune(subjects, request, run / TASKS_DIRECTORY, progress, measure=False, reference=reference)
        if found is None:
            return None
        return _publish(dataclasses.replace(found, delivered=_inside(found)), directory, models)


def _configuration(directory: RunDirectory, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration, with overrides that leave its results as they are."""
    known, config = load_config(directory.config), load_config(directory.config, list(overrides))
    if config_identity(config) != config_identity(known):
        raise RunDirectoryError(
            f"{directory.path} is finished as it is; only finetune and training may be overridden, not "
            + "; ".join(config_differences(known, config))
        )
    return config


def _delivered_models(directory: RunDirectory) -> list[DeliveredModel]:
    """Students first, then the baseline."""
    found = [delivered(path) for path in sorted(directory.models.glob("[!.]*")) if path.is_dir()]
    return sorted((model for model in found if model), key=lambda model: model.is_baseline)


def _teacher(config: RunConfig, progress: Progress, compute: Compute) -> tuple[str, ModelSource]:
    """The teacher as the students met it, from the cache or prepared again."""
    settings = config.teacher
    if settings.model is not None and settings.fit_mlm_head is None and settings.vocabulary is None:
        name = settings.model if isinstance(settings.model, str) else settings.model.wheel
        return f"teacher {Path(name).name}", settings.model
    told = progress if compute.is_main else Silent()
    prepared = prepare_teacher(settings, config.corpus, config.cache_directory, told, compute)
    source = prepared.directory or settings.model
    assert source is not None
    return f"teacher {prepared.report.name}", source


def _inside(found: TasksRecord) -> list[FinetunedModel]:
    """What was delivered, its directories relative to the run."""
    return [dataclasses.replace(one, directory=f"{TASKS_DIRECTORY}/{one.directory}") for one in found.delivered]


def _publish(found: TasksRecord, directory: RunDirectory, models: Sequence[DeliveredModel]) -> tuple[TasksRecord, Path]:
    """Write the scores beside the run's results, then the report and the cards that show them."""
    found.save(directory.path / TASKS_FILE)
    record = RunRecord.load(directory.path)
    for model in models:
        write_model_card(model, record, directory.path / model.directory, found)
    return found, write_report(record, directory.path)
