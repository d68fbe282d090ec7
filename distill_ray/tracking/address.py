"""Where MLflow records go: is the address well formed, does something answer there, and how may it
be shown.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from distill_ray.errors import RequestError

DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases beside SQLite that MLflow writes to, with their usual ports."""

CHANGE = "choose another with --tracking-uri"


def default_uri(folder: Path) -> str:
    """The address of the SQLite database `mlflow.db` in `folder`."""
    return f"sqlite:///{(folder / 'mlflow.db').absolute()}"


def sqlite_file(uri: str) -> Path | None:
    """The database file behind a `sqlite:` address, or None for any other address."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(path) if "://" not in path and path not in ("", ":memory:") else None


def shown(uri: str) -> str:
    """`uri` without user name, password, query and fragment: the only form in which an address is
    printed.
    """
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri.partition("?")[0]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def redacted(text: str, uri: str) -> str:
    """`text`, such as the message of an error, without what is secret in `uri`."""
    parts = urlsplit(uri)
    text = text.replace(uri, shown(uri))
    for secret in filter(None, (parts.password, unquote(parts.password or ""), parts.query)):
        text = text.replace(secret, "***")
    return re.sub(r"(\w+://)[^/\s@]+@", r"\1", text)


def check_tracking(uri: str, timeout: float = 5.0) -> None:
    """Make sure that MLflow can be written to at `uri`: a SQLite file, a database server or a
    tracking server.

    Takes a few seconds at most and does not import MLflow. Raises `RequestError` saying what is
    wrong with the address or that nothing answers there.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in DATABASES:
        _check_database(uri, scheme, timeout)
    elif scheme in ("http", "https"):
        _check_server(uri, timeout)
    elif scheme != "databricks" and uri != "databricks":
        raise RequestError(
            f"tracking URI {shown(uri)!r}: not an address that MLflow records can go to; "
            "take sqlite:////absolute/path/mlflow.db or http://host:port"
        )


def _check_sqlite(uri: str) -> None:
    path = sqlite_file(uri)
    if path is None:
        raise RequestError(
            f"tracking URI {shown(uri)!r}: names no database file; write sqlite:////absolute/path/mlflow.db"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=1.0)
        try:
            # Takes the write lock and gives it back: proves that the file is a database and that it
            # can be written.
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise RequestError(
                f"tracking URI {shown(uri)!r}: cannot be written ({error}); {CHANGE}"
            ) from None
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RequestError(
            f"tracking URI {shown(uri)!r}: cannot be written ({reason}); {CHANGE}"
        ) from None


def _check_database(uri: str, scheme: str, timeout: float) -> None:
    parts = urlsplit(uri)
    dialect, _, driver = parts.scheme.partition("+")
    driver = driver or {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}[dialect]
    if find_spec(driver) is None:
        raise RequestError(
            f"tracking URI {shown(uri)!r}: needs the Python package of {driver}, which is not installed"
        )
    try:
        with socket.create_connection(
            (parts.hostname or "", parts.port or DATABASES[scheme]), timeout
        ):
            return
    except (OSError, ValueError) as error:
        raise RequestError(
            f"tracking URI {shown(uri)!r}: nothing answers there ({error}); start it or {CHANGE}"
        ) from None


def _check_server(uri: str, timeout: float) -> None:
    try:
        with urllib.request.urlopen(_request(uri), timeout=timeout, context=_tls()) as answer:
            if not isinstance(json.load(answer), dict):
                raise TypeError("the answer is not a JSON object")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise RequestError(
                f"tracking URI {shown(uri)!r}: the server refuses access (HTTP {error.code}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
        raise RequestError(
            f"tracking URI {shown(uri)!r}: this is no MLflow server that works (HTTP {error.code}); check it or {CHANGE}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        raise RequestError(
            f"tracking URI {shown(uri)!r}: what answers there is not MLflow; {CHANGE}"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = redacted(str(getattr(error, "reason", error)), uri)
        raise RequestError(
            f"tracking URI {shown(uri)!r}: no MLflow server answers there ({reason}); start it or {CHANGE}"
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
