"""``flashdistill audit``: does this run's flash distillation rank students as its regular one does?

A search believes what flash distillation says; the audit trains a sample of architectures with
both budgets and looks. What the run has trained already is not trained again, every training is
kept as it ends, and the same command resumes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from flashdistill import pipeline
from flashdistill.audit_choice import architectures_to_audit, evenly
from flashdistill.budgets import resolve_budgets
from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import FlashDistillError
from flashdistill.core.files import write_json
from flashdistill.core.measurement import Measurement, Objective, known_before_training, metric_parts
from flashdistill.core.progress import Progress
from flashdistill.core.rank_fidelity import AuditedStudent, RankAudit
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import TrialState
from flashdistill.delivery.audit_text import AUDIT_FILE
from flashdistill.delivery.deliver import delivered
from flashdistill.delivery.json_form import encode
from flashdistill.delivery.record import RESULTS_FILE
from flashdistill.distillation.inspection import SHARES
from flashdistill.evaluation.rank_fidelity import rank_audit
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.pareto import pareto_front
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.warm_start import recorded_trials
from flashdistill.ledger import Ledger
from flashdistill.preflight import kept_prior
from flashdistill.scored_distillations import ScoredDistillation, ScoredDistillations
from flashdistill.workbench import Workbench

ARCHITECTURES = 16
"""The fewest that a run is audited with: with fewer the interval of tau is as wide as its range."""

REPEATS = 4
"""Architectures trained with one more seed by either budget, to know what a seed changes."""

_FEWEST = 3


def audit(
    run: Path,
    overrides: Sequence[str],
    progress: Progress,
    *,
    architectures: int = ARCHITECTURES,
    repeats: int = REPEATS,
    on_the_way: bool = True,
) -> RankAudit | None:
    """Audit a run and add the result to its report; None in all processes but the main one.

    Args:
        run: a run directory; its search need not be finished, nor begun.
        overrides: ``dotted.key=YAML value``; only of what has no effect on results.

    Raises:
        RunDirectoryError: an override would change results, or the directory is in use.
        FlashDistillError: too few students could be trained.
    """
    config = _configuration(RunDirectory(run), overrides)
    with pipeline.opened(config, progress) as life:
        if life is None:
            return None
        resolve_budgets(life.bench, life.ledger.costs)
        found = Auditor(life.bench, life.ledger, on_the_way).audit(architectures, repeats)
    if (run / RESULTS_FILE).exists():
        pipeline.report(run)
    return found


def _configuration(directory: RunDirectory, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration as it was asked for, for the directory belongs to that.

    In the resolved one seconds have become steps; what may change between two calls of `run`
    (``search.trials``) is as in the last one.
    """
    latest = load_config(directory.config, list(overrides))
    asked = load_config(directory.requested, list(overrides)) if directory.requested.is_file() else latest
    changed = {"flash": asked.flash, "regular": asked.regular}
    if latest.output.resolve() != directory.path.resolve():
        changed["output"] = directory.path
    return latest.model_copy(update=changed)


class Auditor:
    """Trains what an audit needs in an open run and computes it.

    Args:
        bench: with resolved budgets.
        on_the_way: score flash distillations on the way, which tells how short flash may be;
            trials of the search that were not scored so are trained again, with the same result.
    """

    def __init__(self, bench: Workbench, ledger: Ledger, on_the_way: bool = True):
        self._bench, self._on_the_way = bench, on_the_way
        self._store = ScoredDistillations(bench, ledger, "audit")
        config = bench.config
        self._space = DesignSpace(config.space, bench.family)
        self._objective = _audited_objective(config.objectives)
        begun = bench.directory.state().get("started_trials")
        trials = recorded_trials(bench.directory.path)[0] if begun else []
        self._trials = {trial.architecture: trial for trial in trials}
        self._failures: list[str] = []

    def audit(self, count: int = ARCHITECTURES, repeats: int = REPEATS) -> RankAudit:
        """Train, compute, and write ``audit.json``.

        Raises:
            FlashDistillError: fewer than three architectures were trained by both budgets.
        """
        bench, config = self._bench, self._bench.config
        chosen = self._chosen(count)
        bench.progress.message(f"audit of {len(chosen)} architectures: {', '.join(map(str, chosen))}")
        flash, curves = self._flash(chosen)
        regular = self._regular(list(flash))
        compared = [architecture for architecture in chosen if architecture in regular]
        if len(compared) < _FEWEST:
            raise FlashDistillError(
                f"only {len(compared)} architectures could be trained by both budgets: {' '.join(self._failures)}"
            )
        ranked = sorted(compared, key=lambda one: self._objective.oriented(regular[one]), reverse=True)
        again = self._further_seeds([ranked[index] for index in evenly(len(ranked), min(repeats, len(ranked)))])
        front = {trial.architecture for trial in pareto_front(list(self._trials.values()), config.objectives)}
        students = [
            AuditedStudent(
                architecture=one,
                flash=flash[one],
                regular=regular[one],
                on_the_way=curves.get(one, {}),
                flash_seeds=[*self._confirmations(one), *again["flash"].get(one, ())],
                regular_seeds=again["regular"].get(one, ()),
                num_parameters=bench.num_parameters(one),
                on_front=one in front,
                is_baseline=one == config.baseline,
            )
            for one in compared
        ]
        found = self._with_budgets(rank_audit(students, self._objective), count)
        write_json(bench.directory.path / AUDIT_FILE, encode(found))
        if bench.directory.state().get("finished"):
            shutil.rmtree(bench.directory.signals, ignore_errors=True)
        return found

    def _chosen(self, count: int) -> list[Architecture]:
        config, trials = self._bench.config, list(self._trials.values())
        problem = SearchProblem(
            config.objectives,
            config.constraints,
            config.baseline,
            config.search.goal,
            kept_prior(self._bench.directory),
        )
        known = [one for one in [*self._trials, *self._recorded()] if self._known_regular(one) is not None]
        front = pareto_front(trials, config.objectives)
        front.sort(key=lambda trial: self._objective.oriented(trial.value(self._objective.metric) or 0.0))
        return architectures_to_audit(self._space, problem, trials, front, known, count, config.seed)

    def _recorded(self) -> list[Architecture]:
        """Architectures that were distilled in full without being trials."""
        return self._store.architectures("regular")

    def _flash(
        self, architectures: Sequence[Architecture]
    ) -> tuple[dict[Architecture, float], dict[Architecture, dict[float, float]]]:
        """The metric after flash distillation, and by share of it; those that failed are left out."""
        trials = {one: self._trials[one] for one in architectures if self._complete(one)}
        lacking = [
            one
            for one in architectures
            if one not in trials or (self._on_the_way and not set(SHARES) <= set(trials[one].curve))
        ]
        found = self._store.score(lacking, "flash", on_the_way=self._on_the_way)
        values: dict[Architecture, float] = {}
        curves: dict[Architecture, dict[float, float]] = {}
        for one in architectures:
            trained, trial = found.get(one), trials.get(one)
            if trial is None and self._failed(trained):
                continue
            scores = trial.measurements if trial else trained.measurements  # type: ignore[union-attr]
            values[one] = self._value(scores)
            curve = trained.curve if trained else trial.curve if trial else {}
            curves[one] = {share: self._value(at) for share, at in curve.items()}
        return values, curves

    def _regular(self, architectures: Sequence[Architecture]) -> dict[Architecture, float]:
        """The metric after regular distillation, of models delivered by the run or trained now."""
        known = {one: self._delivered(one) for one in architectures}
        found = self._store.score([one for one, scores in known.items() if scores is None], "regular")
        values = {one: self._value(scores) for one, scores in known.items() if scores is not None}
        return values | {one: self._value(each.measurements) for one, each in found.items() if not self._failed(each)}

    def _further_seeds(self, architectures: Sequence[Architecture]) -> dict[str, dict[Architecture, list[float]]]:
        """The metric after one more training by either budget; by flash only where the search has not done it."""
        lacking = {"flash": [one for one in architectures if not self._confirmations(one)], "regular": architectures}
        return {
            budget: {
                one: [self._value(each.measurements)]
                for one, each in self._store.score(wanted, budget, repeat=1).items()
                if not self._failed(each)
            }
            for budget, wanted in lacking.items()
        }

    def _confirmations(self, architecture: Architecture) -> list[float]:
        trial = self._trials.get(architecture)
        return [self._value(run) for run in trial.confirmations] if trial else []

    def _complete(self, architecture: Architecture) -> bool:
        trial = self._trials.get(architecture)
        return trial is not None and trial.state is TrialState.COMPLETE and self._objective.metric in trial.measurements

    def _known_regular(self, architecture: Architecture) -> object | None:
        if (scores := self._delivered(architecture)) is not None:
            return scores
        found = self._store.known(architecture, "regular", settings=self._bench.config.regular)
        return None if found is None or found.failure else found

    def _delivered(self, architecture: Architecture) -> dict[str, Measurement] | None:
        model = delivered(self._bench.directory.model(architecture))
        return dict(model.measurements) if model and self._objective.metric in model.measurements else None

    def _failed(self, found: ScoredDistillation | None) -> bool:
        """Whether there are no scores; the reason is noted."""
        if found is not None and not found.failure:
            return False
        if found is not None:
            self._failures.append(f"{found.architecture} is left out: its {found.budget} distillation {found.failure}.")
        return True

    def _value(self, scores: object) -> float:
        return scores[self._objective.metric].value  # type: ignore[index]

    def _with_budgets(self, found: RankAudit, count: int) -> RankAudit:
        config = self._bench.config
        depth = self._bench.family.depth(config.baseline)
        notes = list(self._failures)
        if len(found.students) < count:
            notes.append(f"Only {len(found.students)} architectures could be compared; {count} were asked for.")
        if found.shares:
            notes.append(
                "Parts of flash are scored on a part of the validation text, before the learning rate has decayed; a "
                "flash distillation planned that short may rank better, and is worth an audit of its own."
            )
        return dataclasses.replace(
            found,
            flash_steps=config.flash.pretraining_steps or 0,
            regular_steps=config.regular.pretraining_steps or 0,
            flash_total=config.flash.total_steps(depth),
            regular_total=config.regular.total_steps(depth),
            notes=notes,
        )


def _audited_objective(objectives: Sequence[Objective]) -> Objective:
    """The first objective that training decides; what depends on the target has no score here."""
    for objective in objectives:
        if not known_before_training(objective.metric) and not metric_parts(objective.metric)[0].startswith("served"):
            return objective
    return Objective("mlm_accuracy", "maximize")
