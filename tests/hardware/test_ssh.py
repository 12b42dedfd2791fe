"""Another machine over ssh: a stand-in for the command where words matter, a real sshd for the connection."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware import agent, runner_process, ssh
from flashdistill.hardware.lines import RunnerDiedError
from flashdistill.hardware.parity import Expected
from flashdistill.hardware.session import MeasurementSession
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.ssh import SshHost, remote_command
from flashdistill.hardware.statistics import Block
from flashdistill.testing.fake_target import write_fake_artifact
from tests.faults_catalogue import fault

HOST = "serving-machine"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def on_host(settings: TargetSettings, **other: object) -> TargetSettings:
    return settings.model_copy(update={"host": HOST, "python": sys.executable, **other})


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class TestWords:
    """With an ``ssh`` that drops its options and the host and hands the rest to a shell, as sshd does."""

    @pytest.fixture(autouse=True)
    def fake_ssh(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        command = script(tmp_path / "bin" / "ssh", 'while [ "$1" != -- ]; do shift; done\nshift 2\nexec sh -c "$*"')
        monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "remote cache"))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        return command

    def connect(self, tmp_path: Path, python: str = sys.executable) -> SshHost:
        return SshHost(HOST, python, tmp_path / "work", Silent())

    def test_no_word_is_read_by_the_shell(self, tmp_path: Path) -> None:
        odd = ["printf", "%s\n", "a b", "$HOME", "`id`", "it's", '{"x": "\\"; rm -rf /"}', "*", ""]
        said = subprocess.run(["sh", "-c", remote_command(odd)], capture_output=True, text=True, check=True)
        assert said.stdout.splitlines() == odd[2:]

    @pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/harm", "", "a b", "a\nb"])
    def test_a_host_is_no_option(self, host: str, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="is no host"):
            SshHost(host, "python3", tmp_path, Silent())

    @pytest.mark.parametrize("python", ["-S", "--split-string=touch /tmp/harm", "", "PATH=/tmp/harm", "a\nb"])
    def test_an_interpreter_is_neither_option_nor_variable(self, python: str, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="is no interpreter"):
            SshHost(HOST, python, tmp_path, Silent())

    def test_an_interpreter_may_be_named_from_the_home_directory(self) -> None:
        assert remote_command(["env", "~/my envs/bin/python", "-P"]) == "env ~/'my envs/bin/python' -P"

    @fault(15, "blanks and quotes in a path on another host", "works")
    def test_a_path_with_spaces_and_quotes(self, tmp_path: Path) -> None:
        python = script(tmp_path / "it's here" / "python", f'exec {sys.executable} "$@"')
        with self.connect(tmp_path, str(python)) as host:
            assert host.choose_cpus(1)
            assert host.facts("cpu")["machine_id"]

    def test_an_artifact_is_sent_once_and_comes_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        artifact = tmp_path / "model.onnx"
        artifact.write_bytes(os.urandom(3_000_000))
        artifact.with_name("model.onnx.data").write_text("weights")
        with self.connect(tmp_path) as host:
            there = host.send(artifact, "key")
            assert there.startswith(str(tmp_path / "remote cache"))
            assert Path(there).read_bytes() == artifact.read_bytes()
            monkeypatch.setattr(SshHost, "_send", lambda *_: pytest.fail("sent again"))
            assert host.send(artifact, "key") == there
            back = host.fetch(there, tmp_path / "back")
            assert back.read_bytes() == artifact.read_bytes()
            assert back.with_name("model.onnx.data").read_text() == "weights"
            with pytest.raises(TargetError, match=r"^on serving-machine: .*No such file"):
                host.fetch(f"{there}.absent", tmp_path / "back")
            host.tidy([])
            assert not Path(there).exists()

    @fault(3, "disk full on another host", "told with the host and the path")
    def test_a_full_disk_there(self, tmp_path: Path) -> None:
        full = '{"error": "no space left on the disk of /x; make room there"}'
        python = script(
            tmp_path / "python",
            f'case "$*" in *hardware.artifacts*) echo \'{full}\';; *) exec {sys.executable} "$@";; esac',
        )
        artifact = tmp_path / "model.onnx"
        artifact.write_bytes(bytes(1_000_000))
        with (
            self.connect(tmp_path, str(python)) as host,
            pytest.raises(TargetError, match="^on serving-machine: no space left on the disk of /x"),
        ):
            host.send(artifact, "key")

    def test_a_transfer_that_breaks_off(self, tmp_path: Path) -> None:
        python = script(
            tmp_path / "python",
            f'case "$*" in *hardware.artifacts*) echo gone >&2; exit 255;; *) exec {sys.executable} "$@";; esac',
        )
        artifact = tmp_path / "model.onnx"
        artifact.write_bytes(bytes(1_000_000))
        with self.connect(tmp_path, str(python)) as host:
            for transfer in (lambda: host.send(artifact, "key"), lambda: host.fetch("/x", tmp_path / "back")):
                with pytest.raises(RunnerDiedError, match=r"broke off \(exit status 255\); its last words: gone"):
                    transfer()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, r"there is no interpreter .*python on serving-machine \(.*\); set target\.python"),
            (f'exec {sys.executable} -S "$@"', r"has no flashdistill, .*install flashdistill .* there, or set target"),
            ("echo 'Unknown option: -P' >&2; exit 2", r"is older than Python 3\.11; set target\.python"),
            ("echo 'This account is closed.' >&2; exit 1", r"cannot run flashdistill \(exit status 1\): This account"),
            ("echo 'Connection refused' >&2; exit 255", r"ssh cannot connect to serving-machine: Connection refused"),
        ],
    )
    def test_why_there_is_no_agent(self, text: str | None, message: str, tmp_path: Path) -> None:
        python = tmp_path / "interpreter" / "python"
        if text is not None:
            script(python, text)
        with pytest.raises(TargetError, match=message):
            self.connect(tmp_path, str(python))

    def test_another_version_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssh, "package_version", lambda: "99.0")
        with pytest.raises(TargetError, match=r"serving-machine has flashdistill .*, this machine 99\.0; install"):
            self.connect(tmp_path)

    def test_no_ssh_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        with pytest.raises(TargetError, match="this machine has no ssh command; install the OpenSSH client"):
            self.connect(tmp_path)

    def test_a_failure_there_names_the_host(self, settings: TargetSettings, tmp_path: Path) -> None:
        artifact = write_fake_artifact(tmp_path / "c.json", 300)
        with pytest.raises(TargetError, match=r"^on serving-machine: target\.threads is 5000"):
            MeasurementSession(on_host(settings, threads=5000), artifact, tmp_path / "work", seed=0)

    def test_nothing_of_a_connection_stays(self, tmp_path: Path) -> None:
        with self.connect(tmp_path) as host:
            directory, process = host._directory, host._agent.process if host._agent else None
            assert directory.stat().st_mode & 0o777 == 0o700
            assert len(str(directory / "ssh")) < 80
        assert not directory.exists()
        assert process is not None
        assert process.returncode == 0

    def test_the_store_of_an_abandoned_study_is_forgotten(self, tmp_path: Path) -> None:
        stores = tmp_path / "remote cache" / "flashdistill" / "serving"
        for name in ("abandoned", "recent"):
            (stores / name).mkdir(parents=True)
        long_ago = time.time() - 8 * 24 * 3600
        os.utime(stores / "abandoned", (long_ago, long_ago))
        assert agent.remote_store("mine") == stores / "mine"
        assert [path.name for path in stores.iterdir()] == ["recent"]


@pytest.mark.usefixtures("few_passes", "ssh_server")
class TestConnection:
    """With a real sshd on 127.0.0.2."""

    @pytest.fixture
    def candidate(self, tmp_path: Path) -> Path:
        return write_fake_artifact(tmp_path / "candidate.json", 1000)

    @pytest.fixture
    def reference(self, tmp_path: Path) -> Path:
        return write_fake_artifact(tmp_path / "reference.json", 500)

    @pytest.fixture
    def session(self, settings: TargetSettings, reference: Path, tmp_path: Path) -> MeasurementSession:
        return MeasurementSession(on_host(settings), reference, tmp_path / "work", seed=0)

    def test_a_measurement(
        self, session: MeasurementSession, candidate: Path, expected: Expected, ssh_server: Any, tmp_path: Path
    ) -> None:
        with session:
            latency = session.measure("c", candidate, expected)["latency_ms"]
            assert latency.details["cpu_ratio"] == pytest.approx(2.0, rel=0.1)
            assert latency.environment["host"] == HOST
            sent = sorted(file.name for file in ssh_server.cache.rglob("*.json"))
            assert sent == ["candidate.json", "reference.json"]
        assert [file.name for file in ssh_server.cache.rglob("*.json")] == ["reference.json"], "for a resumed study"
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["reference.json", "samples"]
        wait_until(lambda: not remote_processes(ssh_server))

    @fault(1, "SIGKILL of the measurement process on another host", "measured again, or told")
    def test_a_runner_killed_there(
        self,
        session: MeasurementSession,
        candidate: Path,
        expected: Expected,
        ssh_server: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def kill(_: runner_process.RunnerProcess) -> None:
            os.kill(remote_processes(ssh_server, "hardware.runner")[0], signal.SIGKILL)

        once_in_a_block(monkeypatch, kill)
        with session:
            assert session.measure("c", candidate, expected)["latency_ms"].finite

    def test_a_lost_connection(
        self,
        session: MeasurementSession,
        candidate: Path,
        expected: Expected,
        ssh_server: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """All of it, the lock with it: the agent's process carries the connection of all."""

        def cut(_: runner_process.RunnerProcess) -> None:
            assert isinstance(session.host, SshHost)
            assert session.host._agent is not None
            session.host._agent.process.kill()
            wait_until(lambda: not remote_processes(ssh_server))

        once_in_a_block(monkeypatch, cut)
        with session:
            assert session.measure("c", candidate, expected)["latency_ms"].finite

    @fault(1, "SIGKILL of the coordinator of a measurement on another host", "nothing is left running there")
    def test_a_killed_coordinator_leaves_nothing_running(
        self, settings: TargetSettings, reference: Path, ssh_server: Any, tmp_path: Path
    ) -> None:
        hour = write_fake_artifact(tmp_path / "hour.json", 3600e6)
        code = (
            "import sys, numpy as np; from pathlib import Path\n"
            "from flashdistill.hardware.parity import Expected\n"
            "from flashdistill.hardware.session import MeasurementSession\n"
            "from flashdistill.hardware.settings import TargetSettings\n"
            "settings = TargetSettings.model_validate_json(sys.argv[1])\n"
            "session = MeasurementSession(settings, Path(sys.argv[2]), Path(sys.argv[4]), 0)\n"
            "ids = np.ones((2, 8), dtype=np.int64)\n"
            "session.measure('c', Path(sys.argv[3]), Expected({'input_ids': ids, 'attention_mask': ids}, []))\n"
        )
        arguments = [on_host(settings).model_dump_json(), reference, hour, tmp_path / "work"]
        coordinator = subprocess.Popen([sys.executable, "-c", code, *arguments])
        try:
            wait_until(lambda: len(remote_processes(ssh_server, "hardware.runner")) == 1)
            [runner] = remote_processes(ssh_server, "hardware.runner")
            wait_until(lambda: psutil.Process(runner).cpu_times().user > 0.5)
            with (ssh_server.locks / "cpu.lock").open() as lock:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                coordinator.kill()
                coordinator.wait()
                wait_until(lambda: not remote_processes(ssh_server), seconds=10)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            coordinator.kill()
            coordinator.wait()

    def test_an_engine_is_built_there_and_fetched(
        self, settings: TargetSettings, reference: Path, candidate: Path, preparations: Path, tmp_path: Path
    ) -> None:
        # sshd passes no environment on: the interpreter there is told where the test's target is.
        python = script(tmp_path / "python", f'PYTHONPATH={preparations.parent} exec {sys.executable} "$@"')
        there = on_host(settings, python=str(python))
        with MeasurementSession(there, reference, tmp_path / "work", seed=0) as session:
            engine = session.prepare("c", candidate, tmp_path / "delivery")
            assert (engine / "parts" / "plan.json").read_text() == candidate.read_text()
        assert preparations.read_text().split() == ["candidate.json"]

    @pytest.mark.parametrize(("host", "words"), [("refused", "Permission denied"), ("nowhere", "Connection refused")])
    def test_a_host_that_cannot_be_reached(self, host: str, words: str, tmp_path: Path) -> None:
        with pytest.raises(
            TargetError, match=rf"ssh cannot connect to {host}: .*{words}.*must work, without a question"
        ):
            SshHost(host, sys.executable, tmp_path, Silent())


def remote_processes(server: Any, word: str = "flashdistill.hardware") -> list[int]:
    """Of our modules, those that the test's sshd started; told by the environment that it gives them."""
    found = []
    for process in psutil.process_iter():
        try:
            words, environment = " ".join(process.cmdline()), process.environ()
        except psutil.Error:
            continue
        if word in words and environment.get("XDG_CACHE_HOME") == str(server.cache):
            found.append(process.pid)
    return found


def once_in_a_block(monkeypatch: pytest.MonkeyPatch, act: Callable[[runner_process.RunnerProcess], None]) -> None:
    """Do something after the first block of a measurement, once."""
    run = runner_process.RunnerProcess.run
    left = [act]

    def acting(self: runner_process.RunnerProcess, count: int) -> Block:
        block = run(self, count)
        if left:
            left.pop()(self)
        return block

    monkeypatch.setattr(runner_process.RunnerProcess, "run", acting)
