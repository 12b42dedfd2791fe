"""What is kept from others, and what is not taken from them: private directories, passwords, foreign code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRIVATE = 0o700
"""Mode of the directories of runs and of the cache: they hold texts, models and paths of their owner."""

NAMES_CODE = frozenset({"auto_map", "custom_pipelines", "attn_implementation", "experts_implementation"})
"""Keys of a model's or tokenizer's configuration that name modules of its author, or kernels on the hub."""

HIDDEN = "***"
"""Stands for a password."""

_PASSWORD = re.compile(r"^([\w.+-]+://[^:/?@]*):[^?]*@")
_ANYTHING_LIKE_IT = re.compile(r":[^/@][^@]*@")
_PASSWORD_OPTION = re.compile(r"([?&][^=&]*password[^=&]*=)[^&]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """A database's URL as it may be shown and kept: `HIDDEN` stands for each password in it.

    A malformed URL may lose more than its password.
    """
    if "://" not in url:
        return _ANYTHING_LIKE_IT.sub(f":{HIDDEN}@", url)
    return _PASSWORD_OPTION.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1:{HIDDEN}@", url))


def private_directory(path: Path) -> Path:
    """Make a directory, with those above it that are missing, that only its owner may enter, whatever the umask.

    One that is there already keeps its mode: its owner may share it on purpose.

    Raises:
        OSError: it cannot be made.
    """
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    for directory in reversed(missing):
        try:
            directory.mkdir(mode=PRIVATE)
        except FileExistsError:  # another process was faster
            continue
        directory.chmod(PRIVATE)  # a umask can take away the owner's own rights
    if not path.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(path))
    return path


def harmless(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A foreign configuration without what names code and what is private, in its sub-configurations too.

    `transformers` would itself refuse to run ``auto_map``'s code unasked, but keeps the key and
    writes it into all that is saved, where the next reader may trust it.
    """
    kept = {key: value for key, value in raw.items() if key not in NAMES_CODE and not key.startswith("_")}
    # Labels are the author's words, and may begin with what they like.
    nested = (key for key, value in kept.items() if key.endswith("_config") and isinstance(value, dict))
    return kept | {key: harmless(kept[key]) for key in nested}
