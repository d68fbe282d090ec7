"""The picture of selective prediction: the error rate of the most confident answers against their
share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill_ray.metrics.selective import risks
from distill_ray.report.format import cut
from distill_ray.report.plots.drawing import Panel, Plot, axes_in, color, contender_colors, figure
from distill_ray.report.results import BASELINES, BEST, ENSEMBLE, TEACHER
from distill_ray.report.table import Row

POINTS = 200
"""As many points of a curve are drawn at most."""

FIRST = 0.1
"""Below this coverage a curve rests on a handful of errors and is left out."""

_MAIN = (ENSEMBLE, TEACHER, *BASELINES, BEST, f"{BEST}-1")


def selective_panel(rows: Sequence[Row]) -> Panel | None:
    """The risk-coverage curves of the ensemble, the best student and the usual baselines; of all
    contenders where they are few.
    """
    rows = [row for row in rows if row.runs]
    drawn = rows if len(rows) <= 6 else [row for row in rows if row.contender.name in _MAIN]
    if not drawn:
        return None
    colors = contender_colors(tuple(row.contender for row in rows))
    with figure() as canvas:
        axes = axes_in(canvas, right=230)
        ends = []
        for row in drawn:
            curves = [risks(run.log_probabilities, run.labels) for run in row.predictions]
            risk = np.mean(curves, axis=0)
            first = max(1, round(FIRST * len(risk)))
            places = np.unique(np.linspace(first, len(risk), POINTS).astype(int))
            axes.plot(
                100 * places / len(risk),
                100 * risk[places - 1],
                color=colors[row.contender.name],
                label=cut(row.contender.label, 28),
            )
            ends.append(f"{row.contender.label} {100 * risk[-1]:.1f} %")
        axes.axvspan(80, 100, color=color("grid"), alpha=0.35, lw=0)
        axes.set(xlim=(100 * FIRST, 100), ylim=(0, None))
        axes.set(xlabel="% answered, the most confident first", ylabel="% of them wrong")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    plot = Plot(
        "risk-coverage",
        "Errors among the most confident answers",
        "Error rate of the most confident answers against their share; of all answers: "
        f"{', '.join(ends)}.",
        canvas,
    )
    return Panel(
        "What is gained by not answering",
        "If a network answers only where it is most confident, this share of its answers is "
        f"wrong ({drawn[0].split} split, mean over runs). Lower is better, and a network whose "
        "curve falls fast to the left knows which of its answers are doubtful. The coverages of "
        "the table are in the shaded part.",
        (plot,),
    )
