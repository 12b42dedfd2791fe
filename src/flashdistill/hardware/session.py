"""A study's measurements: every candidate against one reference that stays the same.

A candidate's latency is *ratio × the reference's latency*. The ratio is measured anew for every
candidate; the reference's latency is taken from the study's first measurement and kept in a file,
from which a resumed run reads it. Latencies of one study are therefore comparable with each
other, however the machine's mood changes between the first trial and the last, or between a run
and its resumption.

Which clock: where one CPU thread does the work, the ratio is taken from CPU time. Pinned and
undisturbed, CPU time and wall time of such a process are the same number, but a task that takes
the CPU away adds to wall time alone, so on a loaded machine the CPU ratio is several times
tighter. With several threads CPU time would count those that wait for each other, and on an
accelerator it says nothing: there the ratio is taken from wall time. Both are always reported.

Everything that has to happen on the machine that serves goes through a `Host`: this machine, or
with ``target.host`` another one. The machine in a measurement's environment and in its key is that one.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.seeds import derive_seed
from flashdistill.hardware.cache import MeasurementCache, measurement_key
from flashdistill.hardware.hosts import Host, LocalHost
from flashdistill.hardware.lines import RunnerDiedError
from flashdistill.hardware.parity import Expected
from flashdistill.hardware.peaks import PeakRequest, Peaks, measure_on
from flashdistill.hardware.protocol import Comparison, Patience, Timer, compare
from flashdistill.hardware.readings import readings, rescaled
from flashdistill.hardware.reference import ReferenceLatency
from flashdistill.hardware.runner_process import RunnerProcess
from flashdistill.hardware.samples import write_samples
from flashdistill.hardware.serving import ModelServer, ServedModel, load_model
from flashdistill.hardware.settings import MeasurementSettings, TargetSettings
from flashdistill.hardware.ssh import SshHost
from flashdistill.hardware.statistics import Clock

Facts = dict[str, str | int | float | bool | None]
Serve = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class _Timed:
    comparison: Comparison
    candidate: Timer
    reference: Timer
    clock: Clock


def connect(settings: TargetSettings, work_directory: Path, progress: Progress) -> Host:
    """The machine that serves.

    Raises:
        TargetError: it cannot be reached.
    """
    if settings.host is None:
        return LocalHost(work_directory / "serving", progress)
    return SshHost(settings.host, settings.python, work_directory, progress)


def require_target(settings: TargetSettings, work_directory: Path, progress: Progress) -> None:
    """Find out within seconds whether anything can be served there.

    Raises:
        TargetError: the host cannot be reached or has too few CPUs, or the runtime is missing
            there; says what to do.
    """
    with connect(settings, work_directory, progress) as host:
        cpus = host.choose_cpus(settings.threads)
        for again in (True, False):  # somebody may have killed it, as in the middle of a measurement
            with RunnerProcess(host, settings, cpus, work_directory / "scratch", "first") as runner:
                try:
                    runner.wait_until_ready()
                    return
                except RunnerDiedError as error:
                    if not again:
                        raise TargetError(f"target.runtime {settings.runtime} does not start: {error}") from error


class MeasurementSession:
    """Measures candidates on the target, each against the same reference.

    The first measurement fixes the reference's latency. Let it be the baseline's: measured
    against itself it is a null test, whose ratio should be one.

    Args:
        settings: the target.
        reference_artifact: the baseline, exported for the target.
        work_directory: for the reference's latency (``reference.json``, which a resumed run
            needs), what the runtime made of the reference, raw samples, logs and scratch files.
        seed: decides which of the two models comes first in a measurement.
        progress: told when a measurement has to wait for another one.
        cache: where measurements are kept for other runs; see `recall`.
        min_calls: timed calls of a candidate that are wanted, for its percentiles.

    Raises:
        TargetError: the host cannot be reached, or has too few CPUs.

    Attributes:
        host: where it is measured.
        machine: the host's facts.
        cpus: the host's CPUs that models are pinned to.
    """

    def __init__(
        self,
        settings: TargetSettings,
        reference_artifact: Path,
        work_directory: Path,
        seed: int,
        *,
        progress: Progress | None = None,
        cache: MeasurementCache | None = None,
        min_calls: int = 0,
    ):
        self.settings = settings
        self._seed = seed
        self._progress = progress or Silent()
        self._cache, self._min_calls = cache, min_calls
        self._samples = Path(work_directory, "samples")
        self._scratch = Path(work_directory, "scratch")
        self.host = connect(settings, Path(work_directory), self._progress)
        try:
            self.machine = self.host.facts(settings.device)
            self.cpus = self.host.choose_cpus(settings.threads)
        except BaseException:
            self.host.close()
            raise
        reference = Path(reference_artifact)
        self._models = ModelServer(self.host, self.machine, self.cpus, self._scratch, (reference, settings))
        self._reference = ReferenceLatency(Path(work_directory, "reference.json"), settings, reference, self.machine)

    def measure(
        self, name: str, artifact: Path, expected: Expected, *, final: bool = False, key: str | None = None
    ) -> dict[str, Measurement]:
        """Check an exported model against ``expected``, then time it against the reference.

        Returns what `readings` gives, ``peak_memory_bytes`` and ``artifact_bytes`` (of what the
        runtime loads). Further details of the latency: ``parity_error``, and what the phases cost:
        ``prepare_seconds``, ``load_seconds``, ``parity_seconds`` (starting, loading, answering
        once), ``measure_seconds``. The raw samples are in ``samples/`` of the work directory.

        Args:
            name: the architecture, for messages.
            final: measure to ``final_tolerance`` within ``final_seconds``, for models that are delivered.
            key: the name under which a result that is not noisy is kept in the cache; see `key`.

        Raises:
            TargetError: the runtime refuses the model, or its outputs are wrong (the messages
                begin with ``export:``); its process or the connection to it died twice; the
                study's reference was measured on another machine or target.
        """
        shape = (self.settings.batch_size, self.settings.sequence_length)
        assert all(value.shape == shape for value in expected.inputs.values()), "inputs of another shape"
        try:
            measured = self._measure(name, artifact, expected, final)
        except RunnerDiedError as first:
            self._progress.message(f"{name}: {first}; measuring it again")
            try:
                measured = self._measure(name, artifact, expected, final)
            except RunnerDiedError as second:
                raise TargetError(f"{self.settings.runtime} on {name}: {second}, for the second time") from second
        if self._cache is not None and key is not None and not measured["latency_ms"].details["noisy"]:
            self._cache.put(key, measured)
        return measured

    def key(
        self, architecture: Architecture, family: StudentFamily, baseline: tuple[Architecture, StudentFamily]
    ) -> str:
        """The name of a measurement of this session in a cache that other machines' sessions may share."""
        return measurement_key(architecture, family, baseline, self.settings, self.machine)

    def recall(self, key: str, *, final: bool = False) -> dict[str, Measurement] | None:
        """A measurement of an earlier run from the cache, in terms of this study's reference.

        None where there is none, or where it was not precise enough, or of too few calls. A study that has no
        reference latency yet adopts the one behind the recalled value, so that what is measured
        later can be compared with it.
        """
        stored = self._cache.get(key) if self._cache is not None else None
        if stored is None:
            return None
        latency = stored["latency_ms"]
        ratio, high, then = (float(latency.details[name] or 0) for name in ("ratio", "ratio_high", "reference_ms"))
        too_few = stored["latency_p50_ms"].samples < self._min_calls
        if too_few or math.log(high / ratio) > self._precision(final).tolerance:
            return None
        now = self.reference_ms
        if now is None:
            self._reference.keep(then, {"adopted_from": key})
            now = then
        stored = rescaled(stored, now / then)
        latency = stored["latency_ms"]
        return {**stored, "latency_ms": dataclasses.replace(latency, details={**latency.details, "recalled": True})}

    @property
    def reference_ms(self) -> float | None:
        """The reference's latency that this study's latencies are multiples of; None until known.

        Raises:
            TargetError: it was measured on another machine, runtime or model.
        """
        return self._reference.milliseconds

    def prepare(self, name: str, artifact: Path, directory: Path) -> Path:
        """What the runtime makes of an exported model, for delivery.

        Returns it in the local ``directory``, which is made or replaced; ``artifact`` itself where
        the runtime serves it as it was exported.

        Raises:
            TargetError: the runtime cannot prepare it, or its process died.
        """
        with self._died_is_failure(name), self.host.locked(self.settings.device):
            model = self._models.make_ready(name, artifact, self.settings)
            return artifact if model.as_exported else self.host.fetch(model.path, directory)

    @contextmanager
    def serving(self, name: str, artifact: Path, settings: TargetSettings | None = None) -> Iterator[Serve]:
        """Answers of a model on the target: a function of inputs ``[batch, sequence]`` by name.

        It keeps the device's lock, because its work would disturb a measurement there; nothing
        else of this session may be called meanwhile.

        Args:
            settings: of the same runtime and host, for another batch size or sequence length.

        Raises:
            TargetError: the runtime cannot serve the model, or its process died, also in a call.
        """
        settings = settings or self.settings
        with self._died_is_failure(name), self.host.locked(settings.device):
            model = self._models.make_ready(name, artifact, settings)
            with self._models.runner("serving", settings) as runner:
                runner.wait_until_ready()
                load_model(runner, name, model)
                yield runner.infer

    def measure_peaks(self, request: PeakRequest) -> Peaks:
        """What the host's device can do at best, undisturbed by measurements.

        Raises:
            TargetError: it cannot be measured there.
        """
        with self._died_is_failure("peaks"), self.host.locked(self.settings.device):
            return measure_on(self.host, request, self._scratch / "peaks.log")

    def close(self) -> None:
        """Delete scratch files and candidates here and there, leave the host."""
        with suppress(RunnerDiedError, TargetError):  # a host that cannot be reached forgets by itself
            self._models.forget_candidate()
        self.host.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _measure(self, name: str, artifact: Path, expected: Expected, final: bool) -> dict[str, Measurement]:
        with self.host.locked(self.settings.device):
            reference = self._models.make_ready("the reference", *self._models.reference)
            candidate = self._models.make_ready(name, artifact, self.settings)
            checked = self._models.check(name, candidate, expected, self.settings, trained=final)
            start = time.monotonic()
            timed = self._time(name, candidate, reference, checked.cpu_bound, expected, final)
            costs = {
                "prepare_seconds": candidate.prepare_seconds,
                "load_seconds": checked.load_seconds,
                "parity_seconds": checked.seconds,
                "measure_seconds": time.monotonic() - start,
            }
        environment = self._environment(checked.description)
        self._keep_samples(name, timed, environment, final)
        sizes = {"peak_memory_bytes": checked.peak_memory_bytes, "artifact_bytes": checked.artifact_bytes}
        found = readings(
            timed.comparison,
            timed.candidate,
            timed.reference,
            timed.clock,
            self._studys_reference(timed),
            environment,
            {"parity_error": checked.parity_error, **costs},
        )
        for metric, size in sizes.items():
            found[metric] = dataclasses.replace(Measurement.of(metric, size), environment=environment)
        return found

    def _time(
        self,
        name: str,
        candidate_model: ServedModel,
        reference_model: ServedModel,
        cpu_bound: bool,
        expected: Expected,
        final: bool,
    ) -> _Timed:
        # One thread that computes all the time; see the module's docstring.
        clock: Clock = "cpu" if cpu_bound and self.settings.threads == 1 else "wall"
        usual_share = 1.0 if self.settings.threads == 1 else 0.0
        precision = self._precision(final)
        candidate, reference = (Timer(cpu_bound, usual_share, precision.block_ms) for _ in range(2))
        comparison = compare(
            lambda: self._models.pair(candidate_model, reference_model, expected.inputs, self.settings),
            candidate,
            reference,
            precision,
            clock,
            tolerance=precision.tolerance,
            candidate_first=derive_seed(self._seed, "order", name) % 2 == 0,
            patience=Patience(precision.patience_seconds, self.host.is_busy),
            min_calls=self._min_calls,
        )
        return _Timed(comparison, candidate, reference, clock)

    def _studys_reference(self, timed: _Timed) -> float:
        """Milliseconds; the first measurement fixes them."""
        if self.reference_ms is None:
            now = timed.reference.latency(timed.clock)
            self._reference.keep(now.mean, {"stderr_ms": now.stderr, "passes": now.samples, "clock": timed.clock})
        assert self.reference_ms is not None
        return self.reference_ms

    def _keep_samples(self, name: str, timed: _Timed, environment: Facts, final: bool) -> None:
        file = re.sub(r"[^\w.-]", "_", name) + ("-final" if final else "") + ".parquet"
        metadata = {
            "architecture": name,
            "settings": self.settings.model_dump(mode="json"),
            "environment": environment,
            "clock": timed.clock,
        }
        write_samples(self._samples / file, timed.comparison.attempts, metadata)

    @contextmanager
    def _died_is_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except RunnerDiedError as error:
            raise TargetError(f"{self.settings.runtime} on {name}: {error}") from error

    def _precision(self, final: bool) -> MeasurementSettings:
        precision = self.settings.measurement
        return precision.final if final else precision

    def _environment(self, description: Mapping[str, Any]) -> Facts:
        return {
            **self.machine,
            **description,
            **({"host": self.settings.host} if self.settings.host else {}),
            "device": self.settings.device,
            "batch_size": self.settings.batch_size,
            "sequence_length": self.settings.sequence_length,
            "pinned_cpus": ",".join(map(str, self.cpus)),
        }
