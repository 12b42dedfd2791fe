"""What the agent answers on the machine that serves, here and over ssh."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware.agent import Agent, accelerator_facts
from flashdistill.hardware.device_lock import physical_device
from flashdistill.hardware.hosts import Host, LocalHost
from flashdistill.hardware.ssh import SshHost


class Releasing(Silent):
    """Lets another study's lock go as soon as it hears that it is waited for."""

    def __init__(self, lock: Path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        self.file = lock.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)
        self.file.close()


@pytest.mark.parametrize("where", ["here", "there"])
def test_another_studys_measurement_is_waited_for(
    where: str, tmp_path: Path, own_lock_directory: Path, request: pytest.FixtureRequest
) -> None:
    host: Host
    if where == "here":
        progress = Releasing(own_lock_directory / "cpu.lock")
        host = LocalHost(tmp_path / "store", progress)
    else:
        progress = Releasing(request.getfixturevalue("ssh_server").locks / "cpu.lock")
        host = SshHost("serving-machine", sys.executable, tmp_path, progress)
    with host, host.locked("cpu"):
        [text] = progress.texts
        assert text.startswith("" if where == "here" else "on serving-machine: ")
        assert text.endswith("waiting: another process is measuring on this machine's cpu")


def test_the_lock_is_free_after_use_and_after_a_failure(tmp_path: Path, own_lock_directory: Path) -> None:
    host = LocalHost(tmp_path / "store", Silent())
    with pytest.raises(RuntimeError), host.locked("cpu"):
        raise RuntimeError
    with host.locked("cpu"):
        pass
    with (own_lock_directory / "cpu.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.usefixtures("own_lock_directory")
def test_a_measurement_within_a_measurement_is_our_bug(tmp_path: Path) -> None:
    host = LocalHost(tmp_path / "store", Silent())
    with host.locked("cpu"), pytest.raises(AssertionError, match="within"):
        host.ask("lock", device="cpu")


def test_tidying_keeps_what_is_named(tmp_path: Path) -> None:
    store = tmp_path / "store"
    host = LocalHost(store, Silent())
    for key in ("kept", "dropped", ".half-sent"):
        Path(host.store_path(key)).mkdir()
        (store / f"{key}.json").touch()
    host.tidy(["kept"])
    assert sorted(path.name for path in store.iterdir()) == ["kept", "kept.json"]
    host.tidy([])
    host.tidy([])
    assert not store.exists()


@pytest.mark.parametrize(
    ("device", "visible", "physical"),
    [
        ("cpu", "1", "cpu"),
        ("cuda", None, "cuda:0"),
        ("cuda:0", None, "cuda:0"),
        ("cuda", "3,5", "cuda:3"),
        ("cuda:1", "3, 5", "cuda:5"),
        ("cuda:1", "GPU-a,GPU-b", "cuda:GPU-b"),
    ],
)
def test_one_device_has_one_name(
    device: str, visible: str | None, physical: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert physical_device(device) == physical


def test_facts_about_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    rows = "Model 0, 81559, 550.54, 9.0\nModel 1, 4096, 550.54, 8.6"
    driver.write_text(f"#!/bin/sh\ncat <<END\n{rows}\nEND\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    facts = accelerator_facts("cuda:1")
    assert facts == {
        "gpu_model": "Model 1", "gpu_memory_bytes": 4 * 2**30, "gpu_driver": "550.54", "gpu_capability": "8.6"
    }  # fmt: skip
    assert accelerator_facts("cuda:2") == {"gpu_model": "unknown"}
    assert accelerator_facts("cpu") == {}
    facts = Agent(tmp_path, lambda _: None).ask("facts", device="cuda")
    assert facts["gpu_model"] == "Model 0"
    assert facts["machine_id"]


def test_a_module_runs_there_and_answers_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.py").write_text(
        "import json, sys\nif 'fail' in sys.argv[1]: sys.exit('no such thing')\n"
        "print('a library greets'); print(json.dumps({'got': json.loads(sys.argv[1])}))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host = LocalHost(tmp_path / "store", Silent())
    assert host.ask_module("ours", {"threads": 1}, tmp_path / "log") == {"got": {"threads": 1}}
    with pytest.raises(TargetError, match=r"ours gave no answer \(exit status 1\): no such thing"):
        host.ask_module("ours", {"fail": True}, tmp_path / "log")
