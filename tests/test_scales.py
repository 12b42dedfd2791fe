"""Several targets in one run: names, what is asked for, the cache, what the runtimes make of a student."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware import protocol
from flashdistill.scales import Scale, Scales

CONFIG = """\
name: small
teacher: {model: models/teacher, vocabulary: 200}
corpus: {source: {files: "data/*.txt"}}
space: {num_blocks: 2, embedding_size: 8, hidden_size: [16, 32], bottleneck_size: [8, 16], num_heads: [1, 2],
        intermediate_size: [16, 32], num_feedforward: [1, 2]}
baseline: 32_16_2_32_2
target:
  runtime: fake
  sequence_length: 16
  peak_flops_per_s: 1.0e11    # measuring them takes seconds
  peak_bytes_per_s: 1.0e10
  measurement: {seconds: 0.5, block_ms: 3, patience_seconds: 0, tolerance: 0.9}
further_targets: {batch4: {batch_size: 4}}
objectives: [{maximize: mlm_accuracy}, {minimize: latency_ms}, {maximize: throughput_per_s@batch4}]
constraints: ["latency_p90_ms@batch4 <= 9"]
flash: {seconds: 30}
regular: {seconds: 60}
cache: cache
"""
ONE_TARGET = ("further_targets={}", "objectives=[{maximize: mlm_accuracy}]", "constraints=[]")
SMALL = Architecture.parse("16_8_1_16_1")


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "MIN_PASSES", 2)


def config(*overrides: str) -> RunConfig:
    Path("run.yaml").write_text(CONFIG, encoding="utf-8")
    return load_config(Path("run.yaml"), overrides)


def open_scales(loaded: RunConfig, work: str = "work") -> Scales:
    return Scales(loaded, loaded.student_family(200), Path(work), Silent())


def test_every_target_measures_under_its_name() -> None:
    with open_scales(config()) as scales:
        measured = scales.measure(SMALL)
    first_names, further_names = (
        {name.partition("@")[0] for name in measured if ("@" in name) == further} for further in (False, True)
    )
    assert "latency_p90_ms" in further_names, "it is asked for there"
    by_chance = {"latency_p90_ms", "latency_p99_ms"}  # the calls may suffice
    assert first_names - by_chance == further_names - by_chance
    assert all(one.name == name for name, one in measured.items())
    first, second = measured["latency_ms"], measured["latency_ms@batch4"]
    assert (first.environment["batch_size"], second.environment["batch_size"]) == (1, 4)
    assert measured["throughput_per_s@batch4"].value == pytest.approx(4000 / second.value)
    assert measured["flops@batch4"].value == 4 * measured["flops"].value
    assert measured["flops_utilization"].value == pytest.approx(measured["flops"].value / first.value / 1e8)
    for phase in ("export", "load", "parity", "measure"):
        assert isinstance(first.details[f"{phase}_seconds"], float)
    assert Path("work/reference.json").exists()
    assert Path("work/batch4/reference.json").exists()
    assert len(list(Path("work/batch4").rglob("*.parquet"))) == 1


def test_what_is_asked_for_is_measured_until_it_is_there() -> None:
    with open_scales(config()) as scales:
        first, further = scales.all
        assert further.asked == {"throughput_per_s", "latency_p90_ms"}
        assert "latency_p90_ms@batch4" in scales.measure(SMALL)
        assert first.asked == {"latency_ms"}


def test_what_cannot_be_had_is_said() -> None:
    asked = config('constraints=["latency_p99_ms <= 9"]', "target.measurement.seconds=0.01")
    with open_scales(asked) as scales, pytest.raises(TargetError, match=r"latency_p99_ms.*measurement\.seconds"):
        scales.measure(SMALL)


def test_another_run_recalls_what_is_known() -> None:
    loaded = config()
    with open_scales(loaded, "one") as scales:
        measured = scales.measure(SMALL)
    with open_scales(loaded, "two") as scales:
        recalled = scales.measure(SMALL)
    assert recalled["latency_ms"].details["recalled"] is True
    for name, one in measured.items():
        assert recalled[name].value == pytest.approx(one.value), name


def test_peaks_are_measured_once_for_a_study() -> None:
    loaded = config(*ONE_TARGET, "target.peak_flops_per_s=null", "target.peak_bytes_per_s=null")
    with open_scales(loaded) as scales:
        shares = [scales.measure(SMALL)["flops_utilization"] for _ in range(2)]
    assert shares[0].value == shares[1].value > 0
    assert "best matrix product measured" in str(shares[0].details["peak_from"])
    assert len(list(Path("work").glob("peaks-*.json"))) == 1
    with open_scales(loaded) as scales:
        assert scales.measure(SMALL)["flops_utilization"].value == shares[0].value, "a resumed run divides by the same"


def test_parts_of_students_are_weighed_on_the_same_scale() -> None:
    loaded = config()
    family = loaded.student_family(200)
    scale = Scale(loaded.target, family, loaded.baseline, Path("cache"), Path("work"))
    whole = scale.measure(SMALL)["flops"].value
    part = scale.measure(SMALL, dataclasses.replace(family, num_blocks=1))["flops"].value
    scale.close()
    assert part < whole < 2 * part


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_any_encoder_in_a_directory_is_measured_beside_the_baseline(runtime: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertModel(BertConfig(vocab_size=50, **sizes))
    bert.save_pretrained(tmp_path / "mine")
    with open_scales(config(*ONE_TARGET, f"target.runtime={runtime}")) as scales:
        measured = scales.measure(tmp_path / "mine")
    served = sum(p.numel() for name, p in bert.named_parameters() if "pooler" not in name)
    assert measured["num_parameters"].value == served
    assert measured["latency_ms"].details["ratio"] != 1
    # Per token: four 16 x 16 layers and two of the feed-forward network; attention's two products.
    assert measured["flops"].value == 2 * 16 * (6 * 16 * 16) + 2 * 2 * 16 * 16 * 16
    assert measured["bandwidth_utilization"].details["lower_bound"] is True


def test_a_directory_that_is_no_encoder(tmp_path: Path) -> None:
    loaded = config(*ONE_TARGET, "target.runtime=torch")
    with open_scales(loaded) as scales, pytest.raises(TargetError, match=r"has no config\.json"):
        scales.measure(tmp_path)
