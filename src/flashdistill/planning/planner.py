"""Plans a run: computed from its configuration and its teacher's sizes, with nothing tried."""

from __future__ import annotations

from collections.abc import Sequence

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.planning.answers import Answers, answers_key
from flashdistill.planning.demands import Demand, demands_of, measuring_of, typical_architectures
from flashdistill.planning.devices import Device, Rates
from flashdistill.planning.disk import run_disk
from flashdistill.planning.distillation_cost import Circumstances, DistillationCost, distillation_cost
from flashdistill.planning.memory import TrainingMemory, student_traffic, teacher_traffic, training_memory
from flashdistill.planning.run_plan import SAVINGS, DemandCost, Flops, RunPlan, Savings, TeacherCost
from flashdistill.planning.step_flops import FORWARD_AND_BACKWARD, BatchShape, StudentSteps
from flashdistill.planning.teacher_shape import TeacherShape


class Planner:
    """Plans one configuration.

    Args:
        measured_per_trained: how many architectures the search measures at most for each one that it trains.
        text: bytes of the corpus's text, where the configuration does not tell.
    """

    def __init__(
        self, config: RunConfig, teacher: TeacherShape, measured_per_trained: int = 1, text: float | None = None
    ):
        self.config, self.teacher, self.text = config, teacher, text
        self.answers = Answers(config, teacher)
        self.family = self.answers.family
        self._measured_per_trained = measured_per_trained
        self._known: dict[tuple[object, ...], DistillationCost] = {}

    def plan(self, devices: Sequence[Device], flops_per_s: float | None = None) -> RunPlan:
        """The plan.

        Args:
            flops_per_s: what a device sustains, in place of the estimates of ``devices``.

        Raises:
            CorpusError: files of the corpus are missing.
        """
        config = self.config
        space = DesignSpace(config.space, self.family)
        within = space.profile(config.constraints, config.baseline).within_limits
        typical = typical_architectures(space, config, self.family)
        trained = min(config.search.trials, within)
        delivered = min(config.select.top, trained)
        demands = demands_of(config, typical, trained)
        measuring = measuring_of(config, within, self._measured_per_trained)
        everyone = [config.baseline, *typical]
        hidden = self.hidden_bytes()
        largest = max(everyone, key=lambda one: self.memory(one, hidden).per_sequence)
        batches = (config.flash.batch_size, config.regular.batch_size)
        return RunPlan(
            name=config.name,
            teacher=self.teacher,
            space_size=space.size,
            within_limits=within,
            trained=trained,
            measuring=measuring,
            preparation=self._preparation(),
            demands=tuple(self._cost(demand) for demand in demands),
            teacher_once={savings: self._once(demands, savings) for savings in SAVINGS},
            scoring=self._scoring(demands),
            answers=tuple(self.answers.plans()),
            disk=tuple(run_disk(config, self.answers, typical, measuring.most + 1, delivered, self.text)),
            memory_of=largest,
            memory=self.memory(largest, hidden),
            sequences_at_a_time=config.training.micro_batch_size or max(batches),
            rates=tuple(self._rates(typical, devices, flops_per_s)),
            training_seconds=_all_seconds(demands),
        )

    def flops(self, demand: Demand, settings: DistillationSettings, savings: Savings) -> Flops:
        """Of all trainings of a kind, with resolved settings; what the teacher does once for all left out."""
        together = demand.side_by_side if savings != "none" else 1
        student = teacher = 0.0
        for one in demand.architectures:
            cost = self.distillation(one, settings, savings)
            student += cost.student
            teacher += cost.teacher / together + cost.teacher_head
        return Flops(demand.times * student, demand.times * teacher)

    def distillation(
        self, architecture: Architecture, settings: DistillationSettings, savings: Savings
    ) -> DistillationCost:
        """Of one training; candidates, confirmations and the selected are the same ones, counted once."""
        key = architecture, settings.model_dump_json(), savings
        if key not in self._known:
            around = self.around(architecture, settings, savings)
            self._known[key] = distillation_cost(architecture, settings, around)
        return self._known[key]

    def around(self, architecture: Architecture, settings: DistillationSettings, savings: Savings) -> Circumstances:
        """What the distillations of a budget share."""
        batch = self.answers.batch(settings)
        if savings == "none":
            return Circumstances.without_savings(self.family, self.teacher, batch)
        signals = self.config.signals if savings == "configured" else self.answers.roomy
        room = self.answers.room(architecture, settings, signals)
        return Circumstances(self.family, self.teacher, batch, batch, self.answers.taught_blocks, room, signals.top_k)

    def hidden_bytes(self) -> int:
        """Of both models' hidden states that are kept in memory."""
        return int(sum(self.answers.hidden_bytes(model, beyond_memory=False) for model in ("student", "teacher")))

    def memory(self, architecture: Architecture, hidden_bytes: int) -> TrainingMemory:
        """Of one process that trains an architecture."""
        length, masked = self.config.corpus.max_length, BatchShape.of(self.config.corpus, 1).masked
        return training_memory(architecture, self.family, self.teacher, length, masked, hidden_bytes)

    def _cost(self, demand: Demand) -> DemandCost:
        if (settings := self.answers.resolved(demand.settings)) is None:
            return DemandCost(demand.what, demand.trainings, None, demand.settings.seconds, None, None)
        steps = [settings.total_steps(self.family.depth(one)) for one in demand.architectures]
        mean = sum(steps) / len(steps)
        tokens = demand.trainings * mean * self.answers.batch(settings).tokens
        flops = {savings: self.flops(demand, settings, savings) for savings in SAVINGS}
        return DemandCost(demand.what, demand.trainings, round(mean), None, tokens, flops)

    def _once(self, demands: Sequence[Demand], savings: Savings) -> float:
        """What the teacher answers once; of budgets that share the answers the longest needs most."""
        groups: dict[tuple[object, ...], float] = {}
        for demand in demands:
            one, settings = demand.architectures[0], self.answers.resolved(demand.settings)
            if settings is not None:
                cost = self.distillation(one, settings, savings)
                key = answers_key(settings)
                groups[key] = max(groups.get(key, 0.0), cost.teacher_once)
        return sum(groups.values())

    def _scoring(self, demands: Sequence[Demand]) -> Flops:
        """Held-out text through every student, once through the teacher, whose head answers each regular one anew."""
        batch = BatchShape.of(self.config.corpus, self.config.corpus.validation_sequences)
        student, finished = 0.0, 0.0
        for demand in demands:
            steps = (
                StudentSteps(one, self.family, self.teacher, demand.settings.losses) for one in demand.architectures
            )
            student += demand.times * sum(one.scoring(batch) for one in steps)
            finished += demand.trainings if demand.finished else 0
        body = self.teacher.body_flops(batch.sequences, batch.length)
        return Flops(student, body + (1 + finished) * self.teacher.head_flops(batch.masked))

    def _preparation(self) -> TeacherCost:
        """Training the teacher, where that is asked for."""
        settings = self.config.teacher
        budget = settings.pretrain or settings.fit_mlm_head
        if budget is None:
            return TeacherCost("used as it comes" if settings.vocabulary is None else "its vocabulary is reduced")
        what = "pre-trained by the tool" if settings.pretrain else "its masked-LM head is fitted"
        if budget.steps is None:
            return TeacherCost(what, seconds=budget.seconds)
        batch = BatchShape.of(self.config.corpus, budget.batch_size)
        step = self.teacher.body_flops(batch.sequences, batch.length) + self.teacher.head_flops(batch.masked)
        return TeacherCost(
            what,
            steps=budget.steps,
            tokens=float(budget.steps * batch.tokens),
            flops=float(FORWARD_AND_BACKWARD * budget.steps * step),
        )

    def _rates(
        self, typical: Sequence[Architecture], devices: Sequence[Device], flops_per_s: float | None
    ) -> list[Rates]:
        if flops_per_s is not None:
            return [Rates("as given", "", None, flops_per_s, flops_per_s)]
        length = self.config.corpus.max_length
        sequence = BatchShape(1, length, 0.0)
        steps = [StudentSteps(one, self.family, self.teacher, self.config.flash.losses) for one in typical]
        computed = sum(FORWARD_AND_BACKWARD * one.block(sequence) for one in steps)
        student = computed / length / sum(student_traffic(one, self.family, length) for one in typical)
        teacher = self.teacher.block_flops(1, length) / length / teacher_traffic(self.teacher, length)
        return [
            Rates(one.name, one.precision, one.memory_bytes, one.sustained(student), one.sustained(teacher))
            for one in devices
        ]


def _all_seconds(demands: Sequence[Demand]) -> float | None:
    """Of all trainings, where all budgets are seconds."""
    if any(demand.settings.seconds is None for demand in demands):
        return None
    return sum(demand.trainings * (demand.settings.seconds or 0.0) for demand in demands)
