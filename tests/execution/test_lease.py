"""A lease is held by one at a time, and a dead holder's expires."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from distill_ray.execution.lease import Lease


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "work.lease"
    with Lease(path).held() as first:
        with Lease(path).held() as second:
            assert (first, second) == (True, False)
        assert path.exists()
    assert not path.exists()
    with Lease(path).held() as third:
        assert third


def test_a_holder_whose_process_is_gone_is_dead_at_once(tmp_path: Path) -> None:
    path = tmp_path / "work.lease"
    program = f"""
import os, signal
from pathlib import Path
from distill_ray.execution.lease import Lease
with Lease(Path({str(path)!r})).held() as mine:
    assert mine
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert path.exists()
    with Lease(path).held() as mine:
        assert mine


def test_a_holder_elsewhere_is_dead_when_it_shows_no_life(tmp_path: Path) -> None:
    path = tmp_path / "work.lease"
    path.write_text("another-machine 1 abcd")
    lease = Lease(path, expiry=0.3)
    with lease.held() as mine:
        assert not mine
    time.sleep(0.2)
    os.utime(path)
    with lease.held() as mine:
        assert not mine
    time.sleep(0.2)
    with lease.held() as mine:
        assert not mine
    time.sleep(0.2)
    with lease.held() as mine:
        assert mine


def test_a_holder_shows_life_for_as_long_as_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "work.lease"
    waiting = Lease(path, expiry=0.3)
    with Lease(path, expiry=0.3).held():
        for _ in range(8):
            with waiting.held() as mine:
                assert not mine
            time.sleep(0.1)


def test_a_process_of_this_number_may_live(tmp_path: Path) -> None:
    path = tmp_path / "work.lease"
    path.write_text(f"{socket.gethostname()} {os.getpid()} abcd")
    with Lease(path).held() as mine:
        assert not mine


def test_where_no_file_can_be_made_everyone_works(tmp_path: Path) -> None:
    path = tmp_path / ("too long a name " * 20)
    with Lease(path).held() as first, Lease(path).held() as second:
        assert first and second
