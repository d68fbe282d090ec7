"""Lists of runs with the right columns, saved with the experiment: MLflow's page offers them under
*Views*.

Without them the page opens on a collapsed row that shows no metric. MLflow's interface keeps such a
view as a tag of the experiment, in JSON; the client library has no call for it, so the form here is
the interface's own (3.17).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIEW_TAG = "mlflow.sharedViewState."
NAME, DATE, DURATION, MODELS = (
    "attributes.`Run Name`",
    "runDateAndNestInfo",
    "duration",
    "attributes.`Models`",
)
SCORES = ("accuracy", "nll", "ece", "brier")


@dataclass(frozen=True)
class View:
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
        """What MLflow's interface keeps of a view."""
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


def study_views(
    objectives: Mapping[str, str], searched: Iterable[str], study_key: str
) -> dict[str, View]:
    """The views of a study: its trials by the first objective, its students on the test split, and
    all its jobs in order.

    `study_key` is the tracker's: it tells this version of the study, on this store, from others in
    the same experiment, which would stand there twice.
    """
    own = f"tags.study_key = '{study_key}'"
    validation = tuple(f"metrics.val/{score}" for score in SCORES)
    scores = tuple(dict.fromkeys((*(f"metrics.{name}" for name in objectives), *validation)))
    drawn = tuple(f"params.{name}" for name in searched)
    recipe = ("params.model", "params.method", "params.augment", "tags.seed")
    first, direction = next(iter(objectives.items()))
    test = tuple(f"metrics.test/{score}" for score in SCORES)
    return {
        "jobs": View(
            "All jobs, as they came",
            f"{own} and tags.stage != 'study'",
            ("tags.stage", "tags.status", *validation, *recipe),
            "attributes.start_time",
        ),
        "trials": View(
            "Trials, best first",
            f"{own} and tags.stage = 'search'",
            ("tags.status", *scores, *drawn),
            f"metrics.{first}",
            direction == "min",
            (*drawn, f"metrics.{first}"),
        ),
        "students": View(
            "Students on the test split",
            f"{own} and tags.stage = 'confirm'",
            (*test, *recipe, "attributes.Models"),
            "metrics.test/nll",
        ),
    }


def studies_in(database: Path) -> list[str]:
    """The names of the experiments in MLflow's SQLite `database` that studies have written, newest
    first.
    """
    try:
        connection = sqlite3.connect(
            f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0
        )
        try:
            query = (
                "SELECT DISTINCT name FROM experiments JOIN experiment_tags USING (experiment_id)"
                " WHERE lifecycle_stage = 'active' AND key LIKE ? ORDER BY last_update_time DESC"
            )
            return [name for (name,) in connection.execute(query, (f"{VIEW_TAG}%",))]
        finally:
            connection.close()
    except sqlite3.Error:
        return []


def view_path(database: Path, study_name: str, view: str) -> str | None:
    """The page of MLflow's interface, below the server's address, that shows a saved view; None
    when there is no such study.
    """
    try:
        connection = sqlite3.connect(
            f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0
        )
        try:
            query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
            found = connection.execute(query, (study_name,)).fetchone()
        finally:
            connection.close()
    except sqlite3.Error:
        return None
    return (
        found
        and f"#/experiments/{found[0]}/runs?viewStateShareKey={view}&workflowType=machine_learning"
    )


def _quoted(column: str) -> str:
    kind, _, name = column.partition(".")
    return f"{kind}.`{name}`"
