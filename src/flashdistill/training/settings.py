"""What one optimisation is made of: shared by flash and regular distillation."""

from __future__ import annotations

from typing import Literal

OptimizerName = Literal["adamw", "lamb"]
