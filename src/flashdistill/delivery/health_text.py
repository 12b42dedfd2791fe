"""The health of the search in words: facts, a table by metric, and warnings that say what to do."""

from __future__ import annotations

from collections.abc import Iterator

from flashdistill.core.health import Noise, PredictionQuality, SearchHealth
from flashdistill.core.measurement import known_before_training, metric_parts
from flashdistill.core.trial import TrialState
from flashdistill.delivery.facts import Facts
from flashdistill.delivery.formatting import (
    MINUS,
    MISSING,
    capitalized,
    format_count,
    format_gap,
    format_share,
    metric_name,
)
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.tables import Cell, Column, Row, Table
from flashdistill.delivery.verdict import counted, joined

_MIN_PREDICTIONS = 10
"""With fewer observations the quality of a model is chance."""
_POOR_R2, _POOR_TAU = 0.1, 0.2
_LEAST_WITHIN_TWO = 0.8
_BLURRED = 0.5
"""Share of the range of all values below which differences cannot be told: more is worth a warning."""
_MIN_KNOWN, _FEW_FEASIBLE = 5, 0.25
_MIN_UNMOVED, _UNMOVED_SHARE = 10, 0.4
_MIN_FAILED, _FAILED_SHARE = 2, 0.1
_SHOWN_REASONS = 3
_LONGEST_REASON = 120

_STATE_WORDS = {
    TrialState.COMPLETE: "distilled and evaluated",
    TrialState.STOPPED: "stopped early",
    TrialState.INFEASIBLE: "ruled out by a constraint",
    TrialState.FAILED: "failed",
    TrialState.PENDING: "unfinished",
}


def health_facts(health: SearchHealth) -> Facts:
    """What became of the students, and whether the search still finds anything."""
    facts: Facts = []
    states = [(health.count(state), words) for state, words in _STATE_WORDS.items()]
    facts.append(("students", joined([f"{number} {words}" for number, words in states if number]) or "none yet"))
    if probes := health.count(TrialState.MEASURED):
        facts.append(("latency probes", f"{counted(probes, 'architecture')} measured without training"))
    share = health.feasible_share
    if share is not None and health.broken:
        broken = joined([f"{limit} excludes {number}" for limit, number in health.broken.items()])
        facts.append(("keep every constraint", f"{format_share(share)}; {broken}"))
    if health.trained:
        facts.append(("the front moved last", _moved(health.unmoved)))
    facts.append(("not tried yet", f"{format_count(health.untried)} architectures of the space"))
    for reason in health.failures[:_SHOWN_REASONS]:
        facts.append((f"failed, {counted(reason.count, 'time')}", _short(reason.text)))
    return facts


def _moved(unmoved: int) -> str:
    return f"{counted(unmoved, 'trained student')} ago" if unmoved else "with the last trained student"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"


def health_table(health: SearchHealth) -> Table | None:
    """By metric: how well it is predicted, and its noise against its range; None with neither."""
    predictions = {one.metric: one for one in health.predictions}
    noises = {one.metric: one for one in health.noise}
    metrics = list(dict.fromkeys([*noises, *predictions]))
    if not metrics:
        return None
    titles = (
        "Observations",
        "R²",
        "Rank correlation",
        "Within two deviations",
        "Noise of one run",
        "Range of values",
        "Smallest certain difference",
    )
    columns = [Column("Metric"), *(Column(title, numeric=True) for title in titles)]
    rows = [
        Row([Cell(capitalized(metric_name(name))), *_prediction(predictions.get(name)), *_noise(noises.get(name))])
        for name in metrics
    ]
    return Table("Predictions and noise by metric", columns, rows)


def _prediction(one: PredictionQuality | None) -> list[Cell]:
    if one is None:
        return [Cell(MISSING, numeric=True)] * 4
    return [
        Cell(format_count(len(one.observed)), numeric=True),
        Cell(decimal(one.r2), numeric=True),
        Cell(decimal(one.tau), numeric=True),
        Cell(format_share(one.within_two), numeric=True),
    ]


def _noise(one: Noise | None) -> list[Cell]:
    if one is None:
        return [Cell(MISSING, numeric=True)] * 3
    source = "scatter between seeds" if one.source == "seeds" else "standard error"
    return [
        Cell(format_gap(one.metric, one.deviation), remarks=[source], numeric=True),
        Cell(format_gap(one.metric, one.span), numeric=True),
        Cell(
            format_gap(one.metric, one.resolution),
            remarks=[f"{format_share(one.resolution / one.span)} of the range"] if one.span > 0 else [],
            numeric=True,
        ),
    ]


def decimal(value: float | None) -> str:
    """Two decimals with a true minus sign; an en dash for None."""
    return MISSING if value is None else f"{value:.2f}".replace("-", MINUS)


def health_warnings(record: RunRecord) -> list[str]:
    """What threatens the search's result and what to do about it; empty where nothing does."""
    health = record.health
    if health is None:
        return []
    predicted = health.predictions if record.search.get("algorithm", "bayesian") == "bayesian" else ()
    return [
        *_infeasible(health),
        *_failed(health),
        *(text for noise in health.noise for text in _blurred(noise)),
        *(text for one in predicted for text in _unpredictable(one)),
        *_standstill(health),
    ]


def _infeasible(health: SearchHealth) -> Iterator[str]:
    share, excluded = health.feasible_share, health.count(TrialState.INFEASIBLE)
    if share is None or share >= _FEW_FEASIBLE or health.trained + excluded < _MIN_KNOWN:
        return
    text = f"Only {health.trained} of {health.trained + excluded} students keep every constraint."
    if health.broken:
        limit, number = next(iter(health.broken.items()))
        text += f" Loosen {limit}, which excludes {number}, or offer smaller choices in the space."
    yield text


def _failed(health: SearchHealth) -> Iterator[str]:
    failed = health.count(TrialState.FAILED)
    tried = sum(health.count(state) for state in _STATE_WORDS if state is not TrialState.PENDING)
    if failed < max(_MIN_FAILED, _FAILED_SHARE * tried):
        return
    text = f"{failed} of {tried} students failed"
    if health.failures:
        reason = health.failures[0]
        alike = f"{reason.count} of them alike, such as" if reason.count > 1 else "such as"
        text += f", {alike} {reason.example} ({_short(reason.text).rstrip('.')})"
    yield f"{text}. The log says more."


def _blurred(noise: Noise) -> Iterator[str]:
    if noise.span > 0 and noise.resolution < _BLURRED * noise.span:
        return
    name = metric_name(noise.metric)
    remedy = (
        f"give the measurement more time ({_target(noise.metric)}.measurement.seconds) or a quieter machine"
        if known_before_training(noise.metric)
        else "train longer in the search (flash), score on more text (corpus.validation_sequences), "
        "or trust only what further seeds confirm (search.confirm_seeds)"
    )
    if noise.span <= 0:
        yield f"All students have the same {name}, so it cannot guide the search: {remedy}."
        return
    yield (
        f"Noise blurs {name}: all students lie within {format_gap(noise.metric, noise.span)}, and differences below "
        f"{format_gap(noise.metric, noise.resolution)} between two single runs may be chance; {remedy}."
    )


def _target(metric: str) -> str:
    target = metric_parts(metric)[1]
    return "target" if target is None else f"further_targets.{target}"


def _unpredictable(one: PredictionQuality) -> Iterator[str]:
    number, name = len(one.observed), metric_name(one.metric)
    if number < _MIN_PREDICTIONS or one.r2 is None:
        return
    if one.r2 < _POOR_R2 and (one.tau or 0.0) < _POOR_TAU:
        remedy = (
            "add trials or latency probes (search.latency_probes), or measure more precisely"
            if known_before_training(one.metric)
            else "train longer in the search (flash), so that architectures differ by more than noise"
        )
        yield (
            f"The model predicts {name} no better than the mean of all students does (R² {decimal(one.r2)} over "
            f"{number} observations), so suggestions are little better than random in it: {remedy}."
        )
    elif one.within_two < _LEAST_WITHIN_TWO:
        yield (
            f"The model is too sure of {name}: {format_share(one.within_two)} of the students lie within two "
            "deviations of their prediction, and 95\N{NO-BREAK SPACE}% should. Take its suggestions with caution."
        )


def _standstill(health: SearchHealth) -> Iterator[str]:
    if health.untried == 0 and health.trained:
        yield "Every architecture of the space has been tried: only a wider space can bring better students."
    elif health.unmoved >= max(_MIN_UNMOVED, _UNMOVED_SHARE * health.trained):
        yield (
            f"The front has not moved for {health.unmoved} of {health.trained} trained students: stop the search, "
            "or widen the space."
        )
