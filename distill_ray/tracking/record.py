"""What is to be in MLflow of a run, what MLflow has of it already, and the difference."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from distill_ray.tracking.champion import Champion

Status = Literal["FINISHED", "KILLED", "FAILED", "RUNNING"]

STUDY_TAG = "distill_ray.study_key"
"""Tag of every run: the identity of the study it belongs to."""

KEY_TAG = "distill_ray.key"
"""Tag of every run: which job of the study it records. With `STUDY_TAG` it is how a run is found again."""

LOGGED_TAG = "distill_ray.logged"
"""Tag of the study's run: digests of the data sets, files and the champion that it has, as JSON."""

STATUS_TAG = "status"
"""Tag of every run that says in a word how it ended: MLflow has no status of its own for pruned or interrupted."""

WORDS: dict[Status, str] = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed", "RUNNING": "running"}
INTERRUPTED = "interrupted"

STUDY_KEY = "study"
"""Key of the study's own run, the parent of all others."""

CHAMPION_KEY = "study/champion"
ENDING_KEY = "study/ending"
"""Keys of two parts of the study's run that are written in their turn, after the jobs told of before."""


@dataclass(frozen=True)
class Point:
    """One value of a metric: `time` in milliseconds since 1970."""

    metric: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class DataSet:
    """A split that a run used. `name` differs from split to split (`digits validation`), `source` says where it came from.

    `shape` is that of one image (H, W, C) uint8, `rows` the number of images.
    """

    name: str
    digest: str
    source: str
    context: Literal["training", "validation", "test"]
    rows: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Recorded:
    """What MLflow has of a run: the values of its tags, and the latest of each metric."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the job behind it ended for good, so that it is not to be run again."""
        return self.status in ("FINISHED", "KILLED") and self.tags.get(STATUS_TAG) in ("complete", "pruned")

    @property
    def logged(self) -> dict[str, str]:
        """The content of `LOGGED_TAG`."""
        content: dict[str, str] = json.loads(self.tags.get(LOGGED_TAG, "{}"))
        return content


@dataclass
class Pending:
    """What is to be in MLflow of a run. `extend` adds what came later, `beyond` leaves out what is there."""

    key: str
    name: str = ""
    started: float | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    datasets: list[DataSet] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by the path that they get among the run's artifacts."""
    champion: Champion | None = None
    source: str = ""
    """Key of the run that trained the champion."""
    status: Status | None = None
    ended: float | None = None

    @property
    def run_key(self) -> str:
        """The key of the run that this belongs to."""
        return STUDY_KEY if self.key in (CHAMPION_KEY, ENDING_KEY) else self.key

    def digests(self) -> dict[str, str]:
        """What tells data sets, files and champion from others, as `LOGGED_TAG` keeps it."""
        found = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self.files.items()}
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
        self.files |= later.files
        if later.champion is not None:
            self.champion, self.source = later.champion, later.source
        if later.status is not None:
            self.status, self.ended = later.status, later.ended

    def beyond(self, known: Recorded | None) -> Pending | None:
        """What of this MLflow does not have, or None. To begin again what ended well is no news, nor are its metrics."""
        if known is None or not known.done:
            return self
        study, again = self.run_key == STUDY_KEY, self.status in (None, "RUNNING") or self.run_key != STUDY_KEY
        digests = self.digests()
        new = {name for name, digest in digests.items() if known.logged.get(name) != digest}
        tags = {name: value for name, value in self.tags.items() if known.tags.get(name) != value}
        if again:
            tags.pop(STATUS_TAG, None)
        news = replace(
            self,
            params={},
            tags=tags,
            points=[point for point in self.points if study and known.metrics.get(point.metric) != point.value],
            datasets=[dataset for dataset in self.datasets if study and f"{dataset.context} data" in new],
            files={name: content for name, content in self.files.items() if name in new},
            champion=self.champion if "champion" in new else None,
            status=None if again or self.status == known.status else self.status,
        )
        return news if news.tags or news.points or news.datasets or news.files or news.champion or news.status else None


def read_recorded(database: Path, study_key: str) -> dict[str, Recorded] | None:
    """The runs of a study in MLflow's SQLite database, by key; None when there is none that is laid out as expected.

    Importing MLflow and opening its database takes seconds, this takes milliseconds: a study that is run again and has
    nothing new to say need not load MLflow at all.
    """
    query = (
        "SELECT runs.run_uuid, runs.status, tags.key, tags.value FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "JOIN tags AS study ON study.run_uuid = runs.run_uuid AND study.key = ? AND study.value = ? "
        "WHERE runs.lifecycle_stage = 'active'"
    )
    latest = "SELECT key, value FROM latest_metrics WHERE run_uuid = ? AND NOT is_nan"
    runs: dict[str, Recorded] = {}
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            tags: dict[tuple[str, str], dict[str, str]] = {}
            for run_id, status, name, value in connection.execute(query, (STUDY_TAG, study_key)):
                tags.setdefault((run_id, status), {})[name] = value
            for (run_id, status), values in tags.items():
                key = values.get(KEY_TAG, "")
                metrics = dict(connection.execute(latest, (run_id,))) if key == STUDY_KEY else {}
                runs[key] = Recorded(run_id, status, values, metrics)
        finally:
            connection.close()
    except sqlite3.Error:
        return None
    return runs
