"""Opening the study's database, with failures put as advice, and outages of its server outlasted."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from flashdistill.core.errors import RunDirectoryError, first_line
from flashdistill.core.trust import HIDDEN, without_password

log = logging.getLogger(__name__)

_ADVICE = "restore it from a backup, or start again in a new output directory"

PATIENCE_SECONDS = 300.0
"""How long a run waits for a database server that has stopped answering; a restart or a failover takes less."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0

_SERVER_TIMEOUTS = {
    "connect_timeout": 10,  # seconds, as the next three
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
"""What libpq is told so that a host that has gone silent is an error and not an endless wait."""

_OPENING_LOCK = 0x466C617368  # "Flash", to be told from the advisory locks of others

_Result = TypeVar("_Result")


class ConnectionLostError(Exception):
    """The database server cannot be reached or has cut the connection; what was asked may or may not be done."""


def sqlite_url(path: Path) -> str:
    """The storage URL of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(Path(path).absolute())).render_as_string()


def open_storage(url: str) -> RDBStorage:
    """The storage behind a URL.

    A reader such as the dashboard may lock SQLite for a moment: writers wait for it. Connections
    to a server are tried before use, so that most of its restarts are not even noticed; from then
    on, operations raise `ConnectionLostError` where it does not answer.

    Raises:
        RunDirectoryError: another version of Optuna has made the tables.
    """
    parsed = _with_driver(make_url(url))
    if parsed.password == HIDDEN:  # a run's own configuration does not have it; libpq may know it otherwise
        parsed = parsed._replace(password=None)  # `set` leaves as it is what is None
    options = {"pool_pre_ping": True, "connect_args": _connection_options(parsed)}
    try:
        storage = RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=options)
    except RuntimeError as error:
        raise RunDirectoryError(f"the study's storage {without_password(url)}: {error}") from error
    if not _is_sqlite(parsed):
        event.listen(storage.engine, "handle_error", _raise_lost_connection)
    return storage


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _connection_options(url: URL) -> dict[str, Any]:
    if _is_sqlite(url):
        return {"timeout": 60}
    if url.get_backend_name() == "postgresql":
        return {key: value for key, value in _SERVER_TIMEOUTS.items() if key not in url.query}
    return {}


def _with_driver(url: URL) -> URL:
    """PostgreSQL goes by the driver that the extra ``postgresql`` installs, unless the URL names another."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def _raise_lost_connection(context: ExceptionContext) -> None:
    """Tell a lost connection from all other errors of a database.

    Optuna repeats an insertion after any error of the database. Where only the acknowledgement of
    the commit was lost it would so insert the trial twice; this error it does not catch.
    """
    unreachable = context.connection is None and context.sqlalchemy_exception is not None
    if (context.is_disconnect or unreachable) and not context.is_pre_ping:
        raise ConnectionLostError(first_line(context.original_exception)) from context.original_exception


def outlasting(storage: RDBStorage, study: str, work: Callable[[], _Result]) -> _Result:
    """Do something to a study, again and again while the server is away, with growing pauses.

    Args:
        work: may be repeated although an earlier attempt was carried out: it looks first.

    Raises:
        ConnectionLostError: the server was away for `PATIENCE_SECONDS`.
    """
    deadline, pause = 0.0, _FIRST_PAUSE_SECONDS
    while True:
        try:
            if deadline:
                _settle(storage, study)
            return work()
        except ConnectionLostError as error:
            now = time.monotonic()
            if not deadline:
                deadline = now + PATIENCE_SECONDS
                log.warning("the study's database does not answer (%s); trying for %.0f s", error, PATIENCE_SECONDS)
            if now >= deadline:
                raise
            time.sleep(min(pause * random.uniform(0.5, 1.0), deadline - now))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _settle(storage: RDBStorage, study: str) -> None:
    """Wait until nothing that a lost connection began on a study is still under way in the server.

    What it began holds locks of the rows asked for here; so once these are granted, the outcome is
    there to be read.
    """
    with storage.engine.begin() as connection:
        locked = "SELECT study_id FROM studies WHERE study_name = :name FOR UPDATE"
        number = connection.execute(text(locked), {"name": study}).scalar()
        connection.execute(text("SELECT trial_id FROM trials WHERE study_id = :id FOR UPDATE"), {"id": number}).all()


@contextlib.contextmanager
def opening_alone(url: str) -> Iterator[None]:
    """Of several runs that open a study of one PostgreSQL database, let one after the other in.

    Without that, two would create the tables, or claim the study, at the same moment.
    """
    parsed = _with_driver(make_url(url))
    if parsed.get_backend_name() != "postgresql":
        yield
        return
    engine = create_engine(parsed, poolclass=NullPool, connect_args=_connection_options(parsed))
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _OPENING_LOCK})
        yield


def close_storage(storage: RDBStorage) -> None:
    """Give back all connections of this thread and of the pool."""
    storage.remove_session()
    storage.engine.dispose()


def check_before_opening(url: str, expected_trials: int) -> None:
    """Look at a SQLite file before Optuna would silently create or extend it.

    Raises:
        RunDirectoryError: the URL is malformed; the file is damaged; or it is missing or empty
            though trials are expected in it.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RunDirectoryError(
            f"search.storage: {without_password(url)!r} is not a storage URL; write sqlite:///FILE or postgresql://HOST/DATABASE"
        ) from None
    if not _is_sqlite(parsed) or not parsed.database or parsed.database == ":memory:":
        return
    path = Path(parsed.database)
    if not path.exists() or path.stat().st_size == 0:
        if expected_trials:
            raise RunDirectoryError(
                f"the study {path} is gone or empty, but this run has started {expected_trials} trials; {_ADVICE}"
            )
        return
    problem = _damage(path)
    if problem:
        raise RunDirectoryError(f"the study {path} is damaged ({problem}); {_ADVICE}")


def _damage(path: Path) -> str:
    """What SQLite's own check finds wrong with a file; empty if nothing."""
    try:
        # Opened for writing: the journal of a killed process must be rolled back first.
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            rows = connection.execute("PRAGMA integrity_check").fetchall()
    except sqlite3.Error as error:
        return str(error)
    return "" if rows == [("ok",)] else "; ".join(str(row[0]) for row in rows[:3])


@contextlib.contextmanager
def as_user_errors(url: str) -> Iterator[None]:
    """Turn a database's failure within the block into one clear message.

    Raises:
        RunDirectoryError: the storage cannot be reached, read or written.
    """
    try:
        yield
    except (ImportError, NoSuchModuleError) as error:
        raise RunDirectoryError(_missing_driver(url, error)) from error
    except ConnectionLostError as error:
        raise RunDirectoryError(
            f"the study's storage {without_password(url)} does not answer: {error}; what it has is not lost: "
            "when it is back, the same command goes on"
        ) from error
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise RunDirectoryError(_explain(url, error)) from error


def _missing_driver(url: str, error: Exception) -> str:
    message = f"the study's storage {without_password(url)} needs a database driver that is not installed"
    if _with_driver(make_url(url)).drivername == "postgresql+psycopg":
        return f"{message}; pip install 'flashdistill[postgresql]'"
    return f"{message}: {error}"


def _explain(url: str, error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    advice, parsed = "check that it exists, can be written, and has free space", make_url(url)
    if _is_sqlite(parsed):
        advice += f"{_free_space(parsed)}; if it is damaged, {_ADVICE}"
    return f"cannot use the study's storage {without_password(url)}: {first_line(cause)}; {advice}"


def _free_space(url: URL) -> str:
    with contextlib.suppress(OSError):
        return f" ({shutil.disk_usage(Path(url.database or '').absolute().parent).free:,} bytes now)"
    return ""
