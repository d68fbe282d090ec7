"""A lease: a file that says who is doing a piece of work, so that nobody does it twice."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

EXPIRY = 30.0
"""Seconds without a heartbeat after which a holder counts as dead."""


class Lease:
    """The right to do the work that `path` stands for, as seen by one of those who want it.

    The holder touches the file as long as it lives. It is dead when its process is gone from this
    machine, or when the file has not changed for `expiry` seconds by the clock of the one who
    waits, so that clocks need not agree. Two may still hold it at once (a holder that was suspended
    and wakes up, a file system without exclusive creation), so the work must bear that.
    """

    def __init__(self, path: Path, expiry: float = EXPIRY) -> None:
        self._path = path
        self._expiry = expiry
        self._seen: tuple[str, int] | None = None
        self._since = 0.0

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """A context that holds the lease unless a living holder has it; yields whether it does.
        Never waits.
        """
        # Take it, from a dead holder if need be
        token = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        if not (self._take(token) or (self._holder_is_dead() and self._take(token))):
            yield False
            return
        # Keep it while the work is done
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(token, done), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            # Give it back, unless somebody took this holder for dead
            done.set()
            beating.join()
            if self._holder()[0] == token:
                self._path.unlink(missing_ok=True)

    def _take(self, token: str) -> bool:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "x") as file:
                file.write(token)
        except FileExistsError:
            return False
        except OSError:  # a full or read-only disk: then everyone works for himself
            if not self._holder()[0]:
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)
        return True

    def _beat(self, token: str, done: threading.Event) -> None:
        while not done.wait(self._expiry / 6):
            with contextlib.suppress(OSError):
                if self._holder()[0] == token:
                    os.utime(self._path)

    def _holder(self) -> tuple[str, int]:
        try:
            return self._path.read_text(), self._path.stat().st_mtime_ns
        except OSError:
            return "", 0

    def _holder_is_dead(self) -> bool:
        holder = self._holder()
        # Since when, by this clock, it has not touched the file
        if holder != self._seen:
            self._seen, self._since = holder, time.monotonic()
        # Whether its process is known to be gone
        host, _, rest = holder[0].partition(" ")
        process = rest.partition(" ")[0]
        gone = (
            host == socket.gethostname() and process.isdecimal() and not _is_running(int(process))
        )
        if not gone and time.monotonic() - self._since < self._expiry:
            return False
        # Clear the way, unless another one was faster
        with contextlib.suppress(OSError):
            if self._holder() == holder:
                self._path.unlink()
        return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
