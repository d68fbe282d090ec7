"""What the screening says: the augmentations by T. stddev, and whether that told how well students
would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from distill_ray.escaping import for_terminal
from distill_ray.events import JobState
from distill_ray.metrics.correlation import Coefficient, Correlation, correlate
from distill_ray.report.format import listed
from distill_ray.report.results import ScreenRow, StudyResults
from distill_ray.report.search import last_value
from distill_ray.report.table import Row
from distill_ray.report.text_table import text_table

Of = Literal["trials", "augmentations", "students"]

TITLES: dict[Of, str] = {
    "trials": "validation NLL of the trials",
    "augmentations": "mean validation NLL of the trials with an augmentation",
    "students": "test NLL of students that differ by their augmentation alone",
}
"""What T. stddev is set against."""


@dataclass(frozen=True)
class ScreeningPoint:
    """One trial, augmentation or student: T. stddev of its augmentation, and its loss in nats."""

    label: str
    t_stddev: float
    loss: float


@dataclass(frozen=True)
class Relation:
    """T. stddev against the loss of students, and how the two go together; no correlation where
    there is none to be had.
    """

    of: Of
    points: tuple[ScreeningPoint, ...]
    correlation: Correlation | None


def relations(results: StudyResults, rows: Sequence[Row]) -> list[Relation]:
    """T. stddev against the loss of every complete trial, of their mean by augmentation, and of
    confirmed baselines.

    The last is the comparison of Wang et al. 2022: students that differ by their augmentation
    alone.
    """
    trials = [
        ScreeningPoint(str(trial.params.get("augmentation", "")), trial.t_stddev, loss)
        for trial in results.trials
        if trial.state == JobState.FINISHED
        and trial.t_stddev is not None
        and (loss := last_value(trial, "val/nll")) is not None
    ]
    by_augmentation: dict[str, list[ScreeningPoint]] = {}
    for point in trials:
        by_augmentation.setdefault(point.label, []).append(point)
    means = [
        ScreeningPoint(label, points[0].t_stddev, mean(point.loss for point in points))
        for label, points in by_augmentation.items()
    ]
    groups: list[tuple[Of, list[ScreeningPoint]]] = [
        ("trials", trials),
        ("augmentations", means),
        ("students", _students(rows)),
    ]
    return [
        Relation(of, tuple(points), _correlation(points))
        for of, points in groups
        if len(points) > 1
    ]


def _students(rows: Sequence[Row]) -> list[ScreeningPoint]:
    """The largest group of baselines whose settings are the same but for the augmentation."""
    alike: dict[str, list[ScreeningPoint]] = {}
    for row in rows:
        one = row.contender
        if (
            one.t_stddev is not None
            and not one.found
            and row.split == "test"
            and "nll" in row.cells
        ):
            others = {
                name: value
                for name, value in one.params.items()
                if not name.startswith("augmentation")
            }
            alike.setdefault(repr(sorted(others.items())), []).append(
                ScreeningPoint(one.label, one.t_stddev, row.cells["nll"].mean)
            )
    return max(alike.values(), key=len, default=[])


def named_coefficients(correlation: Correlation) -> list[tuple[str, Coefficient]]:
    """The three coefficients with the names that people give them."""
    return [
        ("Pearson", correlation.pearson),
        ("Spearman", correlation.spearman),
        ("Kendall", correlation.kendall),
    ]


def relation_sentence(relation: Relation) -> str:
    """A relation in one sentence."""
    title = f"T. stddev against the {TITLES[relation.of]} ({len(relation.points)})"
    if relation.correlation is None:
        return f"{title}: too few different values for a correlation."
    numbers = ", ".join(
        f"{name} {coefficient.value:.3f} ({_spread(coefficient)}p {coefficient.p_value:.2g})"
        for name, coefficient in named_coefficients(relation.correlation)
    )
    return f"{title}: {numbers}."


def measured_text(row: ScreenRow) -> str:
    """T. stddev in six decimals, or a dash."""
    return "-" if row.t_stddev is None else f"{row.t_stddev:.6f}"


def interval_text(row: ScreenRow) -> str:
    """The interval of T. stddev in six decimals, or a dash."""
    return "-" if row.interval is None else f"{row.interval[0]:.6f} to {row.interval[1]:.6f}"


def tie_sentence(rows: Sequence[ScreenRow]) -> str:
    """Which augmentations cannot be told apart from the best; empty where no errors are known."""
    judged = [row for row in rows if row.interval is not None]
    if len(judged) < 2:
        return ""
    best, *others = judged
    level = [row.augmentation for row in others if not row.behind]
    over = "images and teachers" if best.over_teachers is not None else "images, with one teacher"
    sure = f"95 % for all together, over {over}"
    if not level:
        return f"{best.augmentation} has a lower T. stddev than all others ({sure})."
    if len(level) == len(others):
        return f"No augmentation can be told apart from {best.augmentation}, the lowest ({sure})."
    return f"Not told apart from {best.augmentation}, the lowest: {listed(level)} ({sure})."


def search_decision(row: ScreenRow) -> str:
    """What the search did with an augmentation."""
    words = {True: "searched", False: "left out", None: "measured only"}[row.searched]
    return f"{words} ({row.remark})" if row.remark else words


def as_text(results: StudyResults, rows: Sequence[Row]) -> str:
    """The screening as plain text: the augmentations, the lowest T. stddev first, and how it
    correlates with the losses of students.
    """
    cells = [
        (row.augmentation, measured_text(row), interval_text(row), search_decision(row))
        for row in results.screening
    ]
    table = text_table(("augmentation", "T. stddev", "95 % interval", ""), cells, rule=False)
    tie = tie_sentence(results.screening)
    sentences = [for_terminal(tie)] if tie else []
    sentences += [
        for_terminal(relation_sentence(relation)) for relation in relations(results, rows)
    ]
    return "\n".join([*table, "", *sentences, ""])


def _spread(coefficient: Coefficient) -> str:
    if coefficient.interval is None:
        return ""
    low, high = coefficient.interval
    return f"{low:.2f} to {high:.2f}, "


def _correlation(points: Sequence[ScreeningPoint]) -> Correlation | None:
    x, y = [point.t_stddev for point in points], [point.loss for point in points]
    return correlate(x, y) if len(points) > 2 and len(set(x)) > 1 and len(set(y)) > 1 else None
