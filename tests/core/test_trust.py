from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashdistill.core.progress import Silent
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trust import private_directory, without_password
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import prepare_corpus
from flashdistill.data.tokenizer import train_wordpiece
from flashdistill.hardware.cache import cached_artifact
from tests.tiny_run import write_text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:geheim@db/runs", "postgresql://me:***@db/runs"),
        ("postgresql+psycopg://me:ge@h:eim@db:5432/runs?a=b", "postgresql+psycopg://me:***@db:5432/runs?a=b"),
        (
            "postgresql://me@/runs?host=/tmp&password=geheim&user=me",
            "postgresql://me@/runs?host=/tmp&password=***&user=me",
        ),
        ("postgresql://me@/runs?sslpassword=geheim", "postgresql://me@/runs?sslpassword=***"),
        ("postgresql//me:geheim@db/runs", "postgresql//me:***@db/runs"),
        ("me:geheim@db/runs", "me:***@db/runs"),
        ("postgresql://me@db:5432/runs", "postgresql://me@db:5432/runs"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
    ],
)
def test_a_url_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == without_password(shown) == shown


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Generous, usual and strict ones, and one that takes the owner's own right to write."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_run_is_its_owners_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    run = RunDirectory(tmp_path / "runs" / "one")
    run.create()
    assert mode(run.path) == mode(run.path.parent) == 0o700
    run.remember(identity="a")
    assert run.state() == {"identity": "a"}


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """A team may share a directory; it has made it so itself."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    private_directory(shared)
    RunDirectory(shared).create()
    assert mode(shared) == 0o770
    assert mode(private_directory(shared / "deep" / "er")) == 0o700
    assert mode(shared / "deep") == 0o700


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r".+"):
        private_directory(tmp_path / "file")
    with pytest.raises(OSError, match=r".+"):
        private_directory(tmp_path / "file" / "below")


def test_caches_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_text(tmp_path)
        settings = CorpusSettings.model_validate({"source": {"files": f"{tmp_path}/text*.txt"}, "max_length": 32})
        tokenizer = train_wordpiece([path.read_text() for path in sorted(tmp_path.glob("*.txt"))], 250)
        prepare_corpus(settings, tokenizer, tmp_path / "cache" / "corpora", Silent())
        cached_artifact(tmp_path / "other" / "exports", "key", lambda path: path.write_bytes(b"graph") and None)
    finally:
        os.umask(before)
    for made in ("cache", "cache/corpora", "other", "other/exports"):
        assert mode(tmp_path / made) == 0o700, made
