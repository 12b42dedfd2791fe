"""Everything a report shows about a run, as plain values.

The pipeline fills a `RunRecord`; ``results.json`` is its JSON form; the report, the plots and
the model cards are functions of it alone. So a report can be rebuilt, and improved, long after
the run, without the study, the models or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.health import SearchHealth
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.trial import Trial, TrialState, Verdict
from flashdistill.delivery.json_form import decode, encode

SCHEMA = 1
"""Raised whenever a reader of another version could misunderstand the file."""

RESULTS_FILE = "results.json"
"""Name of a record inside its run directory."""

Measurements = Mapping[str, Measurement]
Settings = Mapping[str, Any]
"""A resolved configuration section: what JSON can hold, nested as in the YAML file."""


@dataclass(frozen=True)
class TeacherFacts:
    """The teacher as the students met it.

    Attributes:
        num_parameters: of the whole prepared model, heads included.
        vocab_size: entries of the vocabulary that the students share.
        source_vocab_size: entries before the tool reduced it; None where it did not.
        preparation: what the tool did to the model, a phrase such as ``masked-LM head fitted
            with all weights, 400 steps``; empty where it was used as it came.
        measurements: scores on the validation sequences, by metric.
        seconds: spent on the preparation (zero where a prepared teacher was re-used).
        source_sha256: of the weights before preparation.
        license: the teacher's licence where it states one.
    """

    name: str
    num_parameters: int
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    source_vocab_size: int | None = None
    preparation: str = ""
    measurements: Measurements = field(default_factory=dict)
    seconds: float | None = None
    source_sha256: str = ""
    license: str = ""


@dataclass(frozen=True)
class CorpusFacts:
    """The text: a sequence is one sentence pair with its special tokens."""

    source: str
    num_documents: int
    train_tokens: int
    validation_tokens: int
    train_sequences: int
    validation_sequences: int
    max_length: int


@dataclass(frozen=True)
class SpaceFacts:
    """The design space: choices by factor, and how many architectures they make.

    Attributes:
        num_within_size_limits: architectures that meet the constraints that follow from the
            architecture alone; None where there are no such constraints.
    """

    template: str
    num_architectures: int
    factors: Mapping[str, Sequence[int]]
    num_within_size_limits: int | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve: optimiser step, stage of the distillation, loss or score.

    Attributes:
        step: counts over the whole distillation of the model, from 1.
        stage: ``block 3`` or ``pretraining``, as the distillation names it.
        loss: training loss in the stage's own terms; not comparable between kinds of stages.
        accuracy: masked-LM accuracy in [0, 1] where it was taken.
    """

    step: int
    stage: str
    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class LearningCurve:
    """How one distillation went."""

    architecture: Architecture
    budget: Literal["flash", "regular"]
    points: Sequence[CurvePoint]


@dataclass(frozen=True)
class DeliveredModel:
    """A student distilled at the regular budget and written to the run directory.

    Attributes:
        directory: of the model, relative to the run directory (``models/512_128_4_512_4``).
        measurements: of the final weights; latency is measured again on them.
        flash_measurements: of the same architecture in the search.
        parity_max_abs: largest absolute difference between the logits of PyTorch and ONNX.
        steps: optimiser steps of the regular distillation, all stages together.
        costs: seconds by phase, as in `Trial.costs`.
        is_baseline: the baseline at the same regular budget, distilled for comparison.
    """

    architecture: Architecture
    directory: str
    measurements: Measurements
    flash_measurements: Measurements = field(default_factory=dict)
    parity_max_abs: float | None = None
    steps: int | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    is_baseline: bool = False

    def value(self, metric: str) -> float | None:
        """The final value of a metric; None where it was not measured."""
        measurement = self.measurements.get(metric)
        return None if measurement is None else measurement.value


@dataclass(frozen=True)
class RunRecord:
    """A run, finished or not; what is not known yet is simply absent.

    Attributes:
        started, finished: ISO 8601 with the offset from UTC; ``finished`` is empty while the
            run goes on.
        environment: fingerprint of the machine and versions of the software.
        constraints: as the user wrote them (``latency_ms <= 0.8x``).
        search, flash, regular, target, further_targets: resolved configuration sections.
        trials: of the study; number 0 is the baseline.
        probes: architectures that were measured before the search; trained only where they are
            among the trials, too.
        front: numbers of the trials that no other trial dominates, means over seeds counting
            where there are several.
        selected: numbers of the trials chosen for regular distillation.
        verdicts: on every student trained with further seeds, whether it beats the baseline.
        hypervolume: dominated hypervolume after each trial, in the order of the trials; empty
            where it is not defined (one objective). None before the first complete trial.
        health: how well the search went; None before it began.
        curves: learning curves, as far as they were kept.
        costs: seconds by phase of the whole run.
        notes: what a reader must know to judge the figures, one sentence each.
    """

    name: str
    started: str
    seed: int
    version: str
    baseline: Architecture
    objectives: Sequence[Objective]
    finished: str = ""
    environment: Settings = field(default_factory=dict)
    teacher: TeacherFacts | None = None
    corpus: CorpusFacts | None = None
    space: SpaceFacts | None = None
    constraints: Sequence[str] = ()
    search: Settings = field(default_factory=dict)
    flash: Settings = field(default_factory=dict)
    regular: Settings = field(default_factory=dict)
    target: Settings = field(default_factory=dict)
    further_targets: Mapping[str, Settings] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    probes: Sequence[Trial] = ()
    front: Sequence[int] = ()
    selected: Sequence[int] = ()
    verdicts: Sequence[Verdict] = ()
    hypervolume: Sequence[float | None] = ()
    health: SearchHealth | None = None
    delivered: Sequence[DeliveredModel] = ()
    curves: Sequence[LearningCurve] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def baseline_trial(self) -> Trial | None:
        """Trial 0; None before it was made."""
        return next((trial for trial in self.trials if trial.number == 0), None)

    @property
    def students(self) -> list[Trial]:
        """The trials of the search, without the baseline."""
        return [trial for trial in self.trials if trial.number != 0]

    @property
    def evaluated(self) -> list[Trial]:
        """Complete trials, the baseline among them, for which every objective is known."""
        return [
            trial
            for trial in self.trials
            if trial.state is TrialState.COMPLETE
            and all(trial.value(objective.metric) is not None for objective in self.objectives)
        ]

    @property
    def delivered_baseline(self) -> DeliveredModel | None:
        """The baseline at the regular budget, where it was distilled."""
        return next((model for model in self.delivered if model.is_baseline), None)

    def to_json(self) -> dict[str, Any]:
        """What ``results.json`` holds: JSON types only, the schema number first."""
        return {"schema": SCHEMA, **encode(self)}

    @classmethod
    def from_json(cls, data: Any) -> RunRecord:
        """The inverse of `to_json`; sequences come back as tuples.

        Raises:
            RunDirectoryError: the data are not a record, or of a schema this version cannot read.
        """
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema is None:
            raise RunDirectoryError("these are not the results of a run: there is no schema number")
        if schema != SCHEMA:
            raise RunDirectoryError(
                f"the results have schema {schema}, but this version of flashdistill reads schema {SCHEMA}; "
                "use the version that wrote them or run the pipeline again"
            )
        try:
            return decode(cls, {key: value for key, value in data.items() if key != "schema"})
        except ValueError as error:
            raise RunDirectoryError(f"the results are damaged ({error}); run the pipeline again") from error

    def save(self, run_directory: Path) -> Path:
        """Write ``results.json``, complete or not at all."""
        path = Path(run_directory) / RESULTS_FILE
        write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, run_directory: Path) -> RunRecord:
        """Read ``results.json`` of a run directory.

        Raises:
            RunDirectoryError: there is none, or it cannot be read.
        """
        path = Path(run_directory) / RESULTS_FILE
        try:
            data = read_json(path)
        except FileNotFoundError:
            raise RunDirectoryError(
                f"{path} does not exist; name the directory of a run that has reached its report"
            ) from None
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{path} cannot be read ({error}); run the pipeline again") from error
        try:
            return cls.from_json(data)
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{path}: {error}") from error
