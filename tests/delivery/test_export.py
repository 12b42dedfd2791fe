"""Encoders in the formats that targets want, and what they must answer."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
)

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.delivery import export
from flashdistill.delivery.export import exported_encoder
from flashdistill.delivery.foreign_export import expected_of_foreign, export_foreign
from flashdistill.hardware.parity import Expected, check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import ArtifactFormat
from flashdistill.models import onnx_writer
from flashdistill.models.delivered import load_encoder, load_student
from flashdistill.models.lively_student import lively_student
from flashdistill.models.onnx_writer import write_onnx

ARCHITECTURE = Architecture(32, 16, 2, 24, 2)
FAMILY = StudentFamily(num_blocks=2, vocab_size=97, embedding_size=16, max_positions=32)
FORMATS: tuple[ArtifactFormat, ...] = ("onnx", "checkpoint", "fake")


def inputs_of(batch: int, length: int) -> dict[str, np.ndarray]:
    settings = TargetSettings(runtime="fake", batch_size=batch, sequence_length=length)
    return example_inputs(settings, FAMILY.vocab_size, seed=0)


def run_onnx(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == list(inputs), "every encoder is called alike"
    assert [port.name for port in session.get_outputs()] == ["last_hidden_state"]
    return [np.asarray(output) for output in session.run(None, dict(inputs))]


def answer(artifact: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    if artifact.is_dir():
        return list(expected_of_foreign(artifact, inputs).outputs)
    return run_onnx(artifact, inputs)


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
@pytest.mark.parametrize("artifact_format", ["onnx", "checkpoint"])
def test_the_export_answers_what_is_expected(artifact_format: ArtifactFormat, template: str, tmp_path: Path) -> None:
    family = StudentFamily(template, 2, FAMILY.vocab_size, FAMILY.embedding_size, FAMILY.max_positions)
    artifact, expected = exported_encoder(ARCHITECTURE, family, tmp_path, artifact_format)
    wanted: Expected = expected(inputs_of(2, 12))
    assert wanted.outputs[0].shape == (2, 12, 32)
    check_parity("the student", answer(artifact, dict(wanted.inputs)), wanted.outputs)


@pytest.mark.parametrize("artifact_format", FORMATS)
def test_nothing_is_built_where_the_cache_has_it(
    artifact_format: ArtifactFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = exported_encoder(ARCHITECTURE, FAMILY, tmp_path, artifact_format)
    monkeypatch.setattr(export, "lively_student", lambda *_, **__: pytest.fail("built again"))
    again, expected = exported_encoder(ARCHITECTURE, FAMILY, tmp_path, artifact_format)
    assert first == again
    if artifact_format == "fake":
        assert expected(inputs_of(1, 4)).outputs[0].shape == (1, 4)


def test_formats_do_not_meet_in_the_cache(tmp_path: Path) -> None:
    paths = {exported_encoder(ARCHITECTURE, FAMILY, tmp_path, artifact_format)[0] for artifact_format in FORMATS}
    assert len({path if path.is_dir() else path.parent for path in paths}) == 3


def test_a_student_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(
        export, "lively_student", lambda *args, **kwargs: built.append(args) or lively_student(*args, **kwargs)
    )
    _, expected = exported_encoder(ARCHITECTURE, FAMILY, tmp_path, "onnx")
    expected(inputs_of(1, 4))
    expected(inputs_of(2, 4))
    assert len(built) == 1


def test_a_checkpoint_holds_what_is_served(tmp_path: Path) -> None:
    directory, _ = exported_encoder(ARCHITECTURE, FAMILY, tmp_path, "checkpoint")
    assert sorted(file.name for file in directory.iterdir()) == ["config.json", "model.safetensors"]
    encoder = load_encoder(directory)
    assert getattr(encoder.body, "pooler", None) is None
    loaded, original = load_student(directory).state_dict(), lively_student(ARCHITECTURE, FAMILY, seed=0).state_dict()
    served = [name for name in original if name.startswith(("mobilebert.embeddings.", "mobilebert.encoder."))]
    assert all(torch.equal(loaded[name], original[name]) for name in served)


def test_larger_fakes_are_slower(tmp_path: Path) -> None:
    latency = [
        json.loads(exported_encoder(Architecture.parse(name), FAMILY, tmp_path, "fake")[0].read_text())["latency_us"]
        for name in ("32_16_2_24_2", "512_128_4_512_4")
    ]
    assert 50 < latency[0] < latency[1]


def tiny(kind: str) -> PreTrainedModel:
    """An encoder whose weights are so large that every part of it shows in the outputs."""
    sizes = {"vocab_size": FAMILY.vocab_size, "initializer_range": 0.3}
    narrow = {**sizes, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "bert":
            return BertModel(BertConfig(**narrow, max_position_embeddings=32)).eval()
        if kind == "roberta":  # one segment only, positions that depend on padding
            return RobertaModel(RobertaConfig(**narrow, max_position_embeddings=40, type_vocab_size=1)).eval()
        return DistilBertModel(DistilBertConfig(**sizes, dim=16, n_layers=1, n_heads=2, hidden_dim=24)).eval()


@torch.no_grad()
def features(model: PreTrainedModel, kind: str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    known = [name for name in inputs if name != "token_type_ids" or kind == "bert"]
    return [model(**{name: torch.from_numpy(inputs[name]) for name in known}).last_hidden_state.numpy()]


@pytest.mark.parametrize(("kind", "weights_beside"), [("bert", False), ("distilbert", True), ("roberta", False)])
def test_foreign_encoders(
    kind: str,
    weights_beside: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if weights_beside:
        monkeypatch.setattr(onnx_writer, "_INLINE_LIMIT_BYTES", 1000)
    level = logging.getLogger("torch.onnx").level
    model = tiny(kind)
    model.save_pretrained(tmp_path / "model")
    capfd.readouterr()
    export_foreign(tmp_path / "model", tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == level
    assert (tmp_path / "model.onnx.data").exists() == weights_beside
    for batch, length in ((2, 12), (1, 1), (3, 20)):
        inputs = inputs_of(batch, length)
        got = run_onnx(tmp_path / "model.onnx", inputs)
        check_parity(kind, got, features(model, kind, inputs))
        check_parity(kind, got, expected_of_foreign(tmp_path / "model", inputs).outputs)


def test_both_ways_of_writing_a_student_agree(tmp_path: Path) -> None:
    student = lively_student(Architecture(32, 16, 2, 24, 1), FAMILY, seed=0)
    student.save_pretrained(tmp_path / "student")
    write_onnx(student, tmp_path / "direct.onnx")
    export_foreign(tmp_path / "student", tmp_path / "stock.onnx")
    inputs = inputs_of(3, 20)
    check_parity("the student", run_onnx(tmp_path / "direct.onnx", inputs), run_onnx(tmp_path / "stock.onnx", inputs))


def test_a_missing_exporter_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(TargetError, match=r"pip install 'flashdistill\[exporter\]'"):
        export_foreign(tmp_path, tmp_path / "model.onnx")


def test_directories_that_are_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"has no config\.json"):
        export_foreign(tmp_path, tmp_path / "model.onnx")
    T5Config(d_model=8, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(TargetError, match="has no model.safetensors"):
        export_foreign(tmp_path, tmp_path / "model.onnx")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(TargetError, match="t5 is not an encoder"):
        export_foreign(tmp_path, tmp_path / "model.onnx")
    BertConfig(vocab_size=10).save_pretrained(tmp_path)
    with pytest.raises(TargetError, match=r"cannot load .*"):
        export_foreign(tmp_path, tmp_path / "model.onnx")


def test_weights_that_are_not_the_configurations(tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(TargetError, match=r"its weights lack encoder\.layer\.1\..* and \d+ more"):
        load_encoder(tmp_path)
