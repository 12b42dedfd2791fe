"""What is kept from others, and what is not taken from them: private directories, configurations without code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRIVATE = 0o700
"""Mode of the directories of runs and of the cache: they hold texts, models and paths of their owner."""

NAMES_CODE = frozenset({"auto_map", "custom_pipelines", "attn_implementation", "experts_implementation"})
"""Keys of a model's or tokenizer's configuration that name modules of its author, or kernels on the hub."""


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
