"""Whether differences in ECE are differences of the networks or of the way it is estimated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distill_ray.metric import title_of
from distill_ray.report.format import listed, metric_text
from distill_ray.report.table import Row

OTHERS = ("adaptive-ece", "debiased-ece")
"""Estimates of what the 15-bin ECE estimates too."""


def bin_remarks(rows: Sequence[Row]) -> list[str]:
    """Sentences about the best student and others whose order in ECE another estimate reverses, and
    about contenders of whose ECE the smaller part is left when chance is taken off.
    """
    having = [row for row in rows if all(name in row.cells for name in ("ece", *OTHERS))]
    best = next((row for row in having if row.contender.found), None)
    remarks = []
    if best is not None:
        for row in having:
            if row is not best:
                remarks += list(_reversed(best, row))
    doubtful = [
        row.contender.label
        for row in having
        if row.cells["debiased-ece"].mean < 0.5 * row.cells["ece"].mean
    ]
    if doubtful:
        samples = len(having[0].predictions[0].labels)
        remarks.append(
            f"More than half of the ECE of {listed(doubtful)} is what {samples} samples add by "
            "chance."
        )
    return remarks


def _reversed(best: Row, other: Row) -> Iterator[str]:
    lead = _lead(best, other, "ece")
    against = [name for name in OTHERS if _lead(best, other, name) * lead < 0]
    if against:
        values = [
            f"{title_of(name)} {_mean(best, name)} and {_mean(other, name)} %"
            for name in ("ece", *against)
        ]
        yield (
            f"Bins make the difference in ECE between {best.contender.label} and "
            f"{other.contender.label}, not the networks: {listed(values)}."
        )


def _lead(best: Row, other: Row, metric: str) -> float:
    """By how much the best student's error is lower, as far as people see it."""
    return float(_mean(other, metric)) - float(_mean(best, metric))


def _mean(row: Row, metric: str) -> str:
    return metric_text(metric, row.cells[metric].mean)
