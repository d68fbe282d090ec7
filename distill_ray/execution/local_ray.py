"""A Ray cluster of this machine alone, for the time of one study."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator

from distill_ray.errors import RunError, first_line
from distill_ray.execution._ray_internals import (
    end_processes,
    given_agent_ports,
    job_config,
    on_loopback,
    patient_start,
    processes_of_ray,
    read_token_again,
    without_dashboard,
)

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory. Jobs pass records of epochs through it; images are memory-mapped files."""

STARTS = 3
"""How often Ray is started before it is given up: something else may have taken a port, or one of
its processes may hang.
"""

START_TIMEOUT_S = 600.0
"""Seconds after which a start counts as hanging. Under a load of 20 on two cores it takes 60."""

NOTICE_S = 10.0
"""Seconds after which it is said what is being waited for."""

_SETTINGS = {
    # A busy machine needs longer than Ray allows its own processes
    "RAY_agent_register_timeout_ms": "1800000",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_worker_register_timeout_seconds": "1800",
    # Only holders of this token are served, whatever other users of the machine try
    "RAY_AUTH_MODE": "token",
}


@contextlib.contextmanager
def start_ray(*, verbose: bool = False) -> Iterator[None]:
    """A context in which Ray runs on this machine, listening on the loopback interface only.

    However busy the machine is, it waits for Ray's processes as long as they live, up to
    `START_TIMEOUT_S`. Raises `RunError` with cause and remedy when they do not start; none of them
    is left behind.
    """
    with contextlib.ExitStack() as cleanup:
        import ray

        cleanup.callback(read_token_again)
        cleanup.enter_context(_variables())
        read_token_again()
        on_loopback()
        notice = threading.Timer(NOTICE_S, logger.info, [_WAITING])
        notice.daemon = True
        notice.start()
        cleanup.callback(notice.cancel)
        _start(logging.INFO if verbose else logging.ERROR, verbose)
        notice.cancel()
        cleanup.callback(ray.shutdown)
        yield


_WAITING = "waiting for Ray's processes to start; on a busy machine this may take minutes"


def _start(level: int, verbose: bool) -> None:
    import ray

    for attempt in range(1, STARTS + 1):
        before = processes_of_ray()
        try:
            with patient_start(START_TIMEOUT_S), given_agent_ports(), without_dashboard():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=verbose,
                    logging_level=level,
                    object_store_memory=OBJECT_STORE_BYTES,
                    job_config=job_config(),
                )
            return
        except BaseException as error:
            with contextlib.suppress(Exception):
                ray.shutdown()
            end_processes(processes_of_ray() - before)
            if isinstance(error, OSError):  # which another attempt would meet again
                raise RunError(_explained(error)) from None
            if not isinstance(error, Exception):
                raise
            if attempt == STARTS:
                raise RunError(
                    f"Ray did not start on this machine, tried {STARTS} times: "
                    f"{first_line(error)}; its logs are in {_folder()}/session_latest/logs"
                ) from None
            logger.warning("Ray did not start (%s); starting it again", first_line(error))


def _explained(error: OSError) -> str:
    """Why a file system keeps Ray from starting, and what to do about it."""
    folder = _folder()
    text = f"Ray did not start on this machine: {first_line(error)}"
    if "AF_UNIX" in str(error) or "path length" in str(error):
        return f"{text}; set RAY_TMPDIR to a folder with a short path, such as /tmp"
    if isinstance(error, PermissionError):
        return (
            f"{text}; Ray keeps its sessions in {folder}, where this user must be able to write: "
            "set RAY_TMPDIR to another folder"
        )
    return f"{text} (Ray keeps its sessions in {folder}; RAY_TMPDIR names another folder)"


def _folder() -> str:
    root = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    return os.path.join(root, "ray")  # noqa: PTH118 - only shown


@contextlib.contextmanager
def _variables() -> Iterator[None]:
    """The variables that Ray's processes are to see. They go afterwards, since a process may join
    another cluster then.
    """
    values = dict(_SETTINGS)
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Otherwise Ray would keep one in a file in the home folder, which may not be writable
        values["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
