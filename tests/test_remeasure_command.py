"""An old run's accuracies with new measurements, in a new directory.

The old runs here are made up, so that every state occurs and nothing need be trained, and what is
"measured" follows from the number of parameters. The last test trains and remeasures really.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flashdistill import pipeline
from flashdistill.config import RunConfig, config_identity, dump_config, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import ConfigError, RunDirectoryError, TargetError
from flashdistill.core.files import write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Silent
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import TrialState
from flashdistill.delivery.record import RunRecord
from flashdistill.exploration.storage import sqlite_url
from flashdistill.exploration.study import Study
from flashdistill.exploration.warm_start import recorded_trials
from flashdistill.models.parameter_count import count_parameters
from flashdistill.remeasure_command import remeasure
from flashdistill.remeasurement import Remeasurement
from flashdistill.scales import Scales
from tests.progress_doubles import Messages
from tests.tiny_run import CONFIG, in_directory, write_run

VOCABULARY = 271
"""Not what the configuration says: a kept vocabulary may be larger than asked."""

BASELINE, GOOD, WEAK = (Architecture.parse(name) for name in ("32_16_2_32_2", "16_8_1_16_1", "16_16_1_16_1"))
SLOW, UNFIT, STOPPED, BEATEN = (
    Architecture.parse(name) for name in ("16_8_2_16_1", "16_16_2_16_1", "32_16_1_32_2", "32_16_1_32_1")
)
FAIR, PLAIN = (Architecture.parse(name) for name in ("32_8_1_16_1", "32_8_2_16_1"))
DIVERGED, UNSERVED, PENDING, PROBE = (
    Architecture.parse(name) for name in ("16_8_1_32_1", "16_8_2_32_1", "16_8_1_16_2", "16_8_2_16_2")
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with in_directory(tmp_path):
        yield tmp_path


OVERRIDES = (
    "target.runtime=fake",
    'constraints=["latency_ms <= 1.05x", "mlm_accuracy >= 0.2"]',
)


def configuration(place: Path) -> RunConfig:
    (place / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    return load_config(place / "tiny.yaml", OVERRIDES)


def measured(config: RunConfig, architecture: Architecture, latency: float | None, accuracy: float | None = None):  # type: ignore[no-untyped-def]
    parameters = count_parameters(architecture, config.student_family(VOCABULARY))
    given = {"num_parameters": parameters, "latency_ms": latency, "mlm_accuracy": accuracy}
    if accuracy is not None:
        given |= {"mlm_loss": 5 - accuracy, "nsp_accuracy": 0.6}
    return {name: Measurement.of(name, value) for name, value in given.items() if value is not None}


def curve(accuracy: float) -> Mapping[float, Mapping[str, Measurement]]:
    return {0.5: {"mlm_accuracy": Measurement.of("mlm_accuracy", accuracy, stderr=0.001)}}


def made_up_run(place: Path) -> Path:
    """A run with a trial of every kind; its latencies are nothing like those of the fake target."""
    config = configuration(place)
    run = RunDirectory(place / "run")
    run.create()
    run.config.write_text(dump_config(config), encoding="utf-8")
    run.requested.write_text(dump_config(config), encoding="utf-8")
    write_json(run.path / "teacher.json", {})
    study = Study.open(sqlite_url(run.study), config.name, config.objectives, {}, config.constraints)

    def finish(
        architecture: Architecture, state: TrialState, latency: float | None, accuracy: float | None = None, **more
    ):  # type: ignore[no-untyped-def]
        trial = replace(study.start(architecture), state=state, costs={"distill": 60.0, "measure": 5.0}, **more)
        trial = replace(trial, measurements=measured(config, architecture, latency, accuracy))
        study.finish(trial)
        write_json(run.candidate(architecture) / "flash" / "curves.json", {"pretraining": [[1, 0.5]]})
        return trial

    complete, infeasible, failed = TrialState.COMPLETE, TrialState.INFEASIBLE, TrialState.FAILED
    finish(BASELINE, complete, 10.0, 0.30, curve=curve(0.20))
    good = finish(GOOD, complete, 9.0, 0.31, curve=curve(0.22))
    finish(WEAK, complete, 2.0, 0.25, curve=curve(0.16))
    finish(FAIR, complete, 9.5, 0.29, curve=curve(0.195))
    finish(PLAIN, complete, 9.6, 0.28, curve=curve(0.185))
    finish(SLOW, infeasible, 30.0, reason="latency_ms = 30 breaks latency_ms <= 1.05x")
    finish(UNFIT, infeasible, 3.0, 0.1, reason="mlm_accuracy = 0.1 breaks mlm_accuracy >= 0.2")
    # On the fake target it is as fast as the baseline, and ahead of all that are faster.
    finish(STOPPED, TrialState.STOPPED, 11.0, reason="beaten", curve=curve(0.23))
    finish(BEATEN, TrialState.STOPPED, 11.0, reason="beaten", curve=curve(0.10))
    finish(DIVERGED, failed, 4.0, reason="diverged: step 3")
    finish(UNSERVED, failed, None, reason="onnxruntime cannot load it")
    study.start(PENDING)
    study.confirm(good, [measured(config, GOOD, None, accuracy) for accuracy in (0.312, 0.308)])
    study.add_probe(PROBE, measured(config, PROBE, 2.5))
    study.close()
    run.remember(identity=config_identity(config), started_trials=12, costs={"flash distillation": 600.0})
    return run.path


def formula(scales: Scales, subject: Architecture) -> dict[str, Measurement]:
    """0.1 µs for each parameter and sequence."""
    settings, parameters = scales.all[0].settings, count_parameters(subject, scales.all[0].family)
    latency = 1e-4 * parameters * settings.batch_size
    return {"latency_ms": Measurement.of("latency_ms", latency, stderr=0.01, batch_size=settings.batch_size)}


OTHER_TARGET = ["target.batch_size=2"]


@contextmanager
def quick_measurements() -> Iterator[pytest.MonkeyPatch]:
    """A world where measuring takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scales, "measure", formula)
        for module in ("remeasure_command", "remeasurement"):
            patch.setattr(f"flashdistill.{module}.require_target", lambda *_: None)
        yield patch


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_run(tmp_path_factory.mktemp("made up"))


@dataclass(frozen=True)
class Renewed:
    """A made-up run and what became of it on another target; not to be changed."""

    run: Path
    new: Path
    messages: list[str]


@pytest.fixture(scope="module")
def renewed(made_up: Path) -> Renewed:
    progress, before = Messages(), contents(made_up)
    with quick_measurements():
        new = remeasure(made_up, None, OTHER_TARGET, progress)
    assert contents(made_up) == before
    return Renewed(made_up, new, progress.texts)


@pytest.fixture
def run(place: Path, made_up: Path) -> Iterator[Path]:
    """A made-up run that may be changed."""
    with quick_measurements():
        yield shutil.copytree(made_up, place / "run")


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_accuracies_are_kept_and_the_rest_is_measured_anew(renewed: Renewed) -> None:
    run, new = renewed.run, renewed.new
    assert new.name == "run-batch-size-2"
    old_trials, (trials, probes) = recorded_trials(run)[0], recorded_trials(new)
    found, was = ({trial.architecture: trial for trial in some} for some in (trials, old_trials))
    states = {str(architecture): str(trial.state) for architecture, trial in found.items()}
    assert states == {
        str(BASELINE): "complete",
        str(GOOD): "complete",
        **dict.fromkeys(map(str, (WEAK, FAIR, PLAIN)), "complete"),
        str(UNFIT): "infeasible",
        str(BEATEN): "stopped",
        str(DIVERGED): "failed",
    }
    assert trials[0].architecture == BASELINE
    assert {probe.architecture for probe in probes} == {SLOW, STOPPED, UNSERVED, PENDING, PROBE}
    for trial in trials:
        assert trial.measurements["latency_ms"].environment["batch_size"] == 2
        assert trial.value("latency_ms") != was[trial.architecture].value("latency_ms")
        assert trial.value("num_parameters") == was[trial.architecture].value("num_parameters")
        assert trial.measurements.get("mlm_accuracy") == was[trial.architecture].measurements.get("mlm_accuracy")
        assert trial.curve == was[trial.architecture].curve
        assert trial.confirmations == was[trial.architecture].confirmations or trial.architecture == GOOD
        assert trial.costs["distill"] == 60.0
        assert trial.costs["measure"] != 5.0
    assert [one["mlm_accuracy"].value for one in found[GOOD].confirmations] == [0.312, 0.308]
    assert found[UNFIT].reason == "mlm_accuracy = 0.1 breaks mlm_accuracy >= 0.2 (limit 0.2)"
    assert found[BEATEN].reason.startswith(f"beaten by trial 1 ({GOOD}) after 50% of the pre-training steps")
    assert all("latency_ms" in probe.measurements for probe in probes)
    assert (new / "candidates" / str(GOOD) / "flash" / "curves.json").exists()
    assert (new / "teacher.json").exists()
    assert any(f"{GOOD}: latency" in text and "(was 9)" in text for text in renewed.messages)


def test_the_new_directory_can_be_continued_with_its_own_configuration(renewed: Renewed) -> None:
    new = RunDirectory(renewed.new)
    config = load_config(new.config)
    state = new.state()
    assert state["identity"] == config_identity(config)
    assert state["flash"] == config.flash.model_dump(mode="json")
    assert state["started_trials"] == 8
    assert set(state["costs"]) == {"measure"}
    assert config.output == new.path


def test_the_fronts_are_compared(run: Path) -> None:
    progress = Messages()
    remeasure(
        run,
        Path("new"),
        ["target.batch_size=2", 'constraints=["num_parameters <= 1e9", "mlm_accuracy >= 0.26"]'],
        progress,
    )
    told = "\n".join(progress.texts)
    # Before: 0.31 at 9 ms and 0.25 at 2 ms. The first is now the faster too, the other one infeasible.
    assert "1 of 2 architectures of the old front are on the new one, of 1\n" in told
    assert f"still on the front: {GOOD}\n" in told
    assert f"off the front: {WEAK}, infeasible: mlm_accuracy = 0.25 breaks mlm_accuracy >= 0.26" in told
    assert told.endswith("flashdistill run new/config.yaml")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["measured", "started", "finished"])
def test_killed_anywhere_the_same_call_finishes(run: Path, renewed: Renewed, moment: str) -> None:
    expected, expected_probes = recorded_trials(renewed.new)
    count = 0

    def dying(method, after=False):  # type: ignore[no-untyped-def]
        def third_time_dies(*arguments, **named):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count == 3 and not after:
                raise Killed
            result = method(*arguments, **named)
            if count == 3:
                raise Killed
            return result

        return third_time_dies

    with pytest.MonkeyPatch.context() as patch:
        if moment == "measured":
            patch.setattr(Remeasurement, "_measure", dying(Remeasurement._measure, after=True))
        elif moment == "started":
            patch.setattr(Study, "finish", dying(Study.finish))
        else:
            patch.setattr(Study, "finish", dying(Study.finish, after=True))
        with pytest.raises(Killed):
            remeasure(run, Path("cut"), OTHER_TARGET, Silent())
    assert not Path("cut/config.yaml").exists(), "so that nobody goes on there"
    trials, probes = recorded_trials(remeasure(run, Path("cut"), OTHER_TARGET, Silent()))
    assert [(t.number, t.architecture, t.state) for t in trials] == [
        (t.number, t.architecture, t.state) for t in expected
    ]
    assert [len(trial.confirmations) for trial in trials] == [len(trial.confirmations) for trial in expected]
    assert {probe.architecture for probe in probes} == {probe.architecture for probe in expected_probes}


def test_what_the_old_run_has_finished_since_is_taken_up(run: Path) -> None:
    new = remeasure(run, None, OTHER_TARGET, Silent())
    config = load_config(run / "config.yaml")
    study = Study.open(sqlite_url(run / "study.db"), config.name, config.objectives, {}, config.constraints)
    late = replace(study.trials()[-1], state=TrialState.COMPLETE)
    study.finish(replace(late, measurements=measured(config, PENDING, 8.0, 0.29)))
    late = replace(study.start(Architecture.parse("32_8_1_32_1")), state=TrialState.COMPLETE)
    study.finish(replace(late, measurements=measured(config, late.architecture, 8.0, 0.29)))
    study.close()
    measurements: list[Architecture] = []

    class Counting(Silent):
        def start(self, task: str, total: int | None = None) -> None:
            if task.startswith("measure "):
                measurements.append(Architecture.parse(task.removeprefix("measure ")))

    remeasure(run, None, OTHER_TARGET, Counting())
    trials, _ = recorded_trials(new)
    assert measurements == [BASELINE, late.architecture], "the probe had been measured"
    assert {PENDING, late.architecture} <= {t.architecture for t in trials if t.state is TrialState.COMPLETE}


def test_what_cannot_be_run_there_has_failed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(self: Scales, subject: Architecture):  # type: ignore[no-untyped-def]
        if subject in (GOOD, PROBE):
            raise TargetError(f"fake cannot load {subject}")
        return formula(self, subject)

    monkeypatch.setattr(Scales, "measure", picky)
    trials, probes = recorded_trials(remeasure(run, Path("new"), [], Silent()))
    failed = next(trial for trial in trials if trial.architecture == GOOD)
    assert (failed.state, failed.reason) == (TrialState.FAILED, f"fake cannot load {GOOD}")
    assert failed.value("mlm_accuracy") == 0.31
    assert PROBE not in {probe.architecture for probe in probes}


def test_a_target_that_is_gone_fails_no_trial(run: Path) -> None:
    def gone(*_: object) -> None:
        raise TargetError("no route to host")

    def measure_until_gone(self: Scales, subject: Architecture):  # type: ignore[no-untyped-def]
        if subject == WEAK:
            patch.setattr("flashdistill.remeasurement.require_target", gone)
            raise TargetError("connection lost")
        return formula(self, subject)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scales, "measure", measure_until_gone)
        with pytest.raises(TargetError, match="no route to host"):
            remeasure(run, Path("new"), [], Silent())
    trials, _ = recorded_trials(remeasure(run, Path("new"), [], Silent()))
    assert next(trial for trial in trials if trial.architecture == WEAK).state is TrialState.COMPLETE


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("flash.learning_rate=0.5", "flash.learning_rate: was 0.002, is 0.5; accuracies depend on it"),
        ("corpus.max_length=16", "corpus.max_length: was 32, is 16; accuracies depend on it"),
        ("space.hidden_size=[16]", "space.hidden_size: was .* accuracies depend on it"),
        ("baseline=16_8_1_16_1", "baseline: was .* accuracies depend on it"),
        ("seed=1", "seed: was 0, is 1; accuracies depend on it"),
        ("objectives=[{maximize: served_mlm_accuracy}]", "weights are not kept; use mlm_accuracy, or search anew"),
        ("output=run", "run stays as it is; name another directory with --output"),
        ("target.runtime=nonsense", "unknown runtime"),
    ],
)
def test_what_cannot_change_is_refused(run: Path, override: str, message: str) -> None:
    with pytest.raises((ConfigError, RunDirectoryError), match=message):
        remeasure(run, None, [override], Silent())
    assert {path.name for path in run.parent.iterdir()} == {"run"}


def test_directories_of_something_else_are_refused(run: Path, place: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        remeasure(place, None, [], Silent())
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").touch()
    with pytest.raises(RunDirectoryError, match="not empty and not a run's directory"):
        remeasure(run, Path("photos"), [], Silent())
    shutil.copytree(run, place / "other")
    with pytest.raises(RunDirectoryError, match="other is the directory of a run of its own"):
        remeasure(run, Path("other"), [], Silent())


def test_a_new_directory_is_of_one_run_and_one_target(run: Path, renewed: Renewed) -> None:
    with pytest.raises(RunDirectoryError, match="target.batch_size: was 2, is 4"):
        remeasure(renewed.run, renewed.new, ["target.batch_size=4"], Silent())
    with pytest.raises(RunDirectoryError, match="has the trials of .*/run; choose another"):
        remeasure(run, renewed.new, OTHER_TARGET, Silent())


def test_a_shared_storage_needs_another_name(run: Path, place: Path) -> None:
    shutil.copy(run / "study.db", place / "team.db")
    config = load_config(run / "config.yaml")
    search = config.search.model_copy(update={"storage": sqlite_url(place / "team.db")})
    (run / "config.yaml").write_text(dump_config(config.model_copy(update={"search": search})))
    with pytest.raises(ConfigError, match="has a study 'tiny' already, the old run's; give another name=NAME"):
        remeasure(run, Path("new"), [], Silent())
    new = remeasure(run, Path("new"), ["name=elsewhere"], Silent())
    assert len(recorded_trials(new)[0]) == 8
    assert len(recorded_trials(run)[0]) == 12


def test_without_a_baseline_there_is_nothing_to_keep(place: Path) -> None:
    config = configuration(place)
    run = RunDirectory(place / "run")
    run.create()
    run.config.write_text(dump_config(config))
    study = Study.open(sqlite_url(run.study), config.name, config.objectives, {}, config.constraints)
    study.start(BASELINE)
    study.close()
    with pytest.raises(RunDirectoryError, match="the baseline of .* is not trained yet"):
        remeasure(run.path, None, [], Silent())


def test_a_real_run_goes_on_elsewhere(place: Path) -> None:
    write_run(place)
    tiny = load_config(Path("tiny.yaml"), ["target.runtime=fake", "search.trials=1", "search.confirm_seeds=0"])
    with quick_measurements():
        pipeline.run(tiny, Silent(), until="search")
    teacher = next((place / "cache" / "teachers").glob("*/model.safetensors"))
    hidden = teacher.rename(teacher.with_name("hidden"))
    new = remeasure(Path("run"), None, OTHER_TARGET, Silent())
    hidden.rename(teacher)
    before = recorded_trials(new)[0]
    with quick_measurements():
        pipeline.run(load_config(new / "config.yaml", ["search.trials=2"]), Silent(), until="search")
    after, old = recorded_trials(new)[0], recorded_trials(Path("run"))[0]
    assert len(after) == 3
    assert after[: len(before)] == before
    assert [trial.value("mlm_loss") for trial in after[:2]] == [trial.value("mlm_loss") for trial in old]
    assert after[2].measurements["latency_ms"].environment["batch_size"] == 2
    assert after[1].measurements["latency_ms"].details["rounds"], "really measured"
    assert [len(RunRecord.load(path).curves) for path in (Path("run"), new)] == [2, 3]
