"""Whether the short distillation ranks students as the long one does, as plain values.

`flashdistill.evaluation.rank_fidelity` computes them; the report and the terminal show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flashdistill.core.architecture import Architecture

AdviceKind = Literal["shorter", "keep", "longer", "unknown"]


@dataclass(frozen=True)
class AuditedStudent:
    """One architecture after both distillations, each from its first training seed.

    Attributes:
        flash, regular: the audited metric after either.
        on_the_way: by share of flash's pre-training steps done, in (0, 1), the metric then.
        flash_seeds, regular_seeds: the metric after further trainings with other seeds.
        num_parameters: of the encoder.
        on_front: whether the search has it on its front.
        is_baseline: whether everything is compared with it.
    """

    architecture: Architecture
    flash: float
    regular: float
    on_the_way: Mapping[float, float] = field(default_factory=dict)
    flash_seeds: Sequence[float] = ()
    regular_seeds: Sequence[float] = ()
    num_parameters: int = 0
    on_front: bool = False
    is_baseline: bool = False


@dataclass(frozen=True)
class Interval:
    """A statistic with the 95 % interval of the bootstrap over architectures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedNoise:
    """The standard deviation of one training between seeds, in the metric's unit.

    Attributes:
        degrees: of freedom behind the deviation; with few of them it is rough.
    """

    deviation: float
    degrees: int


@dataclass(frozen=True)
class Regret:
    """What is lost by taking the best ``top`` students by flash into regular distillation.

    Attributes:
        lost: best of all after regular distillation minus the best of those taken; 0 or more.
        by_chance: what as many students taken at random lose on average.
    """

    top: int
    lost: float
    by_chance: float


@dataclass(frozen=True)
class ShorterFlash:
    """How a part of the flash distillation ranks.

    Attributes:
        share: of its pre-training steps.
        tau: against regular distillation.
        change: tau minus that of the whole flash; the interval is of the same resamples for both.
    """

    share: float
    tau: Interval
    change: Interval


@dataclass(frozen=True)
class Advice:
    """How long flash should be.

    Attributes:
        share: of the present pre-training steps, for ``shorter``; else None.
        margin: a loss of tau up to this is within what another seed changes.
        margin_source: ``seeds``, or ``bootstrap`` where no architecture was trained twice.
    """

    kind: AdviceKind
    share: float | None = None
    margin: float | None = None
    margin_source: Literal["seeds", "bootstrap"] = "seeds"


@dataclass(frozen=True)
class RankAudit:
    """Flash against regular distillation over a set of architectures.

    Attributes:
        metric: that is ranked by; ``goal`` says which direction is better.
        students: in the order of their ranks after regular distillation, the best first.
        tau: Kendall's tau-b.
        corrected: tau with both budgets' seed noise taken out; None where it is not known for
            both, or where the architectures do not differ by more than it.
        ceiling: tau that two budgets of the very same true order would have at this noise; likewise.
        flash_noise, regular_noise: None where no architecture was trained twice.
        shares: of flash, ascending; empty where nothing was scored on the way.
        flash_steps, regular_steps: pre-training steps of either; ``flash_total`` and
            ``regular_total`` with the stages' steps.
        notes: what a reader must know, one sentence each.
    """

    metric: str
    goal: Literal["maximize", "minimize"]
    students: Sequence[AuditedStudent]
    tau: Interval
    corrected: float | None = None
    ceiling: float | None = None
    flash_noise: SeedNoise | None = None
    regular_noise: SeedNoise | None = None
    regrets: Sequence[Regret] = ()
    shares: Sequence[ShorterFlash] = ()
    advice: Advice = field(default_factory=lambda: Advice("unknown"))
    flash_steps: int = 0
    regular_steps: int = 0
    flash_total: int = 0
    regular_total: int = 0
    notes: Sequence[str] = ()
