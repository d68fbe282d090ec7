"""Several studies in one table: is the best student of the first really better than the others?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distill_ray.escaping import for_terminal
from distill_ray.report.comparison import Gain, comparisons
from distill_ray.report.format import parameter_count
from distill_ray.report.ranks import Ranks, ranks_of
from distill_ray.report.ranks import as_json as ranks_as_json
from distill_ray.report.ranks import table as ranks_table
from distill_ray.report.results import StudyResults
from distill_ray.report.table import Row, cell_texts, column_title, columns
from distill_ray.report.text_table import PLUS_MINUS, text_table
from distill_ray.report.to_json import plain, row_as_json

MARKS = {
    ("clear", True): "▼",
    ("clear", False): "▲",
    ("partial", True): "▽",
    ("partial", False): "△",
}
"""After a value, by the evidence of a difference and by whether the reference is the better one."""


@dataclass(frozen=True)
class StudyRow:
    """A line of the table: a contender of a study, and per metric the reference minus this one,
    where the two can be compared.
    """

    study: str
    row: Row
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class StudyComparison:
    """The contenders of several studies, and the one that all others are compared with: the first
    best student there is. `ranks` are those of the students that all studies have.
    """

    rows: tuple[StudyRow, ...]
    reference: StudyRow | None
    ranks: tuple[Ranks, ...] = ()


def compare_studies(studies: Mapping[str, StudyResults]) -> StudyComparison:
    """The studies side by side, under the names that they are to have in the table.

    The reference is compared with every contender that was evaluated on the same test images, as
    `comparisons` does: students of equal seeds run by run, and with a bootstrap over the test
    samples.
    """
    tables = {name: results.rows for name, results in studies.items()}
    reference = next(
        filter(_is_best_student, (row for rows in tables.values() for row in rows)), None
    )
    compared = []
    for study, rows in tables.items():
        gains: dict[str, Mapping[str, Gain]] = {}
        if reference is not None:
            others = [row for row in rows if row is not reference and _same_images(row, reference)]
            for comparison in comparisons([reference, *others]):
                gains[comparison.other.name] = comparison.gains
        compared += [StudyRow(study, row, gains.get(row.contender.name, {})) for row in rows]
    return StudyComparison(
        tuple(compared),
        next((row for row in compared if row.row is reference), None),
        tuple(ranks_of(tables)),
    )


def _is_best_student(row: Row) -> bool:
    return row.contender.found and bool(row.runs) and row.split == "test"


def _same_images(row: Row, reference: Row) -> bool:
    return (
        row.split == "test"
        and bool(row.runs)
        and np.array_equal(row.predictions[0].labels, reference.predictions[0].labels)
    )


def as_text(compared: StudyComparison) -> str:
    """The table as plain text, with the lines that say how to read it."""
    metrics = columns([line.row for line in compared.rows])
    lines = []
    for line in compared.rows:
        contender = line.row.contender
        numbers = cell_texts(line.row, PLUS_MINUS, metrics)
        marked = [
            number + _mark(line.gains.get(metric))
            for metric, number in zip(metrics, numbers, strict=True)
        ]
        lines.append([line.study, contender.label, *marked, parameter_count(contender.parameters)])
    header = ["", "", *map(column_title, metrics), "params"]
    text = [*text_table(header, lines), "", *_legend(compared), ""]
    if compared.ranks:
        ranks_header, ranks_lines = ranks_table(compared.ranks)
        text += ["Students that all studies have:", ""]
        text += [*text_table(ranks_header, ranks_lines), ""]
        text += [*(for_terminal(ranks.sentence) for ranks in compared.ranks), ""]
    return "\n".join(text)


def as_json(compared: StudyComparison) -> dict[str, Any]:
    """The table as values that JSON has; `reference_minus_this` holds the tests per metric."""
    reference = compared.reference
    named = reference and {"study": reference.study, "name": reference.row.contender.name}
    answer: dict[str, Any] = plain(
        {
            "reference": named,
            "rows": [_row_as_json(line) for line in compared.rows],
            "ranks": ranks_as_json(compared.ranks),
        }
    )
    return answer


def _row_as_json(line: StudyRow) -> dict[str, Any]:
    gains = {name: asdict(gain) | {"evidence": gain.evidence} for name, gain in line.gains.items()}
    return {"study": line.study, **row_as_json(line.row), "reference_minus_this": gains}


def _mark(gain: Gain | None) -> str:
    return "" if gain is None else MARKS.get((gain.evidence, gain.improves), "")


def _legend(compared: StudyComparison) -> list[str]:
    lines = ["Mean ± sample standard deviation over runs; ECE, OE and cECE in percent."]
    if compared.reference is None:
        return [*lines, "No study has a confirmed best student yet, so nothing is compared."]
    name = f"{compared.reference.study}, {compared.reference.row.contender.label}"
    lines.append(
        f"▲ better and ▼ worse than {for_terminal(name)}, beyond the spread of seeds and of test "
        "samples (95 %); △ ▽ beyond one of them only."
    )
    with_gains = {line.study for line in compared.rows if line.gains}
    apart = {line.study for line in compared.rows} - with_gains - {compared.reference.study}
    if apart:
        names = ", ".join(map(for_terminal, sorted(apart)))
        lines.append(f"Not compared, evaluated on other test images: {names}.")
    return lines
