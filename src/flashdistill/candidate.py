"""The life of one candidate: measure, distil, evaluate, record.

Latency needs random weights only, so it is measured first: a candidate that breaks a constraint
costs no training. A candidate's failure is data; it is caught here, once, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import torch

from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import InputError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import tracked
from flashdistill.core.trial import Trial, TrialState
from flashdistill.distillation.distill import Distilled
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, student_predictor
from flashdistill.exploration.constraints import violations
from flashdistill.training.loop import LossCurve
from flashdistill.workbench import Workbench

log = logging.getLogger(__name__)

EVALUATION_BATCH = 32
"""Sequences scored at a time; has no influence on the result."""


def run_candidate(bench: Workbench, pending: Trial, baseline: Mapping[str, float]) -> Trial:
    """Work on a pending trial to its end, or continue where a killed process left it.

    Args:
        baseline: the baseline's values by metric, for relative bounds; empty for the baseline
            itself (trial 0), which has no constraints to satisfy.

    Returns:
        The trial as complete, infeasible or failed, never pending.

    Raises:
        InputError, OSError: the run cannot go on (a full disk, say); not the candidate's fault.
    """
    measurements: dict[str, Measurement] = {}
    costs: dict[str, float] = {}
    state, reason = TrialState.COMPLETE, ""
    try:
        reason = _assess(bench, pending.architecture, baseline, measurements, costs)
        state = TrialState.INFEASIBLE if reason else state
    except (InputError, OSError):
        raise
    except Exception as error:
        state, reason = TrialState.FAILED, failure_reason(error)
        log.warning("candidate %s failed: %s", pending.architecture, reason, exc_info=error)
    finite = {name: measurement for name, measurement in measurements.items() if measurement.finite}
    if state is TrialState.COMPLETE and len(finite) < len(measurements):
        state, reason = TrialState.FAILED, f"diverged: {', '.join(sorted(set(measurements) - set(finite)))} not finite"
    return dataclasses.replace(pending, state=state, reason=reason, measurements=finite, costs=costs)


def _assess(
    bench: Workbench,
    architecture: Architecture,
    baseline: Mapping[str, float],
    measurements: dict[str, Measurement],
    costs: dict[str, float],
) -> str:
    """Fill ``measurements`` and ``costs`` as far as it gets; returns which constraints are broken."""
    constraints = bench.config.constraints if baseline else []
    measurements["num_parameters"] = Measurement.of("num_parameters", bench.num_parameters(architecture))
    with timed(costs, "measure"), tracked(bench.progress, f"measure {architecture}"):
        measurements |= bench.scales.measure(architecture)
    if broken := violations(constraints, _values(measurements), baseline):
        return "; ".join(broken)
    distilled = distil(bench, architecture, bench.config.flash, f"distil {architecture}", costs)
    with timed(costs, "evaluate"):
        measurements |= evaluate(bench, distilled)
    return "; ".join(violations(constraints, _values(measurements), baseline))


def distil(
    bench: Workbench, architecture: Architecture, settings: DistillationSettings, task: str, costs: dict[str, float]
) -> Distilled:
    """Distil an architecture under a budget; keeps its learning curve, drops its checkpoints."""
    work = bench.directory.candidate(architecture) / ("flash" if settings is bench.config.flash else "regular")
    distillation = bench.distillation(architecture, settings, work, task)
    with timed(costs, "distill"):
        distilled = distillation.run()
    write_json(work / "curves.json", {name: curve.points for name, curve in distilled.curves.items()})
    return distilled


def evaluate(bench: Workbench, distilled: Distilled) -> dict[str, Measurement]:
    """Accuracy on held-out text, with the same masks for every student."""
    predict = student_predictor(distilled.student, with_nsp="nsp" in bench.config.tasks)
    return pretraining_accuracy(predict, bench.pretraining_data.validation_batches(EVALUATION_BATCH))


def read_curves(bench: Workbench, architecture: Architecture, budget: str) -> dict[str, LossCurve]:
    """The learning curves of a finished distillation; empty where there are none."""
    path = bench.directory.candidate(architecture) / budget / "curves.json"
    if not path.exists():
        return {}
    return {name: LossCurve([(int(s), float(v)) for s, v in points]) for name, points in read_json(path).items()}


def failure_reason(error: Exception) -> str:
    """One line that says why a candidate failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    text = " ".join(str(error).split())
    if "can't allocate memory" in text:
        return "out of memory"
    known = type(error).__module__.startswith("flashdistill")
    return text if known else f"{type(error).__name__}: {text}"


def _values(measurements: Mapping[str, Measurement]) -> dict[str, float]:
    return {name: measurement.value for name, measurement in measurements.items()}
