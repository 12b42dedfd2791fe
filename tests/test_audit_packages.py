"""Advisories are never passed over in silence, and a missing network stops nobody."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit_packages.py"
CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}
HOLED = {
    "name": "jinja2",
    "version": "3.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.1"]}],
}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_packages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answering(monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "", code: int = 0) -> None:
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN], 0, "1 packages audited, 0 vulnerabilities"),
        ([CLEAN, SKIPPED], 0, "1 unknown to the service: torch"),
        ([CLEAN, HOLED], 1, "jinja2 3.0: PYSEC-1, fixed in 3.1"),
        ([SKIPPED], 0, "PACKAGES WERE NOT AUDITED"),
    ],
)
def test_verdicts(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, Any]],
    code: int,
    said: str,
) -> None:
    answering(monkeypatch, json.dumps({"dependencies": packages}))
    assert audit.main() == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_an_ignored_advisory_is_named_with_its_reason(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(audit.IGNORED, "CVE-1", "the sandbox is not used here")
    answering(monkeypatch, json.dumps({"dependencies": [HOLED]}), code=1)
    assert audit.main() == 0
    assert "PYSEC-1, ignored: the sandbox is not used here" in capsys.readouterr().out


def test_without_a_network_it_warns_and_goes_on(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, "", "Traceback ...\nConnectionError: no route to host", code=1)
    assert audit.main() == 0
    assert "NOT AUDITED for known vulnerabilities: ConnectionError: no route to host" in capsys.readouterr().err


def test_every_ignored_advisory_has_a_reason(audit: ModuleType) -> None:
    assert all(len(reason) > 20 for reason in audit.IGNORED.values())
