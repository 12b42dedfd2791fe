"""YAML is data: what reads as what, where it stood, and what is refused."""

import math
import time
from pathlib import Path

import pytest

from flashdistill.core.errors import ConfigError
from flashdistill.core.yaml_source import MAX_BYTES, MAX_NODES, Origin, YamlSource, dotted, plain_scalar, read_yaml
from tests.faults_catalogue import fault


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _read(text: str | bytes) -> YamlSource:
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / "run.yaml").write_bytes(data)
        return read_yaml(Path("run.yaml"))

    return _read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512_128_4_512_4", "512_128_4_512_4"),  # YAML 1.1 would read 51212845124
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("26e6", 26e6),
        ("1.5e-3", 1.5e-3),
        (".5", 0.5),
        ("-3", -3),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("", None),
        ("~", None),
        ("Null", None),
        ("TRUE", True),
        ("false", False),
        ("9" * 5000, "9" * 5000),
        (".inf", math.inf),
        ("26e6 x", "26e6 x"),
    ],
)
def test_plain_scalars_follow_the_core_schema(text, value):
    read = plain_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_values_and_their_lines(read):
    source = read("a: 1\n\nb:\n  - x\n  - {c: '1', d: [2.5, null]}\n")
    assert source.values == {"a": 1, "b": ["x", {"c": "1", "d": [2.5, None]}]}
    assert source.origin(("a",)) == Origin("run.yaml", 1)
    assert source.origin(("b", 0)).line == 4
    assert source.origin(("b", 1, "d")).line == 5
    assert source.origin(("a", "absent", 3)).line == 1, "the nearest that is known"
    assert source.problems == []


def test_dotted():
    assert dotted(("space", "num_heads", 0)) == "space.num_heads[0]"


def test_an_alias_is_a_copy(read):
    source = read("a: &x {k: [1, 2]}\nb: *x\n")
    assert source.values == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}
    source.override("b.k=3")
    assert source.values["a"] == {"k": [1, 2]}


def _bomb() -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines)


def _alias_tower() -> str:
    lines = ["a0: &a0 " + "[" * 15 + "]" * 15]
    return "\n".join(lines + [f"a{n}: &a{n} " + "[" * 15 + f"*a{n - 1}" + "]" * 15 for n in range(1, 300)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.yaml: the file is empty"),
        ("# only a comment\n", "run.yaml: the file is empty"),
        ("- a\n- b\n", "run.yaml:1: got a list at the top level, allowed: a mapping (KEY: VALUE lines)"),
        ("just text", "run.yaml:1: got 'just text' at the top level, allowed: a mapping (KEY: VALUE lines)"),
        ("a: 1\n\tb: 2\n", "run.yaml:2: not YAML: a tab is not allowed here; indent with spaces"),
        ("a: 1\nb: [1, 2\n\n", "run.yaml:2: not YAML: what begins here is never closed"),
        ("a: 1\nb: 'x\n\n", "run.yaml:2: not YAML: what begins here is never closed"),
        ("a: 1\nb: c: d\n", "run.yaml:2: not YAML: mapping values are not allowed here"),
        ("a: 1\nb: x\x07y\n", "run.yaml:2: not YAML: a control character is not allowed"),
        ("a: 1\n---\na: 2\n", "run.yaml:2: a second document begins here; one is allowed"),
        ("a: 1\n? [b]\n: 2\n", "run.yaml:2: a key must be plain text"),
        (b"a: 1\nb: \xff\n", "run.yaml:2: byte 8 is not UTF-8; save the file as UTF-8"),
        ("a: 1\nb: " + "[" * 50_000, "run.yaml:2: more than 20 levels of nesting"),
        ("\n".join(" " * n + "a:" for n in range(60)), "run.yaml:22: more than 20 levels of nesting"),
        (_alias_tower(), "run.yaml:2: more than 20 levels of nesting"),
        (_bomb(), f"run.yaml:5: more than {MAX_NODES:,} values, aliases expanded; is it a configuration?"),
        (b"#" * (MAX_BYTES + 1), f"run.yaml: the file is larger than {MAX_BYTES:,} bytes; is it a configuration?"),
    ],
)
@fault(10, "YAML that is none, too deep, too large, or an alias bomb")
def test_what_cannot_be_read_is_refused_at_once(read, text, message):
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value) == message
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", {"a": 1, "b": 2}, "run.yaml:3: a: this key is repeated; it stands in line 1 already"),
        (
            "x:\n  a: 1\n  a: {b: 3}\n",
            {"x": {"a": 1}},
            "run.yaml:3: x.a: this key is repeated; it stands in line 2 already",
        ),
        ("a: *x\n", {"a": None}, "run.yaml:1: a: the alias *x stands for nothing above it"),
        ("a: &x [*x]\n", {"a": [None]}, "run.yaml:1: a[0]: the alias *x stands for nothing above it"),
        (
            "b: !!python/object/apply:os.system [echo]\n",
            {"b": ["echo"]},
            "run.yaml:1: b: got the tag !!python/object/apply:os.system; tags are not allowed",
        ),
        ("a: -.inf\n", {"a": 0.0}, "run.yaml:1: a: got -.inf, allowed: a finite number"),
        ("a: 1e999\n", {"a": 0.0}, "run.yaml:1: a: got 1e999, allowed: a finite number"),
    ],
)
@fault(10, "YAML with repeated keys, tags or infinities")
def test_what_can_be_read_past_is_noted(read, text, values, message):
    source = read(text)
    assert source.values == values
    assert [str(problem) for problem in source.problems] == [message]


def test_files_that_are_not_there_or_not_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^absent\.yaml: there is no such file$"):
        read_yaml(Path("absent.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"^folder\.yaml: cannot be read: Is a directory$"):
        read_yaml(Path("folder.yaml"))


def test_a_byte_order_mark_is_no_part_of_the_text(read):
    assert read(b"\xef\xbb\xbfa: 1\n").values == {"a": 1}


def test_overrides_replace_extend_and_create(read):
    source = read("a: {b: 1, c: 2}\nd: null\n")
    for text in ("a.b=[3, x]", "d.e.f={g: 1}", "new=", "a.h='5'"):
        source.override(text)
    assert source.values == {"a": {"b": [3, "x"], "c": 2, "h": "5"}, "d": {"e": {"f": {"g": 1}}}, "new": None}
    assert source.origin(("a", "b", 0)) == Origin("override 'a.b=[3, x]'")
    assert source.origin(("a", "c")) == Origin("run.yaml", 1)
    assert source.problems == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "override 'a': write KEY=VALUE with a dotted key, for example search.trials=20"),
        ("=3", "override '=3': write KEY=VALUE with a dotted key, for example search.trials=20"),
        ("a..b=3", "override 'a..b=3': write KEY=VALUE with a dotted key, for example search.trials=20"),
        ("a.b=3", "override 'a.b=3': a.b: a is 'text' and has no keys; set it as a whole, a=VALUE"),
        ("b=[1", "override 'b=[1': not YAML: what begins here is never closed"),
        ("b={c: 1, c: 2}", "override 'b={c: 1, c: 2}': b: this key is repeated"),
    ],
)
@fault(10, "overrides that are none")
def test_overrides_that_cannot_be_applied(read, override, message):
    source = read("a: text\n")
    source.override(override)
    assert [str(problem) for problem in source.problems] == [message]
