"""How MLflow is made to behave inside a study: quiet, offline and quick to give up."""

from __future__ import annotations

import os

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The outbox itself waits and tries again, and has to notice soon that it must.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # A model would otherwise take along the pyproject.toml and uv.lock of whatever folder the study
    # was started in.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
}


def prepare() -> None:
    """Set MLflow's environment variables where the user has not. To be called before MLflow is
    imported.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def registry_uri(tracking_uri: str) -> str:
    """Where models of studies tracked at `tracking_uri` are registered, and looked up: there, or
    where MLflow's own `MLFLOW_REGISTRY_URI` says.
    """
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri
