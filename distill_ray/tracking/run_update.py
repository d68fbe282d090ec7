"""What is to be in MLflow of a run, what MLflow has of it already, and the difference."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill_ray.events import JobState
from distill_ray.tracking.mlflow_internals import RunRow, runs_tagged
from distill_ray.tracking.run_lists import VARIANT_TAG, RunList
from distill_ray.tracking.states import state_of_run

if TYPE_CHECKING:
    from distill_ray.tracking.champion import StudentModel

KEY_TAG = "distill_ray.key"
"""Tag of every run, by which it is found again: the key of the study, a slash, and the key of the
job within it.
"""

STUDY_KEY_TAG = "study_key"
"""Tag of every run, for searches in MLflow: the key of the study alone."""

LOGGED_TAG = "distill_ray.logged"
"""Tag of the study's run: digests of the data sets, files, lists and the champion that it has, as
JSON.
"""

STUDY_KEY = "study"
"""Key of the study's own run, the parent of all others."""

CHAMPION_KEY = "study/champion"
ENDING_KEY = "study/ending"
"""Keys of two parts of the study's run that are written in their turn, after the jobs announced
before.
"""


@dataclass(frozen=True)
class StudyName:
    """What tells the runs of a study from others: its `name`, which is that of the experiment, the
    `key` of its search, and the `variant` of its file.

    Jobs belong to the key, so variants share them; each variant has a run of its own for the study.
    """

    name: str
    key: str
    variant: str

    def stored(self, run_key: str) -> str:
        """The value of `KEY_TAG` of a run."""
        own = f"{STUDY_KEY}/{self.variant}" if run_key == STUDY_KEY else run_key
        return f"{self.key}/{own}"

    def run_key(self, stored: str) -> str | None:
        """The inverse of `stored`; None for runs of other studies and variants."""
        if stored == self.stored(STUDY_KEY):
            return STUDY_KEY
        run_key = stored.removeprefix(f"{self.key}/")
        return None if run_key == stored or run_key.startswith(f"{STUDY_KEY}/") else run_key

    @property
    def tags(self) -> dict[str, str]:
        """The tags that every job of this variant has."""
        return {f"{VARIANT_TAG}{self.variant}": "yes"}


@dataclass(frozen=True, slots=True)
class MetricValue:
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
class MlflowRun:
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
        return self.state in (JobState.FINISHED, JobState.PRUNED, JobState.INFEASIBLE)

    @property
    def logged(self) -> dict[str, str]:
        """The content of `LOGGED_TAG`."""
        content: dict[str, str] = json.loads(self.tags.get(LOGGED_TAG, "{}"))
        return content


@dataclass
class RunUpdate:
    """What is to be in MLflow of a run. `extend` adds what came later, `missing_in` leaves out what
    is there.
    """

    key: str
    name: str = ""
    started: float | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    values: list[MetricValue] = field(default_factory=list)
    """Metrics of epochs."""
    results: dict[str, float] = field(default_factory=dict)
    """Metrics that have one value for the whole run."""
    datasets: list[DataSet] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by the path that they get among the run's artifacts."""
    views: dict[str, RunList] = field(default_factory=dict)
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
        digests = {name: _digest(content) for name, content in self.files.items()}
        for name, runs in self.views.items():
            digests[f"view {name}"] = _digest(runs.state().encode())
        for dataset in self.datasets:
            digests[f"{dataset.context} data"] = dataset.digest
        if self.champion is not None:
            digests["champion"] = self.champion.job.id
        return digests

    def extend(self, later: RunUpdate) -> None:
        """Add `later`, which wins where both say something."""
        self.name = later.name or self.name
        self.started = self.started if self.started is not None else later.started
        self.params |= later.params
        self.tags |= later.tags
        self.values += later.values
        self.datasets += [dataset for dataset in later.datasets if dataset not in self.datasets]
        self.results |= later.results
        self.files |= later.files
        self.views |= later.views
        if later.champion is not None:
            self.champion, self.source = later.champion, later.source
        if later.state is not None:
            self.state, self.ended = later.state, later.ended

    def missing_in(self, run: MlflowRun | None) -> RunUpdate | None:
        """What of this MLflow does not have, or None. Restarting a finished run, or repeating its
        epochs, adds nothing.

        Epochs are known by their number: announced later, of a trial that left no record, they have
        other times.
        """
        if run is None:
            return self
        later = [value for value in self.values if value.step > run.steps.get(value.metric, -1)]
        if run.done:
            return self._amendment(run, [])
        if self._fails_again(run):
            return self._amendment(run, later)
        return replace(self, values=later)

    def _fails_again(self, run: MlflowRun) -> bool:
        return self.run_key != STUDY_KEY and self.state == run.state == JobState.FAILED

    def _amendment(self, run: MlflowRun, values: list[MetricValue]) -> RunUpdate | None:
        """What differs from a run that has ended, which does not begin again by that."""
        new = {name for name, digest in self.digests().items() if run.logged.get(name) != digest}
        of_study = self.run_key == STUDY_KEY
        ends_otherwise = of_study and self.state not in (None, JobState.RUNNING, run.state)
        amendment = RunUpdate(
            self.key,
            name=self.name,
            tags={name: value for name, value in self.tags.items() if run.tags.get(name) != value},
            values=values,
            results={
                name: value
                for name, value in self.results.items()
                if not _same(value, run.metrics.get(name))
            },
            datasets=[
                dataset
                for dataset in self.datasets
                if of_study and f"{dataset.context} data" in new
            ],
            files={name: content for name, content in self.files.items() if name in new},
            views={name: runs for name, runs in self.views.items() if f"view {name}" in new},
            champion=self.champion if "champion" in new else None,
            source=self.source,
            state=self.state if ends_otherwise else None,
            ended=self.ended,
        )
        return amendment if amendment._says_anything else None

    @property
    def _says_anything(self) -> bool:
        contents = (
            self.tags,
            self.values,
            self.results,
            self.datasets,
            self.files,
            self.views,
            self.champion,
            self.state,
        )
        return any(contents)


def runs_in_database(database: Path, study: StudyName) -> dict[str, MlflowRun] | None:
    """The runs of a study in MLflow's SQLite database, by key; None when there is no database that
    can be read without MLflow.
    """
    rows = runs_tagged(database, KEY_TAG, f"{study.key}/")
    if rows is None:
        return None
    runs = {}
    for stored, row in rows.items():
        if (key := study.run_key(stored)) is not None:
            runs[key] = mlflow_run(row)
    return runs


def mlflow_run(row: RunRow) -> MlflowRun:
    """What MLflow has of a run."""
    state = state_of_run(row.status, row.tags)
    return MlflowRun(row.run_id, state, row.tags, row.metrics, row.steps)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _same(value: float, other: float | None) -> bool:
    return other is not None and (value == other or (math.isnan(value) and math.isnan(other)))
