"""Frozen dataclasses as JSON and back, guided by their annotations.

A dataclass becomes an object, an `Architecture` its name, an enum its value. Only finite numbers
are written, because JSON has no others: in a mapping, a number or a `Measurement` that is not
finite is left out; elsewhere such a number becomes null.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement


def encode(value: Any) -> Any:
    """The value as JSON types: dict, list, str, int, finite float, bool, None."""
    if isinstance(value, Architecture):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {item.name: encode(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items() if not _not_finite(item)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [encode(item) for item in value]
    if isinstance(value, float):
        return None if _not_finite(value) else float(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "item"):  # a NumPy scalar
        return encode(value.item())
    return str(value)  # paths, versions: what else settings and fingerprints may hold


def _not_finite(value: Any) -> bool:
    if isinstance(value, Measurement):
        return not value.finite
    return isinstance(value, float) and not math.isfinite(value)


def decode(kind: Any, data: Any, place: str = "") -> Any:
    """The value of type ``kind`` that `encode` turned into ``data``; sequences become tuples.

    Raises:
        ValueError: ``data`` do not fit; the message begins with the dotted place.
    """
    if kind is Any:
        return data
    if kind is Architecture:
        return Architecture.parse(_expect(str, data, place))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if isinstance(kind, type) and is_dataclass(kind):
        return _decode_dataclass(kind, data, place)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, data, place)
    if origin is Literal:
        if data not in arguments:
            raise ValueError(f"{place}: got {data!r}, allowed: {', '.join(map(repr, arguments))}")
        return data
    if origin is Mapping:
        _expect(dict, data, place)
        return {
            _decode_key(arguments[0], key, place): decode(arguments[1], item, f"{place}.{key}")
            for key, item in data.items()
        }
    if origin is Sequence:
        _expect(list, data, place)
        return tuple(decode(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(data))
    return _expect(kind, data, place)


def _decode_dataclass(kind: type, data: Any, place: str) -> Any:
    _expect(dict, data, place)
    known = {item.name: item for item in fields(kind)}
    if unknown := sorted(set(data) - set(known)):
        raise ValueError(f"{place}: unknown {', '.join(unknown)}")
    required = {name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING}
    if missing := sorted(required - set(data)):
        raise ValueError(f"{place}: {', '.join(missing)} missing")
    hints = get_type_hints(kind)
    prefix = f"{place}." if place else ""
    return kind(**{name: decode(hints[name], item, f"{prefix}{name}") for name, item in data.items()})


def _decode_key(kind: Any, key: str, place: str) -> Any:
    """JSON has keys of text only; a number was written as such."""
    if kind not in (int, float):
        return key
    try:
        return kind(key)
    except ValueError:
        raise ValueError(f"{place}: got the key {key!r}, expected {kind.__name__}") from None


def _decode_union(choices: tuple[Any, ...], data: Any, place: str) -> Any:
    if data is None and type(None) in choices:
        return None
    others = [choice for choice in choices if choice is not type(None)]
    if len(others) == 1:
        return decode(others[0], data, place)
    # Only unions of JSON's own types have several members, and those need no decoding.
    if type(data) not in others:
        raise ValueError(f"{place}: got {data!r}")
    return data


def _expect(kind: type, data: Any, place: str) -> Any:
    if kind is float and type(data) is int:
        return float(data)
    if type(data) is not kind:
        raise ValueError(f"{place or 'the top level'}: got {data!r:.80}, expected {kind.__name__}")
    return data
