"""How long the stages of a study took and what energy, kept in the store over all its runs."""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Callable, Iterable

from distill_ray.events import Answered, JobState, Measurement, Metrics, Observer, StudyJob
from distill_ray.report.results import StageRow
from distill_ray.resolve import ANSWER, CONFIRM, SCREEN, SEARCH, TEACH
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

STAGES = (TEACH, SCREEN, ANSWER, SEARCH, CONFIRM)
"""Those that take time, in their order."""

BEGUN = "begun"
"""Beside the stages in their file: when the study was first run."""


PACE = 5.0
"""Seconds between two writes while a stage runs: what a driver that is killed may have forgotten.
"""


class StageLog(Observer):
    """Keeps in the store when a study was begun, how long each of its stages has taken, how many
    jobs it trained and how many it found that others had trained, and the energy that its epochs
    used where devices report it, over all its runs.
    """

    def __init__(self, study: StudyDefinition, store: Store) -> None:
        self._store = store
        self._path = _stage_file(study)
        self._stages = _read(store, self._path)
        self._written = 0.0
        self._since = time.time()
        self._counted: dict[str, float] = {}

    def stage_started(self, stage: str, jobs: int) -> None:
        if not self._stages:
            self._stages[BEGUN] = {"time": time.time()}
        self._entry = self._entry_of(stage)
        self._before = dict(self._entry)
        self._begun = time.monotonic()
        self._past = 0
        self._write()

    def _entry_of(self, stage: str) -> dict[str, float]:
        """What is known of a stage, which may have jobs before it begins."""
        entry = self._stages.setdefault(stage, {})
        for name in ("seconds", "trained", "reused"):
            entry.setdefault(name, 0)
        return entry

    def past(
        self,
        run: StudyJob,
        state: JobState,
        epochs: Callable[[], Iterable[Metrics]],
        metrics: Metrics,
        reason: str,
    ) -> None:
        self._found()

    def epoch(self, run: StudyJob, record: Metrics) -> None:
        again = (
            record["epoch"] <= self._counted.get(run.key, 0)
            or record.get("time", self._since) < self._since
        )
        if not again and (joules := record.get("system/energy_joules")) is not None:
            entry = self._entry_of(run.stage)
            entry["joules"] = entry.get("joules", 0.0) + joules
            self._counted[run.key] = record["epoch"]

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        self._counted.pop(run.key, None)
        self._trained(self._entry_of(run.stage))

    def measured(self, measurement: Measurement) -> None:
        if measurement.reused:
            self._found()
        else:
            self._trained(self._entry)

    def answered(self, answered: Answered) -> None:
        self._entry["teacher_images"] = self._entry.get("teacher_images", 0) + answered.images
        self._trained(self._entry)

    def stage_ended(self, stage: str) -> None:
        self._write()

    def _found(self) -> None:
        """A job that was finished before: by others, as far as there are more of them than this
        study had trained.
        """
        self._past += 1
        self._entry["reused"] = max(self._before["reused"], self._past - self._before["trained"])

    def _trained(self, entry: dict[str, float]) -> None:
        entry["trained"] += 1
        if time.monotonic() - self._written > PACE:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._entry["seconds"] = self._before["seconds"] + self._written - self._begun
        self._store.write(self._path, json.dumps(self._stages).encode())


def _read(store: Store, path: str) -> dict[str, dict[str, float]]:
    try:
        stages = json.loads(store.read(path) or b"{}")
        return {
            str(name): {key: float(value) for key, value in entry.items()}
            for name, entry in stages.items()
        }
    except (ValueError, AttributeError, TypeError):
        store.set_aside(path)
        return {}


def _stage_file(study: StudyDefinition) -> str:
    return posixpath.join("studies", study.name, f"stages-{study.digest}.json")


def first_run(study: StudyDefinition, store: Store) -> float:
    """When the study was first run, in seconds since 1970; now, where that is not known."""
    entry = _read(store, _stage_file(study)).get(BEGUN)
    return float(entry["time"]) if entry else time.time()


def stage_rows(study: StudyDefinition, store: Store) -> tuple[StageRow, ...]:
    """The stages that have begun, in their order."""
    stages = _read(store, _stage_file(study))
    return tuple(
        StageRow(
            name,
            entry["seconds"],
            int(entry["trained"]),
            int(entry.get("reused", 0)),
            joules=entry.get("joules"),
        )
        for name, entry in ((name, stages.get(name)) for name in STAGES)
        if entry is not None
    )


def images_answered_ahead(study: StudyDefinition, store: Store) -> int:
    """How many images teachers have answered for in the study's answer stage."""
    entry = _read(store, _stage_file(study)).get(ANSWER, {})
    return int(entry.get("teacher_images", 0))
