"""From visits to the numbers that are published.

A ratio is taken within a round, where both contenders saw the same machine; of its values over the
rounds the median, the least and the greatest are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.distillation_peers.registry import FIRST, FLOOR, LATER, NAIVE, PEERS
from benchmarks.distillation_peers.workload import Kind, Task, Workload

STEPS: Mapping[Kind, int] = {"stage": 12, "head": 12, "pretraining": 25}
"""Thousands of steps in the paper's flash distillation: 500 for each of 24 blocks, then 25,000.

The fit of the head behind the last stage, which only this package does, takes as many steps as
all stages together.
"""

HEADLINES = {
    "whole_vs_naive": "times that the naive loop takes as long as this package from the second candidate on",
    "whole_vs_best_peer": "the same for the fastest peer, the naive loop among them",
    "whole_vs_floor": "times that this package takes as long as the floor from the second candidate on",
    "stage_vs_naive": "whole_vs_naive, stage steps only",
    "pretraining_vs_naive": "whole_vs_naive, pre-training steps only",
    "first_whole_vs_naive": "whole_vs_naive for the first candidate, which computes the teacher's signals",
    "peak_memory_vs_best_peer": "peak resident memory by that of the peer that needs least",
}
"""What the ratios mean. The worst pair makes the headline."""

_LESS_IS_BETTER = ("whole_vs_floor", "peak_memory_vs_best_peer")


@dataclass(frozen=True)
class Visit:
    """What one contender did on one task in one round.

    Attributes:
        seconds: seconds of a step, the mean over ``steps`` steps.
        first_loss: of the first step, before any update.
        phases: each phase's share of the time.
        peak_memory_bytes: high-water mark of resident memory during the visit.
        anonymous_bytes: the part of it that is not pages of files.
    """

    seconds: float
    steps: int
    first_loss: float
    phases: dict[str, float]
    peak_memory_bytes: int
    anonymous_bytes: int


@dataclass
class ContenderResult:
    """All visits of one contender, one a round, by task.

    Attributes:
        shares: what part of the steps of its kind each task stands for.
        borrowed: tasks whose visits are those of the later candidates.
    """

    title: str
    versions: dict[str, str]
    shares: dict[Task, float]
    visits: dict[Task, list[Visit]]
    borrowed: set[Task] = field(default_factory=set)

    @property
    def rounds(self) -> int:
        """Rounds that are complete."""
        return min(len(visits) for visits in self.visits.values())

    def step_seconds(self, kind: Kind, number: int) -> float:
        """Seconds of a step of this kind in round ``number``, the mean over a whole distillation."""
        return sum(
            share * self.visits[task][number].seconds for task, share in self.shares.items() if task.kind == kind
        )

    def whole_seconds(self, number: int) -> float:
        """Seconds of a thousandth of the paper's flash distillation."""
        return sum(count * self.step_seconds(kind, number) for kind, count in STEPS.items())

    def peak_memory_bytes(self, number: int | None = None) -> int:
        """The greatest of all visits, or of those of one round."""
        rounds = range(self.rounds) if number is None else [number]
        return max(visits[index].peak_memory_bytes for visits in self.visits.values() for index in rounds)

    def anonymous_bytes(self) -> int:
        return max(visit.anonymous_bytes for visits in self.visits.values() for visit in visits)

    def phases(self, task: Task) -> dict[str, float]:
        """Mean shares over the rounds."""
        visits = self.visits[task]
        names = dict.fromkeys(name for visit in visits for name in visit.phases)
        return {name: sum(visit.phases.get(name, 0.0) for visit in visits) / len(visits) for name in names}


@dataclass(frozen=True)
class Spread:
    """A value's median over the rounds with its least and greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def to_json(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high}


@dataclass
class PairResult:
    """All contenders on one pair.

    Attributes:
        missing: why a contender did not run, by its name.
    """

    workload: Workload
    contenders: dict[str, ContenderResult]
    missing: dict[str, str]

    @property
    def rounds(self) -> int:
        return min((result.rounds for result in self.contenders.values()), default=0)

    def over_rounds(self, value: Callable[[int], float]) -> Spread:
        return Spread.of([value(number) for number in range(self.rounds)])

    def peers(self) -> list[ContenderResult]:
        return [self.contenders[name] for name in PEERS if name in self.contenders]

    def ratios(self) -> dict[str, Spread]:
        """Those of `HEADLINES` whose contenders have run."""
        found = self.contenders
        if LATER not in found or not self.rounds:
            return {}
        ours = found[LATER]
        values: dict[str, Callable[[int], float]] = {}
        if self.peers():
            values["whole_vs_best_peer"] = lambda number: (
                min(peer.whole_seconds(number) for peer in self.peers()) / ours.whole_seconds(number)
            )
            values["peak_memory_vs_best_peer"] = self._memory_ratio
        if NAIVE in found:
            naive = found[NAIVE]
            values["whole_vs_naive"] = lambda number: naive.whole_seconds(number) / ours.whole_seconds(number)
            values["stage_vs_naive"] = lambda number: (
                naive.step_seconds("stage", number) / ours.step_seconds("stage", number)
            )
            values["pretraining_vs_naive"] = lambda number: (
                naive.step_seconds("pretraining", number) / ours.step_seconds("pretraining", number)
            )
            if FIRST in found:
                first = found[FIRST]
                values["first_whole_vs_naive"] = lambda number: (
                    naive.whole_seconds(number) / first.whole_seconds(number)
                )
        if FLOOR in found:
            floor = found[FLOOR]
            values["whole_vs_floor"] = lambda number: ours.whole_seconds(number) / floor.whole_seconds(number)
        return {name: self.over_rounds(values[name]) for name in HEADLINES if name in values}

    def _memory_ratio(self, number: int) -> float:
        """The greater need of the first and of later candidates, by the peer that needs least."""
        ours = [self.contenders[name] for name in (FIRST, LATER) if name in self.contenders]
        need = max(result.peak_memory_bytes(number) for result in ours)
        return need / min(peer.peak_memory_bytes(number) for peer in self.peers())

    def candidate_seconds(self, name: str, number: int) -> Spread:
        """Seconds of a whole flash distillation of the ``number``-th candidate (from 1) of a search."""
        if name == LATER and number == 1 and FIRST in self.contenders:
            name = FIRST
        return self.over_rounds(lambda index: 1000 * self.contenders[name].whole_seconds(index))

    def to_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload.to_json(),
            "rounds": self.rounds,
            "ratios": {name: spread.to_json() for name, spread in self.ratios().items()},
            "contenders": {name: self._contender_json(name) for name in self.contenders},
            "missing": self.missing,
        }

    def _contender_json(self, name: str) -> dict[str, Any]:
        result = self.contenders[name]
        return {
            "title": result.title,
            "versions": result.versions,
            "step_seconds": {str(task): _task_seconds(result, task).to_json() for task in result.visits},
            "first_losses": {str(task): visits[0].first_loss for task, visits in result.visits.items()},
            "phases": {str(task): result.phases(task) for task in result.visits},
            "whole_flash_seconds": self.candidate_seconds(name, 2).to_json(),
            "peak_memory_bytes": result.peak_memory_bytes(),
            "anonymous_bytes": result.anonymous_bytes(),
        }


def _task_seconds(result: ContenderResult, task: Task) -> Spread:
    return Spread.of([visit.seconds for visit in result.visits[task]])


def headlines(pairs: Sequence[PairResult]) -> dict[str, Spread]:
    """Every ratio of the pair for which it is worst."""
    found: dict[str, list[Spread]] = {}
    for pair in pairs:
        for name, spread in pair.ratios().items():
            found.setdefault(name, []).append(spread)
    worst = {name: max if name in _LESS_IS_BETTER else min for name in HEADLINES}
    return {name: worst[name](found[name], key=lambda spread: spread.median) for name in HEADLINES if name in found}


def to_json(pairs: Sequence[PairResult], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Headline numbers, their spread, what they mean, then everything by pair."""
    worst = headlines(pairs)
    return {
        **{name: spread.median for name, spread in worst.items()},
        "spread": {name: [spread.low, spread.high] for name, spread in worst.items()},
        "definitions": {name: HEADLINES[name] for name in worst},
        "settings": dict(settings),
        "pairs": {pair.workload.name: pair.to_json() for pair in pairs},
    }
