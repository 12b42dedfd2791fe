"""The audit in words, as a table, drawn, and in a report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.files import write_json
from flashdistill.core.rank_fidelity import (
    Advice,
    AuditedStudent,
    Interval,
    RankAudit,
    Regret,
    SeedNoise,
    ShorterFlash,
)
from flashdistill.delivery.audit_plot import audit_plot
from flashdistill.delivery.audit_text import AUDIT_FILE, advice, audit_facts, audit_lines, audit_table, load_audit
from flashdistill.delivery.json_form import decode, encode
from flashdistill.delivery.report import write_report

AUDIT = RankAudit(
    metric="mlm_accuracy",
    goal="maximize",
    students=[
        AuditedStudent(Architecture(128, 32, 4, 128, 4), 0.15, 0.24, {0.25: 0.05}, (0.152,), (0.238,), 1_500_000),
        AuditedStudent(Architecture(128, 32, 1, 96, 4), 0.16, 0.22, {0.25: 0.06}, on_front=True),
        AuditedStudent(Architecture(64, 16, 1, 96, 2), 0.10, 0.17, {0.25: 0.02}, is_baseline=True),
    ],
    tau=Interval(0.33, -0.2, 0.8),
    corrected=0.4,
    ceiling=0.9,
    flash_noise=SeedNoise(0.0014, 1),
    regular_noise=SeedNoise(0.0014, 1),
    regrets=[Regret(1, 0.02, 0.03)],
    shares=[
        ShorterFlash(0.25, Interval(0.3, -0.3, 0.8), Interval(-0.03, -0.2, 0.2)),
        ShorterFlash(1.0, Interval(0.33, -0.2, 0.8), Interval(0.0, 0.0, 0.0)),
    ],
    advice=Advice("shorter", 0.25, 0.05),
    flash_steps=200,
    regular_steps=4000,
    flash_total=296,
    regular_total=5920,
    notes=["One was left out."],
)


def test_it_survives_json() -> None:
    again = decode(RankAudit, json.loads(json.dumps(encode(AUDIT))))
    assert encode(again) == encode(AUDIT)
    assert again.students[0].on_the_way == {0.25: 0.05}


def test_facts() -> None:
    facts = dict(audit_facts(AUDIT))
    assert facts["Kendall’s tau [95 %]"] == "0.33 [−0.20, 0.80]"
    assert facts["flash against regular"] == "296 of 5\N{NARROW NO-BREAK SPACE}920 steps (5 %)"
    assert "0.40" in facts["without seed noise"]
    assert (
        facts["lost by taking the best by flash"].replace("\N{NO-BREAK SPACE}", " ")
        == "2.0 points; by chance 3.0 points"
    )
    assert "tau at 25\N{NO-BREAK SPACE}% of flash" in facts
    unknown = dict(audit_facts(replace(AUDIT, regular_noise=None, corrected=None)))
    assert unknown["without seed noise"].startswith("not known")
    assert "not measured" in unknown["noise of one training"]


def test_ranks() -> None:
    table = audit_table(AUDIT)
    assert [[cell.text for cell in row.cells[:3]] for row in table.rows] == [
        ["1", "2", "128_32_4_128_4"],
        ["2", "1", "128_32_1_96_4"],
        ["3", "3", "64_16_1_96_2"],
    ]
    assert table.rows[2].kind == "baseline"
    minimised = replace(AUDIT, goal="minimize")
    assert [row.cells[1].text for row in audit_table(minimised).rows] == ["2", "3", "1"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (AUDIT.advice, "50 of 200"),
        (Advice("keep", None, 0.05), "Keep"),
        (Advice("longer"), "told from chance"),
        (Advice("unknown"), "not known"),
        (Advice("shorter", 0.5, 0.08, "bootstrap"), "resampling"),
    ],
)
def test_advice(given: Advice, words: str) -> None:
    assert words in advice(replace(AUDIT, advice=given))


def test_terminal_lines() -> None:
    lines = audit_lines(AUDIT)
    assert lines[-1] == "One was left out."
    assert any("128_32_1_96_4" in line for line in lines)


@pytest.mark.parametrize("audit", [AUDIT, replace(AUDIT, shares=[], flash_noise=None, regular_noise=None)])
def test_plot(audit: RankAudit) -> None:
    plot = audit_plot(audit)
    assert len(plot.figure.axes) == (2 if audit.shares else 1)
    assert "0.33" in plot.alt
    points = plot.figure.axes[0].containers[0].lines[0].get_xydata()  # type: ignore[union-attr]
    assert [15.0, 24.0] in points.round(6).tolist()


def test_a_report_has_the_audit_of_its_run(rich, tmp_path) -> None:  # type: ignore[no-untyped-def]
    without = write_report(rich, tmp_path / "without").read_text(encoding="utf-8")
    assert "Does flash rank" not in without
    write_json(tmp_path / "run" / AUDIT_FILE, encode(AUDIT))
    page = write_report(rich, tmp_path / "run").read_text(encoding="utf-8")
    assert "Does flash rank as regular distillation does?" in page
    assert "One was left out." in page
    assert (tmp_path / "run" / "plots" / "audit.png").exists()


def test_a_damaged_audit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert load_audit(tmp_path) is None
    (tmp_path / AUDIT_FILE).write_text('{"metric": 3}')
    with pytest.raises(RunDirectoryError, match="run the audit again"):
        load_audit(tmp_path)
