"""One driver per study: whoever runs it says so in the store, and a second one is turned away."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import posixpath
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from distill_ray.errors import RequestError, StoreError
from distill_ray.store import Store

BEAT = 4.0
"""Seconds between two signs of life of a driver on a store that is not local."""

EXPIRY = 15.0
"""Seconds without one after which it counts as dead, by the clock of the store."""


@contextlib.contextmanager
def study_lock(store: Store, name: str, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Keeps a second driver from study `name`; raises `RequestError` when there is one already.

    On a local store it is a lock of the operating system, gone with the process. Elsewhere it is a file that the driver writes
    again and again; one that was killed is waited for, at most `EXPIRY` seconds, which `say` is told. Two that begin in the
    same second see each other before either of them has done anything.
    """
    busy = RequestError(
        f"study {name} is being run on store {store.shown} by another process; wait for it, or choose another --store"
    )
    if store.is_local:
        with open(store.local_path(lock_path(name)), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
            yield
        return
    _wait_until_free(store, name, say, busy)
    path, own = lock_path(name), {"host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8)}
    _write(store, path, own)
    time.sleep(1)
    if _read(store, path).get("token") != own["token"]:
        raise busy
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, path, own, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        with contextlib.suppress(StoreError):
            if _read(store, path).get("token") == own["token"]:
                store.delete(path)


def is_running(store: Store, name: str) -> bool:
    """Whether a driver holds study `name`."""
    if not store.is_local:
        return (age := _age(store, name)) is not None and age < EXPIRY
    try:
        with open(store.local_path(lock_path(name))) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def lock_path(name: str) -> str:
    """Where the lock of study `name` lies in the store."""
    return posixpath.join("studies", name, "lock")


def _wait_until_free(store: Store, name: str, say: Callable[[str], None], busy: RequestError) -> None:
    said, since = False, time.monotonic()  # the store's clock may go back, this one does not
    first = _read(store, lock_path(name))
    while (age := _age(store, name)) is not None and age < EXPIRY and time.monotonic() - since < EXPIRY:
        now = _read(store, lock_path(name))
        if now and (now.get("token"), now.get("beat")) != (first.get("token"), first.get("beat")):
            raise busy
        if not said:
            say(f"waiting for the last driver of the study, on {now.get('host', 'another machine')}, to be gone")
            said = True
        time.sleep(1)


def _age(store: Store, name: str) -> float | None:
    """Seconds since the last sign of life, by the store's own clock; None when there is no driver."""
    path = lock_path(name)
    probe = f"{path}-{secrets.token_hex(4)}"
    store.write(probe, b"")
    times = {found: changed for found, _, changed in store.tree(posixpath.dirname(path))}
    store.delete(probe)
    return times[probe] - times[path] if path in times and probe in times else None


def _beat(store: Store, path: str, own: dict[str, Any], done: threading.Event) -> None:
    beat = 0
    while not done.wait(BEAT):
        with contextlib.suppress(StoreError):
            if _read(store, path).get("token") == own["token"]:
                beat += 1
                _write(store, path, own | {"beat": beat})


def _write(store: Store, path: str, content: dict[str, Any]) -> None:
    store.write(path, json.dumps(content).encode())


def _read(store: Store, path: str) -> dict[str, Any]:
    try:
        content = json.loads(store.read(path) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
