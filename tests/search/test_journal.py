"""The search's file after writers that died in the middle, beside other writers, and on a full
disk.
"""

from __future__ import annotations

import gc
import re
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from distill_ray.errors import StoreError
from distill_ray.search.journal import journal, share_distributions
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
    return sorted(
        trial.values[0] for trial in optuna.load_study(study_name="s", storage=storage).trials
    )


def test_a_lock_left_by_a_killed_writer_is_not_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(journal(store, "search.journal"), 1.0)
    store.local_path("search.journal.lock").symlink_to("search.journal")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    add(journal(store, "search.journal"), 2.0)
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
    with pytest.raises(
        StoreError, match=r"no space left while writing search.journal; free some space"
    ):
        add(storage, 1.5)
    path.unlink()
    (tmp_path / "kept").rename(path)
    add(journal(store, "search.journal"), 2.0)
    assert values(store) == [1.0, 2.0]


def test_memory_does_not_grow_with_the_entries_read(store: Store) -> None:
    search = optuna.create_study(storage=journal(store, "search.journal"), study_name="s")

    def write(entries: int) -> int:
        for number in range(entries):
            search.set_user_attr("seconds", float(number))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = write(50)
        assert (write(300) - before) / 300 < 20, (
            "bytes kept for an entry that another one has replaced"
        )
    finally:
        tracemalloc.stop()


def test_what_others_have_written_is_read_on_from_where_it_ended(store: Store) -> None:
    ours = optuna.create_study(storage=journal(store, "search.journal"), study_name="s")
    theirs = optuna.load_study(
        study_name="s",
        storage=JournalStorage(JournalFileBackend(str(store.local_path("search.journal")))),
    )
    for number in range(4):
        (ours, theirs)[number % 2].add_trial(optuna.trial.create_trial(value=number))
        assert (
            [trial.value for trial in ours.trials]
            == [trial.value for trial in theirs.trials]
            == [*range(number + 1)]
        )


def test_trials_that_have_ended_share_their_names_and_distributions(store: Store) -> None:
    search = optuna.create_study(storage=journal(store, "search.journal"), study_name="s")
    spaces: list[Any] = []
    for _ in range(2):
        trial = search.ask()
        trial.suggest_float("temperature of the teachers", 1, 20, log=True)
        trial.set_user_attr("identity of the job", "x")
        search.tell(trial, 1.0)
        share_distributions(search, trial, spaces)
    one, other = search.get_trials(deepcopy=False)
    assert one.distributions is other.distributions and len(spaces) == 1
    for first, second in ((one.params, other.params), (one.user_attrs, other.user_attrs)):
        assert all(mine is yours for mine, yours in zip(first, second, strict=True))
    assert (
        optuna.load_study(study_name="s", storage=journal(store, "search.journal")).trials
        == search.trials
    )


@pytest.mark.parametrize(
    "line",
    [
        b"{not json",
        b"\xff\xfe{}",
        b"[1, 2]",
        b"7",
        b"{}",
        b'{"op_code": 99}',
        b'{"op_code": 4, "worker_id": "x"}',
        b'{"op_code": 0, "study_name": "t", "directions": ["up"], "worker_id": "x"}',
    ],
)
@pytest.mark.parametrize("in_the_middle", [False, True])
def test_a_damaged_line_is_named(store: Store, line: bytes, in_the_middle: bool) -> None:
    """Whether it is no JSON or no entry, when the file is opened and when it is read on."""
    reading = journal(store, "search.journal")
    for value in (1.0, 2.0)[: 1 + in_the_middle]:
        add(journal(store, "search.journal"), value)
    file = store.local_path("search.journal")
    whole = file.read_bytes()
    first, second, *others = whole.splitlines(keepends=True)
    assert bool(others) == in_the_middle
    file.write_bytes(b"".join([first, second, line + b"\n", *others]))
    named = re.escape(f"{file}, line 3: damaged (")
    with pytest.raises(StoreError, match=named):
        journal(store, "search.journal")
    with pytest.raises(StoreError, match=named):
        reading.get_all_studies()
    file.write_bytes(whole)
    assert len(values(store)) == 1 + in_the_middle


def test_a_file_that_is_gone_is_said(store: Store) -> None:
    """It is not made anew: whoever deleted the store would find half of a search there."""
    add(storage := journal(store, "search.journal"), 1.0)
    file = store.local_path("search.journal")
    file.unlink()
    with pytest.raises(StoreError, match=r"search\.journal cannot be reached"):
        add(storage, 2.0)
    assert not file.exists()
