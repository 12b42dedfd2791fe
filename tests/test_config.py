"""The configuration: every mistake is named once, with its place, in one pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from flashdistill.config import (
    RunConfig,
    architecture_misfit,
    as_kept,
    config_differences,
    config_identity,
    dump_config,
    load_config,
)
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import ConfigError
from flashdistill.core.measurement import Constraint, Objective
from flashdistill.data.settings import FileSource
from flashdistill.exploration.settings import SpaceSettings
from tests.faults_catalogue import fault

CONFIGS = Path(__file__).parent.parent / "configs"

GOOD = """\
name: small
teacher: {model: models/teacher}
corpus:
  source: {files: "data/*.txt"}
space: {num_blocks: 4, hidden_size: [128, 256], bottleneck_size: [64], num_heads: [1, 2]}
baseline: 256_64_2_256_2
constraints: ["num_parameters <= 25359104", "latency_ms <= 0.8x"]
flash: {seconds: 3, batch_size: 64, losses: {alpha: 0.3}}
regular: {seconds: 5}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _load(text: str = GOOD, *overrides: str) -> RunConfig:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return load_config(Path("run.yaml"), list(overrides))

    return _load


def changed(old: str, new: str) -> str:
    """The good configuration with one line changed, so that its line number is known."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def problems(load, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).split("\n")


def test_a_good_configuration(load):
    config = load()
    assert config.baseline == Architecture(256, 64, 2, 256, 2)
    assert config.corpus.source == FileSource.model_validate({"files": "data/*.txt"})
    assert config.objectives == [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
    assert config.constraints[1] == Constraint("latency_ms", "<=", 0.8, relative=True)
    assert config.space.num_blocks == [4]
    assert config.output == Path("runs/small")
    assert config.select.source == "pareto"


def test_regular_takes_from_flash_what_it_leaves_out(load):
    config = load()
    assert config.regular.batch_size == 64
    assert config.regular.losses.alpha == 0.3
    assert config.regular.seconds == 5, "a budget is never inherited"
    assert load(GOOD, "flash.batch_size=16").regular.batch_size == 16
    assert load(GOOD, "regular.batch_size=16").flash.batch_size == 64
    assert load(GOOD, "regular={steps_per_block: 3, pretraining_steps: 4}").regular.seconds is None


BAD = [
    # unknown keys
    ("name: small", "nme: small", "1: nme: unknown key; did you mean 'name'? (allowed: name, seed, teacher, corpus, tasks,"),
    ("{model: models/teacher}", "{modl: x}", "2: teacher.modl: unknown key; did you mean 'model'? (allowed: model, "),
    ("losses: {alpha: 0.3}", "losses: {beta: 1}", "8: flash.losses.beta: unknown key (allowed: attention, feature_map, nor"),
    ("{files:", "{file:", "4: corpus.source.file: unknown key; did you mean 'files'? (allowed: files"),
    # types and bounds
    ("name: small", "name: [x]", "1: name: got ['x'], allowed: text that is not empty"),
    ("name: small", "name: ''", "1: name: got '', allowed: text that is not empty"),
    ("name: small", "name: x\nseed: -1", "2: seed: got -1, allowed: a whole number ≥ 0 and ≤ 9223372036854775807"),
    ("name: small", "name: x\nseed: true", "2: seed: got true, allowed: a whole number ≥ 0 and ≤ 9223372036854775807"),
    ("name: small", "name: x\noutput: 5", "2: output: got 5, allowed: a path"),
    ("name: small", "name: x\nsearch: 5", "2: search: got 5, allowed: a mapping with the keys algorithm, goal, "),
    ("name: small", "name: x\nsearch:", "2: search: got null, allowed: a mapping with the keys algorithm, goal, "),
    ("name: small", "name: x\nsearch: {trials: abc}", "2: search.trials: got 'abc', allowed: a whole number ≥ 0"),
    ("name: small", "name: x\nsearch: {trials: 2.5}", "2: search.trials: got 2.5, allowed: a whole number ≥ 0"),
    ("name: small", "name: x\ntarget: {device: [cpu]}", "2: target.device: got ['cpu'], allowed: "),
    ("name: small", "name: x\ntasks: mlm", "2: tasks: got 'mlm', allowed: a list that is not empty, each item 'mlm', 'nsp'"),
    ("name: small", "name: x\ntasks: []", "2: tasks: got [], allowed: a list that is not empty, each item 'mlm', 'nsp'"),
    ("name: small", "name: x\ntasks: [mlm, nps]", "2: tasks[1]: got 'nps', allowed: 'mlm', 'nsp'; did you mean 'nsp'?"),
    ("name: small", "name: x\ntasks: [mlm, mlm]", "2: tasks: got ['mlm', 'mlm'], each task may be named once"),
    ("num_heads: [1, 2]", "num_heads: [1, x]", "5: space.num_heads[1]: got 'x', allowed: a whole number ≥ 1"),
    ("num_heads: [1, 2]", "num_heads: [1, true]", "5: space.num_heads: got [1, true], allowed: a list that is not empty"),
    ("num_heads: [1, 2]", "num_heads: []", "5: space.num_heads: got [], allowed: a list that is not empty, each item a whole"),
    ("batch_size: 64", "batch_size: 0", "8: flash.batch_size: got 0, allowed: a whole number ≥ 1"),
    ("alpha: 0.3", "alpha: 3", "8: flash.losses.alpha: got 3, allowed: a number ≥ 0 and ≤ 1"),
    ("alpha: 0.3", "alpha: .nan", "8: flash.losses.alpha: got .nan, allowed: a finite number"),
    ("batch_size: 64", "optimizer: adamv", "8: flash.optimizer: got 'adamv', allowed: 'adamw', 'lamb'; did you mean 'adamw'?"),
    # unions
    ("{model: models/teacher}", "{model: 5}", "2: teacher.model: got 5, allowed: text or a mapping with the keys wheel, sha256 or null"),
    ("{model: models/teacher}", "{model: {wheel: w, sha256: 1}}", "2: teacher.model.sha256: got 1, allowed: text matching ^[0-9a-f]{64}$"),
    ("{model: models/teacher}", "{model: {wheel: w}}", "2: teacher.model.sha256: missing, allowed: text matching ^[0-9a-f]{64}$"),
    ('{files: "data/*.txt"}', "gensim", "4: corpus.source: got 'gensim', allowed: 'gensim-wikipedia' or a mapping with the key files or "),
    ('{files: "data/*.txt"}', "{files: 5}", "4: corpus.source.files: got 5, allowed: text that is not empty or a list, each item text that is not empty"),
    ('{files: "data/*.txt"}', "{files: a, dataset: b}", "4: corpus.source: got {files: 'a', dataset: 'b'}, allowed: 'gensim-wikipedia' or "),
    ('{files: "data/*.txt"}', "{}", "4: corpus.source: got {}, allowed: 'gensim-wikipedia' or a mapping with the key files or "),
    # the vocabulary
    ("baseline: 256_64_2_256_2", "baseline: 256_64", "6: baseline: '256_64' is not an architecture; write hidden_bottleneck_heads_intermediate_feedforward"),
    ("baseline: 256_64_2_256_2", "baseline: 7", "6: baseline: 7 is not an architecture; write "),
    ("256_64_2_256_2", "256_64_3_256_2", "6: baseline: 256_64_3_256_2 is impossible: 3 heads do not divide the bottleneck of 64"),
    ('"latency_ms <= 0.8x"', "latency_ms < 3", "7: constraints[1]: 'latency_ms < 3' is not a constraint; write METRIC <= BOUND or METRIC >= BOUND"),
    ('"latency_ms <= 0.8x"', "latency <= 3", "7: constraints[1]: got 'latency <= 3', unknown metric 'latency'; did you mean 'latency_ms'? (allowed: mlm_accuracy"),
    ('"latency_ms <= 0.8x"', "5", "7: constraints[1]: 5 is not a constraint; write METRIC <= BOUND"),
    ("name: small", "name: x\nobjectives: []", "2: objectives: got [], allowed: a list that is not empty, each item {maximize: METRIC} or {minimize: METRIC}"),
    ("name: small", "name: x\nobjectives: [5]", "2: objectives[0]: got 5, write {maximize: METRIC} or {minimize: METRIC}"),
    ("name: small", "name: x\nobjectives: [{maximize: mlm_acuracy}]", "2: objectives[0]: got {maximize: 'mlm_acuracy'}, unknown metric 'mlm_acuracy'; did you mean 'mlm_accuracy'?"),
    # what a section's own validators say
    ("num_heads: [1, 2]", "num_heads: [2, 2]", "5: space.num_heads: got [2, 2], repeats 2"),
    ("hidden_size: [128, 256]", "hidden_size: [64]", "5: space: embedding_size 128 is larger than the smallest hidden_size 64"),
    ("name: small", "name: x\ntarget: {runtime: onnxruntim}", "2: target.runtime: got 'onnxruntim', unknown runtime; did you mean 'onnxruntime'?"),
    ("name: small", "name: small\ntraining: {device: gpu}", "2: training.device: got 'gpu', allowed: auto, cpu, mps, cuda"),
    ("{seconds: 5}", "{steps_per_block: 5}", "9: regular: set pretraining_steps (and steps_per_block), or steps, or seconds"),
    ("{model: models/teacher}", "{}", "2: teacher: set exactly one of model and pretrain"),
    # what is missing
    ("regular: {seconds: 5}\n", "", "1: regular: missing, allowed: a mapping with the keys preset, steps_per_block"),
    ("baseline: 256_64_2_256_2\n", "", "1: baseline: missing, allowed: an architecture such as 512_128_4_512_4"),
    # between sections
    ("name: small", "name: x\ntasks: [nsp]", "2: tasks: got ['nsp'], allowed: [mlm] or [mlm, nsp]; students are distilled on mlm"),
    ("name: small", "name: x\ntasks: [mlm]\nobjectives: [{maximize: nsp_accuracy}]", "3: objectives[0]: nsp_accuracy needs the task nsp; add it to tasks"),
    ("name: small", "name: x\nobjectives: [{minimize: latency_ms}, {maximize: latency_ms}]", "2: objectives[1]: latency_ms is an objective already; name each metric once"),
    ("corpus:", "corpus:\n  max_length: 513", "4: corpus.max_length: got 513, allowed: at most 512, the students' positions"),
    ("name: small", "name: x\ntarget: {sequence_length: 600}", "2: target.sequence_length: got 600, allowed: at most 512, the students' positions"),
    ("num_heads: [1, 2]", "num_heads: [3, 5]", "5: space.num_heads: got [3, 5], but none divides any bottleneck_size of [64], so no architecture is possible"),
    ("256_64_2_256_2", "64_64_2_256_2", "6: baseline: got 64_64_2_256_2, whose hidden size 64 is below space.embedding_size 128"),
    ("num_blocks: 4", "num_blocks: [4, 6]", "6: baseline: got 256_64_2_256_2, but space.num_blocks has several depths; write one of them too, as in 256_64_2_256_2_6"),
    ("256_64_2_256_2", "256_64_2_256_2_4", "6: baseline: got 256_64_2_256_2_4, but 4 blocks are what every architecture of this space has; write 256_64_2_256_2"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new or f"without {old}" for old, new, _ in BAD])
@fault(10, "a mistake in a configuration")
def test_each_mistake_is_one_message_with_its_line(load, old, new, message):
    found = problems(load, changed(old, new))
    assert found[0].startswith(f"run.yaml:{message}")
    # A misspelt key that must be there is not reported as missing too.
    assert len(found) == 1, found


@fault(10, "many mistakes in a configuration")
def test_everything_wrong_is_found_in_one_pass(load):
    text = (
        changed("name: small", "name: small\nsede: 3\ntasks: [nsp]")
        .replace("{files:", "{file:")
        .replace("num_heads: [1, 2]", "num_heads: [3]")
        .replace("batch_size: 64", "batch_size: many")
        .replace("baseline: 2", "baseline: x2")
    )
    found = problems(load, f"{text}name: twice\n", "search.trials=x", "target.device=gpu")
    assert [line.split(": ", 2)[:2] for line in found] == [
        ["run.yaml:2", "sede"],
        ["run.yaml:3", "tasks"],
        ["run.yaml:6", "corpus.source.file"],
        ["run.yaml:7", "space.num_heads"],
        ["run.yaml:8", "baseline"],
        ["run.yaml:10", "flash.batch_size"],
        ["run.yaml:12", "name"],
        ["override 'search.trials=x'", "search.trials"],
        ["override 'target.device=gpu'", "target.device"],
    ]


def test_the_value_of_a_misspelt_key_is_checked_too(load):
    found = problems(load, changed("seconds: 5", "secnds: -5"))
    assert found[0].startswith("run.yaml:9: regular.secnds: unknown key; did you mean 'seconds'?")
    assert found[1:] == ["run.yaml:9: regular.secnds: got -5, allowed: a number > 0 or null"]


def test_what_regular_inherits_is_reported_for_flash_only(load):
    assert problems(load, changed("batch_size: 64", "batch_size: 64, optimizer: sgd")) == [
        "run.yaml:8: flash.optimizer: got 'sgd', allowed: 'adamw', 'lamb'"
    ]


SEVERAL_TARGETS = """target: {threads: 2, measurement: {seconds: 3, tolerance: 0.05}}
further_targets:
  batch32: {batch_size: 32, measurement: {seconds: 7}}
  int8: {precision: int8, threads: 1}
objectives: [{maximize: mlm_accuracy}, {minimize: latency_ms}, {maximize: throughput_per_s@batch32}]
"""


def test_further_targets_take_from_the_first_what_they_leave_out(load):
    config = load(GOOD + SEVERAL_TARGETS)
    batch32, int8 = config.further_targets["batch32"], config.further_targets["int8"]
    assert (batch32.batch_size, batch32.threads, batch32.precision) == (32, 2, "float32")
    assert (batch32.measurement.seconds, batch32.measurement.tolerance) == (7, 0.05)
    assert (int8.batch_size, int8.threads, int8.precision) == (1, 1, "int8")
    assert config.objectives[2] == Objective("throughput_per_s@batch32", "maximize")
    assert load(dump_config(config)) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "@batch32",
            "@batch23",
            "14: objectives[2]: got throughput_per_s@batch23, but further_targets has no 'batch23'",
        ),
        ("throughput_per_s@batch32", "mlm_accuracy@int8", "mlm_accuracy does not depend on the target"),
        ("precision: int8", "precision: int4", "13: further_targets.int8.precision: got 'int4', allowed: 'float32', "),
        ("threads: 2", "threads: 0", "10: target.threads: got 0, allowed: a whole number ≥ 1"),
        ("int8: {", "in t8: {", "further_targets.in t8: got the name 'in t8', allowed: letters, digits, - and _"),
        ("{precision: int8, threads: 1}", "5", "13: further_targets.int8: got 5, allowed: a mapping with the keys"),
        ("precision: int8", "runtime: tensorrt", "further_targets.int8: tensorrt runs on cuda, not on cpu"),
        (
            "threads: 2",
            "host: -oProxyCommand=x",
            "10: target.host: got '-oProxyCommand=x', not a host; write [user@]host",
        ),
        (
            "batch_size: 32",
            "sequence_length: 4096",
            "12: further_targets.batch32.sequence_length: got 4096, allowed: at",
        ),
    ],
)
def test_mistakes_in_further_targets(load, old, new, message):
    (found,) = problems(load, GOOD + SEVERAL_TARGETS.replace(old, new))
    assert message in found


def test_a_metric_that_is_no_text_is_a_message_too(load):
    (found,) = problems(load, changed("name: small", "name: x\nobjectives: [{maximize: [mlm_accuracy]}]"))
    assert found.startswith("run.yaml:2: objectives")
    assert "allowed: " in found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials=x", "override 'search.trials=x': search.trials: got 'x', allowed: a whole number ≥ 0"),
        ("search.trils=3", "override 'search.trils=3': search.trils: unknown key; did you mean 'trials'? (allowed: "),
        ("serach.trials=3", "override 'serach.trials=3': serach: unknown key; did you mean 'search'? (allowed: name"),
        (
            "name.first=3",
            "override 'name.first=3': name.first: name is 'small' and has no keys; set it as a whole, name=V",
        ),
        ("trials", "override 'trials': write KEY=VALUE with a dotted key, for example search.trials=20"),
        ("flash.seconds=[", "override 'flash.seconds=[': not YAML: "),
    ],
)
def test_a_bad_override_is_named(load, override, message):
    (found,) = problems(load, GOOD, override)
    assert found.startswith(message)


def test_overrides(load):
    config = load(GOOD, "search.trials=20", 'corpus.source={table: "x/*.csv"}', "baseline=128_64_1_256_1", "seed=7")
    assert config.search.trials == 20
    assert config.corpus.source.table == "x/*.csv"  # type: ignore[union-attr]
    assert config.baseline == Architecture(128, 64, 1, 256, 1)
    assert config.seed == 7


ODD = [
    "name: '26e6'",
    "name: 'null'",
    "name: '#1: {x} \"quoted\" \\ - ü 語'",
    "name: x\nsearch: {storage: 'sqlite:///a b.db'}",
    "name: x\ncache: /tmp/x\nseed: 9223372036854775807",
    "name: x\nselect: {from: pareto, top: 7, include_baseline: false}",
    "name: x\ntarget: {measurement: {tolerance: 1e-05}}",
]


@pytest.mark.parametrize("name", ODD)
def test_the_resolved_configuration_reads_back_equal(load, name):
    config = load(changed("name: small", name))
    assert load(dump_config(config)) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid_and_read_back_equal(load, path):
    config = load_config(path)
    assert config.name == path.stem
    assert load(dump_config(config)) == config


def test_a_password_is_not_kept(load):
    config = load(GOOD, "search.storage=postgresql://me:geheim@db/runs")
    kept = load(dump_config(config))
    assert kept.search.storage == "postgresql://me:***@db/runs"
    assert not config_differences(kept, config)
    assert "geheim" not in str(as_kept(config))


def test_the_resolved_configuration_states_versions_and_defaults(load):
    text = dump_config(load(), {"torch": "2.13.0", "python": "3.11\ninjected: true"})
    lines = text.split("\n")
    assert lines[1:3] == ["# torch: 2.13.0", "# python: 3.11 injected: true"]
    assert "  progressive_ratio: 0.48" in lines
    assert "cache: null" in lines
    assert "from: pareto" in text
    assert "num_parameters <= 25359104.0" in text, "all digits of a bound"


def test_the_identity_is_what_determines_results(load):
    config = load()
    assert config_identity(load(GOOD, "seed=0")) == config_identity(config)
    for free in ("output=elsewhere", "cache=elsewhere", "search.trials=7", "select.top=9"):
        other = load(GOOD, free)
        assert other != config, free
        assert config_identity(other) == config_identity(config), free
        assert config_differences(config, other) == [], free
    for defining in (
        "name=x",
        "seed=1",
        "flash.seconds=4",
        "space.num_heads=[1]",
        "constraints=[]",
        "search.algorithm=random",
    ):
        other = load(GOOD, defining)
        assert config_identity(other) != config_identity(config), defining
        assert len(config_differences(config, other)) == 1, defining


def test_differences_name_the_keys(load):
    old, new = load(), load(GOOD, "space.num_heads=[1]", "corpus.source=gensim-wikipedia", "regular.seconds=6")
    assert config_differences(old, new)[-2:] == [
        "regular.seconds: was 5.0, is 6.0",
        "corpus.source: was absent, is 'gensim-wikipedia'",
    ]
    assert "space.num_heads: was [1, 2], is [1]" in config_differences(old, new)
    assert "corpus.source.files: was 'data/*.txt', is absent" in config_differences(old, new)


def test_a_configuration_can_be_made_without_a_file(load):
    values = {
        "name": "small",
        "teacher": {"model": "models/teacher"},
        "corpus": {"source": {"files": "data/*.txt"}},
        "space": {"num_blocks": 4, "hidden_size": [128, 256], "bottleneck_size": [64], "num_heads": [1, 2]},
        "baseline": "256_64_2_256_2",
        "constraints": ["num_parameters <= 25359104", "latency_ms <= 0.8x"],
        "flash": {"seconds": 3, "batch_size": 64, "losses": {"alpha": 0.3}},
        "regular": {"seconds": 5},
    }
    assert RunConfig.model_validate(values) == load()
    with pytest.raises(ValueError, match="tasks: got \\['nsp'\\]"):
        RunConfig.model_validate(values | {"tasks": ["nsp"]})


def test_the_family_of_students(load):
    family = load().student_family(8192, pad_token_id=3)
    assert (family.num_blocks, family.vocab_size, family.embedding_size, family.pad_token_id) == (4, 8192, 128, 3)
    assert load().expected_vocab_size == (30522, False)
    assert load(GOOD, "teacher.vocabulary=4000").expected_vocab_size == (4000, True)
    assert load(GOOD, "teacher={pretrain: {steps: 5, vocab_size: 900}}").expected_vocab_size == (900, True)


def test_an_architecture_outside_the_space_may_be_the_baseline():
    space = SpaceSettings.model_validate({"num_blocks": [4]})
    assert architecture_misfit(Architecture(200, 50, 5, 7, 1), space) is None
    assert architecture_misfit(Architecture(200, 50, 5, 7, 1, num_blocks=9), space) is None
    assert "embedding_size" in str(architecture_misfit(Architecture(100, 50, 5, 7, 1), space))


def test_the_cache_directory(load, monkeypatch):
    monkeypatch.setenv("FLASHDISTILL_CACHE", "/somewhere")
    assert load().cache_directory == Path("/somewhere")
    assert load(GOOD, "cache=~/mine").cache_directory == Path("~/mine").expanduser()
    monkeypatch.delenv("FLASHDISTILL_CACHE")
    assert load().cache_directory == Path("~/.cache/flashdistill").expanduser()


def test_validation_is_inert_and_free_of_heavy_libraries(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(GOOD, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from flashdistill.config import load_config\n"
        f"load_config(Path({str(path)!r}))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'botorch', 'optuna', 'onnxruntime', 'pandas', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert finished.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == [path]
