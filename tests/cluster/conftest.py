"""A Ray cluster of two nodes on this machine, an object store and a PostgreSQL server: all real, all on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distill_ray.store import Store


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[int]:
    """The port of an S3-compatible server that answers."""
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
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
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = f"bucket{secrets.token_hex(4)}"
    make = urllib.request.Request(f"http://127.0.0.1:{s3_server}/{bucket}", method="PUT")
    urllib.request.urlopen(make, timeout=120).close()
    return f"s3://{bucket}/studies?scheme=http&endpoint_override=127.0.0.1:{s3_server}&region=us-east-1"


@pytest.fixture
def postgresql(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of an empty database on a PostgreSQL server, which refuses to run as root."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *(Path(path) for path in [shutil.which("initdb")] if path)]
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    programs = max(found).parent
    monkeypatch.setenv("PGPASSWORD", "hidden")  # a password on a command line would be in the job server's log
    port = free_port()
    folder = Path("/tmp") / f"distill-ray-postgresql-{os.getpid()}-{port}"
    folder.mkdir()
    other: list[str] = []
    if os.getuid() == 0:
        if subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(folder, "postgres")
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    make = [programs / "initdb", "-D", folder / "data", "--auth=trust", "--username=me", "--no-sync", "-E", "UTF8"]
    subprocess.run([*other, *make], check=True, capture_output=True, cwd=folder)
    serve = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
    with (tmp_path_factory.mktemp("postgresql") / "log").open("wb") as log:
        server = subprocess.Popen([*other, *serve], cwd=folder, stdout=log, stderr=log)
    try:
        import psycopg2

        limit = time.monotonic() + 60
        while True:
            try:
                psycopg2.connect(host="127.0.0.1", port=port, user="me", dbname="postgres").close()
                break
            except psycopg2.OperationalError:
                assert server.poll() is None and time.monotonic() < limit
                time.sleep(0.3)
        yield f"postgresql+psycopg2://me@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def remote(object_store: str) -> Store:
    return Store.open(object_store)
