"""The runs of a study in MLflow: fed by the driver as things happen, written by a thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from distill_ray.events import JobState
from distill_ray.tracking.outbox import Outbox
from distill_ray.tracking.run_lists import RunList
from distill_ray.tracking.run_update import (
    CHAMPION_KEY,
    ENDING_KEY,
    STUDY_KEY,
    DataSet,
    MetricValue,
    RunUpdate,
    StudyName,
)

if TYPE_CHECKING:
    from distill_ray.tracking.champion import StudentModel

DESCRIPTION_TAG = "mlflow.note.content"
LONGEST_TAG = 8000


class Tracker:
    """Tracks a study in MLflow: one run for the study, a nested run for each job.

    Every method except `close` returns at once; a separate thread writes what has accumulated. What
    MLflow already has is found by the study's `study_key` and the job's `key`, so a study that is
    run again may announce all its jobs again: nothing is written twice, and when there is nothing
    new MLflow is not even loaded. No failure in MLflow reaches the study: it is logged once, and
    `complete` is false after `close`.

    Args:
        uri: an address that `check_tracking` accepts.
        study_name: the name of the experiment.
        study_key: what tells the jobs of this study from those of others in the experiment.
        variant: what tells this version of the study file from others, which share their jobs.
        artifacts: a folder or URI for files, for a database without a server.
        interval: seconds between two writes.
    """

    def __init__(
        self,
        uri: str,
        study_name: str,
        study_key: str,
        *,
        variant: str = "1",
        artifacts: str | None = None,
        interval: float = 1.0,
    ) -> None:
        self.variant = variant
        self.complete = True
        """Whether MLflow has everything; known after `close`."""
        self._ended = False
        study = StudyName(study_name, study_key, variant)
        self._outbox = Outbox(uri, study, artifacts=artifacts, interval=interval)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not self._ended:
            failed = issubclass(kind, Exception)
            self.finish_study(JobState.FAILED if failed else JobState.INTERRUPTED)
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
        """Begin the study's own run, or resume it. `study_file` is the text of the file.

        `description` is Markdown, for as long as `set_description` has given no other.
        """
        run = (self._outbox.runs or {}).get(STUDY_KEY)
        if run is not None and run.tags.get(DESCRIPTION_TAG):
            description = ""
        self._outbox.put(
            RunUpdate(
                STUDY_KEY,
                name=name,
                started=time.time(),
                params=_texts(params or {}),
                tags=_tags(
                    {
                        "stage": "study",
                        **(tags or {}),
                        **_note(description),
                    }
                ),
                files={"study.yaml": study_file.encode()} if study_file else {},
                state=JobState.RUNNING,
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
        """Begin the run of a job, nested in the study's. `key` is its name within the study, such
        as `trial/17`.

        `started` is when it began, in seconds since 1970, now by default.
        """
        began = time.time() if started is None else started
        labels = _tags(tags) | self._outbox.study.tags
        self._outbox.put(
            RunUpdate(
                key,
                name=run_name,
                started=began,
                params=_texts(params),
                tags=labels,
                state=JobState.RUNNING,
            )
        )

    def log_epoch(
        self, key: str, epoch: int, time_seconds: float, metrics: Mapping[str, float]
    ) -> None:
        """Record the metrics of an epoch that ended at `time_seconds` since 1970; the same record
        twice counts once.
        """
        moment = int(time_seconds * 1000)
        self._outbox.put(
            RunUpdate(
                key,
                values=[
                    MetricValue(name, float(value), moment, epoch)
                    for name, value in metrics.items()
                ],
            )
        )

    def finish_job(
        self,
        key: str,
        state: JobState,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        ended: float | None = None,
    ) -> None:
        """End the run of a job, whose results are `metrics`."""
        moment = time.time() if ended is None else ended
        self._outbox.put(
            RunUpdate(
                key,
                results=_finite(metrics or {}),
                tags=_tags(tags or {}),
                state=state,
                ended=moment,
            )
        )

    def log_dataset(self, datasets: Iterable[DataSet], key: str = STUDY_KEY) -> None:
        """Record the splits that a job, or the study as a whole, used."""
        self._outbox.put(RunUpdate(key, datasets=list(datasets)))

    def log_artifacts(self, files: Mapping[str, Path]) -> None:
        """Keep a copy of files of this machine, as they are now, with the study's run, by name
        (`report/report.html`).
        """
        self._outbox.put(
            RunUpdate(STUDY_KEY, files={name: path.read_bytes() for name, path in files.items()})
        )

    def log_champion(self, key: str, champion: StudentModel) -> None:
        """Log the student that job `key` trained as a model, and register it under the study's name
        as `champion`.

        The same job is registered once, however often this is called.
        """
        self._outbox.put(RunUpdate(CHAMPION_KEY, champion=champion, source=key))

    def log_results(self, metrics: Mapping[str, float], key: str = STUDY_KEY) -> None:
        """Record numbers of the study as a whole, such as `best/test/accuracy`, or of a job, at its
        end or long after.
        """
        self._outbox.put(RunUpdate(key, results=_finite(metrics)))

    def save_views(self, views: Mapping[str, RunList]) -> None:
        """Offer lists of runs in MLflow's page of the experiment; `study_run_lists` makes some."""
        self._outbox.put(RunUpdate(STUDY_KEY, views=dict(views)))

    def set_description(self, markdown: str) -> None:
        """Replace the text that MLflow shows on top of the study's run."""
        self._outbox.put(RunUpdate(STUDY_KEY, tags=_tags(_note(markdown))))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the study's run."""
        self._outbox.put(RunUpdate(STUDY_KEY, tags=_tags(tags)))

    def finish_study(self, state: JobState) -> None:
        """End the study's run. Runs of jobs that are still open then are marked as interrupted."""
        self._ended = True
        self._outbox.put(RunUpdate(ENDING_KEY, state=state, ended=time.time()))

    def has_job(self, key: str) -> bool:
        """Whether MLflow is known to have the finished run of a job as one of this variant, so that
        announcing it again would change nothing.
        """
        run = (self._outbox.runs or {}).get(key)
        return run is not None and run.done and self._outbox.study.tags.items() <= run.tags.items()

    def close(self, timeout: float = 60.0) -> bool:
        """Write what is left, at most `timeout` seconds for each run, and stop. Returns whether
        MLflow then has everything.
        """
        self.complete = self._outbox.close(timeout)
        return self.complete


def _texts(params: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items()}


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    # MLflow would cut longer values itself, and they would then look changed ever after.
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    # What MLflow's databases make of infinities, so that what is read back is the same.
    largest = sys.float_info.max
    return {
        name: float(value) if value != value else min(max(float(value), -largest), largest)
        for name, value in metrics.items()
    }


def _note(markdown: str) -> dict[str, str]:
    return {DESCRIPTION_TAG: markdown} if markdown else {}
