"""The paper's Figure 6: do students keep their order from flash to regular distillation?

The audit of `flashdistill audit`, on at least 16 architectures: Kendall's tau with its interval and
without seed noise, what taking the best by flash would lose, and how short flash may be. Students
that Table 2 has trained are among them. An interrupted command goes on where it was.

    python -m reproduce.figure6 --scale mini
    python -m reproduce.figure6 --scale paper --dry-run
"""

from __future__ import annotations

from flashdistill.audit_command import Auditor
from flashdistill.config import RunConfig
from flashdistill.core.rank_fidelity import RankAudit
from flashdistill.delivery.audit_plot import audit_plot
from flashdistill.delivery.audit_text import advice, audit_lines, interval
from flashdistill.delivery.json_form import encode
from flashdistill.hardware.machine import fingerprint
from reproduce.plan import Demand, plan_of
from reproduce.scales import Scale
from reproduce.script import Made, Place, script

KEPT = 0.6
"""Tau from which on an order counts as kept: four pairs in five stand as they stood."""


def main() -> None:
    """Train what is missing, then draw and read off."""
    script("figure6", __doc__, plan_of(demands), lambda scale, config: make)


def make(place: Place) -> Made:
    audit = Auditor(place.bench, place.ledger).audit(place.scale.audited, place.scale.repeats)
    found = {"scale": place.scale.name, "audit": encode(audit), "machine": fingerprint()}
    table = "\n".join(["```", *audit_lines(audit), "```"])
    return Made(audit_plot(audit).figure, found, paragraph(audit), table)


def demands(scale: Scale, config: RunConfig) -> list[Demand]:
    """As if all cost what Table 2's students cost on average."""
    times = scale.audited / len(scale.students)
    again = scale.repeats / len(scale.students)
    return [
        Demand("Figure 6, flash", scale.students, config.flash, times + again),
        Demand("Figure 6, regular", scale.students, config.regular, times + again),
    ]


def paragraph(audit: RankAudit) -> str:
    """What agrees with the paper's claim that flash keeps the order, and what does not, from the figures alone."""
    share, tau = audit.flash_total / audit.regular_total, audit.tau
    if tau.low > 0:
        verdict = "agrees with it" if tau.value >= KEPT else "agrees with it in part: the order is kept, but not well"
    else:
        verdict = "does not agree with it" if tau.value <= 0 else "leaves it open, for the order may be chance"
    corrected = "" if audit.corrected is None else f", {audit.corrected:.2f} without the noise of seeds"
    first = audit.regrets[0] if audit.regrets else None
    lost = (
        ""
        if first is None
        else f" Taking the best student by flash alone loses {_points(audit, first.lost)} against the best of all, one "
        f"drawn at random {_points(audit, first.by_chance)}."
    )
    return (
        "The paper holds that students keep their order from flash to regular distillation. Over "
        f"{len(audit.students)} students with {share:.0%} of the regular steps Kendall's tau is "
        f"{interval(tau)}{corrected}: this {verdict}.{lost} "
        f"{advice(audit)} {' '.join(audit.notes)}"
    ).strip()


def _points(audit: RankAudit, size: float) -> str:
    return f"{100 * size:.2f} points" if audit.metric == "mlm_accuracy" else f"{size:.3g}"


if __name__ == "__main__":
    main()
