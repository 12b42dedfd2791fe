"""The data for plotly.js: JSON, themed by name, with nothing unescaped."""

from __future__ import annotations

import json
from dataclasses import replace

from flashdistill.delivery.interactive_front import interactive_front


def by_name(figure) -> dict:
    return {trace.get("name", "line"): trace for trace in figure["data"]}


def test_traces_hold_the_groups(rich):
    figure = interactive_front(rich)
    assert figure is not None
    traces = by_name(json.loads(json.dumps(figure, allow_nan=False)))
    assert len(traces["on the front"]["x"]) == 5
    assert len(traces["evaluated"]["x"]) == 4
    assert traces["baseline"]["x"] == [3.21]
    assert len(traces["delivered"]["x"]) == 3
    assert traces["not evaluated"]["x"] == [5.62, 3.3]
    assert len(figure["layout"]["annotations"]) == 4
    assert traces["line"]["x"] == [2.45, 3.02, 3.02, 3.13, 3.13, 3.92, 3.92, 4.92, 4.92]


def test_stopped_students_and_single_seeds_have_traces(judged):
    figure = interactive_front(judged)
    assert figure is not None
    traces = by_name(json.loads(json.dumps(figure, allow_nan=False)))
    assert traces["stopped early"]["x"] == [2.8, 3.0]
    assert "stopped after 50\N{NO-BREAK SPACE}% of its training" in traces["stopped early"]["hovertext"][0]
    assert "192_64_1_256_2 &amp; no faster" in traces["stopped early"]["hovertext"][0]
    assert len(traces["one seed"]["x"]) == 9
    assert "mean of 3 training seeds" in traces["baseline"]["hovertext"][0]
    assert traces["not evaluated"]["x"] == [5.62, 3.3]


def test_colours_are_names(rich):
    text = json.dumps(interactive_front(rich))
    assert "#" not in text.replace("&#x27;", "").replace("&#39;", "")
    assert "var(--baseline)" in text


def test_tooltips_are_escaped(rich):
    traces = by_name(interactive_front(rich))
    text = " ".join(traces["not evaluated"]["hovertext"])
    assert "&lt;last good" in text
    assert "<last good" not in text


def test_no_front_no_figure(empty, single, all_failed):
    assert interactive_front(empty) is None
    assert interactive_front(single) is None
    assert interactive_front(all_failed) is None


def test_without_a_baseline_nothing_is_shaded(rich):
    figure = interactive_front(replace(rich, trials=rich.trials[1:]))
    assert figure is not None
    assert figure["layout"]["shapes"] == []
    assert "baseline" not in by_name(figure)
