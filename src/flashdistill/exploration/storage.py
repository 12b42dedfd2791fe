"""Opening the study's database, with failures put as advice."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from flashdistill.core.errors import RunDirectoryError

_ADVICE = "restore it from a backup, or start again in a new output directory"


def sqlite_url(path: Path) -> str:
    """The storage URL of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(Path(path).absolute())).render_as_string()


def open_storage(url: str) -> BaseStorage:
    """The storage behind a URL.

    A reader such as the dashboard may lock SQLite for a moment: writers wait for it. Connections
    to a server are tried before use, so that a restarted server is no failure.
    """
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=options))


def check_before_opening(url: str, expected_trials: int) -> None:
    """Look at a SQLite file before Optuna would silently create or extend it.

    Raises:
        RunDirectoryError: the URL is malformed; the file is damaged; or it is missing or empty
            though trials are expected in it.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        message = f"search.storage: {url!r} is not a storage URL; write sqlite:///FILE or postgresql://HOST/DATABASE"
        raise RunDirectoryError(message) from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
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
        message = f"the study's storage {shown_url(url)} needs a database driver that is not installed: {error}"
        raise RunDirectoryError(message) from error
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise RunDirectoryError(_explain(url, error)) from error


def _explain(url: str, error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return (
        f"cannot use the study's storage {shown_url(url)}: {first_line}; check that it exists, can be written, "
        f"and has free space; if it is damaged, {_ADVICE}"
    )


def shown_url(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
