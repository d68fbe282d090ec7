"""Writes the runs of one study through MLflow's client. Used by one thread; the only module that
loads MLflow for tracking.
"""

from __future__ import annotations

import getpass
import json
import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_ray.events import JobState
from distill_ray.tracking.address import sqlite_file
from distill_ray.tracking.champion import register_champion
from distill_ray.tracking.environment import prepare, registry_uri
from distill_ray.tracking.record import (
    KEY_TAG,
    LOGGED_TAG,
    STUDY_KEY,
    STUDY_KEY_TAG,
    DataSet,
    Pending,
    Recorded,
)
from distill_ray.tracking.states import STATE_TAG, mlflow_status, state_of_run
from distill_ray.tracking.views import VIEW_TAG

PARTIAL = ".mlflow.db."
"""How the name of a database begins that is being made."""

POINTS_PER_CALL = 800
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
    """The runs of study `study_key` in experiment `study_name`. Every method raises `Unavailable`
    or `Refused`.

    `restored` says that the experiment had been deleted and is back now, with the runs it had.
    """

    def __init__(self, uri: str, study_name: str, study_key: str, artifacts: str | None) -> None:
        self.study_name, self.study_key, self.artifacts = study_name, study_key, artifacts
        with _explained():
            prepare()
            from mlflow import MlflowClient

            _silence_this_thread()
            _make_database(uri)
            self.client = MlflowClient(uri, registry_uri(uri))
            self.experiment_id, self.restored = self._open_experiment()

    def recorded(self) -> dict[str, Recorded]:
        """What MLflow has of the study, by key of the run."""
        runs: dict[str, Recorded] = {}
        prefix = f"{self.study_key}/"
        page = None
        with _explained():
            while True:
                found = self.client.search_runs(
                    [self.experiment_id],
                    f"tags.`{KEY_TAG}` LIKE '{prefix}%'",
                    max_results=1000,
                    page_token=page,
                )
                for run in found:
                    name = run.data.tags[KEY_TAG]
                    if name.startswith(prefix):
                        steps = {metric.key: metric.step for metric in run.data.to_proto().metrics}
                        known = Recorded(
                            run.info.run_id,
                            state_of_run(run.info.status, run.data.tags),
                            run.data.tags,
                            run.data.metrics,
                            steps,
                        )
                        runs[name.removeprefix(prefix)] = known
                page = found.token
                if not page:
                    return runs

    def write(self, pending: Pending, runs: Mapping[str, Recorded]) -> Recorded:
        """Bring a run up to date with `pending`, and return what MLflow has of it then. Doing it
        twice changes nothing.
        """
        with _explained():
            known = runs.get(pending.run_key) or self._create(pending, runs.get(STUDY_KEY))
            state = pending.state or known.state
            status = mlflow_status(state)
            if state == JobState.RUNNING != known.state:
                self.client.update_run(known.run_id, status=status)
            self._log_inputs(known.run_id, pending.datasets)
            self._log_artifacts(known.run_id, pending)
            if pending.champion is not None:
                run_id = runs.get(pending.source, known).run_id
                register_champion(
                    self.client, self.study_name, self.experiment_id, run_id, pending.champion
                )
            for name, view in pending.views.items():
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
            tags = pending.tags if pending.state is None else pending.tags | {STATE_TAG: state}
            if pending.run_key == STUDY_KEY and (logged := pending.digests()):
                tags = tags | {LOGGED_TAG: json.dumps(known.logged | logged, sort_keys=True)}
            self._log_values(
                known.run_id,
                pending,
                {name: value for name, value in tags.items() if known.tags.get(name) != value},
            )
            if pending.state not in (None, JobState.RUNNING):
                ended = None if pending.ended is None else int(pending.ended * 1000)
                self.client.set_terminated(known.run_id, status, ended)
        metrics = {point.metric: point.value for point in pending.points} | pending.results
        steps = {point.metric: point.step for point in pending.points} | dict.fromkeys(
            pending.results, 0
        )
        return Recorded(
            known.run_id, state, known.tags | tags, known.metrics | metrics, known.steps | steps
        )

    def _create(self, pending: Pending, parent: Recorded | None) -> Recorded:
        tags = pending.tags | {
            KEY_TAG: f"{self.study_key}/{pending.run_key}",
            STUDY_KEY_TAG: self.study_key,
        }
        tags["study"] = self.study_name
        tags |= {
            "mlflow.source.name": "distill-ray",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": getpass.getuser(),
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.run_id
        started = time.time() if pending.started is None else pending.started
        run = self.client.create_run(self.experiment_id, int(started * 1000), tags, pending.name)
        return Recorded(run.info.run_id, JobState.RUNNING, tags)

    def _open_experiment(self) -> tuple[str, bool]:
        experiment = self.client.get_experiment_by_name(self.study_name)
        if experiment is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return self.client.create_experiment(self.study_name, self.artifacts, tags), False
        deleted = experiment.lifecycle_stage != "active"
        if deleted:
            self.client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id, deleted

    def _log_values(self, run_id: str, pending: Pending, tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(point.metric, point.value, point.time, point.step) for point in pending.points
        ]
        moment = int((pending.ended or time.time()) * 1000)
        metrics += [Metric(name, value, moment, 0) for name, value in pending.results.items()]
        params = [Param(name, value) for name, value in pending.params.items()]
        labels = [RunTag(name, value) for name, value in tags.items()]
        while metrics or params or labels:
            self.client.log_batch(
                run_id,
                metrics[:POINTS_PER_CALL],
                params[:OTHERS_PER_CALL],
                labels[:OTHERS_PER_CALL],
            )
            metrics, params, labels = (
                metrics[POINTS_PER_CALL:],
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

    def _log_artifacts(self, run_id: str, pending: Pending) -> None:
        if not pending.files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in pending.files.items():
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
    """Turn whatever goes wrong inside into `Unavailable` or `Refused`."""
    try:
        yield
    except OSError as error:
        raise Unavailable(_line(error)) from error
    except Exception as error:
        status = getattr(error, "get_http_status_code", lambda: 400)()
        kind = Refused if 400 <= status < 500 and status not in TRY_AGAIN else Unavailable
        raise kind(_line(error)) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _make_database(uri: str) -> None:
    """Make the database of a `sqlite:` address, where there is none, beside its place and move it
    there when it is whole.

    MLflow makes it in hundreds of steps, and one that was left in the middle of them is of no use
    ever after.
    """
    file = sqlite_file(uri)
    if file is None or (file.exists() and file.stat().st_size):
        return
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = file.with_name(f"{PARTIAL}{secrets.token_hex(4)}")
    try:
        SqlAlchemyStore(
            f"sqlite:///{partial}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        ).engine.dispose()
        if not (file.exists() and file.stat().st_size):  # nobody else was quicker
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _silence_this_thread() -> None:
    """Keep what MLflow logs in this thread off the terminal: the tracker says in one line what
    matters.
    """
    writer = threading.get_ident()
    for handler in logging.getLogger("mlflow").handlers:
        handler.addFilter(lambda record: record.thread != writer)
