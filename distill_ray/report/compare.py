"""Several studies in one table: is the best student of the first really better than what the others
have?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distill_ray.metric import title_of
from distill_ray.report.comparison import Gain, comparisons
from distill_ray.report.results import StudyResults
from distill_ray.report.table import Row, aligned, cell_texts, columns, parameter_count, table
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
class Across:
    """The contenders of several studies, and the one that all others are compared with: the first
    best student there is.
    """

    rows: tuple[StudyRow, ...]
    reference: StudyRow | None


def across(studies: Mapping[str, StudyResults]) -> Across:
    """The studies, by the names they are to have in the table, side by side.

    The reference is compared with whatever was evaluated on the same test images, as `comparisons`
    does: students of equal seeds run by run, and with a bootstrap over the test samples.
    """
    tables = {name: table(results) for name, results in studies.items()}
    found = [
        (name, row)
        for name, rows in tables.items()
        for row in rows
        if row.contender.found and row.runs
    ]
    reference = next(((name, row) for name, row in found if row.split == "test"), None)
    rows = []
    for name, own in tables.items():
        gains: dict[str, Mapping[str, Gain]] = {}
        if reference is not None:
            others = [
                row for row in own if row is not reference[1] and _same_images(row, reference[1])
            ]
            gains = {each.other.name: each.gains for each in comparisons([reference[1], *others])}
        rows += [StudyRow(name, row, gains.get(row.contender.name, {})) for row in own]
    return Across(
        tuple(rows), next((each for each in rows if reference and each.row is reference[1]), None)
    )


def _same_images(row: Row, reference: Row) -> bool:
    return (
        row.split == "test"
        and bool(row.runs)
        and np.array_equal(row.predictions[0].labels, reference.predictions[0].labels)
    )


def as_text(compared: Across) -> str:
    """The table as plain text, with the lines that say how to read it."""
    shown = columns([each.row for each in compared.rows])
    found = [
        ("", *(each.study for each in compared.rows)),
        ("", *(each.row.contender.label for each in compared.rows)),
    ]
    texts = [cell_texts(each.row, "±", shown) for each in compared.rows]
    for index, metric in enumerate(shown):
        marks = [_mark(each.gains.get(metric)) for each in compared.rows]
        title = f"{title_of(metric)} %" if metric == "accuracy" else title_of(metric)
        found.append(
            (title, *(text[index] + mark for text, mark in zip(texts, marks, strict=True)))
        )
    found.append(
        ("params", *(parameter_count(each.row.contender.parameters) for each in compared.rows))
    )
    header, *lines = zip(*map(aligned, found), strict=True)
    rule = ["-" * len(cell) for cell in header]
    return "\n".join(
        [*("  ".join(line).rstrip() for line in (header, rule, *lines)), "", *_legend(compared), ""]
    )


def as_json(compared: Across) -> dict[str, Any]:
    """The table as values that JSON has; `reference_minus_this` holds the tests per metric."""
    reference = compared.reference
    answer: dict[str, Any] = plain(
        {
            "reference": None
            if reference is None
            else {"study": reference.study, "name": reference.row.contender.name},
            "rows": [
                {
                    "study": each.study,
                    **row_as_json(each.row),
                    "reference_minus_this": {
                        name: asdict(gain) | {"evidence": gain.evidence}
                        for name, gain in each.gains.items()
                    },
                }
                for each in compared.rows
            ],
        }
    )
    return answer


def _mark(gain: Gain | None) -> str:
    return "" if gain is None else MARKS.get((gain.evidence, gain.improves), "")


def _legend(compared: Across) -> list[str]:
    lines = ["Mean ± sample standard deviation over runs; ECE, OE and cECE in percent."]
    if compared.reference is None:
        return [*lines, "No study has a confirmed best student yet, so nothing is compared."]
    name = f"{compared.reference.study}, {compared.reference.row.contender.label}"
    lines.append(
        f"▲ better and ▼ worse than {name}, beyond the spread of seeds and of test samples (95 %); △ ▽ beyond one of them only."
    )
    apart = {
        each.study
        for each in compared.rows
        if not each.gains and each.study != compared.reference.study
    }
    shared = {each.study for each in compared.rows if each.gains}
    if apart - shared:
        lines.append(
            f"Not compared, for want of predictions on the same test images: {', '.join(sorted(apart - shared))}."
        )
    return lines
