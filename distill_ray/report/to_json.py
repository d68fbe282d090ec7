"""The report for machines: one JSON object with everything that a program may want to know about a
study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from distill_ray.report import conformal, ranks
from distill_ray.report.comparison import Comparison, comparisons
from distill_ray.report.front import fronts
from distill_ray.report.health import findings
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.screening import TITLES, relations
from distill_ray.report.selection import selection
from distill_ray.report.table import Row
from distill_ray.report.uncertainty import foreign_as_json, foreign_rows

FORMAT = 1
"""Raised when a field changes its meaning or goes away."""


def as_json(
    results: StudyResults,
    rows: Sequence[Row] | None = None,
    compared: Sequence[Comparison] | None = None,
) -> dict[str, Any]:
    """The study, its stages, the table, every trial and the champion, as values that JSON has;
    infinite and NaN become None.

    Table rows map metric -> {mean, std, n}: fractions, nats; std is None for a single run. `rows`
    and `compared` spare computing the table and the comparisons again.
    """
    rows = results.rows if rows is None else rows
    compared = comparisons(rows) if compared is None else compared
    report: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "study": {
                "name": results.name,
                "digest": results.digest,
                "status": results.status,
                "created": results.created,
                "data": results.data,
                "objectives": results.objectives,
                "seeds": results.seeds,
                "git_commit": results.git_commit,
                "versions": results.versions,
                "machine": results.machine,
                "computed": [
                    asdict(computation) | {"jobs": jobs}
                    for computation, jobs in results.computations.items()
                ],
                "command": results.command,
                "tracking_uri": results.tracking_uri,
                "file": results.study_file,
            },
            "stages": [asdict(stage) for stage in results.stages],
            "teacher_images": results.teacher_images,
            "table": [row_as_json(row) for row in rows],
            "calibrated_teachers": [asdict(teacher) for teacher in results.calibrated],
            "conformal": {
                "asked": results.coverage,
                "by_contender": {
                    sets.row.contender.name: conformal.as_json(sets)
                    for sets in conformal.conformal_rows(rows, results.coverage)
                },
            },
            "foreign": foreign_as_json(foreign_rows(results)),
            "comparisons": [_comparison(comparison) for comparison in compared],
            "ranks": ranks.as_json(ranks.ranks_of({results.name: rows})),
            "loss_or_weight": ranks.loss_or_weight(results, rows),
            "warm_start": results.warm_start,
            "health": [asdict(finding) for finding in findings(results, rows, compared)],
            "selection": _selection(results),
            "fronts": [asdict(front) for front in fronts(results)],
            "trials": [_trial(trial) for trial in results.trials],
            "screening": _screening(results, rows),
            "published": None if results.published is None else asdict(results.published),
            "champion": None if results.champion is None else asdict(results.champion),
        }
    )
    return report


def row_as_json(row: Row) -> dict[str, Any]:
    """A row of the table: what the contender is, its metrics, and the jobs behind them."""
    return {
        "name": row.contender.name,
        "label": row.contender.label,
        "parameters": row.contender.parameters,
        "split": row.split,
        "metrics": {name: asdict(cell) for name, cell in row.cells.items()},
        "params": row.contender.params,
        "members": row.contender.members,
        "t_stddev": row.contender.t_stddev,
        "diversity": row.contender.diversity,
        "seeds": row.contender.seeds,
        "jobs": row.contender.job_ids,
        "temperatures": row.temperatures,
    }


def _comparison(compared: Comparison) -> dict[str, Any]:
    """Best student minus the other, per metric."""
    return {
        "against": compared.other.name,
        "metrics": {name: asdict(gain) for name, gain in compared.gains.items()},
    }


def _selection(results: StudyResults) -> dict[str, Any] | None:
    """How lucky the best trial was: its first objective, and that of the same trained again; then
    each configuration that was trained again.
    """
    selected = selection(results)
    if not selected:
        return None
    first = selected[0]
    return {
        "best_of_trials": first.in_search,
        "trained_again": first.again,
        "std": first.std,
        "configurations": [asdict(candidate) for candidate in selected],
    }


def _trial(trial: TrialRow) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "params": trial.params,
        "values": trial.values,
        "epochs": len(trial.epochs),
        "seconds": trial.seconds,
        "job": trial.job_id,
        "reason": trial.reason,
        "t_stddev": trial.t_stddev,
        "costs": trial.costs,
    }


def _screening(results: StudyResults, rows: Sequence[Row]) -> dict[str, Any] | None:
    """The augmentations by T. stddev, and how that goes with the loss of students."""
    if not results.screening:
        return None
    return {
        "augmentations": [asdict(row) for row in results.screening],
        "correlations": [
            {"of": relation.of, "n": len(relation.points), "with": TITLES[relation.of]}
            | ({} if relation.correlation is None else asdict(relation.correlation))
            for relation in relations(results, rows)
        ],
    }


def plain(value: Any) -> Any:
    """`value` as JSON has it; infinite and NaN become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
