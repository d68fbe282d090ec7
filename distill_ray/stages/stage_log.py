"""How long the stages of a study took and what energy, kept in the store over all its runs."""

from __future__ import annotations

import json
import posixpath
import time

from distill_ray.events import Measurement, Metrics, Observer, Run, State
from distill_ray.report.results import StageRow
from distill_ray.resolve import CONFIRM, SCREEN, SEARCH, TEACH
from distill_ray.store import Store
from distill_ray.study import Study

BEGUN = "begun"
"""Beside the stages in their file: when the study was first run."""


class StageLog(Observer):
    """Keeps in the store when a study was begun, how long each of its stages has taken, how many jobs it trained, and the energy
    that their epochs used where devices report it, over all its runs.
    """

    def __init__(self, study: Study, store: Store) -> None:
        self._store = store
        self._path = _stage_file(study)
        self._stages = _read(store, self._path)
        self._begun: dict[str, float] = {}

    def stage_started(self, stage: str, jobs: int) -> None:
        if not self._stages:
            self._stages[BEGUN] = {"time": time.time()}
            self._store.write(self._path, json.dumps(self._stages).encode())
        self._begun[stage] = time.monotonic()
        entry = self._stages.setdefault(stage, {"seconds": 0.0, "trained": 0})
        entry["jobs"] = jobs

    def epoch(self, run: Run, record: Metrics) -> None:
        entry, joules = self._stages[run.stage], record.get("system/energy_joules")
        if joules is not None:
            entry["joules"] = entry.get("joules", 0.0) + joules

    def ended(self, run: Run, state: State, metrics: Metrics, reason: str) -> None:
        self._stages[run.stage]["trained"] += 1

    def measured(self, measurement: Measurement) -> None:
        self._stages[SCREEN]["trained"] += not measurement.reused

    def stage_ended(self, stage: str) -> None:
        self._stages[stage]["seconds"] += time.monotonic() - self._begun[stage]
        self._store.write(self._path, json.dumps(self._stages).encode())


def _read(store: Store, path: str) -> dict[str, dict[str, float]]:
    try:
        stages = json.loads(store.read(path) or b"{}")
        return {str(name): {key: float(value) for key, value in entry.items()} for name, entry in stages.items()}
    except (ValueError, AttributeError, TypeError):
        store.set_aside(path)
        return {}


def _stage_file(study: Study) -> str:
    return posixpath.join("studies", study.name, f"stages-{study.digest}.json")


def first_run(study: Study, store: Store) -> float:
    """When the study was first run, in seconds since 1970; now, where that is not known."""
    entry = _read(store, _stage_file(study)).get(BEGUN)
    return float(entry["time"]) if entry else time.time()


def stage_rows(study: Study, store: Store) -> tuple[StageRow, ...]:
    """The stages that have begun, in their order."""
    stages = _read(store, _stage_file(study))
    return tuple(
        StageRow(
            name,
            entry["seconds"],
            int(entry["trained"]),
            max(0, int(entry["jobs"] - entry["trained"])),
            joules=entry.get("joules"),
        )
        for name, entry in ((name, stages.get(name)) for name in (TEACH, SCREEN, SEARCH, CONFIRM))
        if entry is not None
    )
