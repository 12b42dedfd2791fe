"""The design space: every architecture the search may propose, and its numeric encoding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from flashdistill.core.architecture import FACTORS, Architecture, StudentFamily
from flashdistill.core.errors import ConfigError, ConfigProblem
from flashdistill.core.measurement import Constraint
from flashdistill.exploration.profile import SpaceProfile, profile_space
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.models.parameter_count import count_parameters

ENUMERATION_LIMIT = 100_000
"""Spaces up to this many points are handled as a table; larger ones are only sampled."""

_MAX_FRUITLESS_DRAWS = 50_000
_DRAWS_AT_ONCE = 1024


class DesignSpace:
    """The valid combinations of the factors' choices (576 in the paper's Table 1).

    Whether a combination is valid depends on the bottleneck and the heads alone, so a point is
    described by one position on each of five independent axes: hidden size, (bottleneck, heads)
    pair, intermediate size, stacked feed-forward networks, blocks. That makes counting, random
    access and sampling cheap whatever the size.

    Attributes:
        family: what all students of the run share.
        factors: by name, the ascending choices that occur in at least one valid architecture.
            ``num_blocks`` is a factor only where several depths are allowed.

    Raises:
        ConfigError: no choice of heads divides any choice of the bottleneck.
    """

    def __init__(self, settings: SpaceSettings, family: StudentFamily):
        self.family = family
        choices = {name: tuple(sorted(getattr(settings, name))) for name in FACTORS}
        pairs = tuple(_valid_pairs(choices))
        if not pairs:
            message = "no choice divides any bottleneck_size, so the space is empty; add 1, for example"
            raise ConfigError([ConfigProblem("space.num_heads", message)])
        choices["bottleneck_size"] = tuple(sorted({bottleneck for bottleneck, _ in pairs}))
        choices["num_heads"] = tuple(sorted({heads for _, heads in pairs}))
        depths: tuple[int | None, ...] = choices.pop("num_blocks")
        if len(depths) > 1:
            choices["num_blocks"] = depths  # type: ignore[assignment]
        else:
            depths = (None,)
        self.factors: Mapping[str, tuple[int, ...]] = choices
        self._axes = (choices["hidden_size"], pairs, choices["intermediate_size"], choices["num_feedforward"], depths)
        self._positions = tuple({choice: rank for rank, choice in enumerate(axis)} for axis in self._axes)

    @property
    def size(self) -> int:
        """The number of valid architectures."""
        return math.prod(len(axis) for axis in self._axes)

    @property
    def enumerable(self) -> bool:
        """Whether the space is small enough to be held as a table."""
        return self.size <= ENUMERATION_LIMIT

    def __contains__(self, architecture: Architecture) -> bool:
        return all(
            choice in positions for choice, positions in zip(_choices(architecture), self._positions, strict=True)
        )

    def architectures(self) -> Iterator[Architecture]:
        """Every valid architecture, lazily, in ascending order of the factors."""
        for choices in itertools.product(*self._axes):
            yield _architecture(choices)

    @cached_property
    def table(self) -> tuple[Architecture, ...]:
        """All architectures of an enumerable space, in the order of `architectures`."""
        return tuple(self.architectures())

    def shuffled(self, rng: np.random.Generator) -> Iterator[Architecture]:
        """The space in random order, without repeats.

        An enumerable space comes out completely. A larger one is drawn point by point and the
        iteration also ends after many successive draws of points seen before.
        """
        if self.enumerable:
            for index in rng.permutation(self.size):
                yield self.table[index]
            return
        seen: set[Architecture] = set()
        fruitless = 0
        while fruitless < _MAX_FRUITLESS_DRAWS and len(seen) < self.size:
            draws = [rng.integers(len(axis), size=_DRAWS_AT_ONCE).tolist() for axis in self._axes]
            for ranks in zip(*draws, strict=True):
                architecture = _architecture([axis[rank] for axis, rank in zip(self._axes, ranks, strict=True)])
                if architecture in seen:
                    fruitless += 1
                    continue
                fruitless = 0
                seen.add(architecture)
                yield architecture

    def sample(self, count: int, rng: np.random.Generator, exclude: Iterable[Architecture] = ()) -> list[Architecture]:
        """Up to ``count`` distinct random architectures outside ``exclude``; fewer if there are no more."""
        excluded = set(exclude)
        fresh = (architecture for architecture in self.shuffled(rng) if architecture not in excluded)
        return list(itertools.islice(fresh, count))

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """The valid architectures that differ from a member in one factor, by one choice.

        Raises:
            ValueError: the architecture is not in the space.
        """
        if architecture not in self:
            raise ValueError(f"{architecture} is not in the design space")
        result = []
        for name, choices in self.factors.items():
            values = {factor: getattr(architecture, factor) for factor in FACTORS}
            rank = choices.index(values[name])
            for other in (rank - 1, rank + 1):
                if 0 <= other < len(choices):
                    neighbour = Architecture(**{**values, name: choices[other]})
                    if neighbour in self:
                        result.append(neighbour)
        return result

    @property
    def dimension(self) -> int:
        """The number of factors with a choice: columns of `encode`."""
        return len(self._varying)

    @cached_property
    def _varying(self) -> dict[str, tuple[int, ...]]:
        return {name: choices for name, choices in self.factors.items() if len(choices) > 1}

    def encode(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Each varying factor's rank among its choices, scaled to [0, 1].

        Ranks, not values, so that unevenly spaced choices are equally far apart. An
        architecture outside the space (the baseline may be) gets interpolated ranks, beyond
        the last choice extrapolated ones.

        Returns:
            float64 [n, d], where d is `dimension`.
        """
        features = np.empty((len(architectures), self.dimension))
        for column, (name, choices) in enumerate(self._varying.items()):
            values = np.array([self._value(architecture, name) for architecture in architectures], dtype=float)
            features[:, column] = _fractional_ranks(values, np.array(choices, dtype=float)) / (len(choices) - 1)
        return features

    def comparable(self, architecture: Architecture) -> bool:
        """Whether `encode` describes this architecture fully: it has the space's constant factors."""
        fixed = ((name, choices[0]) for name, choices in self.factors.items() if len(choices) == 1)
        same_depth = "num_blocks" in self.factors or self.family.depth(architecture) == self.family.num_blocks
        return same_depth and all(self._value(architecture, name) == value for name, value in fixed)

    def _value(self, architecture: Architecture, name: str) -> int:
        return self.family.depth(architecture) if name == "num_blocks" else getattr(architecture, name)

    @cached_property
    def table_parameters(self) -> np.ndarray:
        """Parameter counts of `table`, int64 [size]."""
        return self.parameters(self.table)

    def parameters(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Parameter counts, int64 [n]."""
        counts = [count_parameters(architecture, self.family) for architecture in architectures]
        return np.array(counts, dtype=np.int64)

    def profile(self, constraints: Sequence[Constraint], baseline: Architecture | None = None) -> SpaceProfile:
        """What can be said about the space without measuring anything.

        Raises:
            ValueError: a size limit is relative and no baseline is given.
        """
        hidden, pairs, intermediate, feedforward, depths = self._axes
        # Heads leave the size as it is: one pair stands for all pairs of its bottleneck.
        heads = {bottleneck: [h for b, h in pairs if b == bottleneck] for bottleneck, _ in pairs}
        axes = (hidden, [(bottleneck, ways[0]) for bottleneck, ways in heads.items()], intermediate, feedforward)
        weights = {bottleneck: len(ways) for bottleneck, ways in heads.items()}
        return profile_space(
            [*axes, depths],
            make=_architecture,
            weigh=lambda architecture: weights[architecture.bottleneck_size],
            size=self.size,
            family=self.family,
            constraints=constraints,
            baseline=baseline,
        )


def _valid_pairs(choices: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    others = {name: values[0] for name, values in choices.items() if name != "num_blocks"}
    for bottleneck in choices["bottleneck_size"]:
        for heads in choices["num_heads"]:
            if Architecture(**{**others, "bottleneck_size": bottleneck, "num_heads": heads}).problem() is None:
                yield bottleneck, heads


def _choices(architecture: Architecture) -> tuple[object, ...]:
    """The architecture's choice on each axis."""
    return (
        architecture.hidden_size,
        (architecture.bottleneck_size, architecture.num_heads),
        architecture.intermediate_size,
        architecture.num_feedforward,
        architecture.num_blocks,
    )


def _architecture(choices: Sequence) -> Architecture:
    hidden, (bottleneck, heads), intermediate, feedforward, depth = choices
    return Architecture(hidden, bottleneck, heads, intermediate, feedforward, depth)


def _fractional_ranks(values: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Position of each value among ascending choices, linear between and beyond them; [n]."""
    ranks = np.interp(values, choices, np.arange(len(choices)))
    below = (values - choices[0]) / (choices[1] - choices[0])
    above = (values - choices[-1]) / (choices[-1] - choices[-2])
    return ranks + np.minimum(below, 0.0) + np.maximum(above, 0.0)
