"""Teacher logits in the store: computed once, never taken when damaged, evicted and given up where
there is no room.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import support.teacher_cache as programs
from distill_ray.augmentation import AUGMENTATIONS, Crop, Identity
from distill_ray.execution import teacher_cache as module
from distill_ray.execution.sharing import (
    Sharing,
    confirm_sharing,
    distinct_augmentations,
    trial_sharing,
)
from distill_ray.execution.teacher_cache import FILE, ROOT, CachedTeachers, TeacherCache, make_room
from distill_ray.methods import METHODS
from distill_ray.store import MANIFEST, Store, _seal
from distill_ray.study import StudyDefinition
from distill_ray.training import StoredTeachers, TeacherLogits, TeacherLogitsKey, teacher_logits_key
from support.logits import logits_of_part
from support.teacher_cache import HERE, KEY, VERSIONS, CountingTeachers, cache_of, computed, noise


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def teachers() -> CountingTeachers:
    return CountingTeachers()


def data_file(store: Store, epoch: int = 1) -> Path:
    record = store.get(f"{ROOT}/{KEY.id}/{epoch:05d}")
    assert record is not None
    return store.local_path(record.files[FILE]["path"])


def test_the_second_reader_computes_nothing(store: Store, teachers: CountingTeachers) -> None:
    first = cache_of(store, teachers).of_epoch(1)
    asked = teachers.asked
    second = cache_of(store, teachers).of_epoch(1)
    assert asked == teachers.asked == 1
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.logits[0], second.logits[0])
    assert not second.logits[0].flags.owndata, "it is mapped, not copied"


@pytest.mark.parametrize("damage", ["bit", "end", "empty", "gone", "manifest"])
def test_damaged_teacher_logits_are_computed_anew(
    damage: str, store: Store, teachers: CountingTeachers, caplog: pytest.LogCaptureFixture
) -> None:
    whole = computed(teachers, 1)
    cache_of(store, teachers).of_epoch(1)
    path = data_file(store)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    elif damage == "manifest":
        store.local_path(f"{ROOT}/{KEY.id}/00001/{MANIFEST}").write_text("{")
    else:
        path.write_bytes(content[: -100 if damage == "end" else 0])
    asked = teachers.asked
    again = cache_of(store, teachers).of_epoch(1)
    assert again is not None
    np.testing.assert_array_equal(again.logits[0], whole)
    assert teachers.asked == asked + 1
    assert damage != "bit" or caplog.messages[0].startswith(
        "teacher logits of epoch 1 were set aside and are computed anew: "
    )
    assert data_file(store).exists()


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, teachers=("b", "a")),
        replace(KEY, augmentation=Identity()),
        replace(KEY, seed=4),
    ],
)
def test_teacher_logits_in_the_place_of_others_are_not_taken(
    other: TeacherLogitsKey,
    store: Store,
    teachers: CountingTeachers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache_of(store, teachers).of_epoch(1)
    shutil.copytree(store.local_path(f"{ROOT}/{KEY.id}"), store.local_path(f"{ROOT}/{other.id}"))
    manifest = store.local_path(f"{ROOT}/{other.id}/00001/{MANIFEST}")
    stored = json.loads(manifest.read_text().replace(KEY.id, other.id))
    del stored["sha256"]
    manifest.write_text(json.dumps(stored | {"sha256": _seal(stored)}))
    asked = teachers.asked
    assert cache_of(store, teachers, other).of_epoch(1) is not None
    assert "these are teacher logits of" in caplog.messages[0]
    assert teachers.asked == asked + 1


def test_another_number_of_classes_is_not_taken(
    store: Store, teachers: CountingTeachers, caplog: pytest.LogCaptureFixture
) -> None:
    cache_of(store, teachers).of_epoch(1)
    more = replace(noise(), class_names=("a", "b", "c", "d"))
    found = TeacherCache(
        store, KEY, more, lambda: teachers, worker=HERE, epochs=3, limit=1e9
    ).of_epoch(1)
    assert found is not None
    assert "they have the shapes" in caplog.messages[0]


def test_two_processes_compute_once(store: Store) -> None:
    """Of four epochs that two processes go through at the same time, each is computed by one of
    them.
    """
    command = [sys.executable, programs.__file__, "same", store.uri]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate()[0]) for process in both]
    assert sum(counts) == 4


def test_while_one_waits_it_works_ahead(store: Store, teachers: CountingTeachers) -> None:
    """Another run, which is alive, holds epoch 1 and gives it up only after this one has computed
    the next two.
    """
    busy = cache_of(store, CountingTeachers())
    done = threading.Event()

    def hold() -> None:
        with busy._lease(1).held() as mine:
            assert mine
            done.wait(30)
            busy._make(1)

    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.05)
    waiting = threading.Thread(target=cache_of(store, teachers).of_epoch, args=(1,))
    waiting.start()
    path = store.local_path(f"{ROOT}/{KEY.id}/00003/{MANIFEST}")
    for _ in range(200):
        time.sleep(0.05)
        if path.exists():
            break
    done.set()
    holder.join()
    waiting.join()
    assert teachers.asked == 2
    assert path.exists()


def test_a_dead_holder_is_not_waited_for(store: Store, teachers: CountingTeachers) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    store.write(f"{ROOT}/{KEY.id}/00001.lease", f"{os.uname().nodename} {dead.pid} abcd".encode())
    store.write(f"{ROOT}/{KEY.id}/00001/1234/{FILE}", b"half of it")
    assert cache_of(store, teachers).of_epoch(1) is not None
    assert teachers.asked == 1
    assert store.read(f"{ROOT}/{KEY.id}/00001/1234/{FILE}") is None


def test_a_reader_elsewhere_waits_until_the_writer_is_done(
    store: Store, teachers: CountingTeachers
) -> None:
    """The writer is on another node: its process cannot be asked about, it shows life, and half of
    its file is there.
    """
    lease, half = f"{ROOT}/{KEY.id}/00001.lease", f"{ROOT}/{KEY.id}/00001/1234/{FILE}"
    store.write(lease, b"another-machine 1 abcd")
    store.write(half, b"half of it")
    found: list[TeacherLogits | None] = []
    reading = threading.Thread(
        target=lambda: found.append(cache_of(store, teachers, epochs=1).of_epoch(1))
    )
    reading.start()
    time.sleep(1)
    assert reading.is_alive() and teachers.asked == 0 and store.read(half)
    writer = CountingTeachers()
    cache_of(store, writer)._make(1)
    store.delete(lease)
    reading.join(10)
    assert teachers.asked == 0 and writer.asked == 1
    assert found and found[0] is not None
    np.testing.assert_array_equal(found[0].logits[0], computed(writer, 1))


def test_what_another_node_has_half_written_to_a_remote_store_is_not_there(
    tmp_path: Path, teachers: CountingTeachers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    half = tmp_path / "remote" / ROOT / KEY.id / "00001" / "1234" / FILE
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half of it")
    found = cache_of(Store("file://" + str(tmp_path / "remote")), teachers).of_epoch(1)
    assert found is not None and teachers.asked == 1
    np.testing.assert_array_equal(found.logits[0], computed(teachers, 1))


def test_what_another_node_has_finished_meanwhile_stays(
    tmp_path: Path, teachers: CountingTeachers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are a node's own, so that two may compute an epoch; the first is read already when the
    second is done.
    """
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    remote, path = Store("file://" + str(tmp_path / "remote")), f"{ROOT}/{KEY.id}/00001/{MANIFEST}"
    written: list[bytes | None] = []

    class Faster(CountingTeachers):
        def __call__(self, part: Any) -> torch.Tensor:
            if not written:
                cache_of(remote, teachers)._make(1)
                written.append(remote.read(path))
            return super().__call__(part)

    found = cache_of(remote, Faster()).of_epoch(1)
    assert found is not None
    np.testing.assert_array_equal(found.logits[0], computed(teachers, 1))
    assert written[0] and remote.read(path) == written[0]


def test_two_studies_fill_one_store_at_once(store: Store) -> None:
    """Each has a disk limit of its own, an augmentation of its own and one that both have; nobody
    loses what it reads.
    """
    command = [sys.executable, programs.__file__, "two", store.uri]
    both = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in (7, 8)
    ]
    assert sum(int(process.communicate()[0]) for process in both) == 9


def test_the_largest_logits_alone_are_stored_and_of_other_classes_not_taken(
    store: Store, teachers: CountingTeachers, caplog: pytest.LogCaptureFixture
) -> None:
    key = replace(KEY, top_k=2)
    for network in teachers.networks:
        network.classifier.weight.mul_(1000)  # type: ignore[union-attr,operator]
    first = cache_of(store, teachers, key).of_epoch(1)
    found = cache_of(store, teachers, key).of_epoch(1)
    assert first is not None and found is not None and teachers.asked == 1
    assert found.logits[0].shape == (44, 1, 2, 2) and found.tails[0].num_classes == 3
    np.testing.assert_array_equal(logits_of_part(found, 0), logits_of_part(first, 0))
    more = replace(noise(), class_names=("a", "b", "c", "d"))
    again = TeacherCache(
        store, key, more, lambda: teachers, worker=HERE, epochs=3, limit=1e9
    ).of_epoch(1)
    assert again is not None and "they have the shapes" in caplog.messages[0]


@pytest.fixture
def filled(store: Store, teachers: CountingTeachers) -> Callable[[str], Path]:
    """Puts teacher logits of another seed into the store that were last used that long ago, in
    hours.
    """

    def fill(hours: float) -> Path:
        key = replace(KEY, seed=int(hours * 10))
        cache_of(store, teachers, key).of_epoch(1)
        manifest = store.local_path(f"{ROOT}/{key.id}/00001/{MANIFEST}")
        for path in (manifest, *manifest.parent.rglob("*.arrow")):
            os.utime(path, (time.time() - hours * 3600,) * 2)
        return manifest

    return fill


def test_the_least_recently_used_make_room(store: Store, filled: Callable[[float], Path]) -> None:
    newest, oldest, middle = filled(0.5), filled(5), filled(2)
    size = sum(size for _, size, _ in store.tree(ROOT)) // 3
    assert make_room(store, f"{ROOT}/own", size, 3.5 * size)
    assert [path.exists() for path in (newest, middle, oldest)] == [True, True, False]
    assert not make_room(store, f"{ROOT}/own", size, 1.5 * size), "what is in use stays"
    assert [path.exists() for path in (newest, middle, oldest)] == [True, False, False]


def test_a_clock_that_was_set_back_does_not_keep_them_for_ever(
    store: Store, filled: Callable[[float], Path]
) -> None:
    used, ahead = filled(0.5), filled(-10)
    size = sum(size for _, size, _ in store.tree(ROOT)) // 2
    assert make_room(store, f"{ROOT}/own", size, 2.5 * size)
    assert used.exists() and not ahead.exists()


def test_using_teacher_logits_keeps_them(
    store: Store, teachers: CountingTeachers, filled: Callable[[float], Path]
) -> None:
    used, unused = filled(5), filled(2)
    cache_of(store, teachers, replace(KEY, seed=50)).of_epoch(1)
    size = sum(size for _, size, _ in store.tree(ROOT)) // 2
    assert make_room(store, f"{ROOT}/own", size, 2.5 * size)
    assert used.exists() and not unused.exists()


def test_without_room_teachers_answer_live_and_it_is_said_once(
    store: Store, teachers: CountingTeachers, caplog: pytest.LogCaptureFixture
) -> None:
    teacher_logits = cache_of(store, teachers, limit=10)
    source = CachedTeachers(teacher_logits, lambda: teachers, HERE)
    assert isinstance(source.of_epoch(1), StoredTeachers), "what was computed is used once"
    assert source.of_epoch(2) is teachers
    assert source.of_epoch(3) is teachers
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "teachers answer live where their teacher logits are not stored: there is no room for "
    )
    assert [path for path, _, _ in store.tree(ROOT) if path.endswith(MANIFEST)] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_no_half_of_anything(
    small_disk: Path,
    teachers: CountingTeachers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It fills up between the look at the room and the writing."""
    store = Store.open(str(small_disk / "store"))
    (small_disk / "ballast").write_bytes(b"0" * 60_000)
    monkeypatch.setattr(module, "make_room", lambda *arguments: True)
    teacher_logits = cache_of(store, teachers)
    found = teacher_logits.of_epoch(1)
    assert found is not None
    np.testing.assert_array_equal(found.logits[0], computed(teachers, 1))
    assert teacher_logits.of_epoch(2) is None
    assert len(caplog.messages) == 1 and "no space left while writing" in caplog.messages[0]
    assert [path for path, _, _ in store.tree(ROOT)] == []


def test_teacher_logits_leave_a_reserve_of_the_disk(
    small_disk: Path, teachers: CountingTeachers
) -> None:
    store = Store.open(str(small_disk / "store"))
    free = shutil.disk_usage(small_disk).free
    assert make_room(store, "own", 4096, 1e9)
    assert not make_room(store, "own", free - 1000, 1e9)


def test_teacher_logits_of_a_remote_store_are_mapped_from_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    remote = Store("file://" + str(tmp_path / "remote"))
    assert not remote.is_local
    teachers = CountingTeachers()
    cache_of(remote, teachers).of_epoch(1)
    found = cache_of(remote, teachers).of_epoch(1)
    assert found is not None and teachers.asked == 1
    (copy,) = (tmp_path / "cache" / ROOT).glob("[0-9a-f]" * 64)
    copy.write_bytes(copy.read_bytes()[:-8])
    again = cache_of(remote, teachers).of_epoch(1)
    assert again is not None and teachers.asked == 1
    np.testing.assert_array_equal(again.logits[0], found.logits[0])
    (data,) = (tmp_path / "remote" / ROOT).rglob(FILE)
    data.write_bytes(b"0" * data.stat().st_size)
    copy.unlink()
    assert cache_of(remote, teachers).of_epoch(1) is not None
    assert teachers.asked == 2


@pytest.fixture
def two_versions(
    store: Store, teachers: CountingTeachers, monkeypatch: pytest.MonkeyPatch
) -> TeacherCache:
    """Two versions in three shards each."""
    monkeypatch.setattr(teacher_logits_key, "SHARD", 16)
    cache = cache_of(store, teachers, VERSIONS, epochs=2)
    assert all(cache.shards_of(version) for version in (1, 2)) and teachers.asked == 6
    return cache


@pytest.mark.parametrize("damage", ["bit", "gone", "version", "more versions"])
def test_only_the_shards_that_are_missing_are_computed_again(
    damage: str, store: Store, teachers: CountingTeachers, two_versions: TeacherCache
) -> None:
    before = two_versions.of_epoch(2, 1)
    assert before is not None
    expected = before.logits[0].copy()
    folder = store.local_path(f"{ROOT}/{VERSIONS.id}/00002")
    (path,) = (folder / "00001").rglob(FILE)
    if damage == "bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    elif damage == "version":
        shutil.rmtree(folder)
    again = cache_of(store, teachers, VERSIONS, epochs=3)
    count = 3 if damage == "more versions" else 2
    assert all(again.shards_of(version) for version in range(1, count + 1))
    assert teachers.asked == 6 + (3 if damage in ("version", "more versions") else 1)
    found = again.of_epoch(2, 1)
    assert found is not None
    np.testing.assert_array_equal(found.logits[0], expected)


def test_two_studies_that_want_the_same_version_share_the_work(store: Store) -> None:
    command = [sys.executable, programs.__file__, "versions", store.uri]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(process.communicate(timeout=200)[0]) for process in both) == 6


def test_a_disk_that_is_full_half_way_keeps_what_is_there(
    store: Store,
    teachers: CountingTeachers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With room again, only the rest is computed."""
    monkeypatch.setattr(teacher_logits_key, "SHARD", 16)
    cache_of(store, teachers, VERSIONS, epochs=2).of_epoch(1, 0)
    size = sum(size for _, size, _ in store.tree(ROOT))
    cache = cache_of(store, teachers, VERSIONS, epochs=2, limit=2.5 * size)
    assert cache.shards_of(1) and cache.shards_of(2) is None and cache.is_full
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "teachers answer live where their teacher logits are not stored"
    ]
    asked = teachers.asked
    again = cache_of(store, teachers, VERSIONS, epochs=2)
    there = sum(again.is_there(version, shard) for version in (1, 2) for shard in range(3))
    assert 2 <= there < 6
    assert again.shards_of(1) and again.shards_of(2)
    assert teachers.asked == asked + 6 - there


def test_shards_of_an_augmentation_whose_code_has_changed_are_not_taken(
    store: Store,
    teachers: CountingTeachers,
    two_versions: TeacherCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Crop, "parts", Identity.parts)
    assert cache_of(store, teachers, VERSIONS, epochs=2).shards_of(1)
    assert teachers.asked == 9
    assert (
        "version 1, shard 0, were set aside and are computed anew: augmentation crop made other"
        in (caplog.messages[0])
    )
    assert two_versions.shards_of(1) and teachers.asked == 9, "once it was looked at"


def test_how_much_of_an_answer_is_stored(tiny_study: Callable[..., StudyDefinition]) -> None:
    kd, pool = tiny_study().student, AUGMENTATIONS["additional"](pick="kl")
    endd = replace(kd, method=METHODS["endd"]())
    assert [Sharing().largest(kd, classes) for classes in (10, 500, 501, 1000)] == [
        None,
        None,
        62,
        125,
    ]
    assert Sharing().largest(endd, 1000) is None
    assert Sharing().largest(replace(kd, augmentation=pool), 1000) is None
    wanted = trial_sharing(tiny_study("resources.teacher_logits.top_k=4"))
    assert [wanted.largest(kd, classes) for classes in (4, 10, 1000)] == [None, 4, 4]


def test_auto_stores_what_several_runs_share(tiny_study: Callable[..., StudyDefinition]) -> None:
    study = tiny_study("search.trials=4")
    assert distinct_augmentations(study) == 2
    assert trial_sharing(study) == Sharing("auto", 2.0)
    assert trial_sharing(study).stores(Identity())
    assert not trial_sharing(tiny_study("search.trials=2")).stores(Identity())
    assert confirm_sharing(study).sharers == 1
    assert confirm_sharing(tiny_study("confirm.baselines=[default-kd]")).sharers == 2
    assert Sharing("cached").stores(Identity())
    assert not Sharing("live", 100).stores(Identity())
    pool = AUGMENTATIONS["additional"](pick="student-entropy", pool=3)
    assert [Sharing("auto", sharers).stores(pool) for sharers in (1, 2, 3)] == [False, False, True]
    drawn = tiny_study(
        "search.try_first=[]",
        "search.space={augmentation.padding: {int: [1, 3]}}",
        "student.augmentation=crop",
    )
    assert not trial_sharing(drawn).stores(drawn.student.augmentation)
