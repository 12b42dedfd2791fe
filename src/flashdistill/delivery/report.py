"""``report.html``: one file that shows a run, and needs nothing else and no network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from flashdistill.core.files import write_text
from flashdistill.delivery.audit_plot import audit_plot
from flashdistill.delivery.audit_text import advice, audit_facts, audit_table, load_audit
from flashdistill.delivery.facts import glance, sections
from flashdistill.delivery.formatting import format_count
from flashdistill.delivery.health_text import health_facts, health_table, health_warnings
from flashdistill.delivery.interactive_front import interactive_front
from flashdistill.delivery.plot_style import Plot, inline_svg
from flashdistill.delivery.plots import make_plots, write_plots
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.tables import costs_table, delivered_table, student_costs_table, trials_table
from flashdistill.delivery.task_record import load_tasks
from flashdistill.delivery.task_tables import seeds_text, tasks_table
from flashdistill.delivery.verdict import verdict
from flashdistill.delivery.winners_table import winners_table

REPORT_FILE = "report.html"
PLOTS_DIRECTORY = "plots"
TEMPLATES = Path(__file__).parent / "templates"


def write_report(record: RunRecord, run_directory: Path) -> Path:
    """Write ``results.json``, ``plots/*.png`` and ``report.html`` into the run directory.

    Links in the report are relative to that directory. The record may be that of a run that has
    not finished; the report shows what there is, the run's rank-fidelity audit
    and its scores on tasks included.

    Returns:
        The report's path.
    """
    run_directory = Path(run_directory)
    record.save(run_directory)
    plots, audit = make_plots(record), load_audit(run_directory)
    tasks = load_tasks(run_directory)
    if audit is not None:
        plots["audit"] = audit_plot(audit)
    write_plots(plots, run_directory / PLOTS_DIRECTORY)
    front, health = interactive_front(record), record.health
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            verdict=verdict(record),
            glance=glance(record),
            delivered=delivered_table(record),
            tasks={"table": tasks_table(tasks), "record": tasks, "seeds": seeds_text(tasks)} if tasks else None,
            winners=winners_table(record),
            health_facts=health_facts(health) if health else [],
            health=health_table(health) if health else None,
            warnings=health_warnings(record),
            trials=trials_table(record),
            several_seeds=any(trial.confirmations for trial in record.trials),
            audit={
                "facts": audit_facts(audit),
                "advice": advice(audit),
                "table": audit_table(audit),
                "notes": audit.notes,
            }
            if audit
            else None,
            costs=[table for table in (costs_table(record), student_costs_table(record)) if table],
            plots={name: {"caption": plot.caption, "svg": _drawn(plot)} for name, plot in plots.items()},
            front=front,
            sections=sections(record),
            style=_asset("report.css"),
            script=_asset("report.js"),
            # 4.8 MB: only where there is a front to look at.
            plotly=Markup(get_plotlyjs()) if front else "",  # nosec B704  # the installed library's own source
        )
    )
    path = run_directory / REPORT_FILE
    write_text(path, page)
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = format_count
    return environment


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # nosec B704  # a file of this package


def _drawn(plot: Plot) -> Markup:
    return Markup(inline_svg(plot))  # nosec B704  # drawn here, every text in it escaped
