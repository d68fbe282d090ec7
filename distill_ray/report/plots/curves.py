"""The pictures of the trials' training curves, pruned and failed ones among them."""

from __future__ import annotations

from distill_ray.events import JobState
from distill_ray.report.format import counted, file_name, objective_title, settings
from distill_ray.report.plots.drawing import (
    Panel,
    Plot,
    axes_in,
    color,
    figure,
    size_of,
    whole_numbers,
)
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.search import best_trial, curve, epoch_metrics

MOST_CURVES = 120
"""More training curves than this in one figure cannot be told apart."""

MOST_POINTS = 100
"""A longer curve is drawn by about this many of its points."""


def curve_panel(results: StudyResults) -> Panel | None:
    """Objectives, validation accuracy and training loss by epoch, as far as the trials reported
    them.
    """
    metrics = epoch_metrics(results)
    if not metrics:
        return None
    best = best_trial(results)
    strong = (
        ""
        if best is None
        else f" The best, trial {best.number} ({settings(best.params)}), is drawn strong."
    )
    total, drawn = len(results.trials), results.trials[-MOST_CURVES:]
    fewer = (
        ""
        if len(drawn) == total
        else f" Of {total} trials the last {MOST_CURVES} are shown, and the best."
    )
    if best is not None and best not in drawn:
        drawn = (best, *drawn)
    return Panel(
        "Training curves of the trials",
        "One line per trial; grey ones that end in a cross were pruned, red ones failed. Pruned "
        "trials should have been on the way to a bad value: many that were cut while still "
        f"closing in on the best say that pruning is too eager.{strong}{fewer}",
        tuple(_curves(drawn, best, metric, size_of(len(metrics))) for metric in metrics),
    )


def _curves(
    trials: tuple[TrialRow, ...], best: TrialRow | None, metric: str, size: tuple[int, int]
) -> Plot:
    curves = [(trial, _thinned(points)) for trial in trials if (points := curve(trial, metric))]
    with figure(size) as canvas:
        axes = axes_in(canvas)
        faint = min(0.6, 15 / len(curves))
        for trial, points in curves:
            shade = color(
                {JobState.PRUNED: "muted", JobState.FAILED: "bad"}.get(trial.state, "best")
            )
            x, y = zip(*points, strict=True)
            if trial is best:
                axes.plot(x, y, color=color("ink"), lw=2.2, zorder=4)
            else:
                axes.plot(x, y, color=shade, lw=1.1, alpha=faint)
            if trial.state in (JobState.PRUNED, JobState.FAILED) or len(points) == 1:
                axes.plot(x[-1], y[-1], "x", color=shade, ms=6, mew=1.5, alpha=max(faint, 0.4))
        # The first epochs, where everything is bad, would leave no room for the differences that
        # matter.
        late = [value for _, points in curves for _, value in points[len(points) // 4 :]]
        pad = 0.06 * (max(late) - min(late)) or 1.0
        axes.set_ylim(min(late) - pad, max(late) + pad)
        axes.set_title(objective_title(metric))
        axes.set_xlabel("epoch")
        whole_numbers(axes)
    title = f"{objective_title(metric)} of the trials by epoch"
    return Plot(
        f"curves-{file_name(metric)}", title, f"{title}: {counted(len(curves), 'curve')}.", canvas
    )


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points[: -1 : max(1, len(points) // MOST_POINTS)] + points[-1:]
