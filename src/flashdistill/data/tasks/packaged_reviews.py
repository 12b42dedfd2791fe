"""The film-review sentences (Pang and Lee 2005) that gensim's wheels carry for its own tests."""

from __future__ import annotations

import hashlib

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.package_files import PackagedRows, installed_package
from flashdistill.data.tasks.parts import Part
from flashdistill.data.tasks.task import Sentences

SHA256 = "662c1b7c3bd0612eaaaf3f0c694cbd3897e30c0d87d2940b46c9fd0d15ed70c1"
_FILE = "test/test_data/pang_lee_polarity.cor"
_MARKS = {"__label__neg": 0, "__label__pos": 1}


def movie_polarity(_name: str) -> PackagedRows:
    """Sentences, negative or positive."""
    path = installed_package("gensim", "wikipedia") / _FILE
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{path}: not the file that gensim's wheels carry; reinstall gensim")
    lines = [line.strip().split(" ", 1) for line in content.decode("cp1252").split("\n") if line.strip()]
    values = np.array([_MARKS[mark] for mark, _ in lines], dtype=np.int64)
    rows = Sentences([text for _, text in lines], None, values)
    part = Part(rows, str(path), range(1, len(rows) + 1))
    return PackagedRows(part, "film-review sentences (Pang and Lee 2005) in gensim", ("negative", "positive"))
