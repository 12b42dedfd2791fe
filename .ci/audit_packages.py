"""Looks up known vulnerabilities of the installed packages, with pip-audit.

    python .ci/audit_packages.py

Exit code 1 if there are any that are not in `IGNORED`. Packages that the advisory service does not
know, and a service that does not answer, are told and let pass: a build without a network goes on.
pip-audit itself would call both "no known vulnerabilities".
"""

from __future__ import annotations

import json
import subprocess  # nosec B404: one fixed command
import sys
from collections.abc import Sequence
from typing import Any

IGNORED: dict[str, str] = {}
"""Advisories that do not concern this project, by their id, each with the reason why."""

COMMAND = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "--format", "json"]
OWN = "flashdistill"
_TIMEOUT = 600


def main() -> int:
    """Audit; returns the exit code."""
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # nosec B603
    except subprocess.TimeoutExpired:
        return _not_audited(f"no answer within {_TIMEOUT} s")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return _not_audited(next(iter(reversed(done.stderr.strip().splitlines())), f"exit code {done.returncode}"))
    return judged(packages)


def judged(packages: Sequence[dict[str, Any]]) -> int:
    """Say what was found about every package; returns the exit code."""
    others = [package for package in packages if package["name"] != OWN]
    skipped = [package["name"] for package in others if "skip_reason" in package]
    audited = [package for package in others if "skip_reason" not in package]
    found = [(package, advisory) for package in audited for advisory in package.get("vulns", ())]
    serious = [(package, advisory) for package, advisory in found if not _reason(advisory)]
    for package, advisory in found:
        fixed = ", ".join(advisory.get("fix_versions", ())) or "no version yet"
        reason = _reason(advisory)
        verdict = f"ignored: {reason}" if reason else f"fixed in {fixed}"
        print(f"{package['name']} {package['version']}: {advisory['id']}, {verdict}")
    if not audited:
        return _not_audited("the advisory service knows none of the packages; is it a mirror?")
    some = f", {len(skipped)} unknown to the service: {', '.join(skipped[:10])}" if skipped else ""
    print(f"{len(audited)} packages audited, {len(serious)} vulnerabilities{some}")
    return 1 if serious else 0


def _reason(advisory: dict[str, Any]) -> str:
    """Why an advisory is ignored, under any of its names; empty if it is not."""
    names = [advisory["id"], *advisory.get("aliases", ())]
    return next((IGNORED[name] for name in names if name in IGNORED), "")


def _not_audited(reason: str) -> int:
    print(f"warning: PACKAGES WERE NOT AUDITED for known vulnerabilities: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
