"""The scales of a run: on every target, architectures are weighed against the baseline.

Latency, memory and size need random weights only. What a target is given (an ONNX file, a model
directory) is written once per architecture and format, and a measurement is looked up before it
is made. A metric on a further target bears the target's name: ``latency_ms@gpu``.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np
from transformers import MobileBertForPreTraining

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.core.measurement import MEASURED_ON_TARGET, Measurement, at_target, metric_parts
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.registry import load
from flashdistill.core.seeds import derive_seed
from flashdistill.delivery.export import ENCODER_FILE, expected_features, exported_encoder, write_encoder
from flashdistill.delivery.foreign_export import exported_foreign
from flashdistill.evaluation.served_accuracy import Serve
from flashdistill.hardware.cache import MeasurementCache
from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.peaks import PeakRequest, Peaks, cached_peaks
from flashdistill.hardware.readings import calls_needed
from flashdistill.hardware.roofline import ELEMENT_BYTES, Work, derived_metrics, needs_peaks
from flashdistill.hardware.session import MeasurementSession
from flashdistill.hardware.settings import TARGETS, TargetSettings
from flashdistill.hardware.targets.base import ArtifactFormat
from flashdistill.models.work import encoder_bytes, encoder_flops

SERVED_ACCURACY = "served_mlm_accuracy"

SERVING_DIRECTORY = "serving"
"""Inside a delivered model: what the targets' runtimes made of it, by target."""

Arrays = dict[str, np.ndarray]
Measurements = dict[str, Measurement]


class Scale:
    """One target; measures everything against the baseline with random weights.

    Args:
        family: what all architectures share; the baseline is measured in it.
        cache: the directory of exported models and measurements.
        work_directory: for the reference's latency, which a resumed run needs, and raw samples.
        name: of a further target; None for the first.
        asked: the metrics that must be known, without the target's name.
    """

    def __init__(
        self,
        settings: TargetSettings,
        family: StudentFamily,
        baseline: Architecture,
        cache: Path,
        work_directory: Path,
        *,
        seed: int = 0,
        name: str | None = None,
        asked: Collection[str] = (),
        progress: Progress | None = None,
    ):
        self.settings, self.family, self.baseline = settings, family, baseline
        self.name, self.asked = name, frozenset(asked)
        self._cache, self._work_directory, self._seed = Path(cache), Path(work_directory), seed
        self._progress = progress or Silent()

    @cached_property
    def artifact_format(self) -> ArtifactFormat:
        """What the runtime starts from: ``onnx``, ``checkpoint`` or ``fake``."""
        return load(TARGETS, self.settings.runtime, "runtime").artifact

    @cached_property
    def session(self) -> MeasurementSession:
        """Connects to the target when it is first needed."""
        reference, _ = self._exported(self.baseline, self.family)
        return MeasurementSession(
            self.settings,
            reference,
            self._work_directory,
            derive_seed(self._seed, "measurement"),
            progress=self._progress,
            cache=MeasurementCache(self._cache / "measurements"),
            min_calls=calls_needed(self.asked),
        )

    @property
    def serves_otherwise(self) -> bool:
        """Whether the runtime computes something else than the student does, so that accuracy must be scored anew."""
        differs = self.settings.precision != "float32" or SERVED_ACCURACY in self.asked
        return differs and self.artifact_format != "fake"

    def measure(self, architecture: Architecture, family: StudentFamily | None = None) -> Measurements:
        """Everything on this target that random weights tell; from the cache where it is known.

        Args:
            family: another one than the baseline's, such as one of fewer blocks.

        Raises:
            TargetError: the architecture cannot be exported, answers wrongly, cannot be run, or a
                metric that is asked for could not be had.
        """
        family = family or self.family
        key = self.session.key(architecture, family, (self.baseline, self.family))
        measured = self.session.recall(key)
        if measured is None:
            begin = time.perf_counter()
            artifact, answers = self._exported(architecture, family)
            expected = answers(self.inputs(family.vocab_size))
            seconds = time.perf_counter() - begin
            with self._distrusted(artifact):
                measured = self._weigh(str(architecture), artifact, expected, seconds, key=key)
        return self._complete(measured | self._derived(measured, self._work(architecture, family)))

    def measure_model(
        self, architecture: Architecture, student: MobileBertForPreTraining, directory: Path
    ) -> Measurements:
        """The same of a finished model, to the final tolerance and never from the cache.

        What the runtime makes of it, such as quantised weights, is kept in ``serving/`` inside the directory.

        Args:
            directory: with the student's checkpoint and its exported encoder.
        """
        name, label = str(architecture), self.name or f"{self.settings.runtime}-{self.settings.precision}"
        with tempfile.TemporaryDirectory() as scratch:
            if self.artifact_format == "fake":
                artifact, answers = exported_encoder(architecture, self.family, self._cache, "fake")
            elif self.artifact_format == "onnx":
                artifact, answers = directory / ENCODER_FILE, partial(expected_features, student)
            else:  # of the directory's files only those that are served
                artifact = write_encoder(student, Path(scratch), self.artifact_format)
                answers = partial(expected_features, student)
            expected = answers(self.inputs(self.family.vocab_size))
            measured = self._weigh(name, artifact, expected, 0.0, final=True)
            self.session.prepare(name, artifact, directory / SERVING_DIRECTORY / label)
        return self._complete(measured | self._derived(measured, self._work(architecture, self.family)))

    def measure_foreign(self, directory: Path) -> Measurements:
        """The same of any `transformers` encoder.

        Raises:
            TargetError: it cannot be exported or run.
        """
        begin = time.perf_counter()
        model = exported_foreign(directory, self._cache, self.artifact_format)
        inputs = self.inputs(model.vocab_size)
        measured = self._weigh(directory.name, model.artifact, model.expected(inputs), time.perf_counter() - begin)
        # What its feature maps move is not known: the bytes are still a lower bound.
        work = Work(model.flops(inputs), model.weights * ELEMENT_BYTES[self.settings.precision].weight)
        found = self._complete(measured | self._derived(measured, work))
        return found | {"num_parameters": Measurement.of("num_parameters", model.num_parameters)}

    @contextmanager
    def serving(self, name: str, artifact: Path, shape: tuple[int, int]) -> Iterator[Serve]:
        """Answers of an exported model on the target for inputs of a shape [B, S] of its own."""
        settings = self.settings.model_copy(update={"batch_size": shape[0], "sequence_length": shape[1]})
        with self.session.serving(name, artifact, settings) as serve:
            yield serve

    def inputs(self, vocab_size: int) -> Arrays:
        """Example inputs of the target's shape."""
        return example_inputs(self.settings, vocab_size, self._seed)

    def named(self, measured: Mapping[str, Measurement]) -> Measurements:
        """Measurements under the names that they have on this target."""
        names = {metric: at_target(metric, self.name) for metric in measured}
        return {names[metric]: dataclasses.replace(one, name=names[metric]) for metric, one in measured.items()}

    def close(self) -> None:
        """Leave the target; safe to call twice."""
        if "session" in self.__dict__:
            self.session.close()

    def _exported(self, architecture: Architecture, family: StudentFamily) -> tuple[Path, Callable[[Arrays], Expected]]:
        try:
            return exported_encoder(architecture, family, self._cache, self.artifact_format)
        except OSError:  # a full disk is not the architecture's fault
            raise
        except Exception as error:
            raise TargetError(f"export: {architecture}: {error}") from error

    @contextmanager
    def _distrusted(self, artifact: Path) -> Iterator[None]:
        """Drop an export from the cache where a target found fault with it: the file may be damaged."""
        try:
            yield
        except TargetError as error:
            if str(error).startswith("export"):
                shutil.rmtree(artifact if artifact.is_dir() else artifact.parent, ignore_errors=True)
            raise

    def _weigh(
        self,
        name: str,
        artifact: Path,
        expected: Expected,
        export_seconds: float,
        *,
        key: str | None = None,
        final: bool = False,
    ) -> Measurements:
        measured = self.session.measure(name, artifact, expected, key=key, final=final)
        latency = measured["latency_ms"]
        details = {**latency.details, "export_seconds": export_seconds}
        return {**measured, "latency_ms": dataclasses.replace(latency, details=details)}

    def _work(self, architecture: Architecture, family: StudentFamily) -> Work:
        shape = (self.settings.batch_size, self.settings.sequence_length)
        sizes = ELEMENT_BYTES[self.settings.precision]
        moved = encoder_bytes(architecture, family, *shape, sizes.weight, sizes.activation)
        return Work(encoder_flops(architecture, family, *shape), moved)

    def _derived(self, measured: Measurements, work: Work) -> Measurements:
        return derived_metrics(measured["latency_ms"], work, self._peaks, self.settings)

    @cached_property
    def _peaks(self) -> Peaks | None:
        """What the device does at best; None where it cannot be measured, and the utilisations are left out."""
        if not needs_peaks(self.settings):
            return None
        settings, session = self.settings, self.session
        cpus = tuple(session.cpus) if settings.device_type == "cpu" else ()
        request = PeakRequest(settings.threads, cpus, settings.device, (settings.precision,))
        key = request.key(session.machine)
        try:
            # A resumed run divides by the same peaks, even where a busy machine gave them.
            return cached_peaks(
                self._work_directory,
                key,
                lambda: cached_peaks(self._cache / "peaks", key, lambda: session.measure_peaks(request)),
                keep_busy=True,
            )
        except TargetError as error:
            self._progress.message(f"utilisations are left out: {error}")
            return None

    def _complete(self, measured: Measurements) -> Measurements:
        """The measurements under their names on this target; all that are asked for are among them."""
        missing = sorted(self.asked - measured.keys() - {SERVED_ACCURACY})
        if missing:
            timed = measured["latency_ms"].details.get("passes")
            advice = (
                f"{timed} passes within target.measurement.seconds gave too few calls; allow more seconds"
                if any(name.startswith("latency_") for name in missing)
                else "the device's peaks cannot be measured; give target.peak_flops_per_s and target.peak_bytes_per_s"
            )
            raise TargetError(f"{', '.join(missing)} could not be had: {advice}")
        return self.named(measured)


class Scales:
    """All targets of a run: the configured ``target`` and ``further_targets``.

    Args:
        work_directory: of the first target; those of further ones are inside it.
    """

    def __init__(self, config: RunConfig, family: StudentFamily, work_directory: Path, progress: Progress):
        targets = {None: config.target, **config.further_targets}
        asked = [metric_parts(one.metric) for one in (*config.objectives, *config.constraints)]
        self.all = [
            Scale(
                settings,
                family,
                config.baseline,
                config.cache_directory,
                work_directory / name if name else work_directory,
                seed=config.seed,
                name=name,
                asked=[metric for metric, target in asked if target == name and metric in MEASURED_ON_TARGET],
                progress=progress,
            )
            for name, settings in targets.items()
        ]

    def measure(self, subject: Architecture | Path) -> Measurements:
        """What random weights tell of an architecture on every target; of an encoder in a directory, what its own do.

        Raises:
            TargetError: see `Scale.measure`.
        """
        if isinstance(subject, Path):
            return self._on_all(lambda scale: scale.measure_foreign(subject))
        return self._on_all(lambda scale: scale.measure(subject))

    def measure_model(
        self, architecture: Architecture, student: MobileBertForPreTraining, directory: Path
    ) -> Measurements:
        """The same of a finished model; see `Scale.measure_model`."""
        return self._on_all(lambda scale: scale.measure_model(architecture, student, directory))

    def close(self) -> None:
        for scale in self.all:
            scale.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_all(self, measure: Callable[[Scale], Mapping[str, Measurement]]) -> Measurements:
        return {name: one for scale in self.all for name, one in measure(scale).items()}
