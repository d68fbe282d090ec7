"""How often a training run is kept and told of: a checkpoint about once a second, and with it the epochs since the last one.

Short epochs would otherwise cost more to keep, to send and to write down than to train.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable
from typing import TypeVar

Record = dict[str, float]
Epochs = Generator[list[Record], None, None]
"""The records of a job's epochs, in order, some at a time; when they end, the job is in the store."""

Outcome = TypeVar("Outcome")

PACE = 1.0
"""Seconds between two checkpoints at the least."""

SHARE = 50
"""They are also this many times as far apart as one takes to make and to write: a large network, a slow store."""


class Keeper:
    """Keeps the checkpoints of a run through `write`, every `pace` seconds, and at the latest after an epoch in `stops`.

    `offer` is what the run calls after each epoch with a function that makes a checkpoint; a worker that keeps none never
    calls it. With a `pace` of 0 every epoch is kept.
    """

    def __init__(self, write: Callable[[bytes], None], epochs: int, stops: Collection[int], pace: float) -> None:
        self._write = write
        self._stops = {*stops, epochs}
        self._pace = pace
        self._pack: Callable[[], bytes] | None = None

    def offer(self, pack: Callable[[], bytes]) -> None:
        """Take note of how a checkpoint of the epoch that has just ended is made."""
        self._pack = pack

    def following(self, training: Generator[Record, None, Outcome]) -> Generator[list[Record], None, Outcome]:
        """The records of `training`, those together that one checkpoint covers; returns what it returns.

        When it fails, what it has left untold comes first.
        """
        held: list[Record] = []
        due = time.monotonic() + self._pace
        try:
            while True:
                try:
                    record = next(training)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                held.append(record)
                begun = time.monotonic()
                if self._pack is not None and begun < due and record["epoch"] not in self._stops:
                    continue
                if self._pack is not None:
                    self._write(self._pack())
                yield held
                held, now = [], time.monotonic()
                due = now + max(self._pace, SHARE * (now - begun)) if self._pace else now
        except Exception:
            if held:
                yield held
            raise


def in_batches(records: Iterable[Record], stops: Collection[int]) -> Epochs:
    """Records that were there already, parted after the epochs in `stops`."""
    held: list[Record] = []
    for record in records:
        held.append(record)
        if record["epoch"] in stops:
            yield held
            held = []
    if held:
        yield held
