"""A private PostgreSQL server: its own directory, a Unix socket and no network."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps the programs of each version apart, outside of PATH."""

_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",  # a killed server loses nothing, and these tests cut no power
    "shared_buffers": "16MB",
    "max_connections": "50",
}


def _program(name: str) -> str | None:
    places = [os.environ.get("PATH", ""), *sorted(map(str, _DEBIAN.glob("*/bin")), reverse=True)]
    return shutil.which(name, path=os.pathsep.join(places))


def why_not() -> str:
    """Why there is no server to test with; empty if there can be one."""
    missing = [name for name in ("initdb", "postgres") if _program(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install PostgreSQL"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return ""


class PostgresServer:
    """The server and its databases; the directory belongs to it alone."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if _known(name))
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(directory, user.pw_uid, user.pw_gid)

    def create(self) -> None:
        """Make an empty cluster."""
        initdb = [_program("initdb"), "-D", self.directory / "data", "-U", "tester", "--auth=trust", "-E", "UTF8"]
        subprocess.run([*initdb, "--no-sync"], check=True, capture_output=True, cwd="/", **self._as_user)

    def start(self, wait: bool = True) -> None:
        settings = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
        command = [_program("postgres"), "-D", self.directory / "data", "-k", self.directory, *settings]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as_user)
        if wait:
            self.wait()

    def wait(self, seconds: float = 30) -> None:
        """Return once it answers."""
        import psycopg

        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(host=str(self.directory), user="tester", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                    print((self.directory / "log").read_text(encoding="utf-8"))
                    raise
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT cuts all connections in an orderly way, SIGQUIT as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """One statement in the database ``postgres``."""
        import psycopg

        address = {"host": str(self.directory), "user": "tester", "dbname": "postgres"}
        with psycopg.connect(**address, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str, password: str = "") -> str:
        """As a user writes it: without a driver."""
        secret = f":{password}" if password else ""
        return f"postgresql://tester{secret}@/{database}?host={self.directory}"


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server for the length of the block; the test is skipped where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    # A socket's path has at most 107 characters, and pytest's directories are closed to other users.
    with tempfile.TemporaryDirectory(prefix="flashdistill-postgres-", dir="/tmp") as place:
        server = PostgresServer(Path(place))
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
