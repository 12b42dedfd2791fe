"""Bad YAML on the command line: exit 2 at once, with file and line, and nothing else happens."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults_catalogue import fault

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)

MISTAKES = {
    "unknown key": ("teachr: {model: x}\n", "run.yaml:1: teachr: unknown key; did you mean 'teacher'?"),
    "wrong type": ("search: {trials: many}\n", "run.yaml:1: search.trials: got 'many', allowed: a whole number"),
    "repeated key": ("name: a\nname: b\n", "run.yaml:2: name: this key is repeated; it stands in line 1 already"),
    "bomb": (BOMB, "values, aliases expanded"),
    "code": ("name: !!python/object/apply:os.system [touch pwned]\n", "tags are not allowed"),
    "nesting": ("name: " + "[" * 100_000 + "\n", "levels of nesting"),
    "a hundred megabytes": ("#" * 100_000_000, "is larger than"),
}


@fault(10, "a bad configuration given to the command")
@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_bad_configuration_ends_the_command_at_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", "from flashdistill.cli import main; main()", "run", "run.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    # Not wall time: other tests run beside this one.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
