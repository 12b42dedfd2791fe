"""Requests and answers as JSON lines: how the coordinator talks to the processes it starts.

    {"do": command, **arguments}   →   {**answer}, or {"error": message}, with {"disk": true} where that is at fault

Each process answers one request after the other on its standard output; before an answer it may
send ``{"message": text}`` lines for the user. Arrays travel in the lines, so that it makes no
difference whether a process runs on this machine or behind a connection. The module is small and
imports NumPy where it is needed, because every process starts with it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flashdistill.core.errors import FlashDistillError, TargetError
from flashdistill.core.files import WriteError

if TYPE_CHECKING:
    import numpy as np

Answer = dict[str, Any]
Commands = Mapping[str, Callable[..., Answer]]

ANSWER_SECONDS = 600.0
_GRACE_SECONDS = 2.0
_LAST_WORDS = 400


class RunnerDiedError(Exception):
    """The process ended or stopped answering; says how, with the last words of its log."""


class Conversation:
    """The coordinator's end.

    Args:
        process: started with pipes for its standard input and output.
        role: names it in messages (``candidate``, ``reference``).
        log: the file that receives its standard error.
        place: put before the messages of failures: ``on gpu-server: ``, or nothing for this machine.
        tell: receives what the process has to say while it works.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        role: str,
        log: Path,
        place: str = "",
        tell: Callable[[str], None] | None = None,
    ):
        self.process = process
        self._role, self._log, self._place, self._tell = role, log, place, tell
        self._buffer = bytearray()

    def wait_until_ready(self) -> Answer:
        """Return when the process has started and can be asked.

        Raises:
            TargetError: it could not start, for example because its runtime is not installed.
            RunnerDiedError: it ended.
        """
        return self._receive(ANSWER_SECONDS)

    def ask(self, command: str, seconds: float | None = ANSWER_SECONDS, **arguments: object) -> Answer:
        """Send one request and wait for its answer, ``seconds`` at most; None: for ever.

        Raises:
            TargetError: the command failed.
            RunnerDiedError: the process ended, or did not answer in time.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self._died("is gone") from error
        return self._receive(seconds)

    def close(self) -> None:
        """End the process: the end of its input lets it go, else it is killed. Safe to call twice."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self.process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    def last_words(self) -> str:
        """The end of what the process wrote to its standard error."""
        return last_words(self._log)

    def _receive(self, seconds: float | None) -> Answer:
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                answer = json.loads(self._line(deadline))
            except ValueError:
                continue
            if not isinstance(answer, dict):
                continue  # a login shell may greet before the process has taken its output over
            if "message" in answer:
                if self._tell is not None:
                    self._tell(f"{self._place}{answer['message']}")
            elif "error" in answer:
                raise reported(answer, self._place)
            else:
                return answer

    def _line(self, deadline: float | None) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        searched = 0
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n", searched)) < 0:
                searched = len(self._buffer)
                if not selector.select(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    self._kill()
                    raise self._died("did not answer in time")
                chunk = os.read(descriptor, 1 << 20)
                if not chunk:
                    raise self._died("ended")
                self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _died(self, how: str) -> RunnerDiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        code = self.process.returncode
        status = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
        words = self.last_words()
        tail = f"; its last words: {words}" if words else ""
        return RunnerDiedError(f"{self._place}the {self._role} {how}{status}{tail}")


def last_words(log: Path) -> str:
    """The end of a log file; empty where there is none."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
    except OSError:
        return ""


def pack(arrays: Mapping[str, np.ndarray] | Iterable[np.ndarray]) -> str:
    """Arrays as text for a line; a sequence keeps its order."""
    import numpy as np

    file = io.BytesIO()
    if isinstance(arrays, Mapping):
        np.savez(file, **arrays)  # type: ignore[arg-type]
    else:
        np.savez(file, *arrays)
    return base64.b64encode(file.getbuffer()).decode("ascii")


def unpack(text: str) -> dict[str, np.ndarray]:
    """The arrays of `pack` by name, in their order."""
    import numpy as np

    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def converse(make_commands: Callable[[Callable[[str], None]], Commands]) -> None:
    """The process's end: make the commands, say that they are ready, answer until standard input ends.

    Args:
        make_commands: takes a function that sends the user a message; what it raises is answered
            as an error, and the process ends.
    """
    answers = take_standard_output()
    end_with_input()

    def say(**answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        commands = make_commands(lambda text: say(message=text))
    except Exception as error:
        say(**failure(error))
        return
    say(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = commands[request.pop("do")](**request)
        except Exception as error:  # every failure is the coordinator's to judge
            answer = failure(error)
        say(**answer)


def take_standard_output() -> TextIO:
    """Keep standard output for answers alone; whatever else writes there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answers


def end_with_input() -> None:
    """End this process soon after the other end of its standard input is closed, whatever it does then.

    The end of its input ends it anyway once it asks for the next request. A call into native code
    that takes long, or for ever, must not outlive a coordinator that was killed. The thread sleeps
    in the kernel without the interpreter's lock, so that it costs a measurement nothing.
    """
    hung_up = select.poll()
    hung_up.register(0, getattr(select, "POLLRDHUP", 0))  # a closed pipe is always told; a socket has to be asked

    def watch() -> None:
        hung_up.poll()
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-input").start()


def failure(error: Exception) -> Answer:
    """The answer of a process that could not do what it was asked."""
    return {"error": _words(error)} | ({"disk": True} if isinstance(error, WriteError) else {})


def reported(answer: Answer, place: str = "") -> TargetError | WriteError:
    """What a `failure` tells; a full disk is no fault of the model that was to be served."""
    return (WriteError if answer.get("disk") else TargetError)(f"{place}{answer['error']}")


def _words(error: Exception) -> str:
    """A sentence of ours as it is; of what nobody foresaw the kind as well."""
    if isinstance(error, FlashDistillError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
