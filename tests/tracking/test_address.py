"""What an address must be before a study starts, and that its secrets stay secret."""

from __future__ import annotations

import http.server
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.tracking import check_tracking, default_uri
from distill_ray.tracking.address import sqlite_file, sqlite_uri
from distill_ray.tracking.mlflow_internals import known_revisions


@contextmanager
def answering(
    status: int, body: bytes, until: threading.Event | None = None
) -> Iterator[tuple[str, list[str | None]]]:
    """A server on this machine that gives the same answer to every request; yields its address and
    the credentials it saw.
    """
    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers.get("Authorization"))
            if until is not None:
                until.wait()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def test_default_is_a_database_in_the_folder(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert sqlite_file(uri) == tmp_path / "mlflow.db"
    check_tracking(uri)


def test_an_existing_database_is_left_as_it_is(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("CREATE TABLE kept (value)")
    connection.commit()
    connection.close()
    before = (tmp_path / "mlflow.db").read_bytes()
    check_tracking(default_uri(tmp_path))
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_locked_database_is_no_reason_to_refuse(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("BEGIN EXCLUSIVE")
    check_tracking(default_uri(tmp_path))
    connection.close()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "not an address"),
        ("./mlruns", "not an address"),
        ("file:///tmp/mlruns", "not an address"),
        ("ftp://host/x", "not an address"),
        ("sqlite://", "names no database file"),
        ("sqlite:///:memory:", "names no database file"),
        ("sqlite:////proc/nowhere/mlflow.db", "cannot be written"),
        ("postgresql+nosuchdriver://me:secret@127.0.0.1/db", "has no driver here"),
        ("mysql://me:secret@127.0.0.1/db", "has no driver here"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "nothing answers there"),
        ("postgresql+psycopg://me:secret@127.0.0.1:notaport/db", "nothing answers there|driver"),
        ("http://127.0.0.1:1", "no MLflow server answers there"),
        ("http://me:secret@127.0.0.1:1/?token=secret", "no MLflow server answers there"),
        ("http://127.0.0.1:notaport", "no MLflow server answers there"),
        ("http://", "no MLflow server answers there"),
    ],
)
def test_a_bad_address_is_said_in_one_line(uri: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        check_tracking(uri)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is a letter, not a database " * 40)
    with pytest.raises(RequestError, match="not a database"):
        check_tracking(default_uri(tmp_path))


def test_a_server_that_answers_as_mlflow_does_and_gets_the_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(200, b'{"experiments": []}') as (host, seen):
        check_tracking(f"http://me:pass%20word@{host}/")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
        check_tracking(f"http://{host}")
    assert seen == ["Basic bWU6cGFzcyB3b3Jk", "Bearer abc"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, b"", "refuses access"),
        (403, b"", "refuses access"),
        (404, b"", "no MLflow server that works"),
        (500, b"", "no MLflow server that works"),
        (200, b"<html>hello</html>", "not MLflow"),
        (200, b"[]", "not MLflow"),
        (200, b"3", "not MLflow"),
    ],
)
def test_a_server_that_is_not_mlflow_or_lets_nobody_in(status: int, body: bytes, says: str) -> None:
    with answering(status, body) as (host, _), pytest.raises(RequestError, match=says):
        check_tracking(f"http://{host}")


def test_a_server_that_never_answers_is_not_waited_for() -> None:
    over = threading.Event()
    with (
        answering(200, b"{}", until=over) as (host, _),
        pytest.raises(RequestError, match="no MLflow server answers"),
    ):
        try:
            check_tracking(f"http://{host}", timeout=0.3)
        finally:
            over.set()


@pytest.mark.parametrize("name", ["a%20b", "a b", "what?", "a#b", "100%"])
def test_any_path_can_be_written_as_an_address(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(file)) == file
    sqlalchemy = pytest.importorskip("sqlalchemy")
    assert sqlalchemy.engine.make_url(sqlite_uri(file)).database == str(file)


def database(file: Path, *statements: str) -> str:
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return sqlite_uri(file)


def test_the_database_of_another_release_or_program_is_refused(tmp_path: Path) -> None:
    newest, earlier = known_revisions()
    version = "CREATE TABLE alembic_version (version_num)"
    revisions = {newest: "", min(earlier): "an older MLflow", "0123456789ab": "a newer MLflow"}
    for number, (revision, message) in enumerate(revisions.items()):
        entry = f"INSERT INTO alembic_version VALUES ('{revision}')"
        uri = database(tmp_path / f"{number}.db", version, entry)
        if message:
            with pytest.raises(RequestError, match=message):
                check_tracking(uri)
        else:
            check_tracking(uri)


def test_a_database_of_optuna_is_refused(tmp_path: Path) -> None:
    import optuna

    uri = sqlite_uri(tmp_path / "optuna.db")
    optuna.create_study(storage=uri)
    with pytest.raises(RequestError, match="a database of Optuna, not of MLflow"):
        check_tracking(uri)


@pytest.mark.parametrize(
    ("tracking", "search"),
    [
        ("sqlite:////data/x.db", "sqlite:////data/x.db"),
        ("sqlite:////data/a%20b.db", "sqlite:////data/a b.db"),
        ("postgresql://me:a@host/db", "postgresql+psycopg2://you:b@host/db"),
    ],
)
def test_one_database_for_mlflow_and_optuna_is_refused(tracking: str, search: str) -> None:
    with pytest.raises(RequestError, match="is also the search storage"):
        check_tracking(tracking, search)


def test_importing_the_package_loads_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, distill_ray.tracking; "
        "print([m for m in ('mlflow', 'torch', 'numpy', 'ray') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
