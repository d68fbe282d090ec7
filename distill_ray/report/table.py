"""The table of a study: every contender's metrics as mean and spread over its runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, mode, stdev
from typing import Literal

from distill_ray.escaping import for_markdown
from distill_ray.metric import METRICS, is_percent, title_of
from distill_ray.metrics import (
    detailed_score,
    determines_temperature,
    final_score,
    fit_temperature,
)
from distill_ray.records import Predictions
from distill_ray.report.format import counted, metric_text, parameter_count
from distill_ray.report.results import Contender, StudyResults
from distill_ray.report.text_table import PLUS_MINUS, text_table
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

    def text(self, metric: str, plus_minus: str = " ± ") -> str:
        """Mean and spread as people read them, without unit."""
        mean = metric_text(metric, self.mean)
        return mean if self.std is None else mean + plus_minus + metric_text(metric, self.std)


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


def rows_of(results: StudyResults) -> list[Row]:
    """The table behind `StudyResults.rows`: a row per contender, in the order of
    `results.contenders`.

    The rows compare on `results.split`. While that is still the validation split there are no cnll
    and cece, since the temperature was fitted on the very same predictions.
    """
    return [row_of(contender, results.split) for contender in results.contenders]


def row_of(contender: Contender, split: Literal["test", "validation"]) -> Row:
    """The metrics of a contender on a split, run by run, with temperatures fitted on validation."""
    temperatures = tuple(
        fit_temperature(run.log_probabilities, run.labels) for run in contender.validation
    )
    if split == "validation":
        runs = tuple(
            detailed_score(run.log_probabilities, run.labels) for run in contender.validation
        )
    else:
        runs = tuple(
            final_score(run.log_probabilities, run.labels, temperature)
            for run, temperature in zip(contender.test, temperatures, strict=bool(contender.test))
        )
    return Row(contender, split, runs, temperatures)


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns that these rows need, whether or not their metrics are there yet."""
    tasks = {row.task for row in rows} or {"classification"}
    return tuple(
        name for name in METRICS if tasks & set(METRICS[name].tasks) and not METRICS[name].detail
    )


def details(rows: Sequence[Row]) -> tuple[str, ...]:
    """The metrics of these rows that stand beside the table."""
    return tuple(
        name for name in METRICS if METRICS[name].detail and any(name in row.cells for row in rows)
    )


def as_text(rows: Sequence[Row], width: int = 100) -> str:
    """The table as plain text with lines of explanation, at most `width` columns wide; long labels
    are cut for that.
    """
    header, *body = table_cells(rows, PLUS_MINUS)
    return "\n".join([*text_table(header, body, width=width), "", legend(rows), ""])


def as_markdown(rows: Sequence[Row], *, gap: str = "") -> str:
    """The table in Markdown, with its line of explanation; `gap` ends each cell, for pages that set
    columns too close.
    """
    return f"{markdown_table(*table_cells(rows, ' ± '), gap=gap)}\n\n{for_markdown(legend(rows))}\n"


def markdown_table(header: Sequence[str], *body: Sequence[str], gap: str = "") -> str:
    """A table in Markdown, of escaped texts, with labels to the left and numbers to the right."""
    lines = [[for_markdown(cell) + gap for cell in line] for line in (header, *body)]
    lines.insert(1, ["---", *(["---:"] * (len(header) - 1))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def legend(rows: Sequence[Row]) -> str:
    """What the numbers are: the split, the spread, and how many runs stand behind each row."""
    split = rows[0].split if rows else "test"
    evaluated = [row for row in rows if row.runs]
    units = _units(columns(rows), split)
    return f"{split.capitalize()} split: {_runs(rows)}.\n{units}{_prior(evaluated)}"


def _runs(rows: Sequence[Row]) -> str:
    evaluated = [row for row in rows if row.runs]
    if not evaluated:
        return "nothing evaluated yet"
    usual = mode([len(row.runs) for row in reversed(evaluated)])
    others = [
        f"{len(row.runs)} for {row.contender.label}" for row in evaluated if len(row.runs) != usual
    ]
    spread = "mean ± sample standard deviation over" if usual > 1 else "values of"
    return ", ".join([f"{spread} {counted(usual, 'run')}", *others])


def _prior(rows: Sequence[Row]) -> str:
    """Which temperatures rest on their prior; a sentence, or nothing."""
    labels = [row.contender.label for row in rows if any(row.without_evidence)]
    if not labels or rows[0].split != "test":
        return ""
    return (
        f" The validation predictions of {', '.join(labels)} determine no temperature, being right "
        "almost always or no better than chance; a prior keeps it near 1."
    )


def _units(metrics: Sequence[str], split: str) -> str:
    if "accuracy" not in metrics:
        return "NLL of the Gaussian, without the constant ln(2 pi) / 2."
    calibrated = (
        "; cNLL and cECE after temperature scaling, fitted on validation" if split == "test" else ""
    )
    titles = [title_of(name) for name in metrics if is_percent(name) and name != "accuracy"]
    return f"{', '.join(titles[:-1])} and {titles[-1]} in percent{calibrated}."


def table_cells(rows: Sequence[Row], plus_minus: str) -> list[list[str]]:
    """The table as texts, with its header."""
    metrics = columns(rows)
    lines = [["", *map(column_title, metrics), "params"]]
    for row in rows:
        numbers = cell_texts(row, plus_minus, metrics)
        lines.append([row.contender.label, *numbers, parameter_count(row.contender.parameters)])
    return lines


def column_title(metric: str) -> str:
    """The title of a metric's column; the legend tells the units of all but accuracy."""
    return f"{title_of(metric)} %" if metric == "accuracy" else title_of(metric)


def cell_texts(row: Row, plus_minus: str, metrics: Sequence[str]) -> list[str]:
    """Mean and spread of these metrics as people read them; a dash marks a missing number."""
    cells = {name: row.cells.get(name) for name in metrics}
    return ["-" if cell is None else cell.text(name, plus_minus) for name, cell in cells.items()]
