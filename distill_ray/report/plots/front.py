"""The picture of quality against cost, with everything that a student competes with."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from distill_ray.metric import COSTS
from distill_ray.report.format import (
    axis_title,
    counted,
    cut,
    file_name,
    objective_title,
    parameter_count,
)
from distill_ray.report.front import Front, fronts
from distill_ray.report.plots.drawing import (
    Panel,
    Plot,
    axes_in,
    color,
    contender_colors,
    figure,
    name_points,
    size_of,
)
from distill_ray.report.results import StudyResults

NAMED = 8
"""Of a longer front only this many trials are named."""


def front_panel(results: StudyResults) -> Panel | None:
    """Each quality against each cost; None where no cost differs between students."""
    drawn = fronts(results)
    if not drawn:
        return None
    shades = contender_colors(results.contenders)
    by_label = {each.label: shades[each.name] for each in results.contenders}
    return Panel(
        "Quality against cost",
        "Students of the search (dots), and the mean over seeds of teachers, ensemble, baselines "
        "and confirmed students (diamonds), on the validation split. The line joins those that no "
        "other one beats in both. Costs are on a logarithmic scale.",
        tuple(_drawn(front, by_label, len(drawn)) for front in drawn),
    )


def _drawn(front: Front, shades: Mapping[str, str], count: int) -> Plot:
    chosen = [point for point in front.points if point.on_front]
    students = [point for point in front.points if point.trial is not None]
    others = [point for point in front.points if point.trial is None]
    with figure(size_of(count)) as canvas:
        axes = axes_in(canvas, left=70, top=10)
        axes.set_xscale("log")
        costs = [point.cost for point in front.points]
        narrow = math.log10(max(costs) / min(costs)) < 2
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if narrow else (1,), numticks=8))
        whole = COSTS[front.cost.removeprefix("cost/")].whole
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda cost, _: parameter_count(round(cost)) if whole else f"{cost:g}")
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.plot([p.cost for p in chosen], [p.quality for p in chosen], "-", color=color("best"))
        axes.plot(
            [p.cost for p in students],
            [p.quality for p in students],
            "o",
            ms=6,
            mew=0,
            color=color("best"),
            alpha=0.7,
        )
        for point in others:
            axes.plot(point.cost, point.quality, "D", ms=6, color=shades[point.label])
        axes.set(xlabel=axis_title(front.cost), ylabel=objective_title(front.quality))
        axes.margins(0.12)
        named = others + [point for point in chosen if point.trial is not None][:NAMED]
        name_points(
            axes,
            [
                (cut(p.label, 24) if p.trial is None else str(p.trial), (p.cost, p.quality))
                for p in named
            ],
        )
    title = f"{objective_title(front.quality)} against {objective_title(front.cost)}"
    return Plot(
        f"front-{file_name(front.quality)}-{file_name(front.cost)}",
        title,
        f"{title}, {counted(len(chosen), 'network')} on the Pareto front.",
        canvas,
    )
