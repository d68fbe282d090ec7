"""One driver per study, where the store is not local: what another one that takes over does to the
first.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from distill_ray.errors import RunError, StoreError
from distill_ray.stages import lock
from distill_ray.stages.lock import lock_path, study_lock
from distill_ray.store import Store


def test_a_driver_that_another_one_has_replaced_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut off from the store for longer than it may be silent, and comes back."""
    monkeypatch.setattr(lock, "BEAT", 0.2)
    remote = Store("file://" + str(tmp_path))
    other = json.dumps({"token": "other", "host": "elsewhere"}).encode()
    with (
        pytest.raises(RunError, match="another driver, on elsewhere, runs the study"),
        study_lock(remote, "mine"),
    ):
        remote.write(lock_path("mine"), other)
        time.sleep(120)
        pytest.fail("it went on")
    assert remote.read(lock_path("mine")) == other


def test_a_folder_of_the_same_name_on_another_machine_is_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, bucket = Store(str(tmp_path)), Store("s3://bucket/studies?endpoint_override=one")
    here = [lock._place(local), lock._place(bucket)]
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "another")
    assert lock._place(local) != here[0] and lock._place(bucket) == here[1]
    assert lock._place(Store("s3://bucket/studies?endpoint_override=two")) != here[1]


@pytest.mark.parametrize(("seconds", "running"), [(0, True), (1000, False)])
def test_a_store_that_may_only_be_read_tells_who_runs(
    seconds: float, running: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket's own clock is read by writing to it; without that, this machine's has to do."""
    Store.open(str(tmp_path))
    remote = Store("file://" + str(tmp_path))
    assert not lock.is_running(remote, "mine")
    remote.write(lock_path("mine"), b"{}")
    beat = time.time() - seconds
    os.utime(tmp_path / lock_path("mine"), (beat, beat))
    assert lock.is_running(remote, "mine") == running

    def refused(self: Store, path: str, content: bytes, *, durable: bool = False) -> None:
        raise StoreError("access denied")

    monkeypatch.setattr(Store, "write", refused)
    assert lock.is_running(remote, "mine") == running
    assert not lock.is_running(remote, "other")
