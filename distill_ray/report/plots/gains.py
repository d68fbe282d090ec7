"""The picture of the outcome: the best student's difference to every other contender, with its
intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.metric import is_percent, title_of
from distill_ray.report.comparison import Comparison
from distill_ray.report.format import cut, metric_text
from distill_ray.report.plots.drawing import (
    SMALL,
    Panel,
    Plot,
    axes_in,
    color,
    contender_colors,
    figure,
)
from distill_ray.report.results import Contender

SHOWN = ("accuracy", "nll", "ece", "rmse")
"""The metrics whose gains are drawn."""


def gain_panel(compared: Sequence[Comparison], contenders: tuple[Contender, ...]) -> Panel | None:
    """The best student's difference to every other contender, in the most important metrics."""
    if not compared:
        return None
    colors = contender_colors(contenders)
    return Panel(
        "How large and how sure the differences are",
        "Best student minus the other. The thick bar is the 95 % interval over test samples "
        "(another test set of this size), the thin line the one over seeds (another training "
        "run). Where both keep off the zero line, on the side of the arrow, the student is "
        "clearly better. ECE and RMSE are no means over samples and have the thin line only.",
        tuple(
            _gains(compared, metric, colors)
            for metric in SHOWN
            if any(metric in comparison.gains for comparison in compared)
        ),
    )


def _gains(compared: Sequence[Comparison], metric: str, colors: dict[str, str]) -> Plot:
    percent = is_percent(metric)
    unit = 100 if percent else 1
    ordered = [comparison for comparison in reversed(compared) if metric in comparison.gains]
    plate = {"facecolor": color("surface"), "edgecolor": "none", "pad": 1.0}
    with figure((SMALL[0], 96 + 40 * len(ordered))) as canvas:
        axes = axes_in(canvas, left=16, bottom=48, right=16)
        axes.axvline(0, color=color("ink"), lw=1)
        for place, comparison in enumerate(ordered):
            gain, shade = comparison.gains[metric], colors[comparison.other.name]
            for interval, width, alpha in (
                (gain.over_samples, 6.0, 0.45),
                (gain.over_seeds, 1.6, 1.0),
            ):
                if interval is not None:
                    axes.plot(
                        [unit * interval.low, unit * interval.high],
                        [place, place],
                        color=shade,
                        lw=width,
                        alpha=alpha,
                    )
            axes.plot(unit * gain.difference, place, "o", color=shade, ms=7)
            label = f"vs {cut(comparison.other.label, 26)}"
            axes.annotate(
                label,
                (0.0, place + 0.24),
                xycoords=("axes fraction", "data"),
                fontsize=11.5,
                bbox=plate,
            )
        axes.set(ylim=(-0.5, len(ordered) - 0.15), yticks=[])
        axes.margins(x=0.06)
        axes.spines["left"].set_visible(False)
        axes.set_title(title_of(metric))
        better = "better →" if ordered[0].gains[metric].better_up else "← better"
        axes.set_xlabel(f"difference{' in points' if percent else ''}, {better}")
    words = "; ".join(
        f"against {comparison.other.label} "
        f"{metric_text(metric, comparison.gains[metric].difference, sign=True)}"
        for comparison in ordered
    )
    return Plot(f"gain-{metric}", f"Difference in {title_of(metric)}", words, canvas)
