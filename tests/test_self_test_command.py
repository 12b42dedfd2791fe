"""The verb from end to end on the fake target, whose latency is what its artifact says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flashdistill import cli, self_test_command
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import InputError
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.hardware import device_lock, protocol
from flashdistill.hardware.serving import CheckedModel, ModelServer, ServedModel
from flashdistill.hardware.statistics import Block
from flashdistill.self_test_command import paper_defaults, spread

CONFIG = """\
name: small
teacher: {model: models/teacher, vocabulary: 2000}
corpus: {source: {files: "data/*.txt"}}
space: {num_blocks: 4, hidden_size: [128, 512], bottleneck_size: 64, num_heads: 1}
baseline: 256_64_2_256_2
flash: {seconds: 30}
regular: {seconds: 60}
target:
  runtime: fake
  sequence_length: 8
  measurement: {seconds: 0.01, final_seconds: 1, block_ms: 2.0, patience_seconds: 0}
cache: cache
"""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration, few passes, and locks of our own."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setattr(device_lock, "lock_directory", lambda: tmp_path / "locks")
    monkeypatch.setattr(protocol, "MIN_PASSES", 2)
    monkeypatch.setattr(self_test_command, "RANKED", 2)
    monkeypatch.setattr(self_test_command, "REPETITIONS", 2)


class Lucky:
    """A model in a process of its own luck."""

    def __init__(self, latency_ms: float):
        self.latency_ms = latency_ms

    def run(self, count: int) -> Block:
        times = np.full(count - 1, self.latency_ms)
        return Block(times, times)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Replaces processes by simulated ones whose speeds scatter by a given share."""

    def simulated(luck: float) -> None:
        random = np.random.default_rng(0)

        @contextmanager
        def pair(_: ModelServer, candidate: ServedModel, reference: ServedModel, *__: object) -> Iterator[Any]:
            latencies = (json.loads(Path(model.path).read_text())["latency_us"] for model in (candidate, reference))
            yield tuple(Lucky(us / 1000 * random.lognormal(sigma=luck)) for us in latencies)

        checked = CheckedModel({"runtime": "fake", "cpu_bound": True}, 0, 0, 0.0, 0.0, 0.0)
        monkeypatch.setattr(ModelServer, "pair", pair)
        monkeypatch.setattr(ModelServer, "check", lambda *_, **__: checked)
        monkeypatch.setattr(self_test_command, "RANKED", 8)
        monkeypatch.setattr(self_test_command, "REPETITIONS", 8)

    return simulated


def call(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["measure", *arguments])


def test_real_processes() -> None:
    result = call("--self-test", "--config", "run.yaml", "--json", "out.json")
    assert result.exit_code in (0, 1), result.output  # two passes on a busy machine: their verdict is open
    written = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert written["passed"] is (result.exit_code == 0)
    assert written["known_ratio"] == pytest.approx(1.5, rel=0.05)
    assert written["kendall_tau"] == 1.0, "the one is several times as slow as the other"
    assert written["null_test"]["ratio_mean"] == pytest.approx(1.0, rel=0.05)
    assert written["settings"]["runtime"] == written["environment"]["runtime"] == "fake"
    assert not list(Path("cache").glob("measurements*")), "no measurement is kept"


def test_a_healthy_protocol_passes(simulate: Callable[[float], None]) -> None:
    simulate(0.002)
    result = call("--self-test", "--config", "run.yaml", "--json", "out.json")
    assert result.exit_code == 0, result.output
    verdicts = re.findall(r"^(\w.*?)  +(passed|FAILED)  ", result.stdout, re.MULTILINE)
    assert verdicts == [("null test", "passed"), ("known ratio", "passed"), ("ranking", "passed")]
    assert result.stdout.endswith("can be believed.\n")
    assert json.loads(Path("out.json").read_text(encoding="utf-8"))["passed"] is True


def test_an_unstable_one_fails(simulate: Callable[[float], None]) -> None:
    simulate(0.3)
    few_passes = "target.measurement.final_seconds=0.02"
    result = call("--self-test", "--config", "run.yaml", "--json", "out.json", few_passes)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "believed" not in result.stdout
    assert "target.measurement" in result.stdout or "Stop what else runs" in result.stdout
    written = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert written["passed"] is False
    assert written["null_ratio_cv"] > 0.015


def test_overrides_reach_the_test(simulate: Callable[[float], None]) -> None:
    simulate(0.002)
    call("--self-test", "--config", "run.yaml", "--json", "out.json", "target.sequence_length=4")
    assert json.loads(Path("out.json").read_text(encoding="utf-8"))["settings"]["sequence_length"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--self-test", "128_64_1_384_2"], "leave out 128_64_1_384_2"),
        (["--self-test", "target.threads=2"], "name it with --config"),
        (["128_64_1_384_2"], "--config"),
        (["--config", "run.yaml"], "at least one architecture"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_defaults_are_the_papers() -> None:
    config = paper_defaults()
    assert str(config.baseline) == "512_128_4_512_4"
    assert (config.target.runtime, config.target.threads, config.space.num_blocks) == ("onnxruntime", 1, [24])
    assert DesignSpace(config.space, StudentFamily()).size == 576


def test_architectures_are_spread_over_the_space() -> None:
    space = DesignSpace(SpaceSettings.model_validate({}), StudentFamily())
    chosen = spread(space, 20)
    sizes = space.parameters(chosen)
    assert len(set(chosen)) == 20
    assert chosen == spread(space, 20)
    assert all(sizes[:-1] <= sizes[1:])
    parts = np.array_split(np.sort(space.table_parameters), 20)
    assert all(part[0] <= size <= part[-1] for part, size in zip(parts, sizes, strict=True))


def test_a_small_space_is_ranked_whole() -> None:
    small = {"hidden_size": [128, 256], "bottleneck_size": 64, "num_heads": 1, "intermediate_size": 384}
    space = DesignSpace(SpaceSettings.model_validate(small | {"num_feedforward": 2}), StudentFamily())
    assert sorted(spread(space, 20)) == [Architecture(128, 64, 1, 384, 2), Architecture(256, 64, 1, 384, 2)]


def test_one_architecture_has_no_ranking() -> None:
    one = {"hidden_size": 128, "bottleneck_size": 64, "num_heads": 1, "intermediate_size": 384, "num_feedforward": 2}
    with pytest.raises(InputError, match="widen space"):
        spread(DesignSpace(SpaceSettings.model_validate(one), StudentFamily()), 20)
