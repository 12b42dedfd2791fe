"""The contenders by name, imported only in the process that runs them."""

from __future__ import annotations

_HERE = "benchmarks.distillation_peers"

FLOOR, LATER, FIRST, UNCACHED, NAIVE = "floor", "ours", "ours-first", "ours-uncached", "naive"

CONTENDERS = {
    FLOOR: f"{_HERE}.floor:Floor",
    LATER: f"{_HERE}.ours:LaterCandidate",
    FIRST: f"{_HERE}.ours:FirstCandidate",
    UNCACHED: f"{_HERE}.ours:UncachedCandidate",
    NAIVE: f"{_HERE}.naive:Naive",
    "hf-trainer": f"{_HERE}.hf_trainer:HuggingFaceTrainer",
    "modelopt": f"{_HERE}.nvidia_modelopt:NvidiaModelOpt",
    "textbrewer": f"{_HERE}.text_brewer:TextBrewer",
}
"""In the order of a round."""

PEERS = tuple(name for name in CONTENDERS if name not in (FLOOR, LATER, FIRST, UNCACHED))
"""What this package is compared with; the naive loop is one of them."""
