"""Writing a fine-tuned model for its users: weights, tokenizer, ONNX file, figures."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flashdistill.core.errors import TargetError
from flashdistill.core.files import read_json, sync_directory, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.sums import write_sums
from flashdistill.delivery.deliver import CHANGING, FIGURES_FILE, onnx_parity
from flashdistill.delivery.json_form import decode, encode
from flashdistill.delivery.task_export import TASK_FILE, expected_answers, export_task_model
from flashdistill.delivery.task_record import FinetunedModel
from flashdistill.hardware.parity import example_inputs
from flashdistill.hardware.settings import TargetSettings

MeasureTask = Callable[[Any, Path], Mapping[str, Measurement]]
"""Measures a fine-tuned model on the target, given the model and the directory with its files."""


def delivered_finetuned(directory: Path, key: str) -> FinetunedModel | None:
    """The figures of a model delivered earlier; None if it is not there, or depends on something else."""
    path = directory / FIGURES_FILE
    if not path.exists():
        return None
    data = read_json(path)
    # Another version's figures may have other fields.
    return decode(FinetunedModel, data) if isinstance(data, dict) and data.get("key") == key else None


def deliver_finetuned(
    facts: FinetunedModel,
    model: Any,
    weights: Path,
    directory: Path,
    shape: TargetSettings,
    measure: MeasureTask | None,
    write_more: Callable[[Path], None],
) -> FinetunedModel:
    """Write ``directory`` so that it is complete or absent; returns the facts with what has been found.

    A model that cannot be exported or measured is delivered without: ``problem`` says why.

    Args:
        model: as it was read back from ``weights``, in evaluation mode.
        weights: a directory with it and its tokenizer.
        shape: the target, with the task's sequence length.
        measure: None: latency is not wanted.
        write_more: adds the files of a kind of task.
    """
    work = directory.with_name(f".{directory.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(weights, work, copy_function=_linked)
    facts = _exported(facts, model, work, shape)
    if measure is not None and not facts.problem:
        try:
            facts = dataclasses.replace(facts, measurements=measure(model, work))
        except TargetError as error:
            facts = dataclasses.replace(facts, problem=f"no latency: {error}")
    write_more(work)
    write_json(work / FIGURES_FILE, encode(facts))
    write_sums(work, but=CHANGING)
    shutil.rmtree(directory, ignore_errors=True)
    work.rename(directory)
    sync_directory(directory.parent)
    return facts


def _exported(facts: FinetunedModel, model: Any, work: Path, shape: TargetSettings) -> FinetunedModel:
    name = f"{facts.model} on {facts.task}"
    expected = expected_answers(model, example_inputs(shape, model.config.vocab_size, seed=0))
    try:
        export_task_model(model, work / TASK_FILE, name)
        parity = onnx_parity(name, work / TASK_FILE, expected)
    except TargetError as error:
        for path in work.glob(f"{TASK_FILE}*"):
            path.unlink()
        return dataclasses.replace(facts, problem=f"no ONNX file: {error}")
    return dataclasses.replace(facts, onnx=True, parity_max_abs=parity)


def _linked(source: str, target: str) -> None:
    """Weights are not stored twice where the file system can do without; small files may be edited."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
