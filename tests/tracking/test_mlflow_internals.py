"""What this package knows of MLflow's inside, against MLflow itself: each test fails when a release
of MLflow changes it.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from distill_ray.events import JobState
from distill_ray.tracking import Tracker, study_run_lists
from distill_ray.tracking.address import sqlite_uri
from distill_ray.tracking.mlflow_internals import (
    VIEW_TAG,
    experiments_with_views,
    known_revisions,
    make_database,
    runs_tagged,
)
from distill_ray.tracking.run_update import KEY_TAG
from distill_ray.tracking.ui_server import allows


def test_the_database_says_what_the_client_says(tracking_uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    artifacts = str(tmp_path / "artifacts")
    with Tracker(tracking_uri, "small", "abc", artifacts=artifacts, interval=0.02) as tracker:
        tracker.start_study("small")
        tracker.save_views(study_run_lists({"val/nll": "min"}, [], "1"))
        tracker.start_job("trial/0", "trial 0", {"lr": 0.1}, {"seed": "0"})
        for epoch in range(3):
            tracker.log_epoch("trial/0", epoch, 0.0, {"val/nll": 2.0 - epoch, "nan": float("nan")})
        tracker.finish_job("trial/0", JobState.PRUNED)
        tracker.finish_study(JobState.FINISHED)
    file = Path(tracking_uri.removeprefix("sqlite:///"))
    rows = runs_tagged(file, KEY_TAG, "abc/")
    assert rows is not None
    client = MlflowClient(tracking_uri)
    ((name, experiment),) = experiments_with_views(file)
    assert name == "small"
    runs = {run.data.tags[KEY_TAG]: run for run in client.search_runs([experiment])}
    assert set(rows) == set(runs) == {"abc/study/1", "abc/trial/0"}
    for key, row in rows.items():
        run = runs[key]
        assert (row.run_id, row.status, row.tags) == (
            run.info.run_id,
            run.info.status,
            run.data.tags,
        )
        assert row.metrics == pytest.approx(run.data.metrics, nan_ok=True)
    assert rows["abc/trial/0"].steps == {"val/nll": 2, "nan": 2}
    client.delete_experiment(experiment)
    assert experiments_with_views(file) == [] and runs_tagged(file, KEY_TAG, "abc/") == {}


def test_a_database_that_is_made_has_the_newest_revision(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    make_database(file)
    connection = sqlite3.connect(file)
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    newest, earlier = known_revisions()
    assert revision == newest and newest not in earlier and len(earlier) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert sqlite_uri(file).endswith("mlflow.db")


def test_the_page_reads_lists_of_runs_as_they_are_written() -> None:
    """The interface is JavaScript; that it knows the names used here is all that can be tested
    without a browser.
    """
    import mlflow.server

    build = Path(mlflow.server.__file__).parent / "js" / "build"
    scripts = [file.read_text("utf-8", errors="replace") for file in build.rglob("*.js")]
    state = json.loads(study_run_lists({"val/nll": "min"}, ["lr"], "1")["trials"].state())
    for word in (VIEW_TAG.rstrip("."), "viewStateShareKey", *state):
        assert any(word in script for script in scripts), word


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/", True),
        ("GET", "/ajax-api/2.0/mlflow/runs/get", True),
        ("POST", "/ajax-api/2.0/mlflow/runs/search", True),
        ("POST", "/ajax-api/2.0/mlflow/experiments/search", True),
        ("POST", "/ajax-api/2.0/mlflow/runs/set-tag", True),
        ("POST", "/ajax-api/2.0/mlflow/runs/delete", True),
        ("POST", "/ajax-api/2.0/mlflow/experiments/create", False),
        ("POST", "/api/2.0/mlflow/experiments/create", False),
        ("POST", "/api/2.0/mlflow/experiments/create/", False),
        ("POST", "/api/2.0/mlflow/runs/create", False),
        ("POST", "/api/2.0/mlflow/model-versions/create", False),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x.txt", False),
        ("PUT", "/ajax-api/2.0/mlflow-artifacts/artifacts/search", False),
        ("POST", "/ajax-api/2.0/mlflow/upload-artifact", False),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message", False),
        ("POST", "/gateway/x/mlflow/invocations", False),
        ("POST", "/ajax-api/3.0/jobs/", False),
    ],
)
def test_the_page_looks_and_edits_and_makes_nothing(method: str, path: str, allowed: bool) -> None:
    assert allows(method, path) == allowed
