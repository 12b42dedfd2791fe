from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer, running_server

with warnings.catch_warnings():
    # gpytorch's own import calls torch.jit.script, which recent torch deprecates.
    warnings.filterwarnings("ignore", message=".torch.jit", category=DeprecationWarning)
    import gpytorch  # noqa: F401


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests that want one; who stops it starts it again."""
    with running_server() as server:
        yield server
