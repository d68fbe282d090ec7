"""The search's file after writers that died in the middle, beside other writers, and on a full disk."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from distill_ray.errors import StoreError
from distill_ray.stages.journal import journal
from distill_ray.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Store.open(str(tmp_path))


def add(storage: JournalStorage, value: float) -> None:
    search = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    search.add_trial(optuna.trial.create_trial(value=value))


def values(store: Store) -> list[float]:
    """As others read it, with Optuna's own backend."""
    storage = JournalStorage(JournalFileBackend(str(store.local_path("search.journal"))))
    return sorted(trial.values[0] for trial in optuna.load_study(study_name="s", storage=storage).trials)


def test_a_lock_left_by_a_killed_writer_holds_nobody_up(store: Store) -> None:
    add(journal(store, "search.journal"), 1.0)
    store.local_path("search.journal.lock").symlink_to("search.journal")
    began = time.monotonic()
    add(journal(store, "search.journal"), 2.0)
    assert time.monotonic() - began < 5
    assert values(store) == [1.0, 2.0]


def test_an_entry_cut_short_is_taken_away_by_the_next_writer(store: Store) -> None:
    add(journal(store, "search.journal"), 1.0)
    with store.local_path("search.journal").open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert values(store) == [1.0]
    add(journal(store, "search.journal"), 2.0)
    assert values(store) == [1.0, 2.0]


def test_writers_that_use_optunas_own_lock_take_turns_with_ours(store: Store) -> None:
    add(journal(store, "search.journal"), -1.0)

    def ours(first: int) -> None:
        for number in range(first, first + 20):
            add(journal(store, "search.journal"), number)

    def theirs(first: int) -> None:
        storage = JournalStorage(JournalFileBackend(str(store.local_path("search.journal"))))
        for number in range(first, first + 20):
            add(storage, number)

    writers = [threading.Thread(target=ours, args=(0,)), threading.Thread(target=ours, args=(20,))]
    writers.append(threading.Thread(target=theirs, args=(40,)))
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert values(store) == [-1.0, *range(60)]


def test_a_disk_without_room_is_said(store: Store, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    add(storage := journal(store, "search.journal"), 1.0)
    path = store.local_path("search.journal")
    path.rename(tmp_path / "kept")
    path.symlink_to(full)
    with pytest.raises(StoreError, match=r"no space left while writing search.journal; free some space"):
        add(storage, 1.5)
    path.unlink()
    (tmp_path / "kept").rename(path)
    add(journal(store, "search.journal"), 2.0)
    assert values(store) == [1.0, 2.0]
