"""Eager and compiled PyTorch: real students, other encoders, and what a user may do wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel, MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.delivery.export import expected_features
from flashdistill.hardware.parity import check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import Target
from flashdistill.hardware.targets.torch import CompiledTorchTarget, TorchTarget
from flashdistill.models.lively_student import lively_student
from flashdistill.models.students import build_student
from flashdistill.testing.target_conformance import VOCAB_SIZE, TargetConformance

EAGER = TargetSettings(runtime="torch", batch_size=2, sequence_length=12)
COMPILED = EAGER.model_copy(update={"runtime": "torch-compile"})

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def student_of(template: str = "mobilebert") -> MobileBertForPreTraining:
    family = StudentFamily(template, num_blocks=2, vocab_size=VOCAB_SIZE, embedding_size=16, max_positions=32)
    return lively_student(Architecture(32, 16, 2, 24, 1), family, seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student as it is delivered: heads and pooler are in the file too."""
    directory = tmp_path_factory.mktemp("torch") / "student"
    student_of().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("torch") / "prepared"
    directory.mkdir()
    return CompiledTorchTarget(COMPILED).prepare(checkpoint, directory)


class StudentConformance(TargetConformance):
    settings = EAGER

    def make_target(self, settings: TargetSettings) -> Target:
        return TorchTarget(settings)

    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        return expected_features(student_of(), dict(inputs)).outputs


class TestTorchTarget(StudentConformance):
    @pytest.fixture
    def exported(self, checkpoint: Path) -> Path:
        return checkpoint


class TestCompiledTorchTarget(StudentConformance):
    settings = COMPILED

    @pytest.fixture
    def artifact(self, package: Path) -> Path:
        return package

    def make_target(self, settings: TargetSettings) -> Target:
        return CompiledTorchTarget(settings)


@pytest.mark.gpu
@on_gpu
class TestTorchTargetWithGraphs(TestTorchTarget):
    settings = EAGER.model_copy(update={"device": "cuda"})

    def test_the_device_repeats_the_call(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        target.infer(inputs)
        assert target.device_call is not None
        target.device_call()
        assert not target.describe()["cpu_bound"]


@pytest.mark.gpu
@on_gpu
class TestTorchTargetKernelByKernel(TestTorchTargetWithGraphs):
    settings = EAGER.model_copy(update={"device": "cuda", "cuda_graphs": False})


@pytest.mark.gpu
@on_gpu
class TestCompiledTorchTargetWithGraphs(TestTorchTargetWithGraphs):
    settings = COMPILED.model_copy(update={"device": "cuda"})

    def make_target(self, settings: TargetSettings) -> Target:
        return CompiledTorchTarget(settings)


def test_the_papers_template(tmp_path: Path) -> None:
    student = student_of("autodistill")
    student.save_pretrained(tmp_path)
    target, inputs = TorchTarget(EAGER), example_inputs(EAGER, VOCAB_SIZE, seed=0)
    target.load(tmp_path)
    check_parity("autodistill", target.infer(inputs), expected_features(student, inputs).outputs)


def test_an_encoder_without_segments(tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=VOCAB_SIZE, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
    model = DistilBertModel(config).eval()
    model.save_pretrained(tmp_path)
    target, inputs = TorchTarget(EAGER), example_inputs(EAGER, VOCAB_SIZE, seed=0)
    target.load(tmp_path)
    known = {name: torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**known).last_hidden_state.numpy()
    check_parity("distilbert", target.infer(inputs), [expected])


def test_loading_says_nothing(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TorchTarget(EAGER).load(checkpoint)
    assert capfd.readouterr() == ("", "")


def test_bfloat16_rounds(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    target = TorchTarget(EAGER.model_copy(update={"precision": "bfloat16"}))
    inputs = example_inputs(EAGER, VOCAB_SIZE, seed=0)
    target.load(checkpoint)
    (got,), (exact,) = target.infer(inputs), expected_features(student_of(), inputs).outputs
    assert got.dtype == np.float32
    error = np.abs(got - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1
    assert target.describe()["precision"] == "bfloat16"


@pytest.mark.parametrize("target", [TorchTarget, CompiledTorchTarget])
def test_bfloat16_is_refused_where_it_is_emulated(target: type[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(TargetError, match="no instructions: .* set target.precision to float32"):
        target(EAGER.model_copy(update={"precision": "bfloat16"}))


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(TargetError, match=r"target\.device is cuda:99, but torch .* finds \d+ CUDA devices"):
        TorchTarget(EAGER.model_copy(update={"device": "cuda:99"}))


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TargetError, match="pip install torch"):
        TorchTarget(EAGER)


def test_only_the_package_is_left(package: Path) -> None:
    assert [file.name for file in package.parent.iterdir()] == ["model.pt2"]
    target = CompiledTorchTarget(COMPILED)
    target.load(package)
    assert target.describe()["provider"] == "cpu inductor"


def test_a_compiled_model_serves_one_shape(package: Path) -> None:
    target = CompiledTorchTarget(COMPILED)
    target.load(package)
    longer = example_inputs(COMPILED.model_copy(update={"sequence_length": 16}), VOCAB_SIZE, seed=0)
    with pytest.raises(TargetError, match=r"was compiled for inputs \[2, 12\]"):
        target.infer(longer)


def test_no_compiler_says_what_to_do(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    directory = tmp_path / "prepared"
    directory.mkdir()
    with pytest.raises(TargetError, match=r"torch-compile cannot compile .*; install a C\+\+ compiler"):
        CompiledTorchTarget(COMPILED).prepare(checkpoint, directory)
    assert not list(directory.iterdir())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")


def test_weights_of_another_model(checkpoint: Path, tmp_path: Path) -> None:
    build_student(Architecture(32, 16, 2, 24, 1), StudentFamily(num_blocks=1, embedding_size=16), 0).save_pretrained(
        tmp_path
    )
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(TargetError, match="cannot load"):
        TorchTarget(EAGER).load(tmp_path)
