"""Checking raw values against a `Section`, and saying in plain words what is wrong.

Pydantic decides what is valid; this module decides how far to go on after a mistake and how to
word it. It goes through the sections key by key, so that one mistake does not hide another, and
picks the branch of a union by the keys that are present, so that one mistake is one message.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Objective
from flashdistill.core.registry import did_you_mean
from flashdistill.core.settings import Section
from flashdistill.core.yaml_source import KeyPath, YamlSource


def checked_fields(section: type[Section], raw: Any, path: KeyPath, source: YamlSource) -> tuple[dict[str, Any], bool]:
    """The values of ``raw`` that are valid, and whether they are all that ``section`` needs.

    Problems go to ``source``. A misspelt key is reported and then taken for the key that was
    meant, so that its value is checked as well.
    """
    if not isinstance(raw, dict):
        source.report(path, f"got {shown(raw)}, allowed: {_allowed(section)}")
        return {}, False
    fields = {info.alias or name: info for name, info in section.model_fields.items()}
    given = _match_keys(list(fields), raw, path, source)
    values: dict[str, Any] = {}
    complete = True
    for key, info in fields.items():
        if key in given:
            valid, value = _checked(info, raw[given[key]], (*path, given[key]), source)
            if valid:
                values[key] = value
            complete &= valid
        elif info.is_required():
            complete = False
            source.report((*path, key), f"missing, allowed: {_allowed(info.annotation, info.metadata)}")
    return values, complete


def _match_keys(fields: list[str], raw: dict[str, Any], path: KeyPath, source: YamlSource) -> dict[str, str]:
    """The raw key that stands for each field; keys that stand for none are reported."""
    given = {key: key for key in fields if key in raw}
    for key in raw:
        if key in fields:
            continue
        meant = difflib.get_close_matches(key, fields, n=1)
        if meant:
            given.setdefault(meant[0], key)
        source.report((*path, key), f"unknown key{did_you_mean(key, fields)} (allowed: {', '.join(fields)})")
    return given


def _checked(info: FieldInfo, raw: Any, path: KeyPath, source: YamlSource) -> tuple[bool, Any]:
    """Whether a field's value is valid, and the value."""
    if (item := _named_section(info.annotation)) is not None:
        return _checked_named_sections(item, raw, path, source)
    if isinstance(raw, list) and (item := _listed_section(info.annotation)) is not None:
        given = raw
        raw = [
            _checked_section(item, one, (*path, place), source) if isinstance(one, dict) else one
            for place, one in enumerate(given)
        ]
        if any(isinstance(one, dict) and checked is None for one, checked in zip(given, raw, strict=True)):
            return False, None
    section = _section_of(info.annotation, raw)
    if section is not None:
        instance = _checked_section(section, raw, path, source)
        return instance is not None, instance
    annotation: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    wrong = f"got {shown(raw)}, allowed: {_allowed(info.annotation, info.metadata)}"
    if _is_number(info.annotation) and _holds_bool(raw):
        source.report(path, wrong)
        return False, None
    try:
        return True, TypeAdapter(annotation).validate_python(raw)
    except ValidationError as error:
        for place, message in _messages(error, info, raw):
            source.report((*path, *place), message)
    except TypeError:  # a validator that looked a list or a mapping up in a dict
        source.report(path, wrong)
    return False, None


def _checked_named_sections(
    section: type[Section], raw: Any, path: KeyPath, source: YamlSource
) -> tuple[bool, dict[str, Section]]:
    """Sections under names of the user's choice."""
    if not isinstance(raw, dict):
        source.report(path, f"got {shown(raw)}, allowed: names, each with {_allowed(section)}")
        return False, {}
    found = {str(name): _checked_section(section, value, (*path, str(name)), source) for name, value in raw.items()}
    valid = {name: instance for name, instance in found.items() if instance is not None}
    return len(valid) == len(found), valid


def _checked_section(section: type[Section], raw: Any, path: KeyPath, source: YamlSource) -> Section | None:
    values, complete = checked_fields(section, raw, path, source)
    try:
        instance = section.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            if detail["loc"] and detail["type"] != "missing":  # a field's own validator
                place = detail["loc"][:1]
                source.report((*path, *place), _with_value(_own_words(detail), values.get(str(place[0]))))
            elif complete and not detail["loc"]:  # what the fields must be together
                source.report(path, _own_words(detail))
        return None
    return instance if complete else None


def _messages(error: ValidationError, info: FieldInfo, raw: Any) -> Iterator[tuple[KeyPath, str]]:
    """Place and words of every error in a value that is no section."""
    details = error.errors()
    if any(isinstance(part, str) for detail in details for part in detail["loc"]):
        # The names of a union's branches: none fits, so say once what would.
        yield (), f"got {shown(raw)}, allowed: {_allowed(info.annotation, info.metadata)}"
        return
    for detail in details:
        if detail["type"] == "value_error":
            yield detail["loc"], _with_value(_own_words(detail), detail["input"])
            continue
        annotation, metadata = info.annotation, info.metadata
        for _ in detail["loc"]:
            annotation, metadata = _item(annotation)
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        hint = did_you_mean(detail["input"], choices) if len(choices) > 1 else ""
        yield detail["loc"], f"got {shown(detail['input'])}, allowed: {_allowed(annotation, metadata)}{hint}"


def _with_value(message: str, value: Any) -> str:
    return message if message.startswith(str(value)) or shown(value) in message else f"got {shown(value)}, {message}"


def _own_words(detail: Any) -> str:
    """The text of a validator's own ValueError; pydantic's message for anything else."""
    error = detail.get("ctx", {}).get("error")
    return str(error) if error is not None else detail["msg"]


def shown(value: Any) -> str:
    """A value as the user knows it, cut where it is long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def _branches(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [branch for member in get_args(annotation) for branch in _branches(member)]
    return [annotation]


def _named_section(annotation: Any) -> type[Section] | None:
    """The section that each value of a mapping is; None for any other annotation."""
    if get_origin(annotation) is not dict:
        return None
    item = get_args(annotation)[1]
    return item if isinstance(item, type) and issubclass(item, Section) else None


def _listed_section(annotation: Any) -> type[Section] | None:
    """The section that each item of a list is; None for any other annotation."""
    item = _item(annotation)[0] if get_origin(annotation) is list else None
    return item if isinstance(item, type) and issubclass(item, Section) else None


def _section_of(annotation: Any, raw: Any) -> type[Section] | None:
    """The section that ``raw`` is meant to be: of several, the one whose required keys it has."""
    branches = _branches(annotation)
    sections = [branch for branch in branches if isinstance(branch, type) and issubclass(branch, Section)]
    if len(sections) == 1 and (len(branches) == 1 or isinstance(raw, dict)):
        return sections[0]
    if not isinstance(raw, dict):
        return None
    chosen = [section for section in sections if any(key in raw for key in _required(section))] or [
        section for section in sections if any(did_you_mean(key, _required(section)) for key in raw)
    ]
    return chosen[0] if len(chosen) == 1 else None


def _required(section: type[Section]) -> list[str]:
    return [info.alias or name for name, info in section.model_fields.items() if info.is_required()]


def _item(annotation: Any) -> tuple[Any, list[Any]]:
    """The annotation and the metadata of a list's items."""
    for branch in _branches(annotation):
        if get_origin(branch) is list:
            return _unwrapped(get_args(branch)[0])
    return annotation, []


def _unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    """An annotation without `Annotated`, and what `Annotated` (or a pydantic Field in it) said."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    inner, *extras = get_args(annotation)
    metadata = [part for extra in extras for part in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
    return inner, metadata


def _is_number(annotation: Any) -> bool:
    """True where numbers are expected; pydantic would take ``true`` for 1 there."""
    return any(
        branch in (int, float) or (get_origin(branch) is list and _is_number(_item(branch)[0]))
        for branch in _branches(annotation)
    )


def _holds_bool(raw: Any) -> bool:
    return isinstance(raw, bool) or (isinstance(raw, list) and any(isinstance(item, bool) for item in raw))


_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    Architecture: "an architecture such as 512_128_4_512_4",
    Objective: "{maximize: METRIC} or {minimize: METRIC}",
    Constraint: "METRIC <= BOUND or METRIC >= BOUND",
}


def _allowed(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a value may be, in words."""
    annotation, inner = _unwrapped(annotation)
    metadata = [*inner, *metadata]
    branches = _branches(annotation)
    if len(branches) > 1:
        words = [_allowed(branch, metadata) for branch in branches if branch is not type(None)]
        return " or ".join([*words, "null"] if type(None) in branches else words)
    if get_origin(annotation) is Literal:
        return ", ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) is list:
        size = " that is not empty" if _limit(metadata, "min_length") else ""
        return f"a list{size}, each item {_allowed(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        keys = _required(annotation) or [info.alias or name for name, info in annotation.model_fields.items()]
        return f"a mapping with the key{'s' * (len(keys) > 1)} {', '.join(keys)}"
    return _WORDS.get(annotation, str(annotation)) + _limits(annotation, metadata)


def _limits(annotation: Any, metadata: list[Any]) -> str:
    if annotation is str:
        pattern = _limit(metadata, "pattern")
        return f" matching {pattern}" if pattern else " that is not empty" if _limit(metadata, "min_length") else ""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{sign} {bound}" for name, sign in signs.items() if (bound := _limit(metadata, name)) is not None]
    return f" {' and '.join(bounds)}" if bounds else ""


def _limit(metadata: Iterable[Any], name: str) -> Any:
    """The first limit of this name (``ge``, ``min_length`` ...) in a field's metadata."""
    return next((limit for part in metadata if (limit := getattr(part, name, None)) is not None), None)
