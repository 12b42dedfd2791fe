"""The trials of an old run in a new study: one by one measured anew, judged anew, recorded.

What becomes of a trial:

    complete                 complete, or infeasible where it breaks a limit on the new target
    infeasible, trained      the same
    stopped                  stopped where the faster trials here beat it too, else a probe
    infeasible, not trained  infeasible where it still breaks a limit, else a probe
    failed in training       failed, for the old reason
    failed on the target,
    pending, probe           a probe
    cannot be run here       failed; a probe is left out

A probe is measured and has no trial, so the search may take the architecture up again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from flashdistill.candidate import failure_reason
from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.clock import timed
from flashdistill.core.errors import FlashDistillError, InputError
from flashdistill.core.measurement import (
    KNOWN_WITHOUT_MEASURING,
    MEASURED_ON_TARGET,
    Measurement,
    known_before_training,
    metric_parts,
)
from flashdistill.core.progress import Progress, tracked
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.constraints import violations
from flashdistill.exploration.early_stopping import stop_reason
from flashdistill.exploration.study import Study
from flashdistill.hardware.session import require_target
from flashdistill.hardware.settings import TargetSettings
from flashdistill.models.parameter_count import count_parameters
from flashdistill.scales import SERVED_ACCURACY, Scales

Measurements = Mapping[str, Measurement]

_TASK = "remeasure"


def carried_over(measurements: Measurements, old: RunConfig, new: RunConfig) -> dict[str, Measurement]:
    """What training told, which holds on the new targets too.

    The accuracy as served is among it where the target of that name computes as before, with the
    same runtime and precision on the same kind of device.
    """
    return {name: one for name, one in measurements.items() if _holds(name, old, new)}


def _holds(name: str, old: RunConfig, new: RunConfig) -> bool:
    metric, target = metric_parts(name)
    if metric != SERVED_ACCURACY:
        return metric not in (*KNOWN_WITHOUT_MEASURING, *MEASURED_ON_TARGET)
    before, after = _target(old, target), _target(new, target)
    return before is not None and after is not None and _arithmetic(before) == _arithmetic(after)


def _target(config: RunConfig, name: str | None) -> TargetSettings | None:
    return config.target if name is None else config.further_targets.get(name)


def _arithmetic(target: TargetSettings) -> tuple[str, ...]:
    return target.runtime, target.device_type, target.precision


class Remeasurement:
    """Takes the trials of an old run over into a new study.

    Args:
        study: of the new run; whatever of the old trials it has already is left as it is.
        scales: of the new run's targets.
    """

    def __init__(
        self,
        old: RunConfig,
        new: RunConfig,
        directory: RunDirectory,
        study: Study,
        scales: Scales,
        family: StudentFamily,
        progress: Progress,
    ):
        self._old, self._new, self._directory = old, new, directory
        self._study, self._scales, self._family, self._progress = study, scales, family, progress
        self._recorded = {trial.architecture: trial for trial in study.trials()}
        self._probed = {probe.architecture: probe for probe in study.probes()}

    def measure_all(self, trials: Sequence[Trial], probes: Sequence[Trial]) -> None:
        """Take over trials in the order of their numbers, the baseline first, then what was only measured.

        Raises:
            TargetError: a target has stopped answering, or cannot run the baseline.
        """
        costs: dict[str, float] = {}
        # Also when resumed: on another machine than the study's, this and not every trial fails.
        measured = self._measure(trials[0].architecture, costs)
        with tracked(self._progress, _TASK, len(trials) + len(probes)):
            for old in (*trials, *probes):
                if not self._finished(old.architecture):
                    if old is trials[0]:
                        self._record(self._restored(old, measured, costs), old)
                    else:
                        self._take_over(old)
                self._confirm(old)
                self._progress.advance(_TASK, note=str(old.architecture))

    def _finished(self, architecture: Architecture) -> bool:
        """Whether the new study has a trial of it; one that a killed process left pending has yet to be finished."""
        recorded = self._recorded.get(architecture)
        return recorded is not None and recorded.state is not TrialState.PENDING

    def _take_over(self, old: Trial) -> None:
        costs: dict[str, float] = {}
        probe = self._probed.get(old.architecture)
        try:
            measured = self._measure(old.architecture, costs) if probe is None else probe.measurements
        except (InputError, OSError):
            raise
        except Exception as error:
            for target in (self._new.target, *self._new.further_targets.values()):
                # A host that is gone is not the architecture's failure: this raises, nothing is recorded.
                require_target(target, self._directory.measurements, self._progress)
            self._leave_out(old, failure_reason(error), costs)
            return
        restored = self._restored(old, measured, costs)
        state, reason = self._judged(old, restored)
        if state is not TrialState.MEASURED:
            self._record(dataclasses.replace(restored, state=state, reason=reason), old)
        elif probe is None:
            self._study.add_probe(old.architecture, measured)
            self._charge(costs)
            self._progress.message(f"{old.architecture}: {self._figures(restored, old)}; measured, not trained")

    def _leave_out(self, old: Trial, reason: str, costs: dict[str, float]) -> None:
        if old.state is TrialState.MEASURED:
            self._progress.message(f"{old.architecture} is left out: {reason}")
            return
        restored = self._restored(old, {}, costs)
        self._record(dataclasses.replace(restored, state=TrialState.FAILED, reason=reason), old)

    def _measure(self, architecture: Architecture, costs: dict[str, float]) -> dict[str, Measurement]:
        with timed(costs, "measure"), tracked(self._progress, f"measure {architecture}"):
            measured = self._scales.measure(architecture)
        parameters = Measurement.of("num_parameters", count_parameters(architecture, self._family))
        return {"num_parameters": parameters} | {name: one for name, one in measured.items() if one.finite}

    def _restored(self, old: Trial, measured: Measurements, costs: Mapping[str, float]) -> Trial:
        """The old trial with new measurements beside what training told; its state is still the old one."""
        kept = {phase: cost for phase, cost in old.costs.items() if phase not in ("export", "measure")}
        return dataclasses.replace(
            old,
            measurements={**measured, **carried_over(old.measurements, self._old, self._new)},
            costs={**kept, **costs},
            curve={share: carried_over(scores, self._old, self._new) for share, scores in old.curve.items()},
            confirmations=tuple(carried_over(one, self._old, self._new) for one in old.confirmations),
        )

    def _judged(self, old: Trial, restored: Trial) -> tuple[TrialState, str]:
        """What the trial is on the new target, and why; see the module."""
        failed_in_training = old.state is TrialState.FAILED and "latency_ms" in old.measurements
        if failed_in_training:
            return TrialState.FAILED, old.reason
        if old.state is TrialState.MEASURED:
            return TrialState.MEASURED, ""
        values = {name: one.value for name, one in restored.measurements.items()}
        reference = {name: one.value for name, one in self._baseline.measurements.items()}
        if broken := violations(self._new.constraints, values, reference):
            return TrialState.INFEASIBLE, "; ".join(broken)
        if old.state is TrialState.STOPPED and (reason := self._why_still_stopped(restored)):
            return TrialState.STOPPED, reason
        trained = all(objective.metric in values for objective in self._new.objectives)
        if trained and old.state in (TrialState.COMPLETE, TrialState.INFEASIBLE):
            return TrialState.COMPLETE, ""
        return TrialState.MEASURED, ""

    def _why_still_stopped(self, stopped: Trial) -> str:
        """Whom it is beaten by, if it would be stopped here too; who is the faster of two may have changed."""
        trials = sorted(self._recorded.values(), key=lambda trial: trial.number)
        reasons = (
            stop_reason(stopped, share, trials, self._new.objectives, self._new.constraints) for share in stopped.curve
        )
        return next(filter(None, reasons), "")

    @property
    def _baseline(self) -> Trial:
        return self._recorded[self._new.baseline]

    def _record(self, trial: Trial, old: Trial) -> None:
        """Enter a trial into the study; a process killed in between finishes it when it resumes."""
        pending = self._recorded.get(trial.architecture)
        if pending is None:
            pending = self._study.start(trial.architecture)
            self._directory.remember(started_trials=pending.number + 1)
        recorded = dataclasses.replace(trial, number=pending.number, confirmations=())
        self._study.finish(recorded)
        self._recorded[trial.architecture] = recorded
        self._charge(trial.costs)
        outcome = "" if trial.state is TrialState.COMPLETE else f"; {trial.state}: {trial.reason}"
        self._progress.message(f"trial {recorded.number}: {trial.architecture}: {self._figures(trial, old)}{outcome}")

    def _charge(self, costs: Mapping[str, float]) -> None:
        """Add what measuring took to the new run's costs; training was paid for by the old run."""
        known = dict(self._directory.state().get("costs", {}))
        known["measure"] = known.get("measure", 0.0) + costs.get("measure", 0.0)
        self._directory.remember(costs=known)

    def _confirm(self, old: Trial) -> None:
        """Take further seeds' results over; only complete trials can have them."""
        recorded = self._recorded.get(old.architecture)
        if recorded is None or recorded.state is not TrialState.COMPLETE:
            return
        if len(recorded.confirmations) < len(old.confirmations):
            self._study.confirm(recorded, [carried_over(one, self._old, self._new) for one in old.confirmations])

    def _figures(self, trial: Trial, old: Trial) -> str:
        """The objectives that were measured anew, with what they were."""
        shown = []
        for objective in self._new.objectives:
            value, before = trial.value(objective.metric), old.value(objective.metric)
            if value is not None and known_before_training(objective.metric):
                unit = trial.measurements[objective.metric].unit
                was = "" if before is None else f" (was {before:.4g})"
                shown.append(f"{objective.metric.removesuffix('_ms')} {value:.4g} {unit}{was}")
        return ", ".join(shown) or "measured"


def vocabulary_of(config: RunConfig, baseline: Trial) -> int:
    """The number of entries of the tokenizer that a run's students have.

    The configuration need not tell, and the teacher is not to be loaded; but the number of
    parameters in the study grows with it by one row of the embedding table for each entry.

    Raises:
        FlashDistillError: the number of parameters is of another space.
    """
    family = config.student_family(vocab_size=0)
    rest = count_parameters(baseline.architecture, family)
    entries, remainder = divmod(round(baseline.value("num_parameters") or 0.0) - rest, family.embedding_size)
    if remainder or entries <= 0:
        raise FlashDistillError(
            f"the study's number of parameters of {baseline.architecture} does not belong to its configuration; "
            "its config.yaml was changed, or another version counted otherwise: restore it, or search anew"
        )
    return entries
