"""Architectures as the ranks of their choices, which is how the peers are given a design space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashdistill.core.architecture import FACTORS, Architecture
from flashdistill.exploration.space import DesignSpace


class Ranks:
    """The factors with a choice, each from 0 to its highest rank.

    Attributes:
        top: the highest rank by factor.
    """

    def __init__(self, space: DesignSpace):
        self._space = space
        self.top = {name: len(choices) - 1 for name, choices in space.factors.items() if len(choices) > 1}
        self._fixed = {name: choices[0] for name, choices in space.factors.items() if len(choices) == 1}

    def of(self, architecture: Architecture) -> dict[str, int]:
        """The ranks of a member of the space."""
        return {name: self._space.factors[name].index(getattr(architecture, name)) for name in self.top}

    def architecture(self, ranks: Mapping[str, Any]) -> Architecture | None:
        """The architecture of these ranks; None where no model of it can exist."""
        chosen = {name: self._space.factors[name][int(ranks[name])] for name in self.top}
        values = {**self._fixed, **chosen}
        architecture = Architecture(**{name: values[name] for name in FACTORS if name in values})
        return architecture if architecture in self._space else None
