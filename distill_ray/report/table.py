"""The table of a study: every contender's metrics as mean and spread over its runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, mode, stdev
from typing import Literal

from distill_ray.metric import METRICS, is_percent, title_of
from distill_ray.metrics import (
    determines_temperature,
    final_score,
    fit_temperature,
    score,
)
from distill_ray.records import Predictions
from distill_ray.report.results import Contender, StudyResults
from distill_ray.task import Task, task_of


@dataclass(frozen=True)
class Cell:
    """A metric over the runs of a contender: mean, sample standard deviation (None for a single
    run) and number of runs.
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Cell:
        """The cell for one value per run."""
        numbers = list(values)
        finite = all(map(math.isfinite, numbers))
        average = mean(numbers) if finite else sum(numbers)
        return cls(average, stdev(numbers) if finite and len(numbers) > 1 else None, len(numbers))


@dataclass(frozen=True)
class Row:
    """One contender's line: its metrics run by run, and the temperature that was fitted on each
    run's validation predictions.

    `runs` is empty when the contender has not been evaluated on the split that the table compares
    on.
    """

    contender: Contender
    split: Literal["test", "validation"]
    runs: tuple[dict[str, float], ...]
    temperatures: tuple[float, ...]

    @property
    def predictions(self) -> tuple[Predictions, ...]:
        """The predictions behind `runs`, run by run."""
        return self.contender.test if self.split == "test" else self.contender.validation

    @property
    def task(self) -> Task:
        """Which metrics it can have; classification as long as there are no predictions."""
        predictions = self.contender.validation or self.contender.test
        return task_of(predictions[0].labels) if predictions else "classification"

    @cached_property
    def without_evidence(self) -> tuple[bool, ...]:
        """For each run, whether the validation predictions determine no temperature, as where all
        are right, so that the prior alone keeps it near 1.
        """
        if self.task != "classification":
            return (False,) * len(self.temperatures)
        return tuple(
            not determines_temperature(run.log_probabilities, run.labels)
            for run in self.contender.validation
        )

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Metric -> mean, spread, n, for the metrics that there are, in the table's order."""
        return {
            name: Cell.of(run[name] for run in self.runs)
            for name in METRICS
            if self.runs and name in self.runs[0]
        }


def table(results: StudyResults) -> list[Row]:
    """One row per contender, in the order of `results.contenders`.

    The rows compare on `results.split`. While that is still the validation split there are no cnll
    and cece, since the temperature was fitted on the very same predictions.
    """
    return [_row(contender, results.split) for contender in results.contenders]


def _row(contender: Contender, split: Literal["test", "validation"]) -> Row:
    temperatures = tuple(
        fit_temperature(run.log_probabilities, run.labels) for run in contender.validation
    )
    if split == "validation":
        runs = tuple(score(run.log_probabilities, run.labels) for run in contender.validation)
    else:
        runs = tuple(
            final_score(run.log_probabilities, run.labels, temperature)
            for run, temperature in zip(contender.test, temperatures, strict=bool(contender.test))
        )
    return Row(contender, split, runs, temperatures)


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns that these rows need, whether or not their metrics are there yet."""
    tasks = {row.task for row in rows} or {"classification"}
    return tuple(name for name in METRICS if tasks & set(METRICS[name].tasks))


def as_text(rows: list[Row], width: int = 100) -> str:
    """The table as plain text with lines of explanation, at most `width` columns wide; long labels
    are cut for that.
    """
    labels, *numbers = [aligned(column) for column in zip(*_grid(rows, "±"), strict=True)]
    taken = sum(len(column[0]) for column in numbers)
    gap = " " * (2 if len(labels[0]) + taken + 2 * len(numbers) <= width else 1)
    spare = max(width - taken - len(gap) * len(numbers), 14)
    table_columns = [_shortened(labels, spare), *numbers]
    header, *lines = zip(*table_columns, strict=True)
    rule = ["-" * len(cell) for cell in header]
    return "\n".join(
        [*(gap.join(line).rstrip() for line in (header, rule, *lines)), "", legend(rows), ""]
    )


def as_markdown(rows: list[Row], *, gap: str = "") -> str:
    """The table in Markdown, with its line of explanation; `gap` ends each cell, for pages that set
    columns too close.
    """
    header, *body = [
        [cell.replace("|", "\\|") + gap for cell in line] for line in _grid(rows, " ± ")
    ]
    lines = [header, ["---", *(["---:"] * (len(header) - 1))], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{legend(rows)}\n"


def legend(rows: list[Row]) -> str:
    """What the numbers are: the split, the spread, and how many runs stand behind each row."""
    split = rows[0].split if rows else "test"
    counted = [row for row in rows if row.runs]
    usual = mode([len(row.runs) for row in reversed(counted)]) if counted else 0
    others = [
        f"{len(row.runs)} for {row.contender.label}" for row in counted if len(row.runs) != usual
    ]
    spread = "mean ± sample standard deviation over" if usual > 1 else "values of"
    runs = (
        ", ".join([f"{spread} {usual} run{'s' * (usual > 1)}", *others])
        if counted
        else "nothing evaluated yet"
    )
    return f"{split.capitalize()} split: {runs}.\n{_units(columns(rows), split)}{_prior(counted)}"


def _prior(rows: Sequence[Row]) -> str:
    """Which temperatures rest on their prior; a sentence, or nothing."""
    concerned = [row.contender.label for row in rows if any(row.without_evidence)]
    if not concerned or rows[0].split != "test":
        return ""
    return (
        f" The validation predictions of {', '.join(concerned)} determine no temperature, with hardly "
        "an error among them; a prior keeps it near 1."
    )


def _units(shown: Sequence[str], split: str) -> str:
    if "accuracy" not in shown:
        return "NLL of the Gaussian, without the constant ln(2 pi) / 2."
    calibrated = (
        "; cNLL and cECE after temperature scaling, fitted on validation" if split == "test" else ""
    )
    titles = [title_of(name) for name in shown if is_percent(name) and name != "accuracy"]
    return f"{', '.join(titles[:-1])} and {titles[-1]} in percent{calibrated}."


def figure_of(metric: str, value: float, *, sign: bool = False) -> str:
    """`value` of `metric` as people read it, without unit: two decimals of a percent for accuracy,
    one for ECE, three else.
    """
    plus = "+" if sign else ""
    if not is_percent(metric):
        return f"{value:{plus}.3f}"
    return f"{100 * value:{plus}.{2 if metric == 'accuracy' else 1}f}"


def parameter_count(parameters: int) -> str:
    """A number of weights in three figures: `77.9k`, `2.24M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)


def _grid(rows: list[Row], plus_minus: str) -> list[list[str]]:
    shown = columns(rows)
    header = [
        "",
        *(f"{title_of(name)} %" if name == "accuracy" else title_of(name) for name in shown),
        "params",
    ]
    body = [
        [
            _clean(row.contender.label),
            *cell_texts(row, plus_minus, shown),
            parameter_count(row.contender.parameters),
        ]
        for row in rows
    ]
    return [header, *body]


def cell_texts(row: Row, plus_minus: str, shown: Sequence[str]) -> list[str]:
    """Mean and spread of these metrics as people read them; a dash where there is none."""
    texts = []
    for name in shown:
        cell = row.cells.get(name)
        spread = "" if cell is None or cell.std is None else plus_minus + figure_of(name, cell.std)
        texts.append("-" if cell is None else figure_of(name, cell.mean) + spread)
    return texts


def _clean(label: str) -> str:
    return " ".join(label.split())


def aligned(column: tuple[str, ...]) -> list[str]:
    """Header and cells in one width: labels to the left, numbers under each other with their
    spreads after them.
    """
    header, *cells = column
    if not header:
        width = max(map(len, column))
        return [cell.ljust(width) for cell in column]
    parts = [cell.partition("±") for cell in cells]
    before = max((len(mean) for mean, _, _ in parts), default=0)
    after = max((len(sign + spread) for _, sign, spread in parts), default=0)
    texts = [mean.rjust(before) + (sign + spread).ljust(after) for mean, sign, spread in parts]
    return [text.rjust(max(before + after, len(header))) for text in (header, *texts)]


def _shortened(labels: list[str], width: int) -> list[str]:
    if len(labels[0]) <= width:
        return labels
    return [
        label[:width] if not label[width:].strip() else f"{label[: width - 3]}..."
        for label in labels
    ]
