"""Lists of runs with the right columns, saved with the experiment: MLflow's page offers them under
*Views*.

Without them the page opens on a collapsed row that shows no metric. MLflow's interface keeps such a
list as a tag of the experiment, in JSON; the client library has no call for it, so the form here is
the interface's own (3.17).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.tracking.mlflow_internals import experiments_with_views

VARIANT_TAG = "variant."
"""Begins the names of the tags of a run that say which versions of the study file it belongs to."""

NAME, DATE, DURATION, MODELS = (
    "attributes.`Run Name`",
    "runDateAndNestInfo",
    "duration",
    "attributes.`Models`",
)
SCORES = ("accuracy", "nll", "ece", "brier")


@dataclass(frozen=True)
class RunList:
    """The runs that `search` finds, in MLflow's query language, sorted by one of `columns`.

    Columns are written `metrics.val/nll`, `params.temperature` or `tags.status`. Those of
    `parallel` are also drawn in parallel coordinates, as the first of the charts.
    """

    title: str
    search: str
    columns: tuple[str, ...]
    sort: str
    ascending: bool = True
    parallel: tuple[str, ...] = ()

    def state(self) -> str:
        """What MLflow's interface keeps of a list."""
        columns = [_quoted(column) for column in self.columns]
        order = [NAME, DATE, DURATION, *columns]
        widths = (
            {NAME: 330, DATE: 130, DURATION: 80}
            | {column: max(90, 8 * len(column) - 60) for column in columns}
            | {MODELS: 200}
        )
        state = {
            "searchFilter": self.search,
            "orderByKey": _quoted(self.sort),
            "orderByAsc": self.ascending,
        }
        state |= {"selectedColumns": columns, "columnOrder": order, "columnWidths": widths}
        return json.dumps(state | self._charts() if self.parallel else state)

    def _charts(self) -> dict[str, Any]:
        section = {"uuid": "parallel", "name": "Parallel coordinates", "display": True}
        chart = {
            "uuid": "parallel-coordinates",
            "type": "PARALLEL",
            "metricSectionId": "parallel",
            "showAllRuns": True,
            "selectedParams": [
                column.removeprefix("params.")
                for column in self.parallel
                if column.startswith("params.")
            ],
            "selectedMetrics": [
                column.removeprefix("metrics.")
                for column in self.parallel
                if column.startswith("metrics.")
            ],
        }
        kept = {"deleted": False, "isGenerated": False}
        return {
            "compareRunCharts": [chart | kept],
            "compareRunSections": [section | kept | {"isReordered": False}],
        }


def study_run_lists(
    objectives: Mapping[str, str], searched: Iterable[str], variant: str
) -> dict[str, RunList]:
    """The lists of a study: its trials by the first objective, its students on the test split, and
    all its jobs in order.

    `variant` is the tracker's: other versions of the study in the same experiment have other jobs.
    """
    own = f"tags.`{VARIANT_TAG}{variant}` = 'yes'"
    validation = tuple(f"metrics.val/{score}" for score in SCORES)
    scores = tuple(dict.fromkeys((*(f"metrics.{name}" for name in objectives), *validation)))
    drawn = tuple(f"params.{name}" for name in searched)
    recipe = ("params.model", "params.method", "params.augment", "tags.seed")
    first, direction = next(iter(objectives.items()))
    test = tuple(f"metrics.test/{score}" for score in SCORES)
    return {
        "jobs": RunList(
            "All jobs, as they came",
            f"{own} and tags.stage != 'study'",
            ("tags.stage", "tags.status", *validation, *recipe),
            "attributes.start_time",
        ),
        "trials": RunList(
            "Trials, best first",
            f"{own} and tags.stage = 'search'",
            ("tags.status", *scores, *drawn),
            f"metrics.{first}",
            direction == "min",
            (*drawn, f"metrics.{first}"),
        ),
        "students": RunList(
            "Students on the test split",
            f"{own} and tags.stage = 'confirm'",
            (*test, *recipe, "attributes.Models"),
            "metrics.test/nll",
        ),
    }


def pages_of_studies(database: Path) -> dict[str, dict[str, str]]:
    """By study, newest first, the pages of MLflow's interface that show its lists, below the
    server's address; empty where no study was recorded.
    """
    pages = {}
    for study, experiment in experiments_with_views(database):
        pages[study] = {
            name: f"#/experiments/{experiment}/runs?viewStateShareKey={name}"
            "&workflowType=machine_learning"
            for name in ("trials", "students", "jobs")
        }
    return pages


def _quoted(column: str) -> str:
    kind, _, name = column.partition(".")
    return f"{kind}.`{name}`"
