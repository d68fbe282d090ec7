"""What waits to be written to MLflow, and the thread that writes it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distill_ray.addresses import masked, masked_text
from distill_ray.events import JobState
from distill_ray.tracking.address import sqlite_file
from distill_ray.tracking.run_update import (
    ENDING_KEY,
    STUDY_KEY,
    MlflowRun,
    RunUpdate,
    StudyName,
    runs_in_database,
)

if TYPE_CHECKING:
    from distill_ray.tracking.writer import RunWriter

logger = logging.getLogger(__name__)

INTERVALS_BEFORE_FIRST = 10.0
"""Pause before the first write, which loads MLflow and may create its database: seconds of CPU time
that the start of the study needs more.
"""

PAUSE_FACTOR = 15
"""The thread pauses this many times as long as it worked, so that it takes little CPU time from
training.
"""

LONGEST_PAUSE_S = 30.0

RETRY_INTERVALS = (1.0, 5.0, 30.0, 60.0)
"""Pauses before the attempts after a failed one: together the time that a server may need to start
again. After the last the outbox gives up, and `distill-ray sync` has to complete MLflow.
"""

FAILED_RUNS = 3
"""After this many runs that could not be written, an attempt has failed, and leaves the others."""

_NONE: dict[str, Any] = {}
"""The metrics that are kept of runs that have ended, one for all of them."""


class Outbox:
    """Takes what is to be written to MLflow and lets one thread write it.

    Nothing raises. When MLflow is away for longer than a restart takes, the outbox says so once,
    drops what it holds and takes no more: the store has everything, and `distill-ray sync`
    completes MLflow from it.
    """

    def __init__(
        self, uri: str, study: StudyName, *, artifacts: str | None, interval: float
    ) -> None:
        self.uri, self.study, self.interval = uri, study, interval
        self._artifacts = artifacts
        self._pending: dict[str, RunUpdate] = {}
        self._changed = threading.Condition()
        self._closing = self._gave_up = self._refused = False
        self._written = 0
        database = sqlite_file(uri)
        self.runs = None if database is None else runs_in_database(database, study)
        """What MLflow has of the study, by key; None where it has to be asked."""
        self._writer: RunWriter | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(self, update: RunUpdate) -> None:
        """Add something to be written; it joins what waits for the same run."""
        with self._changed:
            if not self._gave_up:
                self._pending.setdefault(update.key, RunUpdate(update.key)).extend(update)
            self._changed.notify()

    def close(self, timeout: float) -> bool:
        """Write what is left, at most `timeout` seconds for each run, and stop. Returns whether
        MLflow then has everything.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        written = -1
        while self._thread.is_alive() and written != self._written:
            written = self._written
            self._thread.join(timeout)
        if self._thread.is_alive() and not self._gave_up:
            self._give_up("it takes too long")
        return not (self._gave_up or self._refused)

    def _work(self) -> None:
        pause, failures = self.interval * INTERVALS_BEFORE_FIRST, 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                self._changed.wait_for(lambda: self._closing, timeout=pause)
                closing = self._closing
                batch, self._pending = self._pending, {}
            began, loaded = time.monotonic(), self._writer is not None
            try:
                self._write(batch)
            except Exception as error:
                if failures == len(RETRY_INTERVALS) or self._gave_up:
                    self._give_up(str(error))
                    return
                pause = self.interval * RETRY_INTERVALS[failures]
                failures += 1
                # A call whose response was lost must not be repeated: see what MLflow has
                self.runs = None
                self._put_back(batch)
                continue
            failures = 0
            # The first write loads MLflow, and is no measure of the others
            worked = time.monotonic() - began if loaded else 0.0
            pause = max(self.interval, min(PAUSE_FACTOR * worked, LONGEST_PAUSE_S))
            with self._changed:
                if closing and not self._pending:
                    return

    def _put_back(self, batch: dict[str, RunUpdate]) -> None:
        with self._changed:
            later, self._pending = self._pending, batch
            for key, update in later.items():
                self._pending.setdefault(key, RunUpdate(key)).extend(update)

    def _give_up(self, reason: str) -> None:
        with self._changed:
            if self._gave_up:
                return
            self._gave_up = True
            self._pending = {}
        self._warn(f"is away ({reason}); `distill-ray sync` completes it")

    def _warn(self, text: str) -> None:
        logger.warning("%s", masked_text(f"MLflow at {masked(self.uri)} {text}", self.uri))

    def _write(self, batch: dict[str, RunUpdate]) -> None:
        """Write all of `batch`, taking out what is done. MLflow is loaded only when there is
        something to write.
        """
        from distill_ray.tracking.writer import RunWriter, Unavailable

        runs = self.runs
        if runs is not None:
            batch_runs = ((update, runs.get(update.run_key)) for update in batch.values())
            if not any(update.missing_in(run) for update, run in batch_runs):
                batch.clear()
                return
        writer = self._writer = self._writer or RunWriter(self.uri, self.study, self._artifacts)
        if runs is None or writer.restored:
            runs, writer.restored = writer.runs(), False
            self.runs = runs
        failed: list[Unavailable] = []
        for key in list(batch):
            try:
                self._write_one(writer, runs, batch[key])
                del batch[key]
            except Unavailable as error:
                failed.append(error)
                if STUDY_KEY not in runs or len(failed) == FAILED_RUNS:
                    raise
        if failed:
            raise failed[0]

    def _write_one(self, writer: RunWriter, runs: dict[str, MlflowRun], update: RunUpdate) -> None:
        missing = update.missing_in(runs.get(update.run_key))
        if missing is None:
            return
        if missing.key == ENDING_KEY:
            for key, run in list(runs.items()):
                if key != STUDY_KEY and run.state == JobState.RUNNING:
                    self._send(writer, runs, RunUpdate(key, state=JobState.INTERRUPTED))
        elif missing.state == JobState.RUNNING and STUDY_KEY in runs and runs[STUDY_KEY].done:
            self._send(writer, runs, RunUpdate(STUDY_KEY, state=JobState.RUNNING))
        self._send(writer, runs, missing)

    def _send(self, writer: RunWriter, runs: dict[str, MlflowRun], update: RunUpdate) -> None:
        from distill_ray.tracking.writer import Refused

        try:
            run = writer.write(update, runs)
        except Refused as error:
            self._refused = True
            self._warn(f"does not take {update.key} ({error})")
            return
        # There may be thousands, of which only their state is asked again
        if run.done and update.run_key != STUDY_KEY:
            run = replace(run, tags=self.study.tags, metrics=_NONE, steps=_NONE)
        runs[update.run_key] = run
        self._written += 1
