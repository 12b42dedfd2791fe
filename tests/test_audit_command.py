"""The audit of a tiny run: what it trains, what it does not train again, what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashdistill import cli, pipeline, scored_distillations, trainings
from flashdistill.audit_command import audit
from flashdistill.config import load_config
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.progress import Silent
from flashdistill.core.rank_fidelity import RankAudit
from flashdistill.delivery.audit_text import load_audit
from flashdistill.delivery.record import RunRecord
from flashdistill.distillation.inspection import SHARES
from tests.tiny_run import in_directory, write_run

COUNT = 5


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run of three trials of which one is delivered."""
    directory = tmp_path_factory.mktemp("audited")
    write_run(directory)
    with in_directory(directory):
        pipeline.run(load_config(Path("tiny.yaml"), ["search.trials=2", "select.include_baseline=false"]), Silent())
    return directory


@pytest.fixture(scope="module")
def audited(directory: Path) -> RankAudit:
    with in_directory(directory):
        resolved = Path("run/config.yaml").read_text(encoding="utf-8")
        found = audit(Path("run"), [], Silent(), architectures=COUNT, repeats=2)
        assert Path("run/config.yaml").read_text(encoding="utf-8") == resolved
    assert found is not None
    return found


def test_everything_is_trained_by_both_budgets(directory: Path, audited: RankAudit) -> None:
    record = RunRecord.load(directory / "run")
    assert len(audited.students) == COUNT
    assert {trial.architecture for trial in record.trials} <= {one.architecture for one in audited.students}
    assert sum(one.is_baseline for one in audited.students) == 1
    assert {one.architecture for one in audited.students if one.on_front} == {
        trial.architecture for trial in record.trials if trial.number in record.front
    }
    assert all(set(one.on_the_way) == set(SHARES) for one in audited.students)
    assert [one.share for one in audited.shares] == [*SHARES, 1.0]
    assert -1 <= audited.tau.low <= audited.tau.value <= audited.tau.high <= 1
    assert (audited.flash_steps, audited.regular_steps) == (4, 6)
    assert (audited.flash_total, audited.regular_total) == (4 + 2 * 2 * 2, 6 + 2 * 3 * 2)


def test_what_the_run_knows_is_taken_from_it(directory: Path, audited: RankAudit) -> None:
    record = RunRecord.load(directory / "run")
    by_name = {one.architecture: one for one in audited.students}
    for trial in record.trials:
        assert by_name[trial.architecture].flash == trial.value("mlm_accuracy")
    for model in record.delivered:
        assert by_name[model.architecture].regular == model.value("mlm_accuracy")
        assert not (directory / "run" / "audit" / f"{model.architecture}-regular.json").exists()


def test_further_seeds_tell_the_noise(audited: RankAudit) -> None:
    seeded = [one for one in audited.students if one.regular_seeds]
    assert len(seeded) == 2
    assert all(len(one.flash_seeds) == 1 for one in seeded)
    assert audited.flash_noise is not None
    assert audited.regular_noise is not None
    assert audited.flash_noise.degrees == audited.regular_noise.degrees == 2


def test_scoring_on_the_way_changes_nothing(directory: Path, audited: RankAudit) -> None:
    """A trial that is trained again to be looked at on the way ends where it ended in the search."""
    record = RunRecord.load(directory / "run")
    again = directory / "run" / "audit"
    for trial in record.trials:
        found = scored_distillations.decode(
            scored_distillations.ScoredDistillation,
            scored_distillations.read_json(again / f"{trial.architecture}-flash.json"),
        )
        assert found.measurements["mlm_loss"].value == trial.value("mlm_loss")


def test_the_same_audit_again_trains_nothing(
    directory: Path, audited: RankAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(trainings, "train", refuse)
    with in_directory(directory):
        assert audit(Path("run"), [], Silent(), architectures=COUNT, repeats=2) is not None
        assert load_audit(Path("run")) is not None


def test_the_report_has_it(directory: Path, audited: RankAudit) -> None:
    run = directory / "run"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Does flash rank as regular distillation does?" in page
    assert (run / "plots" / "audit.png").stat().st_size > 10_000
    assert not list(run.glob("candidates/*/*/checkpoints"))
    assert not (run / "signals").exists()
    assert "audit" in RunRecord.load(run).costs or (run / "state.json").read_text().count('"audit"')


def test_results_cannot_be_overridden(directory: Path) -> None:
    with in_directory(directory), pytest.raises(RunDirectoryError, match=r"seed: was 0, is 3"):
        audit(Path("run"), ["seed=3"], Silent())


def test_the_verb(directory: Path, monkeypatch: pytest.MonkeyPatch, audited: RankAudit) -> None:
    calls = []

    def note(*arguments: object, **options: object) -> RankAudit:
        calls.append((arguments, options))
        return audited

    monkeypatch.setattr("flashdistill.audit_command.audit", note)
    runner = CliRunner()
    with in_directory(directory):
        result = runner.invoke(cli.app, ["audit", "run", "training.device=cpu", "--repeats", "1", "--json", "a.json"])
    assert result.exit_code == 0, result.stderr
    assert "Kendall’s tau" in result.stdout
    assert str(audited.students[0].architecture) in result.stdout
    ((run, overrides, _), options), *_ = calls
    assert (run, overrides) == (Path("run"), ["training.device=cpu"])
    assert options == {"architectures": 16, "repeats": 1, "on_the_way": True}
    assert (directory / "a.json").exists()
    with in_directory(directory):
        assert runner.invoke(cli.app, ["audit", "nowhere"]).exit_code == 2
        assert runner.invoke(cli.app, ["audit", "run", "--architectures", "15"]).exit_code == 2
