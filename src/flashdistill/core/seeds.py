"""Random streams that depend on what they are for, not on the order of calls.

A resumed run draws the same numbers as an uninterrupted one because every stream is derived
anew from the run's seed and a name.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: object) -> np.random.Generator:
    """A NumPy generator for the stream named by ``parts``."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))
