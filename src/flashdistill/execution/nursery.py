"""A process that has imported what is slow to import, and forks workers from itself.

Importing PyTorch and its company takes seconds, a fork milliseconds. The process at hand cannot
fork itself: it computes with threads, and may hold a GPU. So this one only imports, and computes
nothing ever. It knows nothing of jobs: a worker gets a connection to whoever asked for it.

Nobody survives the one it works for, not even while suspended: the kernel kills the nursery when
the process that started it ends, and the workers when the nursery does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

_REQUEST = struct.Struct("<q")
_EVENT = struct.Struct("<qq?q")

_LAUNCH = """\
import json, sys
orders = json.loads(sys.argv[1])
sys.path[:] = orders["path"]
from flashdistill.execution.nursery import main
main(orders)
"""


class Event(NamedTuple):
    """A worker was born, or has ended.

    Attributes:
        number: under which it was asked for.
        pid: its process, and the process group of it and its own children.
        ended: False when it has just been forked.
        code: its exit code, or minus the number of the signal that killed it; 0 while it lives.
    """

    number: int
    pid: int
    ended: bool
    code: int


class Nursery:
    """The other process, as the one that started it sees it."""

    def __init__(self, preload: Sequence[str]):
        """Start it; it imports the modules while the caller goes on.

        The kernel ties it to the calling *thread*.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            orders = {"path": sys.path, "control": theirs.fileno(), "parent": os.getpid(), "preload": list(preload)}
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, json.dumps(orders)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._control = ours

    def fileno(self) -> int:
        """To wait for the next `event`."""
        return self._control.fileno()

    def fork(self, number: int, connection: Connection) -> None:
        """Ask for a worker that talks over this connection, which the caller may close afterwards.

        Raises:
            OSError: the nursery has ended.
        """
        socket.send_fds(self._control, [_REQUEST.pack(number)], [connection.fileno()])

    def event(self) -> Event | None:
        """The next event, waiting for it; None: the nursery has ended, and with it all workers."""
        data = b""
        while len(data) < _EVENT.size:
            try:
                part = self._control.recv(_EVENT.size - len(data))
            except OSError:
                part = b""
            if not part:
                return None
            data += part
        return Event(*_EVENT.unpack(data))

    def close(self) -> None:
        """End it and every worker at once."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


def main(orders: dict[str, Any]) -> None:
    """The nursery's own life: import, then fork on request."""
    die_with(orders["parent"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever started us decides when we end
    for module in orders["preload"]:
        # What cannot be imported here will be missed by a worker, which can say so.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # workers share these pages as long as nobody writes to them
    with socket.socket(fileno=orders["control"]) as control:
        _serve(control)


def _serve(control: socket.socket) -> None:
    """Fork workers and report their ends until nobody asks any more."""
    awake, alarm = os.pipe()
    for end in (awake, alarm):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm)
    numbers: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if awake in ready:
                os.read(awake, 65536)
                for pid, code in _ended():
                    control.sendall(_EVENT.pack(numbers.pop(pid), pid, True, code))
            if control in ready:
                request, handles, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
                if not request:
                    return
                [number] = _REQUEST.unpack(request)
                pid = _fork_worker(handles[0], [control.fileno(), awake, alarm])
                numbers[pid] = number
                control.sendall(_EVENT.pack(number, pid, False, 0))


def _ended() -> list[tuple[int, int]]:
    """Children that have ended, with their exit codes."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return found


def _fork_worker(handle: int, not_theirs: Sequence[int]) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid:
        os.close(handle)
        return pid
    code = 1
    try:
        die_with(nursery)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for other in not_theirs:
            os.close(other)

        from flashdistill.execution.child import run

        run(Connection(handle))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # the nursery's own clean-up is not a worker's business


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
