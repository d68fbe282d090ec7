"""The study's record in MLflow: told by the driver as things happen, written by one thread in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from distill_ray.tracking.address import redacted, shown, sqlite_file
from distill_ray.tracking.record import (
    DESCRIPTION_TAG,
    ENDING_KEY,
    STATUS_TAG,
    STUDY_KEY,
    DataSet,
    Pending,
    Point,
    Recorded,
    Status,
    read_recorded,
)

if TYPE_CHECKING:
    from distill_ray.tracking.writer import RunWriter

LONGEST_TAG = 8000
MOST_POINTS = 500_000
"""Values of metrics held while MLflow is away; about 100 MB. A run that goes over this is left unfinished in MLflow."""

IDLE_FACTOR = 15
"""The writer rests this many times as long as it worked, so that it takes little of the time that training could have."""

WORDS = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed", "RUNNING": "running"}
INTERRUPTED = "interrupted"


class Tracker:
    """Records a study in MLflow: one run for the study, a nested run for each job.

    Every method but `close` returns at once; a thread of its own writes about once a second what has come together. What
    MLflow has already is found by the study's `study_key` and the job's `key`, so a study that is run again may announce all
    its jobs again: nothing is written twice, and when there is nothing new MLflow is not even loaded. Nothing that goes wrong
    in MLflow reaches the study: `warn` gets one line, and the thread tries again until `close`.

    `uri` is an address that `check_tracking` accepts; `artifacts` a folder or URI for files, for a database without a server.
    """

    def __init__(
        self,
        uri: str,
        study_name: str,
        study_key: str,
        *,
        artifacts: str | None = None,
        warn: Callable[[str], None],
        interval: float = 1.0,
    ) -> None:
        self.uri, self.study_name, self.study_key, self.artifacts = uri, study_name, study_key, artifacts
        self.interval = interval
        self._warn = warn
        self._pending: dict[str, Pending] = {}
        self._points = 0
        self._cut: set[str] = set()
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._ended = False
        database = sqlite_file(uri)
        self._runs: dict[str, Recorded] | None = read_recorded(database, study_key) if database else None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not self._ended:
            self.finish_study("FAILED" if issubclass(kind, Exception) else "KILLED")
        self.close()

    def start_study(
        self,
        name: str,
        *,
        description: str = "",
        params: Mapping[str, str | int | float | bool] | None = None,
        tags: Mapping[str, str] | None = None,
        study_file: str = "",
    ) -> None:
        """Begin the study's own run, or take it up again. `description` is Markdown, `study_file` the text of the file."""
        self._tell(
            Pending(
                STUDY_KEY,
                name=name,
                started=time.time(),
                params=_texts(params or {}),
                tags=_tags({"stage": "study", STATUS_TAG: WORDS["RUNNING"], **(tags or {}), **_note(description)}),
                files={"study.yaml": study_file.encode()} if study_file else {},
                status="RUNNING",
            )
        )

    def start_job(
        self,
        key: str,
        run_name: str,
        params: Mapping[str, str | int | float | bool],
        tags: Mapping[str, str],
        *,
        started: float | None = None,
    ) -> None:
        """Begin the run of a job, nested in the study's. `key` is its name within the study, such as `trial/17`.

        `started` is when it began, in seconds since 1970, now by default.
        """
        began = time.time() if started is None else started
        labels = _tags({STATUS_TAG: WORDS["RUNNING"], **tags})
        self._tell(Pending(key, name=run_name, started=began, params=_texts(params), tags=labels, status="RUNNING"))

    def log_epoch(self, key: str, epoch: int, time_seconds: float, metrics: Mapping[str, float]) -> None:
        """Record the metrics of an epoch that ended at `time_seconds` since 1970; the same record twice counts once."""
        moment = int(time_seconds * 1000)
        self._tell(Pending(key, points=[Point(name, float(value), moment, epoch) for name, value in metrics.items()]))

    def finish_job(
        self,
        key: str,
        status: Status,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        ended: float | None = None,
    ) -> None:
        """End the run of a job: `FINISHED`, `KILLED` when it was pruned, or `FAILED`. `metrics` are its results."""
        moment = time.time() if ended is None else ended
        points = [Point(name, float(value), int(moment * 1000), 0) for name, value in (metrics or {}).items()]
        ending = _tags({STATUS_TAG: WORDS[status], **(tags or {})})
        self._tell(Pending(key, points=points, tags=ending, status=status, ended=moment))

    def log_dataset(self, datasets: Iterable[DataSet], key: str = STUDY_KEY) -> None:
        """Record the splits that a job, or the study as a whole, used."""
        self._tell(Pending(key, datasets=list(datasets)))

    def log_artifacts(self, files: Mapping[str, Path]) -> None:
        """Keep a copy of files of this machine, as they are now, with the study's run, by name (`report/report.html`)."""
        self._tell(Pending(STUDY_KEY, files={name: path.read_bytes() for name, path in files.items()}))

    def log_results(self, metrics: Mapping[str, float]) -> None:
        """Record numbers of the study as a whole, such as `best/test/accuracy`."""
        now = int(time.time() * 1000)
        self._tell(Pending(STUDY_KEY, points=[Point(name, float(value), now, 0) for name, value in metrics.items()]))

    def set_description(self, markdown: str) -> None:
        """Replace the text that MLflow shows on top of the study's run."""
        self._tell(Pending(STUDY_KEY, tags=_tags(_note(markdown))))

    def finish_study(self, status: Status) -> None:
        """End the study's run. Runs of jobs that are still open then are marked as interrupted."""
        self._ended = True
        word = INTERRUPTED if status == "KILLED" else WORDS[status]
        self._tell(Pending(ENDING_KEY, tags={STATUS_TAG: word}, status=status, ended=time.time()))

    def is_recorded(self, key: str) -> bool:
        """Whether MLflow is known to have the finished run of a job, so that announcing it again would change nothing."""
        run = (self._runs or {}).get(key)
        return run is not None and run.done

    def close(self, timeout: float = 60.0) -> bool:
        """Write what is left and stop; at most `timeout` seconds. Whether MLflow has everything then."""
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._changed.notify()
        self._thread.join(timeout)
        complete = not (self._thread.is_alive() or self._pending or self._cut)
        if not complete:
            self._warn(f"MLflow at {shown(self.uri)}: does not have everything; run the same command again when it works")
        return complete

    def _tell(self, news: Pending) -> None:
        with self._changed:
            if self._points + len(news.points) > MOST_POINTS:
                self._cut.add(news.key)
                news.points = []
            if news.key in self._cut and news.status is not None:
                news.status, news.ended = None, None
                news.tags.pop(STATUS_TAG, None)
            self._add(news)
            self._changed.notify()

    def _add(self, news: Pending) -> None:
        self._points += len(news.points)
        self._pending.setdefault(news.key, Pending(news.key)).extend(news)

    def _work(self) -> None:
        writer: RunWriter | None = None
        wait, away = self.interval, 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._deadline is not None)
                self._changed.wait_for(lambda: self._deadline is not None, timeout=wait)
                closing = self._deadline is not None
                batch, self._pending, self._points = self._pending, {}, 0
            began = time.monotonic()
            try:
                writer = self._write(batch, writer)
            except Exception as error:
                reason = redacted(str(error), self.uri)
                if not away:
                    self._warn(
                        f"MLflow at {shown(self.uri)}: {reason}; the study goes on, and its records are kept until it works"
                    )
                away, self._runs = away + 1, None
                with self._changed:
                    newer, self._pending, self._points = self._pending, {}, 0
                    for pending in (*batch.values(), *newer.values()):
                        self._add(pending)
                if closing:
                    return
                wait = min(2.0**away, 30.0) * self.interval
                continue
            if away:
                self._warn(f"MLflow at {shown(self.uri)}: works again, and has what was kept for it")
            away = 0
            wait = max(self.interval, IDLE_FACTOR * (time.monotonic() - began))
            with self._changed:
                if closing and not self._pending:
                    return

    def _write(self, batch: dict[str, Pending], writer: RunWriter | None) -> RunWriter | None:
        """Write all of `batch`, taking out of it what is done. MLflow is loaded when there is something to write."""
        from distill_ray.tracking.writer import RunWriter

        if self._runs is not None and not any(self._news(pending) for pending in batch.values()):
            batch.clear()
            return writer
        writer = writer or RunWriter(self.uri, self.study_name, self.study_key, self.artifacts)
        if self._runs is None or writer.restored:
            self._runs, writer.restored = writer.recorded(), False
        for key in list(batch):
            if news := self._news(batch[key]):
                if key == ENDING_KEY:
                    self._settle(writer, self._runs)
                elif news.status and (study := self._runs.get(STUDY_KEY)) and study.done:
                    self._put(writer, self._runs, Pending(STUDY_KEY, tags={STATUS_TAG: WORDS["RUNNING"]}, status="RUNNING"))
                self._put(writer, self._runs, news)
            del batch[key]
        return writer

    def _settle(self, writer: RunWriter, runs: dict[str, Recorded]) -> None:
        for key, run in list(runs.items()):
            if key != STUDY_KEY and run.status == "RUNNING":
                self._put(writer, runs, Pending(key, tags={STATUS_TAG: INTERRUPTED}, status="KILLED"))

    def _put(self, writer: RunWriter, runs: dict[str, Recorded], news: Pending) -> None:
        from distill_ray.tracking.writer import Refused

        key = STUDY_KEY if news.key == ENDING_KEY else news.key
        try:
            runs[key] = writer.write(news, runs.get(key), None if key == STUDY_KEY else runs.get(STUDY_KEY))
        except Refused as error:
            self._warn(f"MLflow at {shown(self.uri)}: does not take {news.key} ({redacted(str(error), self.uri)})")

    def _news(self, pending: Pending) -> Pending | None:
        """What of `pending` MLflow does not have, or None. Beginning again what ended well is no news by itself."""
        known = (self._runs or {}).get(STUDY_KEY if pending.key == ENDING_KEY else pending.key)
        if known is None:
            return pending
        study = pending.key in (STUDY_KEY, ENDING_KEY)
        if not known.done:
            return pending
        logged, digests = known.logged, pending.digests()
        again = pending.status in (None, "RUNNING") or not study
        news = Pending(
            pending.key,
            tags={
                name: value
                for name, value in pending.tags.items()
                if known.tags.get(name) != value and not (again and name == STATUS_TAG)
            },
            points=[point for point in pending.points if study and known.metrics.get(point.metric) != point.value],
            datasets=[
                dataset for dataset in pending.datasets if study and logged.get(f"{dataset.context} data") != dataset.digest
            ],
            files={name: content for name, content in pending.files.items() if logged.get(name) != digests[name]},
            status=None if again or pending.status == known.status else pending.status,
            ended=pending.ended,
        )
        return news if news.tags or news.points or news.datasets or news.files or news.status else None


def _texts(params: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items()}


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    # MLflow would cut longer values itself, and they would then look changed ever after.
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}


def _note(markdown: str) -> dict[str, str]:
    return {DESCRIPTION_TAG: markdown} if markdown else {}
