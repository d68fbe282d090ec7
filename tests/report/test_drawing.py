"""Labels that are longer than usual fit into the figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib
import pytest
from matplotlib.figure import Figure

from distill_ray.report.comparison import Comparison, Gain, Interval
from distill_ray.report.plots.drawing import _STYLE
from distill_ray.report.plots.gains import gain_panel
from distill_ray.report.plots.trials import search_panels
from distill_ray.report.results import StudyResults, TrialRow


def squeezed(trial: TrialRow) -> TrialRow:
    """The trial with values that differ from others' in the fifth decimal alone."""
    return replace(
        trial, values={name: 0.0312 + value / 5000 for name, value in trial.values.items()}
    )


def leftmost(figure: Figure) -> float:
    return min(axes.yaxis.get_tightbbox().x0 for axes in figure.axes)


def test_long_numbers_leave_room_for_the_label_beside_them(study: StudyResults) -> None:
    for trials in (study.trials, tuple(map(squeezed, study.trials))):
        panel = search_panels(replace(study, trials=trials))[0]
        assert panel.title == "Search history"
        assert leftmost(panel.plots[0].figure) >= 0


@pytest.mark.parametrize("low", [-0.6, -0.0032, -0.00064])
def test_numbers_under_differences_do_not_touch(study: StudyResults, low: float) -> None:
    around = Interval(low, -low)
    gain = Gain("nll", low / 2, around, 0.2, "paired t-test", around)
    panel = gain_panel([Comparison(study.contenders[3], {"nll": gain})], study.contenders)
    assert panel is not None
    (axes,) = panel.plots[0].figure.axes
    with matplotlib.rc_context(_STYLE):  # how many numbers there are depends on their font
        labels = axes.get_xticklabels()
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    inside = [box for box in boxes if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1]
    assert len(inside) >= 2
    assert all(right.x0 - left.x1 > 4 for left, right in pairwise(inside))
