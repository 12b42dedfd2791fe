"""The rank-fidelity audit in words and as a table, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.files import read_json
from flashdistill.core.rank_fidelity import Interval, RankAudit, SeedNoise
from flashdistill.delivery.facts import Facts
from flashdistill.delivery.formatting import format_count, format_gap, format_share, format_value, metric_name
from flashdistill.delivery.health_text import decimal
from flashdistill.delivery.json_form import decode
from flashdistill.delivery.tables import Cell, Column, Row, Table

AUDIT_FILE = "audit.json"
"""Of an audit in its run directory."""


def load_audit(run_directory: Path) -> RankAudit | None:
    """The audit of a run; None where there is none.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    path = Path(run_directory) / AUDIT_FILE
    if not path.exists():
        return None
    try:
        return decode(RankAudit, read_json(path))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}); run the audit again, or remove the file") from error


def advice(audit: RankAudit) -> str:
    """What to do about the length of flash, in one sentence."""
    given = audit.advice
    if given.kind == "longer":
        return (
            "Make flash longer, or audit more architectures: its ranking cannot be told from chance "
            f"(tau {interval(audit.tau)})."
        )
    if given.kind == "unknown":
        return "How short flash may be is not known: nothing was scored on the way."
    margin = decimal(given.margin) if given.margin is not None else "0"
    source = "another seed changes" if given.margin_source == "seeds" else "resampling the architectures changes"
    if given.kind == "keep":
        return f"Keep the length of flash: a shorter one loses more than the {margin} of tau that {source}."
    steps = round((given.share or 1.0) * audit.flash_steps)
    return (
        f"Flash may be shorter: {format_share(given.share or 1.0)} of its pre-training steps "
        f"({format_count(steps)} of {format_count(audit.flash_steps)}) rank as well as all of them, "
        f"within the {margin} of tau that {source}."
    )


def audit_facts(audit: RankAudit) -> Facts:
    """The figures that need no table."""
    name = metric_name(audit.metric)
    share = audit.flash_total / audit.regular_total if audit.regular_total else 0.0
    facts = [
        ("architectures", f"{len(audit.students)}, ranked by {name}"),
        (
            "flash against regular",
            f"{format_count(audit.flash_total)} of {format_count(audit.regular_total)} steps ({100 * share:.3g} %)",
        ),
        ("Kendall’s tau [95 %]", interval(audit.tau)),
        ("without seed noise", _corrected(audit)),
        (
            "noise of one training",
            f"flash {_noise(audit, audit.flash_noise)}; regular {_noise(audit, audit.regular_noise)}",
        ),
    ]
    for one in audit.regrets:
        which = "the best" if one.top == 1 else f"the best {one.top}"
        lost, by_chance = format_gap(audit.metric, one.lost), format_gap(audit.metric, one.by_chance)
        facts.append((f"lost by taking {which} by flash", f"{lost}; by chance {by_chance}"))
    for one in audit.shares[:-1]:
        change = f"{interval(one.tau)}, change {interval(one.change)}"
        facts.append((f"tau at {format_share(one.share)} of flash", change))
    return facts


def audit_lines(audit: RankAudit) -> list[str]:
    """The audit for a terminal: facts, the ranking, the advice, the notes."""
    facts = audit_facts(audit)
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    table = audit_table(audit)
    rows = [[column.title for column in table.columns], *([cell.text for cell in row.cells] for row in table.rows)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.columns))]
    lines += [
        "",
        *("  ".join(text.ljust(size) for text, size in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    return [*lines, "", advice(audit), *audit.notes]


def audit_table(audit: RankAudit) -> Table:
    """A row per architecture, best after regular distillation first, with its rank by either budget."""
    sign = 1 if audit.goal == "minimize" else -1
    by_flash = sorted(audit.students, key=lambda one: sign * one.flash)
    rows = []
    for rank, one in enumerate(audit.students, start=1):
        badges = (["baseline"] if one.is_baseline else []) + (["front"] if one.on_front else [])
        flash_rank = by_flash.index(one) + 1
        rows.append(
            Row(
                [
                    Cell(str(rank), rank, numeric=True),
                    Cell(str(flash_rank), flash_rank, numeric=True),
                    Cell(str(one.architecture), str(one.architecture), badges=badges),
                    _score(audit, one.regular, one.regular_seeds, audit.regular_noise),
                    _score(audit, one.flash, one.flash_seeds, audit.flash_noise),
                    Cell(format_value("num_parameters", one.num_parameters), one.num_parameters, numeric=True),
                ],
                kind="baseline" if one.is_baseline else "",
            )
        )
    titles = ("Rank", "By flash", "Architecture", "Regular", "Flash", "Parameters")
    columns = [Column(title, numeric=title != "Architecture") for title in titles]
    return Table("Flash against regular distillation", columns, rows)


def interval(one: Interval) -> str:
    return f"{decimal(one.value)} [{decimal(one.low)}, {decimal(one.high)}]"


def _score(audit: RankAudit, value: float, further: Sequence[float], noise: SeedNoise | None) -> Cell:
    """The first seed's score with the deviation of one training, the other seeds' below it."""
    error = None if noise is None else noise.deviation
    texts = [format_value(audit.metric, one, error=error) for one in (value, *further)]
    return Cell(texts[0], value, [f"{text} with another seed" for text in texts[1:]], numeric=True)


def _corrected(audit: RankAudit) -> str:
    if audit.flash_noise is None or audit.regular_noise is None:
        return "not known: no architecture was trained with another seed by both budgets"
    if audit.corrected is None:
        return "not known: the architectures differ by no more than seeds do"
    return f"{decimal(audit.corrected)}; with it, two budgets of the same order would reach {decimal(audit.ceiling)}"


def _noise(audit: RankAudit, noise: SeedNoise | None) -> str:
    if noise is None:
        return "not measured"
    freedom = f"{noise.degrees} degree{'s' * (noise.degrees != 1)} of freedom"
    return f"{format_gap(audit.metric, noise.deviation)} ({freedom})"
