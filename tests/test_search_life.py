"""The life of a search in whole tiny runs: probes, early stopping, confirmation, and kills in between.

Serving is replaced by a formula and the report's plots are left out; everything else is real.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flashdistill import interim, pipeline, results, search, trainings
from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import DivergedError, TargetError
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.progress import Silent
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.record import RunRecord
from flashdistill.scales import Scales
from flashdistill.trainings import Trained, Training
from tests.faults_catalogue import fault
from tests.progress_doubles import KilledError, Messages
from tests.tiny_run import in_directory, write_run

BASELINE = Architecture.parse("32_16_2_32_2")


class Scale:
    """Milliseconds by a formula; counts what is measured, and can refuse or be killed at a certain number."""

    def __init__(self) -> None:
        self.measured: Counter[Architecture] = Counter()
        self.refused: Architecture | None = None
        self.kill_at = self.refuse_at = -1

    def __call__(self, _: Scales, architecture: Architecture) -> dict[str, Measurement]:
        if self.measured.total() == self.kill_at:
            self.kill_at = -1
            raise KilledError
        if self.measured.total() == self.refuse_at:
            self.refused = architecture
        self.measured[architecture] += 1
        if architecture == self.refused:
            raise TargetError("no such operator")
        latency = 1.0 + sum(architecture.values()) / 100
        return {"latency_ms": Measurement.of("latency_ms", latency, stderr=0.001)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with text and configuration, in which the tests' runs share a prepared teacher."""
    directory = tmp_path_factory.mktemp("life")
    write_run(directory)
    with in_directory(directory):
        yield directory


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> Scale:
    replaced = Scale()
    monkeypatch.setattr(Scales, "measure", lambda scales, subject: replaced(scales, subject))
    monkeypatch.setattr(pipeline, "require_target", lambda *_: None)
    monkeypatch.setattr(pipeline, "write_report", lambda record, directory: record.save(directory))
    return replaced


def tiny(output: str, *overrides: str) -> RunConfig:
    return load_config(Path("tiny.yaml"), [f"output={output}", "search.algorithm=random", *overrides])


def explored(config: RunConfig) -> tuple[RunRecord, list[str]]:
    """The record of a search, and what it said."""
    messages = Messages()
    pipeline.run(config, messages, until="search")
    return RunRecord.load(Path(config.output)), messages.texts


@pytest.fixture(scope="module")
def plain_loss(place: Path) -> float:
    """The baseline's loss in a run that does nothing of all this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scales, "measure", lambda scales, subject: Scale()(scales, subject))
        patch.setattr(pipeline, "require_target", lambda *_: None)
        patch.setattr(pipeline, "write_report", lambda record, directory: record.save(directory))
        record, _ = explored(tiny("plain", "search.trials=0"))
    loss = record.trials[0].value("mlm_loss")
    assert loss is not None
    assert not record.trials[0].curve
    assert not (place / "plain" / "candidates" / str(BASELINE) / "flash" / "interim.json").exists()
    return loss


def test_probes_are_measured_once_and_known_to_the_search(
    place: Path, scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("probes", "search.latency_probes=20", "search.trials=2")
    scale.kill_at, scale.refuse_at = 9, 14
    with pytest.raises(KilledError):
        pipeline.run(config, Silent(), until="search")
    measured_before = scale.measured.total()
    told: list[list[Trial]] = []
    real = search.load

    def spying(*arguments: Any) -> Callable[..., Any]:
        algorithm = real(*arguments)

        class Spy(algorithm):
            def suggest(self, space: Any, trials: Any, count: int, seed: int) -> Any:
                told.append(list(trials))
                return super().suggest(space, trials, count, seed)

        return Spy

    monkeypatch.setattr(search, "load", spying)
    record, said = explored(config)
    assert measured_before == 9
    assert set(scale.measured.values()) == {1}, "neither a resumed run nor a trial of a probe measures it again"
    assert len(record.probes) == 19
    assert f"latency probe {scale.refused} is left out: no such operator" in said
    assert {one.state for one in record.probes} == {TrialState.MEASURED}
    assert {one.architecture for one in told[0]} == {BASELINE, *(one.architecture for one in record.probes)}
    for trial in record.students:
        if trial.architecture in {one.architecture for one in record.probes}:
            assert "measure" not in trial.costs
            assert trial.state is TrialState.COMPLETE
    assert {trial.architecture for trial in record.students} & {one.architecture for one in record.probes}
    assert "measure" in record.costs


def test_early_stopping(place: Path, monkeypatch: pytest.MonkeyPatch, plain_loss: float) -> None:
    """From the fifth student on all look hopeless; those stop that are no smaller than one that is through."""
    real = interim.InterimJudge._scores
    kills = [(2, 0.5)]
    scored: Counter[tuple[int, float]] = Counter()

    def scores(judge: Any, student: Any) -> dict[str, Measurement]:
        number = judge._candidate.number
        share = (0.25, 0.5, 0.75)[len(judge.curve)]
        if (number, share) in kills:
            kills.remove((number, share))
            raise KilledError
        scored[number, share] += 1
        found = real(judge, student)
        hopeless = Measurement.of("mlm_accuracy", -5.0, stderr=0.01)
        return found | ({"mlm_accuracy": hopeless} if number >= 5 else {})

    monkeypatch.setattr(interim.InterimJudge, "_scores", scores)
    config = tiny(
        "stopping",
        "search.early_stopping=true",
        "search.trials=7",
        "flash.students_per_teacher=2",
        "objectives=[{maximize: mlm_accuracy}, {minimize: num_parameters}]",
    )
    with pytest.raises(KilledError):
        pipeline.run(config, Silent(), until="search")
    assert scored[1, 0.25] == scored[2, 0.25] == 1
    record, said = explored(config)
    assert scored[2, 0.25] == 1, "a resumed candidate keeps its curve"
    assert record.trials[0].value("mlm_loss") == plain_loss, "looking changes nothing"
    sizes = [trial.value("num_parameters") or 0 for trial in record.trials]
    for trial in record.trials:
        rivals = [one for one in record.trials[: 1 + (trial.number - 1) // 2 * 2] if one.state is TrialState.COMPLETE]
        beaten = trial.number >= 5 and any(sizes[one.number] <= sizes[trial.number] for one in rivals)
        assert trial.state is (TrialState.STOPPED if beaten else TrialState.COMPLETE), trial
        assert list(trial.curve) == ([0.25] if beaten else [0.25, 0.5, 0.75])
        assert trial.costs["distill"] > 0
        assert trial.costs["evaluate"] > 0
        flash = place / "stopping" / "candidates" / str(trial.architecture) / "flash"
        assert not (flash / "checkpoints").exists()
    stopped = [trial for trial in record.trials if trial.state is TrialState.STOPPED]
    assert stopped
    assert all("after 25% of the pre-training steps: mlm_accuracy -5 against 0." in one.reason for one in stopped)
    assert all("mlm_accuracy" not in one.measurements for one in stopped)
    assert not {one.number for one in stopped} & set(record.front)
    assert any("stopped in the middle of the training" in note for note in record.notes)
    assert any(": stopped: beaten by trial" in text for text in said)


class Confirmations:
    """Trains for real, but the accuracy of further seeds is as told; notes who was trained again."""

    def __init__(self, accuracy: Mapping[Architecture, float]):
        self.accuracy, self.real = accuracy, trainings.train
        self.trained: list[Architecture] = []
        self.kill_at = self.fail_at = -1

    def __call__(self, training: Training, bench: Any) -> list[Trained]:
        if not training.repeat:
            return self.real(training, bench)
        [architecture], number = training.architectures, len(self.trained)
        if number == self.kill_at:
            self.kill_at = -1
            raise KilledError
        self.trained.append(architecture)
        if number == self.fail_at:
            raise DivergedError("diverged: so it was told")
        [found], accuracy = self.real(training, bench), self.accuracy.get(architecture)
        told = {"mlm_accuracy": Measurement.of("mlm_accuracy", accuracy)} if accuracy is not None else {}
        return [dataclasses.replace(found, scores={**found.scores, **told})]


def test_winners_are_confirmed_until_the_choice_stands(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By accuracy alone one is chosen: the lucky first falls, and the next is confirmed in its place."""
    settings = ("search.trials=3", "objectives=[{maximize: mlm_accuracy}]", "select.top=1")
    searched, _ = explored(tiny("confirmed", *settings))
    ranked = sorted(searched.students, key=lambda one: (-(one.value("mlm_accuracy") or 0), one.number))
    lucky = ranked[0].architecture
    baseline = searched.trials[0].value("mlm_accuracy") or 0.0
    told = {one.architecture: one.value("mlm_accuracy") or 0.0 for one in ranked[1:]}
    again = Confirmations({**told, lucky: -1.0, BASELINE: baseline})
    monkeypatch.setattr(trainings, "train", again)
    config = tiny("confirmed", *settings, "search.confirm_seeds=2")
    again.kill_at = 3
    with pytest.raises(KilledError):
        pipeline.run(config, Silent(), until="search")
    record, said = explored(config)
    assert again.trained == [BASELINE, BASELINE, lucky, lucky, *[ranked[1].architecture] * 2]
    by_name = {trial.architecture: trial for trial in record.trials}
    confirmed = {name for name, trial in by_name.items() if trial.confirmations}
    assert confirmed == {BASELINE, lucky, ranked[1].architecture}
    for name in confirmed:
        losses = [run["mlm_loss"].value for run in (by_name[name].measurements, *by_name[name].confirmations)]
        assert len(set(losses)) == 3, "other seeds are other students"
        left = place / "confirmed" / "candidates" / str(name)
        assert not list(left.glob("confirm-*/checkpoints"))
    assert record.costs["confirmation"] > 0
    verdicts = {record.trials[one.number].architecture: one for one in record.verdicts}
    assert not verdicts[lucky].confirmed
    assert verdicts[lucky].observed is ((ranked[0].value("mlm_accuracy") or 0) > baseline)
    assert verdicts[ranked[1].architecture].seeds == verdicts[ranked[1].architecture].baseline_seeds == 3
    assert any(text.startswith(f"seed 2 of {lucky}: mlm_accuracy -100.00% (in the search ") for text in said)
    assert explored(config)[1] == said[:2], "the same command again trains nothing"


def test_a_failing_confirmation_is_a_note_and_not_tried_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = Confirmations({})
    again.fail_at = 0
    monkeypatch.setattr(trainings, "train", again)
    config = tiny("failing", "search.trials=1", "search.confirm_seeds=1", "select.top=1")
    for _ in range(2):
        record, _ = explored(config)
        assert f"Training {BASELINE} with another seed failed: diverged: so it was told." in record.notes
        assert [len(trial.confirmations) for trial in record.trials] == [0, 1]
    assert again.trained == [BASELINE, record.students[0].architecture]


SMALL = ("space.hidden_size=16", "space.bottleneck_size=8", "space.num_heads=1", "space.intermediate_size=16")


@fault(13, "more trials than points", "the search ends when all are tried")
def test_an_exhausted_space_and_a_warm_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, said = explored(tiny("exhausted", *SMALL, "search.trials=5"))
    sentence = "The space is exhausted after 2 architectures of which 2 satisfied the limits; search.trials asks for 5."
    assert said[-1] == sentence
    assert sentence in record.notes
    problems: list[Any] = []
    real = search.SearchProblem
    monkeypatch.setattr(search, "SearchProblem", lambda *given: problems.append(real(*given)) or problems[-1])
    config = tiny("warm", *SMALL, "search.trials=1", "search.warm_start=exhausted")
    _, said = explored(config)
    assert "warm start: 2 trials of exhausted" in said, "its baseline is no point of this space"
    (place / "exhausted").rename(place / "gone")
    explored(config)
    assert [one.architecture for one in problems[0].prior] == [one.architecture for one in record.students]
    assert problems[1].prior == problems[0].prior, "a resumed search knows what the first one knew"


def test_what_keeps_early_stopping_from_having_any_effect() -> None:
    names = ("mlm_loss", "latency_ms@gpu", "served_mlm_accuracy@gpu", "num_parameters", "nsp_accuracy")
    assert interim.unscored([Objective(name, "minimize") for name in names]) == ["served_mlm_accuracy@gpu"]


@pytest.mark.parametrize(
    ("states", "wanted", "expected"),
    [
        ("CCC", 3, ""),
        ("CSF", 3, ""),
        ("CI", 2, r"^The space is exhausted after 2 architectures of which 1 satisfied the limits; .* asks for 2\.$"),
        ("IIIIIIII", 2, r"^Of 8 architectures measured only 0 satisfied the limits, .*the 2 that search\.trials asks"),
        ("", 0, ""),
    ],
)
def test_why_there_are_fewer_than_asked_for(states: str, wanted: int, expected: str) -> None:
    names = {"C": TrialState.COMPLETE, "S": TrialState.STOPPED, "F": TrialState.FAILED, "I": TrialState.INFEASIBLE}
    trials = [Trial(0, BASELINE, TrialState.COMPLETE)]
    trials += [Trial(n + 1, Architecture(16, 8, 1, 16, n + 1), names[state]) for n, state in enumerate(states)]
    bench: Any = SimpleNamespace(config=SimpleNamespace(search=SimpleNamespace(trials=wanted)))
    reason = results.shortfall(trials, bench)
    assert re.search(expected or "^$", reason)
