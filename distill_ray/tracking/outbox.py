"""What waits to be written to MLflow, and the thread that writes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distill_ray.events import JobState
from distill_ray.tracking.address import redacted, shown, sqlite_file
from distill_ray.tracking.record import (
    ENDING_KEY,
    STUDY_KEY,
    Pending,
    Recorded,
    read_recorded,
)

if TYPE_CHECKING:
    from distill_ray.tracking.writer import RunWriter

MOST_POINTS = 500_000
"""Metric values held in memory while MLflow is down, about 100 MB. A run that does not fit is left
unfinished in MLflow.
"""

REST = 15
"""The thread pauses this many times as long as it worked, so that it takes little CPU time from
training.
"""

MANY = 20
"""This many waiting runs end the pause: waiting makes the work no less, and takes memory."""

LONGEST_WAIT = 30.0
"""Most seconds that an update waits. There is no pause after the first write, which loads MLflow.
"""

BEFORE_FIRST = 10.0
"""Intervals before the first write, which loads MLflow and may create its database: seconds of CPU
time that the start of the study needs more.
"""

ATTEMPTS = 3
"""How often `close` has the rest tried before it gives up."""

FAILURES = 3
"""After this many runs that could not be written, the others are not tried for some time."""


_NONE: dict[str, Any] = {}
"""The tags and metrics that are kept of runs that have ended, one for all of them."""


class Outbox:
    """Takes what is to be written to MLflow and lets one thread write it, for as long as it takes.

    Nothing raises: `warn` gets a line when MLflow goes down, refuses something or comes back. After
    a failure the thread checks what MLflow has, so that a call whose response was lost is not
    repeated.
    """

    def __init__(
        self,
        uri: str,
        study_name: str,
        study_key: str,
        artifacts: str | None,
        warn: Callable[[str], None],
        interval: float,
    ) -> None:
        self.uri, self.interval = uri, interval
        self._study = (study_name, study_key, artifacts)
        self._warn = warn
        self._pending: dict[str, Pending] = {}
        self._points = 0
        self._cut: set[str] = set()
        self._changed = threading.Condition()
        self._away = self._refused = False
        self._closing = False
        self._written = 0
        database = sqlite_file(uri)
        self.runs: dict[str, Recorded] | None = (
            read_recorded(database, study_key) if database else None
        )
        self._writer: RunWriter | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(self, news: Pending) -> None:
        """Add something to be written; it joins what waits for the same run."""
        with self._changed:
            if self._away and self._points + len(news.points) > MOST_POINTS:
                self._cut.add(news.key)
                news.points = []
            if news.key in self._cut and news.state != JobState.RUNNING:
                news.state = None
            self._add(news)
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
        waits = bool(self._thread.is_alive() or self._pending or self._cut)
        if waits:
            self._say("does not have everything; run the same command again when it works")
        return not waits and not self._refused

    def _add(self, news: Pending) -> None:
        self._points += len(news.points)
        self._pending.setdefault(news.key, Pending(news.key)).extend(news)

    def _take(self) -> dict[str, Pending]:
        batch, self._pending, self._points = self._pending, {}, 0
        return batch

    def _say(self, text: str) -> None:
        self._warn(redacted(f"MLflow at {shown(self.uri)}: {text}", self.uri))

    def _work(self) -> None:
        wait, rest, failures = self.interval * BEFORE_FIRST, 0.0, 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                self._changed.wait_for(lambda: self._closing, timeout=wait)
                self._changed.wait_for(
                    lambda: self._closing or len(self._pending) >= MANY, timeout=rest
                )
                closing, batch = self._closing, self._take()
            began, loaded = time.monotonic(), self._writer is not None
            try:
                self._write(batch)
            except Exception as error:
                if not failures:
                    self._say(
                        f"{error}; the study goes on, and what is to be written is kept until it works"
                    )
                failures, self.runs, self._away = failures + 1, None, True
                with self._changed:
                    for pending in (*batch.values(), *self._take().values()):
                        self._add(pending)
                wait, rest = min(self.interval * 2.0**failures, LONGEST_WAIT), 0.0
                if closing and failures >= ATTEMPTS:
                    return
                continue
            if failures:
                self._say("works again, and has what was kept for it")
            self._away = False
            wait, failures = self.interval, 0
            rest = min(REST * (time.monotonic() - began), LONGEST_WAIT) if loaded else 0.0
            with self._changed:
                if closing and not self._pending:
                    return

    def _write(self, batch: dict[str, Pending]) -> None:
        """Write all of `batch`, taking out what is done. MLflow is loaded only when there is
        something to write.
        """
        from distill_ray.tracking.writer import RunWriter, Unavailable

        if self.runs is not None and not any(
            pending.beyond(self.runs.get(pending.run_key)) for pending in batch.values()
        ):
            batch.clear()
            return
        writer = self._writer = self._writer or RunWriter(self.uri, *self._study)
        if self.runs is None or writer.restored:
            self.runs, writer.restored = writer.recorded(), False
        runs = self.runs
        failed: list[Unavailable] = []
        for key in list(batch):
            try:
                self._write_one(writer, runs, batch[key])
                del batch[key]
            except Unavailable as error:
                failed.append(error)
                if STUDY_KEY not in runs or len(failed) == FAILURES:
                    raise
        if failed:
            raise failed[0]

    def _write_one(self, writer: RunWriter, runs: dict[str, Recorded], pending: Pending) -> None:
        news = pending.beyond(runs.get(pending.run_key))
        if news is None:
            return
        if news.key == ENDING_KEY:
            for key, run in list(runs.items()):
                if key != STUDY_KEY and run.state == JobState.RUNNING:
                    self._send(writer, runs, Pending(key, state=JobState.INTERRUPTED))
        elif news.state == JobState.RUNNING and STUDY_KEY in runs and runs[STUDY_KEY].done:
            self._send(writer, runs, Pending(STUDY_KEY, state=JobState.RUNNING))
        self._send(writer, runs, news)

    def _send(self, writer: RunWriter, runs: dict[str, Recorded], news: Pending) -> None:
        from distill_ray.tracking.writer import Refused

        try:
            known = writer.write(news, runs)
        except Refused as error:
            self._refused = True
            self._say(f"does not take {news.key} ({error})")
            return
        # Nobody asks again what it was, and there may be thousands
        if known.done and news.run_key != STUDY_KEY:
            known = replace(known, tags=_NONE, metrics=_NONE, steps=_NONE)
        runs[news.run_key] = known
        self._written += 1
