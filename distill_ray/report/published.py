"""A published table beside what was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill_ray.escaping import for_markdown
from distill_ray.metric import is_percent, title_of
from distill_ray.report.table import Row, markdown_table
from distill_ray.study import Published, PublishedRow

TITLE = "Published, and measured here"
T_STDDEV = "t-stddev"


@dataclass(frozen=True)
class Line:
    """One line: a published row, or under it what was measured here, one text per metric."""

    label: str
    cells: tuple[str, ...]
    published: bool


@dataclass(frozen=True)
class SideBySide:
    """The whole table: what was published, with its source and how that experiment differs, and the
    numbers measured here.
    """

    source: str
    difference: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def note(self) -> str:
        """How to read it."""
        return (
            f"Published: {self.source}. These numbers are quoted, not measured by this study. What "
            f"differs: {self.difference} Lines that begin with 'here' are this study's own runs, "
            "in the same units; a dash marks a missing number."
        )


def side_by_side(table: Published, rows: Sequence[Row]) -> SideBySide:
    """Every published row, and below it the contender that corresponds to it, if it was run."""
    metrics = list(dict.fromkeys(name for row in table.rows for name in row.values))
    by_name = {row.contender.name: row for row in rows}
    lines = []
    for published in table.rows:
        lines.append(
            Line(published.name, tuple(_quoted(published, name) for name in metrics), True)
        )
        row = by_name.get(published.measured)
        if row is not None and row.runs:
            split = "" if row.split == "test" else " (validation)"
            lines.append(
                Line(
                    f"here: {row.contender.label}{split}",
                    tuple(_measured(row, name) for name in metrics),
                    False,
                )
            )
        else:
            lines.append(
                Line(
                    "here: not run yet" if published.measured else "here: not run",
                    ("-",) * len(metrics),
                    False,
                )
            )
    return SideBySide(
        table.source, _sentence(table.difference), tuple(map(_title, metrics)), tuple(lines)
    )


def as_markdown(table: SideBySide) -> str:
    """The table in Markdown, with its note."""
    lines = [(line.label, *line.cells) for line in table.lines]
    cells = markdown_table(("", *table.header), *lines)
    return f"## {TITLE}\n\n{for_markdown(table.note)}\n\n{cells}\n"


def _quoted(row: PublishedRow, metric: str) -> str:
    value = row.values.get(metric)
    if value is None:
        return "-"
    decimals = {T_STDDEV: ".6f", "accuracy": ".2f"}
    return f"{value:{decimals.get(metric, '.10g')}}"


def _measured(row: Row, metric: str) -> str:
    if metric == T_STDDEV:
        return "-" if row.contender.t_stddev is None else f"{row.contender.t_stddev:.6f}"
    cell = row.cells.get(metric)
    return "-" if cell is None else cell.text(metric)


def _title(metric: str) -> str:
    title = "T. stddev" if metric == T_STDDEV else title_of(metric)
    return f"{title} %" if is_percent(metric) else title


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
