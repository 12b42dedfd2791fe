from __future__ import annotations

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint


def test_architectures_print_and_parse_as_the_paper_writes_them() -> None:
    architecture = Architecture.parse("512_128_1_640_2")
    assert architecture == Architecture(512, 128, 1, 640, 2)
    assert str(architecture) == "512_128_1_640_2"
    assert Architecture.parse("512_128_1_640_2_12").num_blocks == 12


@pytest.mark.parametrize("text", ["", "512", "512_128_1_640", "a_b_c_d_e", "512_128_0_640_2", "1_2_3_4_5_6_7"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an architecture; write"):
        Architecture.parse(text)


def test_heads_must_divide_the_bottleneck() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide the bottleneck of 128"):
        Architecture.parse("512_128_3_640_2")


def test_absolute_and_relative_constraints() -> None:
    size = Constraint.parse("num_parameters <= 26e6")
    assert size.satisfied(26e6)
    assert not size.satisfied(26e6 + 1)
    fast = Constraint.parse("latency_ms <= 0.8x")
    assert fast.relative
    assert fast.satisfied(8.0, baseline=10.0)
    assert not fast.satisfied(8.1, baseline=10.0)
    assert fast.explain(9.0, 10.0) == "latency_ms = 9 breaks latency_ms <= 0.8x (limit 8)"
    with pytest.raises(ValueError, match="needs the baseline's latency_ms"):
        fast.limit(None)


@pytest.mark.parametrize("text", ["latency_ms < 3", "latency_ms <= fast", "<= 3", "latency_ms <= 3y"])
def test_malformed_constraints(text: str) -> None:
    with pytest.raises(ValueError, match="is not a constraint; write METRIC <= BOUND"):
        Constraint.parse(text)


def test_unknown_metric() -> None:
    with pytest.raises(ValueError, match="unknown metric 'speed'"):
        Constraint.parse("speed <= 3")
