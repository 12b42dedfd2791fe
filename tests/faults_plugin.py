"""Counts what ``@fault`` tests injected and what came of it, in one process or many.

python -m pytest -p tests.faults_plugin -m faults -n auto --faults-json build/faults.json --faults-shard 1/4
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "fault"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults-json", type=Path, metavar="FILE", help="write what was injected and what happened")
    group.addoption(
        "--faults-shard", type=_shard, default=(1, 1), metavar="K/N", help="the K-th of N shares of the tests"
    )


def _shard(text: str) -> tuple[int, int]:
    share, _, shares = text.partition("/")
    found = int(share), int(shares)
    if not 1 <= found[0] <= found[1]:
        raise ValueError(text)
    return found


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share, shares = config.getoption("faults_shard")
    kept = [item for item in items if zlib.crc32(item.nodeid.encode()) % shares == share - 1]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    # The longest first, or one process is at work long after the others.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    # Properties travel with the reports from worker processes; marks do not.
    for item in items:
        item.user_properties += [(_PROPERTY, dict(mark.kwargs)) for mark in item.iter_markers("faults")]


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("faults_json")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(path), "faults-recorder")


class _Recorder:
    """In the process that hears of all tests."""

    def __init__(self, path: Path):
        self._path = path.absolute()
        self._found: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        count = int(dict(report.user_properties).get("injections", 1))  # type: ignore[call-overload]
        for name, injected in report.user_properties:
            if name == _PROPERTY:
                outcome = {"test": report.nodeid, "outcome": report.outcome, "injections": count}
                self._found.append({**injected, **outcome, "seconds": round(report.duration, 2)})  # type: ignore[dict-item]

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        found = sorted(self._found, key=lambda one: (one["row"], one["injected"], one["test"]))
        self._path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
