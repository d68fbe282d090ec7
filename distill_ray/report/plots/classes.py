"""The picture of the classes: which are hard, for whom, and what they are taken for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_ray.escaping import for_terminal
from distill_ray.report.format import cut
from distill_ray.report.plots.drawing import (
    WIDE,
    Panel,
    Plot,
    axes_in,
    color,
    contender_colors,
    figure,
)
from distill_ray.report.table import Row

LEGEND_COLUMNS = 5
MOST_CLASSES = 20
"""Of more classes than this only those with the most errors are drawn."""


def class_panel(class_names: Sequence[str], rows: Sequence[Row]) -> Panel | None:
    """The error rate of every class, for the best student (the first contender before there is one)
    beside the others.
    """
    evaluated = [row for row in rows if row.runs]
    if not evaluated:
        return None
    subject = next((row for row in evaluated if row.contender.found), evaluated[0])
    errors = class_errors(subject)
    names = [for_terminal(name) for name in class_names or map(str, range(len(errors)))]
    present = np.flatnonzero(np.isfinite(errors))
    order = present[np.argsort(-errors[present], kind="stable")][:MOST_CLASSES]
    label = subject.contender.label
    worst = f"Hardest for {label}: {names[order[0]]} ({100 * errors[order[0]]:.1f} % wrong)."
    note = ""
    if len(order) < len(present):
        note = f" Shown are the {len(order)} classes with the most errors, of {len(present)}."
    return Panel(
        "Errors by class",
        f"Classes from the hardest to the easiest for {label} (large points). Where a student "
        "stands far to the right of its teachers, distillation did not carry that class over. "
        f"{worst}{_confusion_sentence(subject, names)}{note}",
        (_errors(evaluated, subject, order, [cut(names[number], 16) for number in order], worst),),
    )


def _errors(
    rows: Sequence[Row], subject: Row, order: NDArray[np.intp], names: Sequence[str], words: str
) -> Plot:
    colors = contender_colors(tuple(row.contender for row in rows))
    places = np.arange(len(order))[::-1]
    shares = [100 * class_errors(row)[order] for row in rows]
    legend_rows = math.ceil(len(rows) / LEGEND_COLUMNS)
    with figure((WIDE[0], 60 + 20 * legend_rows + 24 * len(order))) as canvas:
        axes = axes_in(canvas, left=32 + 8 * max(map(len, names)), top=6 + 20 * legend_rows)
        axes.hlines(
            places, np.nanmin(shares, axis=0), np.nanmax(shares, axis=0), color=color("grid"), lw=5
        )
        for row, values in zip(rows, shares, strict=True):
            marker, size, layer = ("o", 9, 4) if row is subject else ("D", 5, 3)
            label, shade = cut(row.contender.label, 22), colors[row.contender.name]
            axes.plot(
                values,
                places,
                marker,
                ms=size,
                color=shade,
                label=label,
                zorder=layer,
                clip_on=False,
            )
        axes.set_yticks(places, names)
        axes.tick_params(axis="y", pad=9)
        axes.set(xlim=(0, None), ylim=(-0.6, len(order) - 0.4))
        axes.set_xlabel(f"% of the class's {subject.split} samples that are classified wrong")
        axes.grid(False, axis="y")
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=LEGEND_COLUMNS,
            borderaxespad=0.2,
            handletextpad=0.2,
            columnspacing=1.0,
            labelspacing=0.3,
        )
    return Plot("class-errors", "Error rate by class", words, canvas)


def class_errors(row: Row) -> NDArray[np.float64]:
    """Share of each class's samples that are classified wrong, over all runs, (K,); NaN for a class
    without samples.
    """
    counts = confusion(row)
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - np.diag(counts) / counts.sum(axis=1))


def confusion(row: Row) -> NDArray[np.int64]:
    """How often each class (first axis) was taken for each class (second axis), over all runs, (K,
    K).
    """
    classes = row.predictions[0].log_probabilities.shape[1]
    pairs = [
        run.labels.astype(np.int64) * classes + run.log_probabilities.argmax(axis=1)
        for run in row.predictions
    ]
    return np.bincount(np.concatenate(pairs), minlength=classes**2).reshape(classes, classes)


def _confusion_sentence(row: Row, names: Sequence[str]) -> str:
    """The classes most often mistaken, as a sentence that follows another; empty without errors."""
    errors = confusion(row)
    np.fill_diagonal(errors, 0)
    most = [
        divmod(int(place), len(errors))
        for place in np.argsort(-errors, axis=None, kind="stable")[:3]
    ]
    pairs = [
        f"{names[i]} for {names[j]} ({errors[i, j] / len(row.runs):.3g})"
        for i, j in most
        if errors[i, j]
    ]
    return f" Most often mistaken, in samples per run: {', '.join(pairs)}." if pairs else ""
