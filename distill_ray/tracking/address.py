"""Where MLflow is: is the address well formed, does something answer there, and can the installed
MLflow work with it.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from distill_ray.addresses import masked, masked_text
from distill_ray.errors import RequestError, first_line
from distill_ray.tracking.mlflow_internals import Layout, known_revisions, layout_of

DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases beside SQLite that MLflow writes to, with their usual ports."""

CHANGE = "choose another with --tracking-uri"


def default_uri(folder: Path) -> str:
    """The address of the SQLite database `mlflow.db` in `folder`."""
    return sqlite_uri(folder / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite database. SQLAlchemy takes `?` and `#` for what they are in an
    address, and decodes `%20`.
    """
    return f"sqlite:///{quote(str(file.absolute()), safe=' +/')}"


def sqlite_file(uri: str) -> Path | None:
    """The database file behind a `sqlite:` address, or None for any other address."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(unquote(path)) if "://" not in path and path not in ("", ":memory:") else None


def check_tracking(uri: str, search_storage: str | None = None, timeout: float = 5.0) -> None:
    """Make sure that MLflow can be written to at `uri`: a SQLite file, a database server or a
    tracking server.

    Takes a few seconds at most and does not import MLflow. Whatever can be known before a study
    begins is: that the driver is installed, that something answers and lets us in, that the
    database is MLflow's and of a layout that the installed MLflow knows.

    Args:
        uri: the address as the user gave it.
        search_storage: the address of Optuna's storage, which must not be the same database.
        timeout: seconds to wait for an answer.

    Raises:
        RequestError: the message says what is wrong and what to do.
    """
    if search_storage is not None and _same_database(uri, search_storage):
        raise _refusal(uri, "is also the search storage; MLflow and Optuna need a database each")
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in DATABASES:
        _check_database(uri, scheme, timeout)
    elif scheme in ("http", "https"):
        _check_server(uri, timeout)
    elif scheme != "databricks" and uri != "databricks":
        raise RequestError(
            f"tracking URI {masked(uri)!r}: not an address of MLflow; write "
            "sqlite:////absolute/path/mlflow.db or http://host:port"
        )


def _same_database(uri: str, other: str) -> bool:
    files = sqlite_file(uri), sqlite_file(other)
    if files[0] is not None and files[1] is not None:
        return files[0].absolute() == files[1].absolute()
    parts = [urlsplit(address) for address in (uri, other)]
    places = [
        (part.scheme.partition("+")[0], part.hostname, part.port, part.path) for part in parts
    ]
    return places[0] == places[1] and places[0][0] in DATABASES


def _refusal(uri: str, reason: str) -> RequestError:
    return RequestError(f"tracking URI {masked(uri)!r}: {reason}")


def _check_sqlite(uri: str) -> None:
    path = sqlite_file(uri)
    if path is None:
        raise _refusal(uri, "names no database file; write sqlite:////absolute/path/mlflow.db")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=1.0)
        try:
            # Takes the write lock and gives it back: proves that the file is a database and that it
            # can be written.
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [name for (name,) in names]
            layout = layout_of(tables, lambda query: connection.execute(query).fetchall())
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return
        raise _refusal(uri, f"cannot be written ({error}); {CHANGE}") from None
    except (OSError, ValueError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise _refusal(uri, f"cannot be written ({reason}); {CHANGE}") from None
    _check_layout(uri, layout)


def _check_layout(uri: str, layout: Layout) -> None:
    """Raise `RequestError` when a database is not MLflow's, or of another release."""
    if {"study_directions", "trial_params"} & layout.tables:
        raise _refusal(uri, f"this is a database of Optuna, not of MLflow; {CHANGE}")
    if layout.revision is None:
        return
    newest, earlier = known_revisions()
    if layout.revision in earlier:
        raise _refusal(
            uri,
            "the database was made by an older MLflow; make a copy and run `mlflow db upgrade` on "
            f"it, or {CHANGE}",
        )
    if layout.revision != newest:
        raise _refusal(
            uri,
            "the database was made by a newer MLflow or another program; install that release of "
            f"MLflow, or {CHANGE}",
        )


def _check_database(uri: str, scheme: str, timeout: float) -> None:
    """Log in as MLflow will."""
    _check_driver(uri)
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    parts = urlsplit(uri)
    try:
        port = parts.port or DATABASES[scheme]
        with socket.create_connection((parts.hostname or "", port), timeout):
            pass
    except (OSError, ValueError) as error:
        raise _refusal(uri, f"nothing answers there ({error}); start it or {CHANGE}") from None
    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()

            def rows(query: str) -> list[tuple[Any, ...]]:
                return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]

            layout = layout_of(tables, rows)
    except (SQLAlchemyError, OSError, ValueError) as error:
        reason = masked_text(first_line(error), uri)
        raise _refusal(uri, f"cannot be used ({reason}); mend it or {CHANGE}") from None
    _check_layout(uri, layout)


def _check_driver(uri: str) -> None:
    """Raise `RequestError` when the Python package that `uri` needs is not installed."""
    import sqlalchemy

    try:
        sqlalchemy.create_engine(uri)
    except (ImportError, sqlalchemy.exc.ArgumentError) as error:
        extra = ""
        if urlsplit(uri).scheme.startswith("postgres"):
            extra = "; for PostgreSQL: pip install 'distill-ray[postgresql]'"
        reason = masked_text(first_line(error), uri)
        raise _refusal(uri, f"has no driver here ({reason}){extra}") from None
    except ValueError:
        return  # a port that is none; it is refused with the reason when it is called


def _check_server(uri: str, timeout: float) -> None:
    try:
        with urllib.request.urlopen(_request(uri), timeout=timeout, context=_tls()) as answer:
            if not isinstance(json.load(answer), dict):
                raise TypeError("the answer is not a JSON object")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise _refusal(
                uri,
                f"the server refuses access (HTTP {error.code}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            ) from None
        raise _refusal(
            uri,
            f"this is no MLflow server that works (HTTP {error.code}); check it or {CHANGE}",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        raise _refusal(uri, f"what answers there is not MLflow; {CHANGE}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = masked_text(str(getattr(error, "reason", error)), uri)
        raise _refusal(
            uri, f"no MLflow server answers there ({reason}); start it or {CHANGE}"
        ) from None


def _request(uri: str) -> urllib.request.Request:
    parts = urlsplit(uri)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    headers = {"Content-Type": "application/json"}
    if user and password:
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    return urllib.request.Request(
        f"{bare}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}', headers
    )


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
