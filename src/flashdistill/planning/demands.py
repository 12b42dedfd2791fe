"""Which trainings and measurements a configuration asks for, and how many are to be expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.seeds import generator
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.exploration.constraints import known_without_measuring, violations
from flashdistill.exploration.space import DesignSpace
from flashdistill.models.parameter_count import count_parameters

TYPICAL = 128
"""Architectures that stand for a space: all of a small one, a random sample of a large one."""


@dataclass(frozen=True)
class Demand:
    """Trainings of one kind.

    Attributes:
        architectures: each is trained ``times`` times; a fraction where they stand for others.
        side_by_side: how many the teacher answers at once.
        finished: whether each is compared with the teacher on the held-out text.
    """

    what: str
    architectures: Sequence[Architecture]
    settings: DistillationSettings
    times: float = 1
    side_by_side: int = 1
    finished: bool = False

    @property
    def trainings(self) -> float:
        return self.times * len(self.architectures)


@dataclass(frozen=True)
class Measuring:
    """Architectures measured before any training; the limits on latency decide how many.

    Attributes:
        least, most: without the baseline.
        targets: on which each is measured.
        seconds: of all, at most.
    """

    least: int
    most: int
    targets: int
    seconds: float


def typical_architectures(space: DesignSpace, config: RunConfig, family: StudentFamily) -> list[Architecture]:
    """Architectures within the limits on size, drawn evenly; the whole space where none is within."""
    limits = known_without_measuring(config.constraints)
    baseline = {"num_parameters": float(count_parameters(config.baseline, family))}

    def allowed(one: Architecture) -> bool:
        return not violations(limits, {"num_parameters": float(count_parameters(one, family))}, baseline)

    rng = generator("plan")
    drawn = list(space.table) if space.size <= 4 * TYPICAL else space.sample(4 * TYPICAL, rng)
    within = [one for one in drawn if allowed(one)] or drawn
    if len(within) <= TYPICAL:
        return within
    return [within[index] for index in sorted(rng.permutation(len(within))[:TYPICAL].tolist())]


def demands_of(config: RunConfig, typical: Sequence[Architecture], trained: int) -> list[Demand]:
    """All distillations of a run: baseline, candidates, confirmations, regular distillations.

    Args:
        typical: stand for the candidates, and for those that are selected.
        trained: candidates of the search.
    """
    flash, regular, baseline = config.flash, config.regular, [config.baseline]
    together = flash.students_per_teacher
    chosen = min(config.select.top, trained)
    seeds = config.search.confirm_seeds if chosen else 0
    found = [
        Demand("baseline", baseline, flash),
        Demand("candidates", typical, flash, trained / len(typical), min(together, max(1, trained))),
    ]
    if seeds:
        found += [
            Demand("confirmation, baseline", baseline, flash, seeds, min(together, 1 + chosen)),
            Demand("confirmation", typical, flash, seeds * chosen / len(typical), min(together, 1 + chosen)),
        ]
    found.append(Demand("regular", typical, regular, chosen / len(typical), finished=True))
    if config.select.include_baseline:
        found.append(Demand("regular, baseline", baseline, regular, finished=True))
    return [demand for demand in found if demand.times]


def measuring_of(config: RunConfig, within: int, measured_per_trained: int) -> Measuring:
    """How many architectures are measured, and for how long at most.

    Args:
        within: architectures that satisfy the limits on size.
        measured_per_trained: the search's limit.
    """
    trials = min(config.search.trials, within)
    probes = min(config.search.latency_probes, within)
    unknown = len(known_without_measuring(config.constraints)) < len(config.constraints)
    most = min(measured_per_trained * config.search.trials, within) if unknown else trials
    targets = [config.target, *config.further_targets.values()]
    each = sum(target.measurement.seconds for target in targets)
    final = sum(target.measurement.final_seconds for target in targets)
    delivered = config.select.top + config.select.include_baseline
    least, most = max(trials, probes), max(most, min(probes + most, within) if probes else most)
    return Measuring(least, most, len(targets), (most + 1) * each + delivered * final)
