"""The plots show what the record holds, and nothing is written over anything else."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer

from flashdistill.core.measurement import Objective
from flashdistill.core.seeds import generator
from flashdistill.delivery.front_data import front_data
from flashdistill.delivery.front_plot import front_plot
from flashdistill.delivery.health_plots import predictions_plot
from flashdistill.delivery.history_plots import curves_plot, history_plot
from flashdistill.delivery.plot_style import CSS_VARIABLES, SERIES, inline_svg
from flashdistill.delivery.plots import PLOTS, make_plots, write_plots

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plots(rich):
    return make_plots(rich)


@pytest.fixture
def crowded(trial, record_of):
    """A hundred trials, thirty of them on the front."""
    random = generator("crowded")
    trials = [trial(0, "192_64_2_256_2", 0.18, 3.0)]
    for number in range(1, 31):
        trials.append(trial(number, f"{64 + 8 * number}_64_2_256_2", 0.15 + 0.0013 * number, 1.5 + 0.1 * number))
    for number in range(31, 100):
        latency, loss = 2.0 + 2.5 * random.random(), 0.004 + 0.02 * random.random()
        trials.append(trial(number, f"{64 + 8 * number}_64_4_256_2", 0.1305 + 0.013 * latency - loss, latency))
    return record_of(*trials, front=tuple(range(1, 31)))


def test_files_are_pictures_and_stale_ones_go(plots, single, tmp_path):
    names = {path.stem for path in write_plots(plots, tmp_path)}
    assert names == {"front", "history", "curves", "costs"}
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in tmp_path.iterdir())
    (tmp_path / "mine.png").touch()
    write_plots({name: plot for name, plot in plots.items() if name == "costs"}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"costs.png", "mine.png"}


def test_a_plot_without_data_is_not_drawn(empty, all_failed, single):
    assert make_plots(empty) == {}
    assert list(make_plots(all_failed)) == ["costs"]
    assert list(make_plots(single)) == ["ranking", "history", "curves", "costs"]


def test_names_are_those_of_the_table(plots, single):
    for made in (plots, make_plots(single)):
        assert all(plot.name == name for name, plot in made.items())
    assert set(plots) | {"ranking", "predictions"} == set(PLOTS)


def test_the_front_holds_every_trial_that_is_known(rich):
    data = front_data(rich)
    assert data is not None
    assert [(trial.number, point.x, round(point.y, 6)) for trial, point in data.front][:2] == [
        (2, 3.02, 17.97),
        (4, 4.92, 18.93),
    ]
    assert [trial.number for trial, _ in data.others] == [1, 8, 9, 10]
    assert [(trial.number, value) for trial, value in data.untrained] == [(3, 5.62), (12, 3.3)]
    assert len(data.moves) == 4
    assert data.title == "3 of 9 students beat the baseline in both objectives"
    x_low, x_high, y_low, y_high = data.limits
    assert x_low < 2.45 < 5.62 < x_high
    assert y_low < 16.88 < 22.57 < y_high
    assert data.worst_corner == (x_high, y_low)


def test_the_title_agrees_with_its_number(trial, record_of, crowded):
    data = front_data(crowded)
    assert data is not None
    assert data.title == "None of 99 students beats the baseline in both objectives"
    data = front_data(record_of(trial(0, "192_64_2_256_2", 0.18, 3.0), trial(1, "128_64_2_256_2", 0.19, 2.0)))
    assert data is not None
    assert data.title == "The one student beats the baseline in both objectives"


def test_a_far_architecture_does_not_squeeze_the_plot(rich):
    slow = replace(rich.trials[3].measurements["latency_ms"], value=400.0)
    trials = [replace(t, measurements={"latency_ms": slow}) if t.number == 3 else t for t in rich.trials]
    data = front_data(replace(rich, trials=trials))
    assert data is not None
    assert data.limits[1] < 8
    assert front_plot(replace(rich, trials=trials)) is not None


def test_a_front_of_one_point_has_a_size(trial, record_of):
    data = front_data(record_of(trial(0, "192_64_2_256_2", 0.18, 3.0), front=(0,)))
    assert data is not None
    assert data.limits[0] < 3.0 < data.limits[1]
    assert data.limits[2] < 18.0 < data.limits[3]
    assert data.title == "Only the baseline was evaluated"


def test_labels_keep_apart_and_inside(plots, crowded):
    for figure in (plots["front"].figure, front_plot(crowded).figure):  # type: ignore[union-attr]
        axes = figure.axes[0]
        renderer = FigureCanvasAgg(figure).get_renderer()
        texts = [text for text in axes.texts if text.get_text()]
        boxes = [text.get_window_extent(renderer) for text in texts]
        assert len(boxes) >= 5
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        frame = axes.get_window_extent(renderer)
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
        assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_labels_name_the_baseline_and_the_delivered(plots):
    texts = {text.get_text() for text in plots["front"].figure.axes[0].texts}
    assert {"baseline 192_64_2_256_2", "192_64_1_256_2", "256_64_4_256_2", "256_64_2_384_4"} <= texts


def test_stopped_students_stand_where_they_were_last_scored(judged):
    data = front_data(judged)
    assert data is not None
    assert [(one.trial.number, one.share, one.point.x, round(one.point.y, 6)) for one in data.stopped] == [
        (13, 0.5, 2.8, 16.61),
        (14, 0.25, 3.0, 8.0),
    ]
    assert {trial.number for trial, _ in data.untrained} == {3, 12}
    # The plot makes room for the near one; the far one is drawn at its lower edge.
    assert data.limits[2] < 16.61
    assert data.limits[2] > 10
    assert data.inside(data.stopped[0].point) == (2.8, pytest.approx(16.61))
    assert data.inside(data.stopped[1].point) == (3.0, data.bottom)
    plot = front_plot(judged)
    assert plot is not None
    assert "2 stopped early" in plot.alt
    assert plot.figure.axes[0].get_legend_handles_labels()[1].count("stopped early") == 1


def test_means_over_seeds_are_drawn_with_their_runs(judged, rich):
    data, single = front_data(judged), front_data(rich)
    assert data is not None
    assert single is not None
    heights = {trial.number: point.y for trial, point in (*data.front, *data.others)}
    assert heights[11] == pytest.approx(100 * (0.1786 + 0.1812 + 0.1806) / 3)
    assert heights[2] == pytest.approx(100 * (0.1797 + 0.1771 + 0.1779) / 3)
    assert data.baseline is not None
    assert data.baseline.y == pytest.approx(100 * (0.1782 + 0.1790 + 0.1786) / 3)
    assert len(data.single_seeds) == 9
    assert single.single_seeds == []
    # By the means 2 is behind the baseline, 6 and 11 are not.
    assert (data.winners, single.winners) == (2, 3)


def test_predictions_have_a_panel_each_and_mark_what_is_outside(judged):
    plot = predictions_plot(judged)
    assert plot is not None
    accuracy, latency = plot.figure.axes
    assert (accuracy.get_xscale(), latency.get_xscale()) == ("linear", "log")
    handles = zip(*accuracy.get_legend_handles_labels(), strict=True)
    counts = {label: len(bars[0].get_xdata()) for bars, label in handles if isinstance(bars, ErrorbarContainer)}
    assert counts == {"within two deviations": 9, "outside": 1}
    assert "outside" not in latency.get_legend_handles_labels()[1]
    assert accuracy.get_xlim() == accuracy.get_ylim()
    assert "R² 0.78" in plot.alt


def test_two_observations_make_no_panel(judged):
    few = replace(judged.health.predictions[0], observed=[0.1, 0.2], predicted=[0.1, 0.2], low=[0, 0], high=[1, 1])
    assert predictions_plot(replace(judged, health=replace(judged.health, predictions=(few,)))) is None


def test_best_so_far_never_gets_worse(rich):
    plot = history_plot(rich)
    assert plot is not None
    volume, accuracy, latency = plot.figure.axes
    line = next(line for line in accuracy.lines if line.get_label() == "best so far")
    values = [round(float(value), 2) for value in np.asarray(line.get_ydata())]
    assert values == sorted(values)
    assert values[-1] == 18.93
    line = next(line for line in latency.lines if line.get_label() == "best so far")
    assert np.asarray(line.get_ydata())[-2:].tolist() == [2.45, 2.45]
    assert np.asarray(line.get_xdata())[-1] == 12
    assert volume.get_title("left").startswith("Hypervolume")


def test_curves_break_where_a_stage_begins(rich):
    plot = curves_plot(rich)
    assert plot is not None
    gaps = [int(np.isnan(np.asarray(line.get_ydata())).sum()) for line in plot.figure.axes[0].lines]
    assert set(gaps) == {4}


def test_ranking_is_from_best_to_worst(single):
    axes = make_plots(single)["ranking"].figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "192_64_1_256_2"
    assert names[5] == "192_64_2_256_2"
    assert len(names) == 10


def test_a_long_ranking_keeps_the_baseline(crowded):
    record = replace(crowded, objectives=(Objective("latency_ms", "minimize"),))
    plot = make_plots(record)["ranking"]
    names = [label.get_text() for label in plot.figure.axes[0].get_yticklabels()]
    assert len(names) == 30
    assert names[-1] == "192_64_2_256_2"
    assert "the best 30 are shown" in plot.alt


def test_inline_svg_is_well_formed_and_themed(plots):
    ids = []
    for plot in plots.values():
        text = inline_svg(plot)
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == plot.alt
        assert "width" not in root.attrib
        assert root.get("viewBox")
        assert "<style" not in text
        assert not any(colour in text for colour in CSS_VARIABLES)
        assert "DejaVu" not in text
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        for element in root.iter():
            reference = element.get("{http://www.w3.org/1999/xlink}href")
            assert reference is None or reference.removeprefix("#") in ids
    assert len(ids) == len(set(ids))


def test_drawing_is_deterministic(rich):
    assert inline_svg(make_plots(rich)["costs"]) == inline_svg(make_plots(rich)["costs"])


def test_fillings_are_not_theme_colours():
    assert not set(SERIES) & set(CSS_VARIABLES)


def test_global_settings_are_untouched(rich):
    before = dict(mpl.rcParams)
    make_plots(rich)
    assert dict(mpl.rcParams) == before
