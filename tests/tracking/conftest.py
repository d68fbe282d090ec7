"""A fresh MLflow database for each test: made once with all its migrations, then copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distill_ray.tracking import default_uri
from distill_ray.tracking.environment import prepare


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a database that MLflow has set up and nobody has written to."""
    prepare()
    from mlflow import MlflowClient

    uri = default_uri(tmp_path_factory.mktemp("empty"))
    MlflowClient(uri, uri).search_experiments()
    return Path(uri.removeprefix("sqlite:///"))


@pytest.fixture
def tracking_uri(empty_database: Path, tmp_path: Path) -> str:
    """The address of an MLflow database of the test's own, `tmp_path/mlflow.db`."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)
