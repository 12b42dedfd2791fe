"""Where a run's teacher answers go: what is seen by its budgets, what is shared, what finds room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.distillation.layer_map import layer_map
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.signals import GIB
from flashdistill.planning.kept_answers import (
    BOUNDLESS_GIB,
    AnswerSizes,
    Room,
    answer_bytes,
    distinct_batches,
    room_for,
)
from flashdistill.planning.step_flops import BatchShape
from flashdistill.planning.teacher_shape import TeacherShape

_FLOAT = 4


@dataclass(frozen=True)
class AnswerPlan:
    """Where the teacher's answers to the batches of one budget go.

    Attributes:
        stage_batches, pretraining_batches: distinct ones that it sees.
        room: for how many there is room as configured.
        disk_for_all: bytes with which none is computed twice.
    """

    budget: str
    stage_batches: int
    pretraining_batches: int
    room: Room
    disk_for_all: int


@dataclass(frozen=True)
class Answers:
    """The answers of one configuration; those of budgets that ask for the same are shared."""

    config: RunConfig
    teacher: TeacherShape

    @property
    def family(self) -> StudentFamily:
        return self.config.student_family(self.teacher.vocab_size)

    @property
    def roomy(self) -> SignalSettings:
        """The configured settings with room for everything."""
        return self.config.signals.model_copy(update={"disk_gib": BOUNDLESS_GIB})

    @property
    def taught_blocks(self) -> tuple[int, ...]:
        """The teacher's blocks that students of any depth in the space learn from."""
        depths = {*self.config.space.num_blocks, self.family.depth(self.config.baseline)}
        return tuple(sorted({block for depth in depths for block in layer_map(depth, self.teacher.num_layers)}))

    def batch(self, settings: DistillationSettings) -> BatchShape:
        """A full batch of a budget."""
        return BatchShape.of(self.config.corpus, settings.batch_size)

    def resolved(self, settings: DistillationSettings) -> DistillationSettings | None:
        """A budget with its step counts, filled in for the baseline and the same for all; None while it is seconds."""
        found = settings.with_ratio(self.family.depth(self.config.baseline))
        return found if found.resolved else None

    def room(self, architecture: Architecture, settings: DistillationSettings, signals: SignalSettings) -> Room:
        """For how many batches of a budget there is room."""
        sharing = [
            self.resolved(one)
            for one in (self.config.flash, self.config.regular)
            if answers_key(one) == answers_key(settings)
        ]
        longest = max((one.pretraining_steps or 0 for one in sharing if one is not None), default=0)
        return room_for(self.sizes(settings, signals), signals, longest, architecture, self.batch(settings))

    def sizes(self, settings: DistillationSettings, signals: SignalSettings) -> AnswerSizes:
        """Of one batch's answers."""
        return AnswerSizes.of(settings, signals, self.teacher, self.batch(settings), len(self.taught_blocks))

    def plans(self) -> list[AnswerPlan]:
        """For each budget that is in steps."""
        found, baseline = [], self.config.baseline
        for name, given in (("flash", self.config.flash), ("regular", self.config.regular)):
            if (settings := self.resolved(given)) is None:
                continue
            counts = self._counts(settings)
            everything = answer_bytes(
                self.sizes(settings, self.roomy), self.room(baseline, settings, self.roomy), [counts]
            )
            room = self.room(baseline, settings, self.config.signals)
            found.append(AnswerPlan(name, counts[0], counts[2], room, everything))
        return found

    def bytes_on_disk(self) -> float | None:
        """Of the answers at the end of the run; None while a budget is in seconds."""
        baseline, groups = self.config.baseline, dict[tuple[object, ...], list[DistillationSettings]]()
        for settings in (self.config.flash, self.config.regular):
            if (resolved := self.resolved(settings)) is None:
                return None
            groups.setdefault(answers_key(settings), []).append(resolved)
        signals = self.config.signals
        return float(
            sum(
                answer_bytes(
                    self.sizes(sharing[0], signals),
                    self.room(baseline, sharing[0], signals),
                    [self._counts(settings) for settings in sharing],
                )
                for sharing in groups.values()
            )
        )

    def hidden_bytes(self, model: Literal["student", "teacher"], beyond_memory: bool) -> float:
        """Hidden states of one model in memory, or on disk where they exceed it; of the budget that has more.

        The teacher's are kept for batches whose answers are not on disk, the student's are the baseline's.
        """
        signals, most = self.config.signals, 0.0
        memory, room = signals.memory_gib * GIB, signals.disk_gib * GIB
        width = self.config.baseline.hidden_size if model == "student" else self.teacher.hidden_size
        for settings in (self.config.flash, self.config.regular):
            resolved = self.resolved(settings)
            if resolved is None:
                most = max(most, room if beyond_memory else memory)
            elif settings.stage_batches == "same":
                batches = resolved.steps_per_block or 0
                if model == "teacher":
                    batches = max(0, batches - self.room(self.config.baseline, resolved, signals).answered)
                needed = batches * self.batch(settings).tokens * width * _FLOAT
                most = max(most, min(room, max(0.0, needed - memory)) if beyond_memory else min(memory, needed))
        return most

    def _counts(self, settings: DistillationSettings) -> tuple[int, int, int]:
        depth = self.family.depth(self.config.baseline)
        return distinct_batches(settings, depth), settings.steps_per_block or 0, settings.pretraining_steps or 0


def answers_key(settings: DistillationSettings) -> tuple[object, ...]:
    """What budgets that share the teacher's answers have in common."""
    losses = settings.losses
    return settings.batch_size, bool(losses.attention), bool(losses.relations)
