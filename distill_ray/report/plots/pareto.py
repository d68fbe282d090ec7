"""The picture of a search for several objectives: which trials no other one beats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distill_ray.report.format import axis_title, counted, file_name, objective_title
from distill_ray.report.plots.drawing import (
    Panel,
    Plot,
    axes_in,
    color,
    figure,
    name_points,
    size_of,
)
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.search import finished, pareto_front

NAMED = 12
"""Of a longer front only this many trials are named."""


def pareto_panel(results: StudyResults) -> Panel | None:
    """The first objective against each other one; None for a single objective or without complete
    trials.
    """
    front = pareto_front(results)
    if len(results.objectives) < 2 or not front:
        return None
    first, *others = results.objectives
    numbers = ", ".join(str(trial.number) for trial in front[:NAMED]) + (
        ", ..." if len(front) > NAMED else ""
    )
    return Panel(
        "Trade-off between the objectives",
        "Every complete trial. No other trial beats those in colour in all objectives at once, so "
        f"the choice is among them ({counted(len(front), 'trial')}: {numbers}). The arrow points "
        "to where both objectives are best.",
        tuple(_trade_off(results, front, first, other) for other in others),
    )


def _trade_off(results: StudyResults, front: Sequence[TrialRow], first: str, second: str) -> Plot:
    chosen = {trial.number for trial in front}
    rest = [
        (t.values[first], t.values[second]) for t in finished(results) if t.number not in chosen
    ]
    line = [(trial.values[first], trial.values[second]) for trial in front]
    with figure(size_of(len(results.objectives) - 1)) as canvas:
        axes = axes_in(canvas, left=70, top=10)
        if rest:
            axes.plot(*zip(*rest, strict=True), "o", ms=6, mew=0, color=color("muted"), alpha=0.6)
        axes.plot(
            *zip(*line, strict=True),
            "o-" if len(results.objectives) == 2 else "o",
            ms=8,
            lw=1.2,
            color=color("best"),
        )
        axes.set(xlabel=axis_title(first), ylabel=axis_title(second))
        x, y = (0.02 if results.objectives[name] == "min" else 0.98 for name in (first, second))
        away = (x + math.copysign(0.05, 0.5 - x), y + math.copysign(0.1, 0.5 - y))
        arrow = {"arrowstyle": "->", "color": color("ink"), "lw": 1.6}
        axes.annotate(
            "", (x, y), away, xycoords="axes fraction", textcoords="axes fraction", arrowprops=arrow
        )
        axes.margins(0.12)
        name_points(
            axes, [(str(t.number), at) for t, at in list(zip(front, line, strict=True))[:NAMED]]
        )
    title = f"{objective_title(second)} against {objective_title(first)}"
    return Plot(
        f"pareto-{file_name(second)}",
        title,
        f"{title}, {counted(len(front), 'trial')} on the Pareto front.",
        canvas,
    )
