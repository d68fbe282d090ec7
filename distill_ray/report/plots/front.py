"""The picture of quality against cost, with everything that a student competes with."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from distill_ray.metric import title_of
from distill_ray.report.format import counted, file_name, objective_title
from distill_ray.report.front import Front, fronts
from distill_ray.report.plots.drawing import Panel, Plot, axes_in, color, figure, size_of
from distill_ray.report.results import StudyResults

NAMED = 8
"""Of a longer front only this many trials are named."""


def front_panel(results: StudyResults) -> Panel | None:
    """Each quality against each cost; None where no cost differs between students."""
    drawn = fronts(results)
    if not drawn:
        return None
    return Panel(
        "Quality against cost",
        "Students of the search (dots), and the mean over seeds of teachers, ensemble, baselines "
        "and confirmed students (diamonds), on the validation split. The line joins those that no "
        "other one beats in both. Costs are on a logarithmic scale.",
        tuple(_drawn(front, len(drawn)) for front in drawn),
    )


def _drawn(front: Front, count: int) -> Plot:
    chosen = [point for point in front.points if point.on_front]
    students = [point for point in front.points if point.trial is not None]
    others = [point for point in front.points if point.trial is None]
    with figure(size_of(count)) as canvas:
        axes = axes_in(canvas, left=70, top=10)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
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
        axes.plot(
            [p.cost for p in others], [p.quality for p in others], "D", ms=6, color=color("muted")
        )
        named = [point for point in chosen if point.trial is not None][:NAMED] + others
        for point in named:
            text = point.label if point.trial is None else str(point.trial)
            where = (point.cost, point.quality)
            axes.annotate(text, where, (6, 5), textcoords="offset points", fontsize=10)
        cost = title_of(front.cost.removeprefix("cost/"))
        axes.set(xlabel=cost, ylabel=objective_title(front.quality))
        axes.margins(0.12)
    title = f"{objective_title(front.quality)} against {cost}"
    return Plot(
        f"front-{file_name(front.quality)}-{file_name(front.cost)}",
        title,
        f"{title}, {counted(len(chosen), 'network')} on the Pareto front.",
        canvas,
    )
