"""Writes the runs of one study through MLflow's client. Used by one thread; the only module that
loads MLflow for tracking.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.errors import first_line
from distill_ray.events import JobState
from distill_ray.tracking.address import sqlite_file
from distill_ray.tracking.champion import register_champion
from distill_ray.tracking.environment import prepare, registry_uri
from distill_ray.tracking.mlflow_internals import (
    VIEW_TAG,
    RunRow,
    make_database,
    without_stray_folders,
)
from distill_ray.tracking.run_update import (
    KEY_TAG,
    LOGGED_TAG,
    STUDY_KEY,
    STUDY_KEY_TAG,
    DataSet,
    MlflowRun,
    RunUpdate,
    StudyName,
    mlflow_run,
)
from distill_ray.tracking.states import STATE_TAG, mlflow_status

if TYPE_CHECKING:
    from mlflow.entities import Run

VALUES_PER_CALL = 800
OTHERS_PER_CALL = 100
"""MLflow takes 1000 metrics, 100 parameters and 100 tags in a call, and 1000 of all together."""

TRY_AGAIN = (401, 403, 404, 408, 429)
"""HTTP statuses of a client's error that may pass: a token renewed, a run deleted while it was
written, a busy server.
"""


class Unavailable(Exception):
    """MLflow cannot be reached or cannot work now; the same call may succeed later."""


class Refused(Exception):
    """MLflow does not accept what was written, now or later."""


class RunWriter:
    """The runs of a study. Every method raises `Unavailable` or `Refused`.

    `restored` says that the experiment had been deleted and is back now, with the runs it had.
    """

    def __init__(self, uri: str, study: StudyName, artifacts: str | None) -> None:
        self.study, self.artifacts = study, artifacts
        with _explained():
            prepare()
            from mlflow import MlflowClient

            _silence_this_thread()
            database = sqlite_file(uri)
            with nullcontext() if database is None else without_stray_folders(database):
                if database is not None and not (database.exists() and database.stat().st_size):
                    make_database(database)
                self.client = MlflowClient(uri, registry_uri(uri))
                self.experiment_id, self.restored = self._open_experiment()

    def runs(self) -> dict[str, MlflowRun]:
        """What MLflow has of the study, by key of the run."""
        runs: dict[str, MlflowRun] = {}
        page = None
        with _explained():
            while True:
                batch = self.client.search_runs(
                    [self.experiment_id],
                    f"tags.`{KEY_TAG}` LIKE '{self.study.key}/%'",
                    max_results=1000,
                    page_token=page,
                )
                for run in batch:
                    key = self.study.run_key(run.data.tags[KEY_TAG])
                    if key is not None:
                        runs[key] = _mlflow_run(run)
                page = batch.token
                if not page:
                    return runs

    def write(self, update: RunUpdate, runs: Mapping[str, MlflowRun]) -> MlflowRun:
        """Bring a run up to date with `update`, and return what MLflow has of it then. Doing it
        twice changes nothing.
        """
        with _explained():
            run = runs.get(update.run_key) or self._create(update, runs.get(STUDY_KEY))
            state = update.state or run.state
            status = mlflow_status(state)
            if state == JobState.RUNNING != run.state:
                self.client.update_run(run.run_id, status=status)
            self._log_inputs(run.run_id, update.datasets)
            self._log_artifacts(run.run_id, update)
            if update.champion is not None:
                run_id = runs.get(update.source, run).run_id
                register_champion(
                    self.client, self.study.name, self.experiment_id, run_id, update.champion
                )
            for name, view in update.views.items():
                now = int(time.time() * 1000)
                envelope = {
                    "name": view.title,
                    "createdAt": now,
                    "updatedAt": now,
                    "state": view.state(),
                }
                self.client.set_experiment_tag(
                    self.experiment_id, VIEW_TAG + name, json.dumps(envelope)
                )
            tags = update.tags if update.state is None else update.tags | {STATE_TAG: state}
            if update.run_key == STUDY_KEY and (logged := update.digests()):
                tags = tags | {LOGGED_TAG: json.dumps(run.logged | logged, sort_keys=True)}
            self._log_values(
                run.run_id,
                update,
                {name: value for name, value in tags.items() if run.tags.get(name) != value},
            )
            if update.state not in (None, JobState.RUNNING):
                ended = None if update.ended is None else int(update.ended * 1000)
                self.client.set_terminated(run.run_id, status, ended)
        metrics = {value.metric: value.value for value in update.values} | update.results
        steps = {value.metric: value.step for value in update.values} | dict.fromkeys(
            update.results, 0
        )
        return MlflowRun(
            run.run_id, state, run.tags | tags, run.metrics | metrics, run.steps | steps
        )

    def _create(self, update: RunUpdate, parent: MlflowRun | None) -> MlflowRun:
        tags = update.tags | {
            KEY_TAG: self.study.stored(update.run_key),
            STUDY_KEY_TAG: self.study.key,
        }
        tags["study"] = self.study.name
        tags |= {
            "mlflow.source.name": "distill-ray",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": _user(),
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.run_id
        started = time.time() if update.started is None else update.started
        run = self.client.create_run(self.experiment_id, int(started * 1000), tags, update.name)
        return MlflowRun(run.info.run_id, JobState.RUNNING, tags)

    def _open_experiment(self) -> tuple[str, bool]:
        experiment = self.client.get_experiment_by_name(self.study.name)
        if experiment is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return self.client.create_experiment(self.study.name, self.artifacts, tags), False
        deleted = experiment.lifecycle_stage != "active"
        if deleted:
            self.client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id, deleted

    def _log_values(self, run_id: str, update: RunUpdate, tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(value.metric, value.value, value.time, value.step) for value in update.values
        ]
        moment = int((update.ended or time.time()) * 1000)
        metrics += [Metric(name, value, moment, 0) for name, value in update.results.items()]
        params = [Param(name, value) for name, value in update.params.items()]
        labels = [RunTag(name, value) for name, value in tags.items()]
        while metrics or params or labels:
            self.client.log_batch(
                run_id,
                metrics[:VALUES_PER_CALL],
                params[:OTHERS_PER_CALL],
                labels[:OTHERS_PER_CALL],
            )
            metrics, params, labels = (
                metrics[VALUES_PER_CALL:],
                params[OTHERS_PER_CALL:],
                labels[OTHERS_PER_CALL:],
            )

    def _log_inputs(self, run_id: str, datasets: list[DataSet]) -> None:
        from mlflow.entities import DatasetInput, InputTag

        if datasets:
            inputs = [
                DatasetInput(_entity(one), [InputTag("mlflow.data.context", one.context)])
                for one in datasets
            ]
            self.client.log_inputs(run_id, inputs)

    def _log_artifacts(self, run_id: str, update: RunUpdate) -> None:
        if not update.files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in update.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(run_id, folder)


def _entity(dataset: DataSet) -> Any:
    # Made without mlflow.data.from_numpy, which would want the images themselves.
    from mlflow.entities import Dataset

    features = [
        {"type": "tensor", "tensor-spec": {"dtype": dataset.dtype, "shape": [-1, *dataset.shape]}}
    ]
    kind = dataset.source.partition("://")[0] if "://" in dataset.source else "local"
    return Dataset(
        name=dataset.name,
        digest=dataset.digest[:36],
        source_type=kind,
        source=json.dumps({"uri": dataset.source}),
        schema=json.dumps(
            {"mlflow_tensorspec": {"features": json.dumps(features), "targets": None}}
        ),
        profile=json.dumps({"num_rows": dataset.rows, "image_shape": list(dataset.shape)}),
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn every error inside into `Unavailable` or `Refused`."""
    from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError

    # Of a database that went away MLflow knows only what happens while it asks: not what happens
    # while it rolls back, nor that a transaction is no longer one.
    passing = OSError, OperationalError, InterfaceError, PendingRollbackError
    try:
        yield
    except Exception as error:
        status = getattr(error, "get_http_status_code", lambda: 400)()
        may_pass = isinstance(error, passing) or isinstance(error.__cause__, passing)
        is_final = 400 <= status < 500 and status not in TRY_AGAIN and not may_pass
        raise (Refused if is_final else Unavailable)(first_line(error)) from error


def _mlflow_run(run: Run) -> MlflowRun:
    steps = {metric.key: metric.step for metric in run.data.to_proto().metrics}
    info = run.info
    return mlflow_run(RunRow(info.run_id, info.status, run.data.tags, run.data.metrics, steps))


def _user() -> str:
    """Who runs the study. In a container the user id may have no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _silence_this_thread() -> None:
    """Keep MLflow's log of this thread off the terminal: the tracker logs in one line what
    matters.
    """
    writer = threading.get_ident()
    for handler in logging.getLogger("mlflow").handlers:
        handler.addFilter(lambda message: message.thread != writer)
