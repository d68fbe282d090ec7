"""Pictures of calibration: what confidence is worth, before and after temperature scaling, and how
it is distributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from distill_ray.metrics import reliability
from distill_ray.metrics.calibration import Reliability, with_temperature
from distill_ray.records import Predictions
from distill_ray.report.format import counted, cut, file_name
from distill_ray.report.plots.drawing import Panel, Plot, color, contender_colors, figure, size_of
from distill_ray.report.table import Row

FEWEST_SAMPLES = 5
"""Bins with fewer predictions than this are left out of the diagrams: their accuracy is chance."""


def calibration_panels(rows: Sequence[Row]) -> list[Panel]:
    """A reliability diagram and a confidence histogram for every contender that was evaluated."""
    rows = [row for row in rows if row.runs]
    if not rows:
        return []
    colors = contender_colors(tuple(row.contender for row in rows))
    scaled = rows[0].split == "test"
    after = (
        "Squares with a broken line are the same predictions at the temperature T fitted on "
        "validation (temperature scaling): where they move onto the diagonal, one number repairs "
        "the calibration."
        if scaled
        else "Temperature scaling is shown once there are test predictions to apply it to."
    )
    return [
        Panel(
            "Reliability and confidence",
            f"Above: accuracy among predictions of about equal confidence, {rows[0].split} split, "
            "all runs of a contender together. Points on the diagonal mean what they say, points "
            "below it are overconfident; bars are 95 % intervals for the samples of one run, and "
            f"bins of fewer than {FEWEST_SAMPLES} predictions are left out. {after} Below: how "
            "many predictions have that confidence; a peak at the right is a network that is "
            "nearly always sure.",
            tuple(
                _diagram(row, colors[row.contender.name], index, size_of(len(rows)))
                for index, row in enumerate(rows)
            ),
        )
    ]


def pooled(row: Row, *, calibrated: bool) -> Reliability:
    """The reliability diagram of all runs of a contender together, each with its own temperature
    when `calibrated`.
    """
    runs = row.predictions
    temperatures = row.temperatures if calibrated else (1.0,) * len(runs)
    logs = [_at(run, temperature) for run, temperature in zip(runs, temperatures, strict=True)]
    return reliability(np.concatenate(logs), np.concatenate([run.labels for run in runs]))


def _at(run: Predictions, temperature: float) -> NDArray[np.float64]:
    return (
        np.asarray(run.log_probabilities, np.float64)
        if temperature == 1
        else with_temperature(run.log_probabilities, temperature)
    )


def _diagram(row: Row, shade: str, index: int, size: tuple[int, int]) -> Plot:
    contender, scaled = row.contender, row.split == "test"
    before = pooled(row, calibrated=False)
    width, height = size
    with figure(size) as canvas:
        upper = canvas.add_axes(
            (50 / width, 116 / height, (width - 62) / width, (height - 150) / height)
        )
        lower = canvas.add_axes(
            (50 / width, 44 / height, (width - 62) / width, 58 / height), sharex=upper
        )
        upper.plot([0, 1], [0, 1], color=color("muted"), lw=1, ls=(0, (1, 2)))
        _points(upper, before, len(row.runs), shade, "o", "-", "as it is")
        _bars(lower, before, shade, True)
        words = f"ECE {100 * row.cells['ece'].mean:.1f} %"
        if scaled:
            after = pooled(row, calibrated=True)
            temperature = float(np.mean(row.temperatures))
            _points(
                upper,
                after,
                len(row.runs),
                color("ink"),
                "s",
                (0, (3, 2)),
                f"at T = {temperature:.2f}",
            )
            _bars(lower, after, color("ink"), False)
            words += f", {100 * row.cells['cece'].mean:.1f} % at T = {temperature:.2f}"
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        upper.set_title(cut(contender.label, 32))
        upper.tick_params(labelbottom=False)
        over = before.counts @ (before.confidence - before.accuracy) > 0
        upper.legend(
            loc="upper left" if over else "lower right", borderaxespad=0.1, handlelength=1.6
        )
        lower.set(xlabel="confidence", ylim=(0, None))
        lower.locator_params(axis="y", nbins=2)
        lower.set_ylabel("% of all")
    title = f"Reliability of {contender.label}"
    return Plot(
        f"reliability-{index + 1}-{file_name(contender.name)}",
        title,
        f"{title}: {words}, {counted(len(row.runs), 'run')}.",
        canvas,
    )


def _points(
    axes: Axes, diagram: Reliability, runs: int, shade: str, marker: str, line: Any, label: str
) -> None:
    filled = diagram.counts >= FEWEST_SAMPLES
    x, y, n = diagram.confidence[filled], diagram.accuracy[filled], diagram.counts[filled]
    low, high = _wilson(y, n / runs)
    axes.vlines(x, low, high, color=shade, lw=1, alpha=0.5)
    axes.plot(x, y, color=shade, ls=line, marker=marker, ms=4.5, lw=1.4, label=label, clip_on=False)


def _wilson(
    share: NDArray[np.float64], n: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's 95 % interval of a share among `n`."""
    z = 1.959963984540054
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def _bars(axes: Axes, diagram: Reliability, shade: str, solid: bool) -> None:
    shares = 100 * diagram.counts / diagram.samples
    axes.stairs(
        shares, diagram.binning.edges, fill=solid, color=shade, alpha=0.55 if solid else 0.9, lw=1.2
    )
