"""Another machine as host, over the system's ``ssh``: its configuration, keys and jump hosts hold.

One connection is made, by the agent's process, and everything else that runs there shares it
(``ControlMaster``), so that a runner starts without a new key exchange. When the coordinator ends,
however that happens, its end of every pipe closes, and the processes there end with theirs.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashdistill.core.errors import TargetError
from flashdistill.core.files import content_key
from flashdistill.core.progress import Progress
from flashdistill.hardware.agent import package_version
from flashdistill.hardware.artifacts import read_stream, write_stream
from flashdistill.hardware.hosts import Host, end, start_process
from flashdistill.hardware.lines import ANSWER_SECONDS, Answer, Conversation, RunnerDiedError, last_words, reported

_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlMaster=auto",
    "ControlPersist=no",
    "LogLevel=ERROR",
    # What a user may have configured for logging in by hand.
    "RemoteCommand=none",
    "ClearAllForwardings=yes",
)
_LOST, _NOT_EXECUTABLE, _NOT_FOUND = 255, 126, 127
_TRANSFER = "flashdistill.hardware.artifacts"


class SshHost(Host):
    """A machine that ``ssh host`` reaches without a question.

    Args:
        host: as for ssh, ``[user@]host``.
        python: the interpreter there that has this version of flashdistill.
        work_directory: the study's; models of different studies are kept apart there.
        progress: told when the device's lock has to be waited for.

    Raises:
        TargetError: the host cannot be reached, or cannot be worked with; says what to do.
    """

    def __init__(self, host: str, python: str, work_directory: Path, progress: Progress):
        _require_words(host, python)
        self.place = f"on {host}: "
        self._host, self._python, self._progress = host, python, progress
        self._study = content_key(socket.gethostname(), str(work_directory.resolve()))
        self._agent: Conversation | None = None
        # A directory of its own, private and with a short name: a socket's path is limited to 104 characters.
        self._directory = Path(tempfile.mkdtemp(prefix="flashdistill-", dir="/tmp"))  # nosec B108  # mkdtemp's names cannot be foreseen
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def start(
        self, module: str, arguments: Mapping[str, Any], variables: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        environment = [f"{name}={value}" for name, value in variables.items()]
        words = ["env", *environment, self._python, "-P", "-m", module, json.dumps(arguments)]
        options = [word for option in (*_OPTIONS, f"ControlPath={self._directory}/ssh") for word in ("-o", option)]
        try:
            return start_process(["ssh", "-T", *options, "--", self._host, remote_command(words)], log)
        except FileNotFoundError as error:
            raise TargetError(
                f"target.host is {self._host}, but this machine has no ssh command; install the OpenSSH client"
            ) from error

    def ask(self, command: str, **arguments: object) -> Answer:
        agent = self._agent or self._connect()
        try:
            # Another study's measurement takes as long as it takes.
            return agent.ask(command, None if command == "lock" else ANSWER_SECONDS, **arguments)
        except RunnerDiedError:
            self._disconnect()
            raise

    def send(self, artifact: Path, key: str) -> str:
        located = self.ask("locate", key=key)
        directory: str = located["path"]
        if not located["there"]:
            self._send(artifact, directory)
        return f"{directory}/{artifact.name}"

    def fetch(self, artifact: str, directory: Path) -> Path:
        log = self._directory / "fetch.log"
        process = self.start(_TRANSFER, {"do": "send", "artifact": artifact}, {}, log)
        assert process.stdout is not None
        try:
            return read_stream(process.stdout, directory)  # type: ignore[arg-type]
        except EOFError as error:
            raise self._broke_off(process, log) from error
        except TargetError as error:
            raise TargetError(f"{self.place}{error}") from error
        finally:
            end(process)

    def close(self) -> None:
        self._disconnect()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _send(self, artifact: Path, directory: str) -> None:
        log = self._directory / "send.log"
        process = self.start(_TRANSFER, {"do": "receive", "directory": directory}, {}, log)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has stopped listening, and says why
                write_stream(artifact, process.stdin)  # type: ignore[arg-type]
                process.stdin.close()
            answer = json.loads(process.stdout.read().splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise self._broke_off(process, log) from error
        finally:
            end(process)
        if "error" in answer:
            raise reported(answer, self.place)

    def _broke_off(self, process: subprocess.Popen[bytes], log: Path) -> RunnerDiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        return RunnerDiedError(
            f"{self.place}the transfer broke off (exit status {process.returncode}); its last words: {last_words(log)}"
        )

    def _connect(self) -> Conversation:
        log = self._directory / "agent.log"
        process = self.start("flashdistill.hardware.agent", {"study": self._study}, {}, log)
        agent = Conversation(process, "agent", log, self.place, self._progress.message)
        try:
            agent.wait_until_ready()
            there = agent.ask("version")["version"]
        except RunnerDiedError as error:
            agent.close()
            raise self._not_connected(process.returncode, agent.last_words()) from error
        if there != package_version():
            agent.close()
            raise TargetError(
                f"{self._host} has flashdistill {there}, this machine {package_version()}; install the same version"
            )
        self._agent = agent
        return agent

    def _disconnect(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _not_connected(self, status: int | None, words: str) -> TargetError:
        """Why there is no agent, from how its process ended."""
        host, python = self._host, self._python
        if status == _LOST:
            return TargetError(
                f"target.host: ssh cannot connect to {host}: {words}. "
                f"`ssh -o BatchMode=yes {host} true` must work, without a question for a password or a host key"
            )
        if status in (_NOT_FOUND, _NOT_EXECUTABLE):
            return TargetError(
                f"there is no interpreter {python} on {host} ({words}); "
                "set target.python to the one there that has flashdistill"
            )
        if "No module named" in words and "flashdistill" in words.rpartition("No module named")[2]:
            return TargetError(
                f"{python} on {host} has no flashdistill, or an older one ({words}); install flashdistill "
                f"{package_version()} there, or set target.python to the interpreter that has it"
            )
        if "-P" in words:
            return TargetError(
                f"{python} on {host} is older than Python 3.11; set target.python to an interpreter there that is not"
            )
        return TargetError(f"{python} on {host} cannot run flashdistill (exit status {status}): {words}")


def _require_words(host: str, python: str) -> None:
    """Neither may be read as an option, by ``ssh`` here or by ``env`` there, nor be a variable for ``env``.

    Raises:
        TargetError: one would be.
    """
    if not host or host.startswith("-") or any(c.isspace() or not c.isprintable() for c in host):
        raise TargetError(f"target.host: {host!r} is no host; write [user@]host as for ssh")
    if not python or python.startswith("-") or "=" in python or not python.isprintable():
        raise TargetError(f"target.python: {python!r} is no interpreter; give its name or path on {host}")


def remote_command(words: list[str]) -> str:
    """One line for whichever shell the user has there: every word quoted, but for a leading ``~/``."""

    def quote(word: str) -> str:
        return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)

    return " ".join(quote(word) for word in words)
