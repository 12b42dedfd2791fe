"""Writing a finished student into the run directory: weights, tokenizer, ONNX files, figures."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import MobileBertForPreTraining, PreTrainedTokenizerFast

from flashdistill.core.files import read_json, sync_directory, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.sums import damaged_files, write_sums
from flashdistill.delivery.export import ENCODER_FILE, MLM_FILE, expected_logits
from flashdistill.delivery.json_form import decode, encode
from flashdistill.delivery.record import DeliveredModel
from flashdistill.hardware.parity import Expected, check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings
from flashdistill.models.delivered import load_student, save_student
from flashdistill.models.onnx_writer import write_onnx

log = logging.getLogger(__name__)

FIGURES_FILE = "flashdistill.json"
"""A delivered model's figures; written last, so that a model without it is not finished."""

CHANGING = ("README.md", FIGURES_FILE)
"""Files that later commands add to; they are not summed up."""

MeasureFinal = Callable[[MobileBertForPreTraining, Path], Mapping[str, Measurement]]
"""Measures a student on the targets, given the directory with its checkpoint and its exported encoder."""


def deliver(
    model: DeliveredModel,
    student: MobileBertForPreTraining,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    target: TargetSettings,
    measure: MeasureFinal,
) -> DeliveredModel:
    """Write ``directory`` so that it is complete or absent; returns the model with its last figures.

    The weights are read back before they are exported, so what is measured is what was written.

    Raises:
        TargetError: an exported file answers differently from the student.
    """
    work = directory.with_name(f".{directory.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    save_student(student, tokenizer, work)
    student = load_student(work)
    write_onnx(student, work / ENCODER_FILE, "encoder")
    write_onnx(student, work / MLM_FILE, "mlm")
    inputs = example_inputs(target, len(tokenizer), seed=0)
    parity = onnx_parity(str(model.architecture), work / MLM_FILE, expected_logits(student, inputs))
    measured = measure(student, work)
    model = dataclasses.replace(model, measurements={**model.measurements, **measured}, parity_max_abs=parity)
    write_json(work / FIGURES_FILE, encode(model))
    write_sums(work, but=CHANGING)
    shutil.rmtree(directory, ignore_errors=True)
    work.rename(directory)
    sync_directory(directory.parent)
    return model


def delivered(directory: Path) -> DeliveredModel | None:
    """The figures of a model delivered earlier; None if it is not there or not finished."""
    path = directory / FIGURES_FILE
    return decode(DeliveredModel, read_json(path)) if path.exists() else None


def intact(directory: Path) -> DeliveredModel | None:
    """`delivered`, but None for a model with a damaged file, too; it is to be made again."""
    if damaged := damaged_files(directory):
        log.warning("%s is not the file that was delivered; making the model again", directory / damaged[0])
        return None
    return delivered(directory)


def onnx_parity(name: str, path: Path, expected: Expected) -> float:
    """The largest absolute difference of an ONNX file's outputs from those that are expected.

    Raises:
        TargetError: it is beyond the tolerance.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    answers = [np.asarray(answer) for answer in session.run(None, dict(expected.inputs))]
    check_parity(name, answers, expected.outputs)
    return float(max(abs(got - wanted).max() for got, wanted in zip(answers, expected.outputs, strict=True)))
