"""The store on an S3-compatible server that is really there."""

from __future__ import annotations

import json
import re
import threading

import pytest

from distill_ray.errors import RequestError, RunError
from distill_ray.stages import lock
from distill_ray.stages.lock import is_running, study_lock
from distill_ray.store import MANIFEST, Store, _seal


def test_records_come_back_whole_or_not_at_all(remote: Store) -> None:
    remote.put("jobs/a", {"weights": b"w" * 1000, "epochs": b"e"}, {"seconds": 1.5})
    record = Store.open(remote.uri).get("jobs/a")
    assert record is not None and record.info == {"seconds": 1.5}
    assert record.read("weights") == b"w" * 1000
    assert remote.names("jobs") == ["a"]
    assert remote.get("jobs/b") is None
    remote.write(record.files["weights"]["path"], b"x" * 1000)
    with pytest.raises(RunError, match="damaged"):
        record.read("weights")
    assert remote.get("jobs/a") is None
    assert [path for path, _, _ in remote.tree("jobs") if ".damaged-" in path]
    remote.delete("jobs/a")
    assert remote.tree("jobs/a") == []


def test_a_folder_is_removed_with_what_is_in_it(remote: Store) -> None:
    for name in ("work/x/checkpoint", "work/xy/checkpoint"):
        remote.write(name, b"1")
    remote.delete("work/x")
    assert [path for path, _, _ in remote.tree("work")] == ["work/xy/checkpoint"]
    assert remote.read("work/x/checkpoint") is None
    remote.delete("work/never")


def test_a_manifest_that_names_files_elsewhere_is_set_aside(remote: Store) -> None:
    remote.put("jobs/a", {"weights": b"w"}, {})
    manifest = f"jobs/a/{MANIFEST}"
    content = (remote.read(manifest) or b"").replace(b'"path": "jobs/a', b'"path": "jobs/a/../b')
    stored = json.loads(content)
    del stored["sha256"]
    remote.write(manifest, json.dumps(stored | {"sha256": _seal(stored)}).encode())
    assert remote.get("jobs/a") is None


def test_what_is_not_there_is_said(remote: Store) -> None:
    with pytest.raises(RequestError, match=r"store s3://no-such-bucket/x: cannot be written"):
        Store.open(re.sub(r"bucket\w+/studies", "no-such-bucket/x", remote.uri))


def test_one_driver_per_study(
    remote: Store, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(lock, "BEAT", 1.0)
    with study_lock(remote, "mine"):
        assert is_running(remote, "mine") and not is_running(remote, "other")
        with (
            pytest.raises(
                RequestError,
                match=r"is being run on store s3://bucket[0-9a-f]*/studies by another process",
            ),
            study_lock(Store(remote.uri), "mine"),
        ):
            pass
    assert not is_running(remote, "mine")
    assert all("waiting for the last driver" in line for line in logged)


def test_a_dead_driver_is_not_waited_for_long(
    remote: Store, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(lock, "EXPIRY", 3.0)
    remote.write(lock.lock_path("mine"), b'{"token": "x", "host": "gone"}')
    with study_lock(remote, "mine"):
        assert is_running(remote, "mine")
    assert logged == ["waiting for the last driver of the study, on gone, to be gone"]


def test_of_two_that_begin_together_one_goes_on(remote: Store) -> None:
    ran, refused = [], []
    both = threading.Barrier(2)
    other_is_refused = threading.Event()

    def begin(number: int) -> None:
        both.wait()
        try:
            with study_lock(Store(remote.uri), "mine"):
                ran.append(number)
                other_is_refused.wait(120)
        except RequestError:
            refused.append(number)
            other_is_refused.set()

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 1 and len(refused) == 1
