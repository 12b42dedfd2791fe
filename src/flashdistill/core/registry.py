"""Choosing an implementation by name: a plain dict of lazy ``"module:Class"`` strings."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a near miss, else an empty string."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def load(choices: Mapping[str, str], name: str, kind: str) -> Any:
    """Import and return the object that ``name`` stands for.

    Raises:
        ValueError: no such name; lists the allowed ones.
    """
    if name not in choices:
        raise ValueError(f"unknown {kind} {name!r}; allowed: {', '.join(choices)}{did_you_mean(name, choices)}")
    module, _, attribute = choices[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
