"""Reading YAML as data with positions, so that every complaint can name its file and line.

The text is read from parser events by YAML 1.2's core schema. A library's own loader would not
do: the usual ones take ``512_128_4_512_4`` for a number, let a later duplicate win in silence,
and forget where a value stood. No tag is ever acted upon, so no file can run code.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from flashdistill.core.errors import ConfigError, ConfigProblem

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 20

KeyPath = tuple[str | int, ...]
"""Where a value stands: mapping keys and list indices from the top."""


def dotted(path: KeyPath) -> str:
    """``("space", "num_heads", 0)`` as ``space.num_heads[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and its line from 1, or an override (no line)."""

    file: str
    line: int | None = None


@dataclass
class YamlSource:
    """The mapping of a YAML file and of the overrides applied to it, with their origins."""

    values: dict[str, Any]
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)

    def origin(self, path: KeyPath) -> Origin:
        """The origin of the value at ``path``, or of the nearest mapping or list around it."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, Origin(""))

    def report(self, path: KeyPath, message: str) -> None:
        """Note a problem with the value at ``path``."""
        origin = self.origin(path)
        self.problems.append(ConfigProblem(dotted(path), message, origin.file, origin.line))

    def override(self, text: str) -> None:
        """Apply ``dotted.key=YAML value``; what cannot be applied is noted as a problem."""
        origin = Origin(f"override {text!r}")
        key, separator, value_text = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not separator or not all(parts):
            self.problems.append(
                ConfigProblem("", "write KEY=VALUE with a dotted key, for example search.trials=20", origin.file)
            )
            return
        try:
            value_source = _Reader(value_text, origin.file, number_lines=False).read()
        except ConfigError as error:
            self.problems.extend(error.problems)
            return
        self.problems.extend(replace(problem, key=key) for problem in value_source.problems)
        parent = self._parent(tuple(parts), origin)
        if parent is None:
            return
        parent[parts[-1]] = value_source.values
        path: KeyPath = tuple(parts)
        self.origins = {known: place for known, place in self.origins.items() if known[: len(path)] != path}
        self.origins[path] = origin

    def _parent(self, path: tuple[str, ...], origin: Origin) -> dict[str, Any] | None:
        """The mapping that holds ``path``'s last key, created where it is absent or null."""
        mapping = self.values
        for depth, part in enumerate(path[:-1], start=1):
            if mapping.get(part) is None:
                mapping[part] = {}
                self.origins[path[:depth]] = origin
            if not isinstance(mapping[part], dict):
                whole = ".".join(path[:depth])
                self.problems.append(
                    ConfigProblem(
                        ".".join(path),
                        f"{whole} is {mapping[part]!r} and has no keys; set it as a whole, {whole}=VALUE",
                        origin.file,
                    )
                )
                return None
            mapping = mapping[part]
        return mapping


def read_yaml(path: Path) -> YamlSource:
    """Read a YAML file whose top level is a mapping.

    Duplicate keys, tags and unknown aliases are noted in the result's ``problems``.

    Raises:
        ConfigError: the file cannot be read, is too large, is not UTF-8 or not YAML, or its top
            level is no mapping.
    """
    text = _read_text(Path(path))
    source = _Reader(text, str(path)).read()
    if source.values is None and not source.problems:
        raise ConfigError([ConfigProblem("", "the file is empty", str(path))])
    if not isinstance(source.values, dict):
        message = f"got {_kind(source.values)} at the top level, allowed: a mapping (KEY: VALUE lines)"
        raise ConfigError([*source.problems, ConfigProblem("", message, str(path), 1)])
    return source


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([ConfigProblem("", "there is no such file", str(path))]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([ConfigProblem("", f"cannot be read: {reason}", str(path))]) from None
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES:,} bytes; is it a configuration?"
        raise ConfigError([ConfigProblem("", message, str(path))])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} is not UTF-8; save the file as UTF-8"
        raise ConfigError([ConfigProblem("", message, str(path), line)]) from None


def _height(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_height, children), default=0)


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"{value!r}"


class _Reader:
    """Builds plain values from the events of one YAML document."""

    def __init__(self, text: str, file: str, number_lines: bool = True):
        self._text = text
        self._file = file
        self._number_lines = number_lines
        self._nodes = 0
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, nodes, height
        self._source = YamlSource({})

    def read(self) -> YamlSource:
        """The document; ``values`` is whatever stands at its top level."""
        try:
            self._refuse_deep_lines()
            self._events = self._parse()
            self._source.values = self._document()
        except YAMLError as error:
            raise ConfigError([*self._source.problems, self._syntax_problem(error)]) from None
        return self._source

    def _refuse_deep_lines(self) -> None:
        """Thousands of brackets in a line keep the scanner busy before any event comes out."""
        for number, line in enumerate(self._text.splitlines()):
            opened = 0
            for character in line if len(line) > MAX_DEPTH else "":
                opened += (character in "[{") - (character in "]}")
                if opened > 10 * MAX_DEPTH:
                    raise self._fatal(number, f"more than {MAX_DEPTH} levels of nesting")

    def _parse(self) -> Iterator[Event]:
        for event in YAML(typ="safe", pure=True).parse(self._text):
            if not isinstance(event, StreamStartEvent | StreamEndEvent):
                yield event

    def _document(self) -> Any:
        value: Any = None
        documents = 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._fatal(event.start_mark.line, "a second document begins here; one is allowed")
            elif not isinstance(event, DocumentEndEvent):
                value = self._node(event, ())
        return value

    def _node(self, event: Event, path: KeyPath) -> Any:
        line = event.start_mark.line
        self._source.origins.setdefault(path, self._origin(line))
        if len(path) > MAX_DEPTH:
            raise self._fatal(line, f"more than {MAX_DEPTH} levels of nesting")
        before = self._count(line)
        if isinstance(event, AliasEvent):
            return self._alias(event, path)
        if getattr(event, "tag", None):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")  # type: ignore[attr-defined]
            self._source.report(path, f"got the tag {tag}; tags are not allowed")
        if isinstance(event, MappingStartEvent):
            value: Any = self._mapping(path)
        elif isinstance(event, SequenceStartEvent):
            value = self._sequence(path)
        else:
            assert isinstance(event, ScalarEvent)
            value = self._scalar(event, path)
        if getattr(event, "anchor", None):
            self._anchors[event.anchor] = (value, self._nodes - before + 1, _height(value))  # type: ignore[attr-defined]
        return value

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            line = event.start_mark.line
            if not isinstance(event, ScalarEvent):
                raise self._fatal(line, "a key must be plain text")
            key, place = str(event.value), (*path, str(event.value))
            if key in mapping:
                first = self._source.origin(place).line
                where = f"; it stands in line {first} already" if first else ""
                self._source.problems.append(
                    ConfigProblem(dotted(place), f"this key is repeated{where}", self._file, self._origin(line).line)
                )
                # Read the second value for its own problems, but let it change nothing.
                self._node(next(self._events), (*path, key, "(repeated)"))
                continue
            self._source.origins[place] = self._origin(line)
            mapping[key] = self._node(next(self._events), place)
        return mapping

    def _sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items))))
        return items

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> Any:
        text = str(event.value)
        plain = event.implicit[0]
        value = plain_scalar(text) if plain else text
        if isinstance(value, float) and not math.isfinite(value):
            self._source.report(path, f"got {text}, allowed: a finite number")
            return 0.0
        return value

    def _alias(self, event: AliasEvent, path: KeyPath) -> Any:
        if event.anchor not in self._anchors:
            self._source.report(path, f"the alias *{event.anchor} stands for nothing above it")
            return None
        value, size, height = self._anchors[event.anchor]
        self._count(event.start_mark.line, size)
        if len(path) + height > MAX_DEPTH:
            raise self._fatal(event.start_mark.line, f"more than {MAX_DEPTH} levels of nesting")
        return copy.deepcopy(value)

    def _count(self, line: int, nodes: int = 1) -> int:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._fatal(line, f"more than {MAX_NODES:,} values, aliases expanded; is it a configuration?")
        return self._nodes

    def _origin(self, line: int) -> Origin:
        return Origin(self._file, line + 1 if self._number_lines else None)

    def _fatal(self, line: int, message: str) -> ConfigError:
        origin = self._origin(line)
        return ConfigError([*self._source.problems, ConfigProblem("", message, origin.file, origin.line)])

    def _syntax_problem(self, error: YAMLError) -> ConfigProblem:
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, MarkedYAMLError) and error.problem:
            message = error.problem
            if "'\\t'" in message:
                message = "a tab is not allowed here; indent with spaces"
            elif "stream" in message:  # the file ended inside something: name where that begins
                message, mark = "what begins here is never closed", error.context_mark or mark
        else:  # a control character: the reader knows an offset, not a line
            message = "a control character is not allowed"
        line = mark.line if mark is not None else self._text[: getattr(error, "position", 0)].count("\n")
        return ConfigProblem("", f"not YAML: {message}", self._file, self._origin(line).line)


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}


def plain_scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar by the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 100:  # longer than any number that means something here
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
