"""MLflow's page on a database, served by this process until it is interrupted.

MLflow's own `mlflow ui` starts seven processes to execute jobs, which nothing here asks for and
which outlive it, takes uploads into the working directory, and lets its page make experiments whose
files are anywhere on this machine. Here one process serves what looks at runs and edits them.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from distill_ray.errors import RunError, first_line
from distill_ray.tracking.address import sqlite_file
from distill_ray.tracking.environment import prepare
from distill_ray.tracking.mlflow_internals import page, without_stray_folders

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_EDITED = ("runs", "experiments", "metrics", "registered-models", "model-versions", "logged-models")
"""What the page may write to, besides asking for traces and the like."""

_DENIED = frozenset({"create", "upload-artifact"})
"""Calls among these that make something whose files may be anywhere, or write files."""

_ASKED = ("search", "graphql", "get-history", "query", "batch", "info")
"""In the last part of a path, these make a POST a question."""


def allows(method: str, path: str) -> bool:
    """Whether a request is one of those that looking at runs and editing them takes."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return True
    parts = path.strip("/").split("/")
    last = parts[-1]
    if "mlflow-artifacts" in parts or "assistant" in parts or "gateway" in parts:
        return False
    if method == "POST" and any(word in last for word in _ASKED):
        return True
    # As in /ajax-api/2.0/mlflow/runs/set-tag
    edited = len(parts) > 3 and parts[2] == "mlflow" and parts[3] in _EDITED
    return edited and last not in _DENIED


def guarded(application: Application) -> Application:
    """`application` without the requests that `allows` denies, which are answered with 403."""

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not allows(scope["method"], scope["path"]):
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"not part of this page\n"})
        else:
            await application(scope, receive, send)

    return serve


def serve(uri: str, host: str, port: int, *, ready: Callable[[], None], verbose: bool) -> None:
    """Serve MLflow's page on the database at `uri` until SIGINT or SIGTERM, which raise
    `KeyboardInterrupt`.

    Args:
        uri: the address of the database.
        host: the address to listen on.
        port: the port to listen on.
        ready: called once the page answers.
        verbose: whether MLflow's own output is shown.

    Raises:
        RunError: the page could not be served.
    """
    prepare()
    signal.signal(signal.SIGTERM, _interrupt)
    with nullcontext() if verbose else _quiet():
        import uvicorn

        try:
            database = sqlite_file(uri)
            with nullcontext() if database is None else without_stray_folders(database):
                application = guarded(page(uri))
            level = "info" if verbose else "critical"
            config = uvicorn.Config(application, host=host, port=port, log_level=level, workers=1)
            server = uvicorn.Server(config)
            waiting = threading.Thread(
                target=_wait_for_answer, args=(host, port, ready, server), daemon=True
            )
            waiting.start()
            server.run()
        except Exception as error:
            raise RunError(f"MLflow's page cannot be served: {first_line(error)}") from error
    raise RunError("MLflow's page has ended; --verbose shows what it said")


def _wait_for_answer(host: str, port: int, ready: Callable[[], None], server: Any) -> None:
    """Ask for `/health` until it answers."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    name = wildcard.get(host, f"[{host}]" if family == socket.AF_INET6 else host)
    while not server.should_exit:
        try:
            with urllib.request.urlopen(f"http://{name}:{port}/health", timeout=5):
                ready()
                return
        except urllib.error.HTTPError:
            ready()  # it answers, but not to this name
            return
        except OSError:
            time.sleep(0.1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what MLflow and its libraries log and write to standard error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        logging.disable(before)
