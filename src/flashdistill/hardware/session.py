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
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flashdistill.core.errors import TargetError
from flashdistill.core.measurement import METRICS, Measurement
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.seeds import derive_seed
from flashdistill.hardware.cache import MeasurementCache, artifact_bytes
from flashdistill.hardware.device_lock import device_lock
from flashdistill.hardware.machine import choose_cpus, fingerprint
from flashdistill.hardware.parity import Expected, check_parity
from flashdistill.hardware.protocol import Comparison, Timer, compare
from flashdistill.hardware.reference import ReferenceLatency
from flashdistill.hardware.runner_process import STEADY_MEMORY, RunnerDiedError, RunnerProcess
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.statistics import Clock, percentiles

Facts = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class _Checked:
    """What loading the candidate once has told."""

    description: dict[str, Any]
    peak_memory_bytes: int
    load_seconds: float
    parity_error: float

    @property
    def cpu_bound(self) -> bool:
        return bool(self.description["cpu_bound"])


class MeasurementSession:
    """Measures candidates on the target, each against the same reference.

    The first measurement fixes the reference's latency. Let it be the baseline's: measured
    against itself it is a null test, whose ratio should be one.

    Args:
        settings: the target.
        reference_artifact: the baseline, exported for the target.
        work_directory: for the reference's latency (``reference.json``, which a resumed run
            needs), logs and scratch files.
        seed: decides which of the two models comes first in a measurement.
        progress: told when a measurement has to wait for another one.
        cache: where measurements are kept for other runs; see `recall`.
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
    ):
        self.settings = settings
        self.cpus = choose_cpus(settings.threads)
        self.machine = fingerprint()
        self._reference_artifact = Path(reference_artifact)
        self._seed = seed
        self._progress = progress or Silent()
        self._cache = cache
        self._scratch = Path(work_directory, "scratch")
        self._reference = ReferenceLatency(
            Path(work_directory, "reference.json"), settings, self._reference_artifact, self.machine
        )

    def measure(
        self, name: str, artifact: Path, expected: Expected, *, final: bool = False, key: str | None = None
    ) -> dict[str, Measurement]:
        """Check an exported model against ``expected``, then time it against the reference.

        Returns ``latency_ms``, ``peak_memory_bytes`` and ``artifact_bytes``. The latency's
        details: ``ratio`` with ``ratio_low`` and ``ratio_high`` (95 %), ``cpu_ratio``,
        ``wall_ratio``, ``clock`` (which of them counts), ``p50_ms``, with enough calls ``p90_ms``
        and ``p99_ms`` (all three on that clock), ``wall_p50_ms``, ``rounds``, ``passes``,
        ``interrupted_rounds``, ``waited_seconds``, ``noisy``, ``reference_ms`` (the study's) and
        ``reference_now_ms`` (during this measurement), ``parity_error``, ``load_seconds``.

        Args:
            name: the architecture, for messages.
            final: measure to ``final_tolerance``, for models that are delivered.
            key: the name under which a result that is not noisy is kept in the cache.

        Raises:
            TargetError: the runtime refuses the model; its outputs are wrong (the message begins
                with ``export:``); its process died twice; the study's reference was measured on
                another machine or target.
        """
        shape = (self.settings.batch_size, self.settings.sequence_length)
        assert all(value.shape == shape for value in expected.inputs.values()), "inputs of another shape"
        with device_lock(self.settings.device, self._progress):
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

    def recall(self, key: str, *, final: bool = False) -> dict[str, Measurement] | None:
        """A measurement of an earlier run from the cache, in terms of this study's reference.

        None where there is none, or where it was not precise enough. A study that has no
        reference latency yet adopts the one behind the recalled value, so that what is measured
        later can be compared with it.
        """
        stored = self._cache.get(key) if self._cache is not None else None
        if stored is None:
            return None
        latency = stored["latency_ms"]
        ratio, high, then = (float(latency.details[name] or 0) for name in ("ratio", "ratio_high", "reference_ms"))
        if math.log(high / ratio) > self._tolerance(final):
            return None
        now = self.reference_ms
        if now is None:
            self._reference.keep(then, {"adopted_from": key})
            now = then
        scale = now / then
        stored["latency_ms"] = dataclasses.replace(
            latency,
            value=latency.value * scale,
            stderr=None if latency.stderr is None else latency.stderr * scale,
            details={**latency.details, "reference_ms": now, "recalled": True},
        )
        return stored

    @property
    def reference_ms(self) -> float | None:
        """The reference's latency that this study's latencies are multiples of; None until known.

        Raises:
            TargetError: it was measured on another machine, runtime or model.
        """
        return self._reference.milliseconds

    def close(self) -> None:
        """Delete the scratch files; no process outlives a call of `measure`."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _measure(self, name: str, artifact: Path, expected: Expected, final: bool) -> dict[str, Measurement]:
        checked = self._check(name, artifact, expected)
        # One thread that computes all the time; see the module's docstring.
        clock: Clock = "cpu" if checked.cpu_bound and self.settings.threads == 1 else "wall"
        usual_share = 1.0 if self.settings.threads == 1 else 0.0
        precision = self.settings.measurement
        candidate, reference = (Timer(checked.cpu_bound, usual_share, precision.block_ms) for _ in range(2))
        comparison = compare(
            lambda: self._pair(artifact, expected),
            candidate,
            reference,
            precision,
            clock,
            tolerance=self._tolerance(final),
            candidate_first=derive_seed(self._seed, "order", name) % 2 == 0,
        )
        now = reference.latency(clock)
        reference_ms = self.reference_ms
        if reference_ms is None:
            reference_ms = now.mean
            self._reference.keep(now.mean, {"stderr_ms": now.stderr, "passes": now.samples, "clock": clock})
        environment = self._environment(checked.description)
        details = {
            **_ratio_details(comparison, candidate, clock),
            "reference_ms": reference_ms,
            "reference_now_ms": now.mean,
            "parity_error": checked.parity_error,
            "load_seconds": checked.load_seconds,
        }
        value = reference_ms * math.exp(comparison.log_ratio.mean)
        # The reference's own error is left out: it is the same factor in every latency of the
        # study and cancels in every comparison.
        stderr = value * comparison.log_ratio.stderr
        return {
            "latency_ms": Measurement("latency_ms", value, "ms", stderr, comparison.rounds, environment, details),
            "peak_memory_bytes": _exact("peak_memory_bytes", checked.peak_memory_bytes, environment),
            "artifact_bytes": _exact("artifact_bytes", artifact_bytes(artifact), environment),
        }

    def _check(self, name: str, artifact: Path, expected: Expected) -> _Checked:
        """Load the candidate in a process of its own, compare its answers, note its memory."""
        with self._runner("candidate") as runner:
            runner.wait_until_ready()
            try:
                load_seconds = runner.load(artifact)
                outputs = runner.infer(expected.inputs)
            except TargetError as failure:
                raise TargetError(f"export: {name}: {failure}") from failure
            parity_error = check_parity(name, outputs, expected.outputs)
            description = runner.statistics()
            return _Checked(description, description.pop("peak_memory_bytes"), load_seconds, parity_error)

    @contextmanager
    def _pair(self, artifact: Path, expected: Expected) -> Iterator[tuple[RunnerProcess, RunnerProcess]]:
        """The candidate and the reference in new processes, started side by side."""
        with (
            self._runner("candidate", STEADY_MEMORY) as candidate,
            self._runner("reference", STEADY_MEMORY) as reference,
        ):
            candidate.wait_until_ready()
            reference.wait_until_ready()
            for runner, model in ((candidate, artifact), (reference, self._reference_artifact)):
                runner.load(model)
                runner.infer(expected.inputs)
            yield candidate, reference

    def _runner(self, role: str, variables: Mapping[str, str] | None = None) -> RunnerProcess:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return RunnerProcess(self.settings, self.cpus, self._scratch, role, variables)

    def _tolerance(self, final: bool) -> float:
        precision = self.settings.measurement
        return precision.final_tolerance if final else precision.tolerance

    def _environment(self, description: Mapping[str, Any]) -> Facts:
        return {
            **self.machine,
            **description,
            "device": self.settings.device,
            "batch_size": self.settings.batch_size,
            "sequence_length": self.settings.sequence_length,
            "pinned_cpus": ",".join(map(str, self.cpus)),
        }


def _ratio_details(comparison: Comparison, candidate: Timer, clock: Clock) -> Facts:
    estimate = comparison.log_ratio
    return {
        "ratio": math.exp(estimate.mean),
        "ratio_low": math.exp(estimate.mean - estimate.half_width),
        "ratio_high": math.exp(estimate.mean + estimate.half_width),
        "cpu_ratio": comparison.ratio("cpu"),
        "wall_ratio": comparison.ratio("wall"),
        "clock": clock,
        **percentiles(candidate.times(clock)),
        "wall_p50_ms": percentiles(candidate.times("wall"))["p50_ms"],
        "passes": len(comparison.passes),
        "rounds": comparison.rounds,
        "interrupted_rounds": comparison.interrupted,
        "waited_seconds": comparison.waited_seconds,
        "noisy": comparison.noisy,
    }


def _exact(name: str, value: float, environment: Facts) -> Measurement:
    return Measurement(name, value, METRICS[name][0], environment=environment)
