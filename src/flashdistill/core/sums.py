"""SHA-256 sums of a directory's files, in the form that ``sha256sum --check SHA256SUMS`` reads.

A loader does not notice a flipped byte: safetensors has no checksum, and neither has ONNX.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from flashdistill.core.files import sha256_file, write_text

SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_sums(directory: Path, but: Collection[str] = ()) -> None:
    """Sum up all files in a directory.

    Args:
        but: names of files that may change later.
    """
    files = sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    summed = [file for file in files if file.as_posix() != SUMS and file.name not in but]
    lines = [f"{sha256_file(directory / file)}  {file.as_posix()}\n" for file in summed]
    write_text(directory / SUMS, "".join(lines))


def damaged_files(directory: Path) -> list[str]:
    """Files that are not what was summed up, but for those that are gone; none where there are no sums."""
    try:
        text = (directory / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    expected = {found[2]: found[1] for line in text.splitlines() if (found := _LINE.fullmatch(line))}
    return [
        name
        for name, digest in expected.items()
        if (directory / name).is_file() and sha256_file(directory / name) != digest
    ]
