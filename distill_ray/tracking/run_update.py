"""What is to be in MLflow of a run, what MLflow has of it already, and the difference."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill_ray.events import JobState
from distill_ray.tracking.states import state_of_run
from distill_ray.tracking.views import View

if TYPE_CHECKING:
    from distill_ray.tracking.champion import StudentModel

KEY_TAG = "distill_ray.key"
"""Tag of every run, by which it is found again: the identity of the study, a slash, and the key of
the job within it.
"""

STUDY_KEY_TAG = "study_key"
"""Tag of every run, for searches in MLflow: the identity of the study alone."""

LOGGED_TAG = "distill_ray.logged"
"""Tag of the study's run: digests of the data sets, files, views and the champion that it has, as
JSON.
"""

STUDY_KEY = "study"
"""Key of the study's own run, the parent of all others."""

CHAMPION_KEY = "study/champion"
ENDING_KEY = "study/ending"
"""Keys of two parts of the study's run that are written in their turn, after the jobs told of
before.
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric: `time` in milliseconds since 1970."""

    metric: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class DataSet:
    """A split that a run used. `name` differs from split to split (`digits validation`), `source`
    says where it came from.

    `shape` is that of one image (H, W, C), `rows` the number of images.
    """

    name: str
    digest: str
    source: str
    context: Literal["training", "validation", "test"]
    rows: int
    shape: tuple[int, ...]
    dtype: str = "uint8"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What MLflow has of a run: its state, the values of its tags, and of each metric the latest
    with its step.
    """

    run_id: str
    state: JobState
    tags: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the job behind it ended for good, so that it is not to be run again."""
        return self.state in (JobState.FINISHED, JobState.PRUNED)

    @property
    def logged(self) -> dict[str, str]:
        """The content of `LOGGED_TAG`."""
        content: dict[str, str] = json.loads(self.tags.get(LOGGED_TAG, "{}"))
        return content


@dataclass
class Pending:
    """What is to be in MLflow of a run. `extend` adds what came later, `beyond` leaves out what is
    there.
    """

    key: str
    name: str = ""
    started: float | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    """Metrics of epochs."""
    results: dict[str, float] = field(default_factory=dict)
    """Metrics that have one value for the whole run."""
    datasets: list[DataSet] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by the path that they get among the run's artifacts."""
    views: dict[str, View] = field(default_factory=dict)
    champion: StudentModel | None = None
    source: str = ""
    """Key of the run that trained the champion."""
    state: JobState | None = None
    ended: float | None = None

    @property
    def run_key(self) -> str:
        """The key of the run that this belongs to."""
        return STUDY_KEY if self.key in (CHAMPION_KEY, ENDING_KEY) else self.key

    def digests(self) -> dict[str, str]:
        """What tells data sets, files and champion from others, as `LOGGED_TAG` keeps it."""
        found = {
            name: hashlib.sha256(content).hexdigest()[:16] for name, content in self.files.items()
        }
        found |= {
            f"view {name}": hashlib.sha256(view.state().encode()).hexdigest()[:16]
            for name, view in self.views.items()
        }
        found |= {f"{dataset.context} data": dataset.digest for dataset in self.datasets}
        return found if self.champion is None else found | {"champion": self.champion.job.id}

    def extend(self, later: Pending) -> None:
        """Add `later`, which wins where both say something."""
        self.name = later.name or self.name
        self.started = self.started if self.started is not None else later.started
        self.params |= later.params
        self.tags |= later.tags
        self.points += later.points
        self.datasets += [dataset for dataset in later.datasets if dataset not in self.datasets]
        self.results |= later.results
        self.files |= later.files
        self.views |= later.views
        if later.champion is not None:
            self.champion, self.source = later.champion, later.source
        if later.state is not None:
            self.state, self.ended = later.state, later.ended

    def beyond(self, known: Recorded | None) -> Pending | None:
        """What of this MLflow does not have, or None. To begin again what ended well is no news,
        nor are its epochs.

        Epochs are known by their number: told of later, of a trial that left no record, they have
        other times.
        """
        if known is None:
            return self
        points = (
            []
            if known.done
            else [point for point in self.points if point.step > known.steps.get(point.metric, -1)]
        )
        failed_again = self.run_key != STUDY_KEY and self.state == known.state == JobState.FAILED
        if not known.done and not failed_again:
            return replace(self, points=points)
        study, again = (
            self.run_key == STUDY_KEY,
            self.state in (None, JobState.RUNNING) or self.run_key != STUDY_KEY,
        )
        digests = self.digests()
        new = {name for name, digest in digests.items() if known.logged.get(name) != digest}
        tags = {name: value for name, value in self.tags.items() if known.tags.get(name) != value}
        news = replace(
            self,
            params={},
            tags=tags,
            points=points,
            results={
                name: value
                for name, value in self.results.items()
                if not _same(value, known.metrics.get(name))
            },
            datasets=[
                dataset for dataset in self.datasets if study and f"{dataset.context} data" in new
            ],
            files={name: content for name, content in self.files.items() if name in new},
            views={name: view for name, view in self.views.items() if f"view {name}" in new},
            champion=self.champion if "champion" in new else None,
            state=None if again or self.state == known.state else self.state,
        )
        anything = (
            news.tags,
            news.points,
            news.results,
            news.datasets,
            news.files,
            news.views,
            news.champion,
            news.state,
        )
        return news if any(anything) else None


def read_recorded(database: Path, study_key: str) -> dict[str, Recorded] | None:
    """The runs of a study in MLflow's SQLite database, by key; None when there is none that is laid
    out as expected.

    Importing MLflow and opening its database takes seconds, this takes milliseconds: a study that
    is run again and has nothing new to say need not load MLflow at all.
    """
    ours = f"FROM runs JOIN tags AS own ON own.run_uuid = runs.run_uuid AND own.key = '{KEY_TAG}' AND substr(own.value, 1, ?) = ? "
    active = "WHERE runs.lifecycle_stage = 'active'"
    tags_query = f"SELECT own.value, runs.run_uuid, runs.status, tags.key, tags.value {ours} JOIN tags USING (run_uuid) {active}"
    latest = f"SELECT own.value, m.key, m.value, m.is_nan, m.step {ours} JOIN latest_metrics AS m USING (run_uuid) {active}"
    prefix = f"{study_key}/"
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    try:
        connection = sqlite3.connect(
            f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0
        )
        try:
            metrics: dict[str, dict[str, float]] = {}
            steps: dict[str, dict[str, int]] = {}
            for key, name, value, is_nan, step in connection.execute(latest, (len(prefix), prefix)):
                metrics.setdefault(key, {})[name] = math.nan if is_nan else value
                steps.setdefault(key, {})[name] = step
            for key, run_id, status, name, value in connection.execute(
                tags_query, (len(prefix), prefix)
            ):
                rows.setdefault((key, run_id, status), {})[name] = value
        finally:
            connection.close()
    except sqlite3.Error:
        return None
    return {
        key.removeprefix(prefix): Recorded(
            run_id, state_of_run(status, tags), tags, metrics.get(key, {}), steps.get(key, {})
        )
        for (key, run_id, status), tags in rows.items()
    }


def _same(value: float, known: float | None) -> bool:
    return known is not None and (value == known or (math.isnan(value) and math.isnan(known)))
