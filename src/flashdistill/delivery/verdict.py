"""The run's outcome in plain words, computed from the record.

Each function answers one question a reader has, in the order they have them; it returns no
sentence where the data cannot answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.comparison import Scored, beats, beats_clearly, best, without_loss
from flashdistill.delivery.formatting import (
    capitalized,
    format_difference,
    format_value,
    metric_name,
)
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.winners import over_seeds
from flashdistill.delivery.winners import winners as all_winners

_NAMED_STUDENTS = 4
"""A longer list of winners is left to the table."""


def verdict(record: RunRecord) -> str:
    """One paragraph: what was tried, what beats the baseline, what was delivered."""
    sentences = [
        *_against_baseline(record),
        *_best_without_loss(record),
        *_delivered(record),
        *_what_was_tried(record),
    ]
    return " ".join(sentences)


def joined(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def counted(number: int, noun: str) -> str:
    """``1 student``, ``3 students``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def objective_names(record: RunRecord) -> str:
    """``both MLM accuracy and latency``: the objectives, for the middle of a sentence."""
    names = [metric_name(objective.metric) for objective in record.objectives]
    if len(names) == 2:
        return f"both {joined(names)}"
    return joined(names) if len(names) < 3 else f"all of {joined(names)}"


def figures(scored: Scored, record: RunRecord) -> str:
    """``17.8 % MLM accuracy at 3.21 ms latency``: the objectives' values."""
    parts = [
        f"{format_value(objective.metric, scored.value(objective.metric))} {metric_name(objective.metric)}"
        for objective in record.objectives
        if scored.value(objective.metric) is not None
    ]
    return joined(parts)


def _against_baseline(record: RunRecord) -> list[str]:
    baseline = record.baseline_trial
    students = [trial for trial in record.evaluated if trial.number != 0]
    if not record.trials:
        return ["No architecture has been tried yet."]
    if baseline is None or baseline not in record.evaluated:
        return [_without_baseline(record, baseline), *_leaders(record, students)]
    if not students:
        return [f"No student was evaluated, so nothing can be compared with the baseline {record.baseline}."]
    winners = [student for student in students if beats(student, baseline, record.objectives)]
    once = " in a single training" if any(winner.confirmations for winner in winners) else ""
    rival = f"the baseline {record.baseline} in {objective_names(record)}{once}"
    if len(students) == 1:
        sentence = f"The one student evaluated, {students[0].architecture}, {{}} {rival}."
        if not winners:
            return [sentence.format("does not beat"), *_trade_offs(record)]
        return [sentence.format("beats"), *_how_clearly(record, winners, baseline)]
    if not winners:
        return [f"None of the {len(students)} students evaluated beats {rival}.", *_trade_offs(record)]
    verb = "beats" if len(winners) == 1 else "beat"
    names = f": {joined([str(winner.architecture) for winner in winners])}" if len(winners) <= _NAMED_STUDENTS else ""
    sentence = f"{len(winners)} of the {len(students)} students evaluated {verb} {rival}{names}."
    return [sentence, *_how_clearly(record, winners, baseline)]


def _how_clearly(record: RunRecord, winners: Sequence[Trial], baseline: Trial) -> list[str]:
    judged = {verdict.number for verdict in record.verdicts}
    if any(winner.number in judged for winner in winners):
        return [_over_further_seeds(record)]
    clear = [winner for winner in winners if beats_clearly(winner, baseline, record.objectives)]
    if len(clear) == len(winners):
        return []
    margin = "by more than two standard errors"
    if len(record.objectives) > 1:
        margin += " in every objective"
    if not clear:
        return [f"{'It is not' if len(winners) == 1 else 'None of them is'} better {margin}."]
    verb = "is" if len(clear) == 1 else "are"
    return [f"{len(clear)} of them {verb} better {margin}; noise may explain the rest."]


def _over_further_seeds(record: RunRecord) -> str:
    """What became of the observed winners that were trained again."""
    again = [one for one in all_winners(record) if one.observed and one.verdict]
    held = [one for one in again if one.holds]
    several = len(again) > 1
    if not held:
        return (
            f"{len(again)} of these {'were' if several else 'was'} trained again from other seeds, and "
            f"{'none of them' if several else 'it'} {'beats' if several else 'does not beat'} the baseline on average."
        )
    clear = [str(one.trial.architecture) for one in held if one.clear]
    names = f" ({joined([str(one.trial.architecture) for one in held])})" if len(held) <= _NAMED_STUDENTS else ""
    how = f"{'all' if len(clear) == len(held) else joined(clear)} by more than two standard errors"
    return (
        f"{len(again)} of these {'were' if several else 'was'} trained again from other seeds, and on average over all "
        f"seeds {len(held)} {'beats' if len(held) == 1 else 'beat'} the baseline's average{names}, "
        f"{how if clear else 'though not by more than two standard errors'}."
    )


def _trade_offs(record: RunRecord) -> list[str]:
    traders = [number for number in record.front if number != 0]
    if len(record.objectives) < 2 or not traders:
        return []
    verb = "is" if len(traders) == 1 else "are"
    return [f"{capitalized(counted(len(traders), 'student'))} {verb} on the Pareto front and trade one for the other."]


def _without_baseline(record: RunRecord, baseline: Trial | None) -> str:
    if baseline is None or baseline.state is TrialState.PENDING:
        return f"The baseline {record.baseline} has not been evaluated yet, so there is no comparison."
    if baseline.state is TrialState.FAILED:
        why = f" ({baseline.reason})" if baseline.reason else ""
        return f"The baseline {record.baseline} failed{why}, so there is nothing to compare the students with."
    if baseline.state is TrialState.INFEASIBLE:
        return (
            f"The baseline {record.baseline} breaks a constraint itself and was not evaluated, "
            "so there is nothing to compare the students with."
        )
    return f"The baseline {record.baseline} was not measured in every objective, so there is no comparison."


def _leaders(record: RunRecord, students: Sequence[Trial]) -> list[str]:
    """The best student by each objective, for runs without a baseline to compare with."""
    leaders = []
    for objective in record.objectives:
        if leader := best(students, objective):
            value = format_value(objective.metric, leader.value(objective.metric))
            leaders.append(f"the best {metric_name(objective.metric)} has {leader.architecture} ({value})")
    return [f"{capitalized(joined(leaders))}."] if leaders else []


def _best_without_loss(record: RunRecord) -> list[str]:
    """The best in the second objective (usually speed) of those that lose nothing in the first."""
    baseline = record.baseline_trial
    if baseline is None or baseline not in record.evaluated or not record.objectives:
        return []
    baseline = over_seeds(baseline)
    students = [over_seeds(trial) for trial in record.evaluated if trial.number != 0]
    if len(record.objectives) == 1:
        return _single_best(record, students, baseline)
    keep, improve = record.objectives[:2]
    if keep.goal == "minimize" and improve.goal == "maximize":
        keep, improve = improve, keep
    candidate = best(without_loss(students, baseline, keep), improve)
    if candidate is None:
        return [f"No student keeps the baseline's {metric_name(keep.metric)}."] if students else []
    value, reference = candidate.value(improve.metric), baseline.value(improve.metric)
    if not without_loss([candidate], baseline, improve) or value == reference:
        return []
    metric = "latency" if improve.metric == "latency_ms" else metric_name(improve.metric)
    superlative = "The fastest student" if improve.metric == "latency_ms" else f"The student with the best {metric}"
    difference = format_difference(improve.metric, value, reference)
    return [
        f"{superlative} at no loss of {metric_name(keep.metric)} is {candidate.architecture}: {difference} "
        f"({_change(improve.metric, candidate, baseline)}) at {_change(keep.metric, candidate, baseline)} "
        f"{metric_name(keep.metric)}."
    ]


def _change(metric: str, student: Scored, baseline: Scored) -> str:
    return f"{format_value(metric, student.value(metric))} against {format_value(metric, baseline.value(metric))}"


def _single_best(record: RunRecord, students: Sequence[Trial], baseline: Trial) -> list[str]:
    objective = record.objectives[0]
    leader = best(students, objective)
    if leader is None:
        return []
    difference = format_difference(objective.metric, leader.value(objective.metric), baseline.value(objective.metric))
    return [
        f"The best {metric_name(objective.metric)} has {leader.architecture}: "
        f"{_change(objective.metric, leader, baseline)} ({difference})."
    ]


def _delivered(record: RunRecord) -> list[str]:
    students = [model for model in record.delivered if not model.is_baseline]
    if not students:
        return []
    baseline = record.delivered_baseline
    count = f"{counted(len(students), 'student')} {'was' if len(students) == 1 else 'were'} distilled in full"
    if baseline is None:
        leader = best(students, record.objectives[0]) if record.objectives else None
        return [f"{count}; best is {leader.architecture} with {figures(leader, record)}."] if leader else [f"{count}."]
    winners = [model for model in students if beats(model, baseline, record.objectives)]
    if not winners:
        outcome = f"none of them beats the baseline in {objective_names(record)} at that budget"
        if len(students) == 1:
            outcome = f"it does not beat the baseline in {objective_names(record)} at that budget"
        return [f"{count}; {outcome}."]
    leader = best(winners, record.objectives[0]) or winners[0]
    changes = joined(
        [
            f"{_change(objective.metric, leader, baseline)} {metric_name(objective.metric)}"
            for objective in record.objectives
        ]
    )
    who = f"{len(winners)} of them" if len(students) > 1 else "it"
    verb = "beats" if len(winners) == 1 else "beat"
    return [f"{count}; {who} {verb} the baseline at the same budget, {leader.architecture} with {changes}."]


def _what_was_tried(record: RunRecord) -> list[str]:
    states = [trial.state for trial in record.students]
    if not states:
        return []
    parts = [
        (states.count(TrialState.COMPLETE), "distilled and evaluated"),
        (states.count(TrialState.STOPPED), "stopped early"),
        (states.count(TrialState.INFEASIBLE), "ruled out by a constraint"),
        (states.count(TrialState.FAILED), "failed"),
        (states.count(TrialState.PENDING), "unfinished"),
    ]
    space = f" of {record.space.num_architectures:,} possible" if record.space else ""
    tried = f"The search tried {counted(len(states), 'architecture')}{space} beside the baseline"
    return [f"{tried}: {joined([f'{number} {what}' for number, what in parts if number])}."]
