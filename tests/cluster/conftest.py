"""A Ray cluster of two nodes on this machine, an object store and a PostgreSQL server: all real,
all on loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.store import Store
from distill_ray.tracking import check_tracking

PASSWORD = "open-sesame-4711"


@pytest.fixture(scope="session")
def s3_server(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[int]:
    """The port of an S3-compatible server that answers."""
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(600):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=5),
            ):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def object_store(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a bucket of the test's own, with credentials in the environment."""
    for name, value in {
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = f"bucket{secrets.token_hex(4)}"
    make = urllib.request.Request(f"http://127.0.0.1:{s3_server}/{bucket}", method="PUT")
    urllib.request.urlopen(make, timeout=120).close()
    return f"s3://{bucket}/studies?scheme=http&endpoint_override=127.0.0.1:{s3_server}&region=us-east-1"


@dataclass
class PostgreSQL:
    """A PostgreSQL server that asks for a password. Programs find it in the environment, or in an
    address with `password`.
    """

    folder: Path
    port: int
    programs: Path
    as_user: list[str]
    server: subprocess.Popen[bytes] | None = None

    def address(self, database: str, password: str = "") -> str:
        """The address of a database."""
        return f"postgresql://me{password and f':{password}'}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        import psycopg

        options = [
            "-D",
            self.folder / "data",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-k",
            self.folder,
            "-F",
        ]
        command = [*self.as_user, self.programs / "postgres", *options]
        with (self.folder / "log").open("ab") as log:
            self.server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        limit = time.monotonic() + 120
        while True:
            try:
                psycopg.connect(
                    host="127.0.0.1",
                    port=self.port,
                    user="me",
                    password=PASSWORD,
                    dbname="postgres",
                ).close()
                return
            except psycopg.OperationalError:
                assert self.server.poll() is None and time.monotonic() < limit, (
                    self.folder / "log"
                ).read_text()
                time.sleep(0.3)

    def stop(self) -> None:
        """Stop the server at once, with whoever is connected."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait()

    def create(self, *databases: str) -> None:
        """Make empty databases."""
        import psycopg

        connection = psycopg.connect(
            host="127.0.0.1", port=self.port, user="me", password=PASSWORD, dbname="postgres"
        )
        connection.autocommit = True
        for name in databases:
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        connection.close()


@pytest.fixture
def postgresql(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgreSQL]:
    """A server with the empty databases `optuna` and `mlflow`. It refuses to run as root, so
    another user runs it then.
    """
    found = [
        *Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        *(Path(path) for path in [shutil.which("initdb")] if path),
    ]
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # A password on a command line would be in the job server's log
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    folder = Path(tempfile.mkdtemp(prefix="dr-postgresql-", dir="/tmp"))  # sockets have short names
    (folder / "password").write_text(PASSWORD)
    as_user: list[str] = []
    if os.getuid() == 0:
        if subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    server = PostgreSQL(folder, free_port(), max(found).parent, as_user)
    secret = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    make = [
        server.programs / "initdb",
        "-D",
        folder / "data",
        *secret,
        "--username=me",
        "--no-sync",
        "-E",
        "UTF8",
    ]
    try:
        subprocess.run([*as_user, *make], check=True, capture_output=True, cwd=folder)
        server.start()
        server.create("optuna", "mlflow")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mlflow_server(
    postgresql: PostgreSQL, free_port: Callable[[], int], tmp_path: Path
) -> Iterator[str]:
    """The address of an MLflow server on PostgreSQL that answers."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        postgresql.address("mlflow"),
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    with (tmp_path / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
    try:
        limit = time.monotonic() + 240
        while True:
            try:
                check_tracking(f"http://127.0.0.1:{port}")
                break
            except RequestError:
                assert server.poll() is None and time.monotonic() < limit, (
                    tmp_path / "mlflow.log"
                ).read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def remote(object_store: str) -> Store:
    return Store.open(object_store)
