"""Memory and disk against what autograd really keeps and what really lies on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.progress import Silent
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import prepare_corpus
from flashdistill.data.tokenizer import train_wordpiece
from flashdistill.delivery.export import write_onnx
from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.students import build_student
from flashdistill.planning.disk import checkpoint_bytes, corpus_bytes, delivered_bytes, text_bytes
from flashdistill.planning.kept_answers import AnswerSizes, answer_bytes, room_for
from flashdistill.planning.memory import LOGIT_MATRICES, kept_per_token, student_weights, training_memory
from flashdistill.planning.step_flops import BatchShape
from flashdistill.planning.teacher_shape import TeacherShape, shape_of
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, TinyData, tiny_teacher
from flashdistill.training.checkpoint import CheckpointStore
from tests.tiny_run import write_text

SIZES = ["128_32_4_128_4", "128_32_1_96_2", "256_64_2_160_3"]


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
@pytest.mark.parametrize("name", SIZES)
def test_what_autograd_keeps(name: str, template: str) -> None:
    architecture, length, sequences = Architecture.parse(name), 24, 2
    family = StudentFamily(template, 3, 100, 64, 64)
    student = build_student(architecture, family, 0)
    assert student_weights(architecture, family) == student.num_parameters()
    weights = {weight.untyped_storage().data_ptr() for weight in student.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(5, 100, (sequences, length))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = student.mobilebert(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    block, embeddings = kept_per_token(architecture, family, length)
    per_token = sum(kept.values()) / 4 / (sequences * length)
    assert hidden.requires_grad
    assert per_token == pytest.approx(3 * block + embeddings, rel=0.01), "token ids and masks are the rest"


def test_memory_by_hand() -> None:
    architecture, family = Architecture(32, 16, 1, 96, 2), StudentFamily("mobilebert", 3, 50, 32)
    teacher = TeacherShape(3, 8, 16, 50, 2)
    found = training_memory(architecture, family, teacher, 16, masked=2, hidden_states=1000)
    assert found.student == 16 * student_weights(architecture, family)
    assert found.teacher == 4 * (50 * 8 + 512 * 8 + 3 * (4 * 64 + 2 * 8 * 16) + 64)
    block = 2 * 32 + 9 * 16 + 1 * 16 + 2 * (96 + 32)
    assert found.per_sequence == 4 * (16 * (3 * block + 3 * 32 + 2 * 32) + LOGIT_MATRICES * 2 * 50)
    assert found.total(10) == found.student + found.teacher + 1000 + 10 * found.per_sequence


def directory_bytes(directory: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in directory.rglob(pattern) if path.is_file())


def test_the_teachers_answers_on_disk(tmp_path: Path) -> None:
    """What a distillation leaves is what is foreseen, but for headers that are padded to their bound."""
    settings = DistillationSettings.model_validate(
        {"steps_per_block": 3, "pretraining_steps": 4, "batch_size": 64, "optimizer": "adamw"}
    )
    signals, teacher, length = SignalSettings(), tiny_teacher(), 12
    live = TeacherSignals(
        teacher,
        TinyData(length=length),  # type: ignore[arg-type]
        TinyData(1, length),  # type: ignore[arg-type]
        64,
        signals,
        settings.losses,
        tmp_path,
        pretraining_steps=4,
    )
    Distillation(ARCHITECTURE, FAMILY, live, settings, seed=0).run()
    shape = shape_of(teacher.model.config)
    masked = sum(len(TinyData(length=length).batch(step, 64).masked_positions) for step in range(3)) / 3
    batch = BatchShape(64, length, masked)
    sizes = AnswerSizes.of(settings, signals, shape, batch, shape.num_layers)
    foreseen = answer_bytes(sizes, room_for(sizes, signals, 4, ARCHITECTURE, batch), [(3, 3, 4)])
    assert directory_bytes(tmp_path) == pytest.approx(foreseen, rel=0.05)
    assert directory_bytes(tmp_path) <= foreseen


def test_room_runs_out_in_the_order_of_use() -> None:
    sizes = AnswerSizes(stage=1000, decoder=10, pretraining=100, teacher_hidden=400)
    gib = 2**30
    signals = SignalSettings(disk_gib=4650 / gib, memory_gib=900 / gib)
    room = room_for(sizes, signals, 12, Architecture(50, 10, 1, 10, 1), BatchShape(1, 1, 1.0))
    assert room.pretraining == 12
    assert room.answered == (4650 - 1200) // 1010
    assert room.decoder_inputs == 3 + (3450 - 3030) // 10
    assert room.teacher_hidden == 900 // 400 + 4650 // 400
    assert answer_bytes(sizes, room, [(2, 2, 20)]) == 2 * 1010 + 12 * 100
    assert answer_bytes(sizes, room, [(2, 2, 2), (100, 100, 5)]) == 3 * 1000 + 45 * 10 + 5 * 100


def test_a_delivered_model_on_disk(tmp_path: Path) -> None:
    architecture, family = Architecture.parse("128_32_4_128_4"), StudentFamily("mobilebert", 4, 500, 64)
    student = build_student(architecture, family, 0)
    student.save_pretrained(tmp_path)
    for kind in ("encoder", "mlm"):
        write_onnx(student, tmp_path / f"{kind}.onnx", kind)
    assert directory_bytes(tmp_path) == pytest.approx(delivered_bytes(architecture, family), rel=0.02)


def test_checkpoints_on_disk(tmp_path: Path) -> None:
    """At the end of the last phase there is one, with the moments of all weights; while it is written there are two."""
    settings = DistillationSettings.model_validate(
        {"steps_per_block": 0, "pretraining_steps": 3, "batch_size": 4, "optimizer": "adamw", "losses": {"alpha": 1.0}}
    )
    architecture, family = Architecture.parse("64_32_2_64_2"), StudentFamily("mobilebert", 2, FAMILY.vocab_size, 16, 32)
    data = TinyData()
    signals = TeacherSignals(tiny_teacher(), data, data, 4, SignalSettings(), settings.losses)  # type: ignore[arg-type]
    store = CheckpointStore(tmp_path, every_seconds=0)
    Distillation(architecture, family, signals, settings, seed=0, store=store).run()
    largest = 2 * directory_bytes(tmp_path, "*.safetensors")
    foreseen = checkpoint_bytes([architecture], family, side_by_side=1)
    assert 0.9 * foreseen < largest < 1.2 * foreseen


def test_a_tokenised_corpus_on_disk(tmp_path: Path) -> None:
    write_text(tmp_path, documents=60)
    settings = CorpusSettings.model_validate({"source": {"files": f"{tmp_path}/text*.txt"}})
    text = text_bytes(settings)
    assert text == directory_bytes(tmp_path)
    texts = [path.read_text() for path in sorted(tmp_path.glob("*.txt"))]
    tokenizer = train_wordpiece(texts, 400)
    corpus = prepare_corpus(settings, tokenizer, tmp_path / "cache", Silent())
    # Its sentences are five words long, which nobody's are, so the offsets count more.
    found = directory_bytes(corpus.directory, "tokens.bin")
    assert found == pytest.approx(corpus_bytes(text, 400) * 2 / (2 + 8 / 32), rel=0.2)


def test_text_of_unknown_size() -> None:
    assert text_bytes(CorpusSettings.model_validate({"source": {"dataset": "some/where"}})) is None
    assert text_bytes(CorpusSettings.model_validate({"source": {"files": "*"}, "max_documents": 5})) is None
