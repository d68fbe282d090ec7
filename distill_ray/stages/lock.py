"""One driver per study and per search: it announces itself where others look, and a second one is
refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import posixpath
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from distill_ray.errors import RequestError, RunError, StoreError
from distill_ray.store import Store

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

BEAT = 4.0
"""Seconds between two heartbeats of a driver on a store that is not local."""

EXPIRY = 15.0
"""Seconds without one after which a driver counts as dead, by the clock of the store."""

DRIVER = "driver"
"""The attribute of a search in a database that says who runs it."""


@contextlib.contextmanager
def study_lock(store: Store, name: str) -> Iterator[None]:
    """Keeps a second driver from study `name`; raises `RequestError` when there is one already.

    On a local store it is a lock of the operating system, released with the process. Elsewhere it
    is a file that the driver keeps writing; after a driver was killed the next one waits, at most
    `EXPIRY` seconds. Two that start in the same second see each other before
    either of them has done anything.
    """
    busy = RequestError(
        f"study {name} is being run on store {store.shown} by another process; "
        "wait for it, or choose another --store"
    )
    path = lock_path(name)
    if store.is_local:
        local = store.local_path(path)
        with store.explained(path):
            local.parent.mkdir(parents=True, exist_ok=True)
            local.touch()
        with open(local) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
            yield
        return
    _wait_until_free(store, name, busy)
    own = {"host": socket.gethostname(), "pid": os.getpid()}
    with _known_as_driver(
        own, busy, lambda: store.read_json(path), lambda sign: _write(store, path, sign)
    ):
        yield


@contextlib.contextmanager
def search_lock(history: optuna.Study, store: Store) -> Iterator[None]:
    """Keeps from a search in a database those drivers that run the same study on another store.

    The driver keeps writing itself into the search's attributes; raises `RequestError` when another
    one does. After one was killed on another store the next one waits `EXPIRY` seconds; whoever
    holds the study on this store (`study_lock`) knows that its driver here is gone.
    The same folder on two machines counts as two stores.
    """
    own = {"store": store.shown, "host": socket.gethostname(), "place": _place(store)}
    holder = _driver_of(history)
    busy = RequestError(
        f"search {history.study_name} is being run on store {holder.get('store')} by another "
        f"process on {holder.get('host')}; wait for it, or give the study another name"
    )
    if holder and holder.get("place") != own["place"]:
        logger.info(
            "waiting for the last driver of the search, on %s with store %s, to be gone",
            holder.get("host"),
            holder.get("store"),
        )
        limit = time.monotonic() + EXPIRY
        while (now := _driver_of(history)) and time.monotonic() < limit:
            if now != holder:
                raise busy
            time.sleep(1)
    with _known_as_driver(
        own, busy, lambda: _driver_of(history), lambda sign: history.set_user_attr(DRIVER, sign)
    ):
        yield


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
    """The path of the lock of study `name` in the store."""
    return posixpath.join("studies", name, "lock")


@contextlib.contextmanager
def _known_as_driver(
    own: dict[str, Any],
    busy: RequestError,
    read: Callable[[], dict[str, Any]],
    write: Callable[[dict[str, Any]], None],
) -> Iterator[None]:
    """Renews the lock with `write` until the block ends, then clears it.

    Raises `busy` when `read` finds another one that came in the same second, and interrupts what
    runs with a `RunError` when another one has taken over, as one may after this machine was cut
    off for longer than `EXPIRY`.
    """
    own = own | {"token": secrets.token_hex(8)}
    write(own)
    time.sleep(1)
    if read().get("token") != own["token"]:
        raise busy
    done, usurper = threading.Event(), dict[str, Any]()
    in_main, before = (
        threading.current_thread() is threading.main_thread(),
        signal.getsignal(signal.SIGINT),
    )

    def interrupted(number: int, frame: FrameType | None) -> None:
        if usurper:
            raise KeyboardInterrupt
        # Else it is ignored, as where a shell script has put the command into the background
        if callable(before):
            before(number, frame)

    def beat() -> None:
        for count in itertools.count(1):
            if done.wait(BEAT):
                return
            with contextlib.suppress(RunError):
                holder = read()
                if holder.get("token", own["token"]) != own["token"]:
                    usurper.update(holder)
                    if in_main:
                        os.kill(os.getpid(), signal.SIGINT)
                    return
                write(own | {"beat": count})

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    if in_main:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except KeyboardInterrupt:
        if usurper:
            raise RunError(
                f"another driver, on {usurper.get('host')}, runs the study, since this one gave no "
                f"sign of life for {EXPIRY:g} s; it goes on there"
            ) from None
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        done.set()
        beating.join()
        with contextlib.suppress(RunError):
            if read().get("token") == own["token"]:
                write({})


def _place(store: Store) -> str:
    """Identifies the store, even where two machines use the same path."""
    machine = socket.gethostname() if store.is_local else ""
    return hashlib.sha256(f"{machine} {store.uri}".encode()).hexdigest()[:16]


def _driver_of(history: optuna.Study) -> dict[str, Any]:
    return dict(history.user_attrs.get(DRIVER) or {})


def _wait_until_free(store: Store, name: str, busy: RequestError) -> None:
    announced, since = False, time.monotonic()  # the store's clock may go back, this one does not
    first = store.read_json(lock_path(name))
    while (
        (age := _age(store, name)) is not None
        and age < EXPIRY
        and time.monotonic() - since < EXPIRY
    ):
        now = store.read_json(lock_path(name))
        if now and (now.get("token"), now.get("beat")) != (first.get("token"), first.get("beat")):
            raise busy
        if not announced:
            host = now.get("host", "another machine")
            logger.info("waiting for the last driver of the study, on %s, to be gone", host)
            announced = True
        time.sleep(1)


def _age(store: Store, name: str) -> float | None:
    """Seconds since the last sign of life, by the store's clock; None when there is no driver.

    In a store that may only be read, this machine's clock has to do.
    """
    path = lock_path(name)
    changed = _changes(store, path)
    if path not in changed:
        return None
    probe = f"{path}-{secrets.token_hex(4)}"
    try:
        store.write(probe, b"")
    except StoreError:
        return max(0.0, time.time() - changed[path])
    changed = _changes(store, path)
    store.delete(probe)
    return changed[probe] - changed[path] if path in changed and probe in changed else None


def _changes(store: Store, path: str) -> dict[str, float]:
    """When the files beside `path` were last changed, by the store's clock."""
    return {name: changed for name, _, changed in store.tree(posixpath.dirname(path))}


def _write(store: Store, path: str, content: dict[str, Any]) -> None:
    if content:
        store.write(path, json.dumps(content).encode())
    else:
        store.delete(path)
