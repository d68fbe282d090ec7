"""The results as pyarrow tables, for programs and notebooks. Metrics are fractions and nats,
whatever people read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from distill_ray.report.results import StudyResults
from distill_ray.report.table import Row, columns


def contenders(rows: Sequence[Row]) -> pa.Table:
    """A row per contender: `name`, `label`, `runs`, `parameters`, and `<metric>`, `<metric>_std`
    for each metric.

    Metrics are null for those not evaluated yet, and standard deviations for a single run.
    """
    lines = []
    for row in rows:
        line: dict[str, Any] = {
            "name": row.contender.name,
            "label": row.contender.label,
            "runs": len(row.runs),
        }
        line["parameters"] = row.contender.parameters
        for metric in columns(rows):
            cell = row.cells.get(metric)
            line |= {metric: cell and cell.mean, f"{metric}_std": cell and cell.std}
        lines.append(line)
    return _table(lines)


def runs(rows: Sequence[Row]) -> pa.Table:
    """A row per evaluated run: `name`, `seed`, `job`, and every metric; seed and job are null where
    several make one run.
    """
    lines = []
    for row in rows:
        single = not row.contender.averaged
        for place, metrics in enumerate(row.runs):
            line: dict[str, Any] = {
                "name": row.contender.name,
                "seed": row.contender.seeds[place] if single else None,
            }
            line["job"] = row.contender.job_ids[place] if single and row.contender.job_ids else None
            lines.append(line | dict(metrics))
    return _table(lines)


def trials(results: StudyResults) -> pa.Table:
    """A row per trial: `trial`, `state`, the objectives, the settings that it drew (null where it
    drew none), and how it went.
    """
    searched = dict.fromkeys(name for trial in results.trials for name in trial.params)
    lines = []
    for trial in results.trials:
        line: dict[str, Any] = {"trial": trial.number, "state": trial.state}
        line |= {name: trial.values.get(name) for name in results.objectives}
        line |= {name: trial.params.get(name) for name in searched}
        lines.append(line | {"seconds": trial.seconds, "job": trial.job_id, "reason": trial.reason})
    return _table(lines)


def epochs(results: StudyResults) -> pa.Table:
    """A row per trial and epoch: `trial`, and every metric that the trial recorded after that
    epoch, `epoch` among them.
    """
    return _table(
        [
            {"trial": trial.number} | dict(epoch)
            for trial in results.trials
            for epoch in trial.epochs
        ]
    )


def _table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for line in lines for name in line)
    return pa.table({name: _column(line.get(name) for line in lines) for name in names})


def _column(values: Iterable[Any]) -> pa.Array:
    """An array; choices of several types, which Arrow has no column for, as text."""
    listed = list(values)
    try:
        return pa.array(listed)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in listed])
