"""Shared by all tests: one thread, because small tensors gain nothing from more, and locks of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from flashdistill.hardware import device_lock


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests must neither wait for a real measurement on this machine nor hold one up."""
    directory = tmp_path_factory.mktemp("locks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_lock, "lock_directory", lambda: directory)
        yield
