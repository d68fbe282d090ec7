"""When epochs are told of and checkpoints written: together, about once a second, and never later
than where somebody decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import pytest

from distill_ray.errors import RunError
from distill_ray.execution.checkpoint_writer import CheckpointWriter, Record, in_batches


def run(
    epochs: int,
    keep: Callable[[Callable[[], bytes]], None] | None,
    *,
    seconds: float = 0.0,
    fails_after: int = 0,
) -> Generator[Record, None, str]:
    """What a training run does, without the training."""
    for epoch in range(1, epochs + 1):
        if epoch - 1 == fails_after > 0:
            raise RunError("the loss was nan")
        time.sleep(seconds)
        if keep is not None:
            keep(str(epoch).encode)
        yield {"epoch": epoch}
    return "outcome"


def told(keeper: CheckpointWriter, training: Generator[Record, None, str]) -> list[list[int]]:
    return [[int(record["epoch"]) for record in records] for records in keeper.following(training)]


def test_short_epochs_come_together_and_stop_where_somebody_decides() -> None:
    written: list[bytes] = []
    keeper = CheckpointWriter(written.append, 50, {7, 20}, 60.0)
    assert told(keeper, run(50, keeper.offer)) == [
        list(range(1, 8)),
        list(range(8, 21)),
        list(range(21, 51)),
    ]
    assert written == [b"7", b"20", b"50"]


def test_long_epochs_come_one_by_one() -> None:
    written: list[bytes] = []
    keeper = CheckpointWriter(written.append, 4, (), 0.01)
    assert told(keeper, run(4, keeper.offer, seconds=0.03)) == [[1], [2], [3], [4]]
    assert written == [b"1", b"2", b"3", b"4"]


def test_a_slow_store_is_written_to_less_often() -> None:
    written: list[bytes] = []

    def slowly(content: bytes) -> None:
        time.sleep(0.05)
        written.append(content)

    keeper = CheckpointWriter(slowly, 20, (), 0.01)
    told(keeper, run(20, keeper.offer, seconds=0.02))
    assert len(written) == 2


def test_nobody_hears_of_an_epoch_before_its_checkpoint_is_there() -> None:
    written: list[bytes] = [b"0"]
    keeper = CheckpointWriter(written.append, 30, {11}, 0.02)
    for records in keeper.following(run(30, keeper.offer, seconds=0.003)):
        assert records[-1]["epoch"] == int(written[-1])


def test_a_worker_that_keeps_nothing_tells_at_once() -> None:
    keeper = CheckpointWriter(lambda content: None, 3, (), 60.0)
    assert told(keeper, run(3, None)) == [[1], [2], [3]]


def test_a_failure_comes_after_the_epochs_before_it() -> None:
    keeper = CheckpointWriter(lambda content: None, 9, (), 60.0)
    following = keeper.following(run(9, keeper.offer, fails_after=4))
    assert [record["epoch"] for record in next(following)] == [1, 2, 3, 4]
    with pytest.raises(RunError, match="nan"):
        next(following)


def test_epochs_of_a_finished_job_stop_there_too() -> None:
    records: list[Record] = [{"epoch": epoch} for epoch in range(1, 7)]
    assert [[record["epoch"] for record in batch] for batch in in_batches(records, {2, 5})] == [
        [1, 2],
        [3, 4, 5],
        [6],
    ]
