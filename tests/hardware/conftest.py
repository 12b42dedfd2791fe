"""Sessions with the fake target: its processes use exactly the CPU time that a test asks for."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flashdistill.hardware import device_lock, protocol, runner_process
from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.settings import TARGETS, MeasurementSettings, TargetSettings
from flashdistill.testing.fake_target import fake_outputs


@pytest.fixture(autouse=True)
def own_lock_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests must neither wait for a real measurement on this machine nor hold one up."""
    directory = tmp_path / "locks"
    monkeypatch.setattr(device_lock, "lock_directory", lambda: directory)
    return directory


@pytest.fixture
def settings() -> TargetSettings:
    quick = MeasurementSettings(tolerance=0.5, seconds=0.01, final_seconds=0.01, block_ms=2.0, patience_seconds=0.0)
    return TargetSettings(runtime="fake", batch_size=2, sequence_length=8, measurement=quick)


@pytest.fixture
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass starts two processes; the plumbing shows in two passes as in six."""
    monkeypatch.setattr(protocol, "MIN_PASSES", 2)


@pytest.fixture
def expected(settings: TargetSettings) -> Expected:
    inputs = example_inputs(settings, vocab_size=50, seed=0)
    return Expected(inputs, fake_outputs(inputs))


PREPARING_TARGET = """
import sys
from pathlib import Path
from flashdistill.hardware import runner, settings
from flashdistill.testing.fake_target import FakeTarget

settings.TARGETS["fake"] = "preparing_target:PreparingTarget"

class PreparingTarget(FakeTarget):
    def prepare(self, exported, directory):
        assert not any(directory.iterdir())
        calls = Path(__file__).with_name("preparations")
        with calls.open("a") as file:
            file.write(exported.name + "\\n")
        if "refused" in exported.name:
            from flashdistill.core.errors import TargetError
            raise TargetError("operator Foo cannot be quantised")
        engine = directory / "engine" / "parts"
        engine.mkdir(parents=True)
        (engine / "plan.json").write_text(exported.read_text())
        return directory / "engine"

    def load(self, artifact):
        super().load(artifact / "parts" / "plan.json")

if __name__ == "__main__":
    sys.modules["preparing_target"] = sys.modules["__main__"]
    runner.main()
"""


@pytest.fixture
def preparations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the fake target, here and in runners, one that builds an engine; the file lists what it built."""
    root = tmp_path / "preparing"
    root.mkdir()
    (root / "preparing_target.py").write_text(PREPARING_TARGET)
    monkeypatch.syspath_prepend(root)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setitem(TARGETS, "fake", "preparing_target:PreparingTarget")
    monkeypatch.setattr(runner_process, "_MODULE", "preparing_target")
    monkeypatch.delitem(sys.modules, "preparing_target", raising=False)
    return root / "preparations"


HOST_NAME = "serving-machine"
"""What the tests' ssh configuration calls 127.0.0.2."""


@dataclass
class SshServer:
    """A real sshd on this machine's second address, for this user and a key of its own."""

    process: subprocess.Popen[bytes]
    bin: Path
    cache: Path
    locks: Path


@pytest.fixture(scope="session")
def running_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """One server for all tests; its processes have other caches and locks than real measurements here."""
    daemon = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if daemon is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server or client is installed")
    root = tmp_path_factory.mktemp("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    public = (root / "host.pub").read_text().split()[:2]
    (root / "known_hosts").write_text(f"[127.0.0.2]:{port} {' '.join(public)}\n")
    (root / "temporary").mkdir()
    (root / "sshd_config").write_text(
        f"ListenAddress 127.0.0.2:{port}\nHostKey {root}/host\nAuthorizedKeysFile {root}/user.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv TMPDIR={root}/temporary XDG_CACHE_HOME={root}/cache OMP_NUM_THREADS=1\n"
    )
    (root / "ssh_config").write_text(
        f"Host {HOST_NAME}\n HostName 127.0.0.2\n Port {port}\n User {getpass.getuser()}\n"
        f" IdentityFile {root}/user\n IdentitiesOnly yes\n UserKnownHostsFile {root}/known_hosts\n"
        f"Host refused\n HostName 127.0.0.2\n Port {port}\n IdentityFile {root}/host\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {root}/known_hosts\n IdentityAgent none\n"
        "Host nowhere\n HostName 127.0.0.2\n Port 9\n"
    )
    # ssh takes the home directory from the user database, so that HOME cannot lead it to another configuration.
    (root / "bin").mkdir()
    wrapper = root / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {root}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    process = subprocess.Popen([daemon, "-D", "-E", root / "log", "-f", root / "sshd_config"])
    try:
        _wait_for_port(process, port, root / "log")
        yield SshServer(process, root / "bin", root / "cache", root / "temporary" / "flashdistill-locks")
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def ssh_server(running_sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """The server, known to the ``ssh`` that is found first."""
    monkeypatch.setenv("PATH", f"{running_sshd.bin}:{os.environ['PATH']}")
    return running_sshd


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.2", port)) == 0:
                return
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")
        time.sleep(0.05)
    pytest.skip("sshd does not answer")
