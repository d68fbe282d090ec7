"""What is known of a run and not yet in MLflow, and what MLflow already has of it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["FINISHED", "KILLED", "FAILED", "RUNNING"]

STUDY_TAG = "distill_ray.study_key"
"""Tag of every run: the identity of the study it belongs to."""

KEY_TAG = "distill_ray.key"
"""Tag of every run: which job of the study it records. With `STUDY_TAG` it is how a run is found again."""

LOGGED_TAG = "distill_ray.logged"
"""Tag of the study's run: digests of the data sets and files that it has, as JSON."""

STATUS_TAG = "status"
"""Tag of every run that says in a word how it ended: MLflow has no status of its own for pruned or interrupted."""

DESCRIPTION_TAG = "mlflow.note.content"
STUDY_KEY = "study"
"""Key of the study's own run, the parent of all others."""

ENDING_KEY = "study/ending"
"""Under this key the end of the study's run waits until all that came before is written."""


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


@dataclass
class Pending:
    """Everything of one run that MLflow does not have yet. `extend` adds what came later."""

    key: str
    name: str = ""
    started: float | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    datasets: list[DataSet] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by the path that they get among the run's artifacts."""
    status: Status | None = None
    ended: float | None = None

    def digests(self) -> dict[str, str]:
        """What tells the data sets and files here from others, as `LOGGED_TAG` keeps it."""
        found = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in self.files.items()}
        return found | {f"{dataset.context} data": dataset.digest for dataset in self.datasets}

    def extend(self, later: Pending) -> None:
        """Add `later`, which wins where both say something."""
        self.name = later.name or self.name
        self.started = self.started if self.started is not None else later.started
        self.params |= later.params
        self.tags |= later.tags
        self.points += later.points
        self.datasets += [dataset for dataset in later.datasets if dataset not in self.datasets]
        self.files |= later.files
        if later.status is not None:
            self.status, self.ended = later.status, later.ended


@dataclass(frozen=True)
class Recorded:
    """What MLflow has of a run: the values of its tags, and the latest of each metric."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the job behind it ended for good, so that nothing is to be added."""
        return self.status in ("FINISHED", "KILLED") and self.tags.get(STATUS_TAG) in ("complete", "pruned")

    @property
    def logged(self) -> dict[str, str]:
        """The content of `LOGGED_TAG`."""
        content: dict[str, str] = json.loads(self.tags.get(LOGGED_TAG, "{}"))
        return content


def read_recorded(database: Path, study_key: str) -> dict[str, Recorded] | None:
    """The runs of a study in MLflow's SQLite database, by key; None when this database is not laid out as expected.

    Importing MLflow and opening its database takes seconds, this takes milliseconds: a study that is run again and has
    nothing new to say need not load MLflow at all.
    """
    query = (
        "SELECT runs.run_uuid, runs.status, tags.key, tags.value FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "JOIN tags AS study ON study.run_uuid = runs.run_uuid AND study.key = ? AND study.value = ? "
        "WHERE runs.lifecycle_stage = 'active'"
    )
    metrics = "SELECT key, value FROM latest_metrics WHERE run_uuid = ? AND NOT is_nan"
    if not database.exists():
        return None
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            tags: dict[str, dict[str, str]] = {}
            statuses: dict[str, str] = {}
            for run_id, status, key, value in connection.execute(query, (STUDY_TAG, study_key)):
                tags.setdefault(run_id, {})[key] = value
                statuses[run_id] = status
            runs = {
                by_key[KEY_TAG]: Recorded(run_id, statuses[run_id], by_key)
                for run_id, by_key in tags.items()
                if KEY_TAG in by_key
            }
            if parent := runs.get(STUDY_KEY):
                values = dict(connection.execute(metrics, (parent.run_id,)))
                runs[STUDY_KEY] = Recorded(parent.run_id, parent.status, parent.tags, values)
            return runs
        finally:
            connection.close()
    except sqlite3.Error:
        return None
