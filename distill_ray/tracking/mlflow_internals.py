"""What this package knows of MLflow's inside, beyond its public API, and nowhere else: the layout
of its database, the revision of that layout, how a database is made, and how its page is served.

A test of each fails when MLflow changes it.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

PARTIAL = ".mlflow.db."
"""How the name of a database begins that is being made."""

VIEW_TAG = "mlflow.sharedViewState."
"""Tag of an experiment under which MLflow's page keeps a list of runs with its columns."""


@dataclass
class RunRow:
    """A run as the database has it: its status, its tags, and of each metric the latest value with
    its step.
    """

    run_id: str
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)


def runs_tagged(database: Path, tag: str, prefix: str) -> dict[str, RunRow] | None:
    """The active runs whose `tag` begins with `prefix`, by its value; None when there is no
    database that is laid out as expected.

    Importing MLflow and opening its database takes seconds, this takes milliseconds: a study that
    is run again and has nothing new to say need not load MLflow at all.
    """
    mine = (
        "FROM runs JOIN tags AS own ON own.run_uuid = runs.run_uuid AND own.key = ? "
        "AND substr(own.value, 1, ?) = ? "
    )
    active = "WHERE runs.lifecycle_stage = 'active'"
    all_tags = (
        f"SELECT own.value, runs.run_uuid, runs.status, tags.key, tags.value {mine}"
        f"JOIN tags USING (run_uuid) {active}"
    )
    latest = (
        f"SELECT own.value, m.key, m.value, m.is_nan, m.step {mine}"
        f"JOIN latest_metrics AS m USING (run_uuid) {active}"
    )
    arguments = (tag, len(prefix), prefix)
    runs: dict[str, RunRow] = {}
    try:
        with _read_only(database) as connection:
            for key, run_id, status, name, value in connection.execute(all_tags, arguments):
                runs.setdefault(key, RunRow(run_id, status)).tags[name] = value
            for key, name, value, is_nan, step in connection.execute(latest, arguments):
                if key in runs:
                    runs[key].metrics[name] = math.nan if is_nan else value
                    runs[key].steps[name] = step
    except sqlite3.Error:
        return None
    return runs


def experiments_with_views(database: Path) -> list[tuple[str, str]]:
    """Name and id of the active experiments that have saved lists of runs, newest first; empty
    where there is no such database.
    """
    query = (
        "SELECT DISTINCT name, experiment_id FROM experiments "
        "JOIN experiment_tags USING (experiment_id) "
        "WHERE lifecycle_stage = 'active' AND key LIKE ? ORDER BY last_update_time DESC"
    )
    try:
        with _read_only(database) as connection:
            rows = connection.execute(query, (f"{VIEW_TAG}%",)).fetchall()
            return [(str(name), str(experiment)) for name, experiment in rows]
    except sqlite3.Error:
        return []


def known_revisions() -> tuple[str, frozenset[str]]:
    """The revision of the database that the installed MLflow needs, and those before it.

    Read from the names and heads of MLflow's migrations, since importing MLflow takes seconds.
    """
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)), "store/db_migrations/versions")
    revisions, earlier = set(), set()
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions |= set(re.findall(r"^revision = ['\"](\w+)['\"]", text, re.MULTILINE))
        earlier |= set(re.findall(r"^down_revision = ['\"](\w+)['\"]", text, re.MULTILINE))
    (newest,) = revisions - earlier
    return newest, frozenset(earlier)


@dataclass(frozen=True)
class Layout:
    """What tells whose database this is: its tables, and its layout's revision if it has one."""

    tables: frozenset[str]
    revision: str | None


def layout_of(tables: Sequence[str], query: Callable[[str], list[tuple[Any, ...]]]) -> Layout:
    """The layout of a database with these tables, asked by `query`."""
    revision = None
    if "alembic_version" in tables:
        revision = next((str(row[0]) for row in query("SELECT * FROM alembic_version")), None)
    return Layout(frozenset(tables), revision)


def make_database(file: Path) -> None:
    """Make MLflow's database beside its place and move it there when it is whole.

    MLflow makes it in hundreds of steps, and a database that was left in the middle of them can
    never be used.
    """
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from distill_ray.tracking.address import sqlite_uri

    partial = file.with_name(f"{PARTIAL}{secrets.token_hex(4)}")
    try:
        store = SqlAlchemyStore(sqlite_uri(partial), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store.engine.dispose()
        if not (file.exists() and file.stat().st_size):  # another process may have been quicker
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def without_stray_folders(file: Path) -> Iterator[None]:
    """Remove the folders that MLflow makes when it opens the SQLite database `file`, where special
    characters in the path are quoted in the address: it takes the quoted path for the real one.
    """
    quoted = Path(quote(str(file.absolute().parent), safe=" +/"))
    missing = [folder for folder in (quoted, *quoted.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def page(uri: str) -> Any:
    """MLflow's page on the database at `uri`, as an ASGI application for `guarded`.

    Files are read where experiments say they are; uploads by the server are off, so that nothing
    is written into the working directory, and no processes are started to execute jobs.
    """
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri
    os.environ.pop(constants.SERVE_ARTIFACTS_ENV_VAR, None)
    initialize_backend_stores(uri, uri)
    from mlflow.server.fastapi_app import app

    return app


@contextmanager
def _read_only(database: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{database.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=1.0)
    try:
        yield connection
    finally:
        connection.close()
