"""How often a training run is checkpointed and reported: about once a second, with the epochs since
the last checkpoint.

Short epochs would otherwise cost more to save, send and record than to train.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable
from typing import TypeVar

from distill_ray.execution.messages import Record

RecordBatches = Generator[list[Record], None, None]
"""The records of a job's epochs, in order, some at a time; when they end, the job is in the store.
"""

Outcome = TypeVar("Outcome")

MIN_INTERVAL_S = 1.0
"""The shortest interval between two checkpoints, in seconds."""

MAX_OVERHEAD = 1 / 50
"""The part of a run's time that checkpoints may take; where they are large, or the store is slow,
the interval is longer.
"""


class CheckpointWriter:
    """Writes the checkpoints of a run with `write`, every `pace` seconds, and at the latest after
    an epoch in `stops`.

    After each epoch the run calls `offer` with a function that makes a checkpoint; a worker that
    writes none never calls it.
    """

    def __init__(
        self, write: Callable[[bytes], None], epochs: int, stops: Collection[int], pace: float
    ) -> None:
        self._write = write
        self._stops = {*stops, epochs}
        self._pace = pace
        self._pack: Callable[[], bytes] | None = None

    def offer(self, pack: Callable[[], bytes]) -> None:
        """Note how to make a checkpoint of the epoch that has just ended."""
        self._pack = pack

    def following(
        self, training: Generator[Record, None, Outcome]
    ) -> Generator[list[Record], None, Outcome]:
        """The records of `training`, grouped by checkpoint; returns what it returns.

        When it fails, the records not yet yielded come first.
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
                due = now + max(self._pace, (now - begun) / MAX_OVERHEAD)
        except Exception:
            if held:
                yield held
            raise


def in_batches(records: Iterable[Record], stops: Collection[int]) -> RecordBatches:
    """Existing records, split after the epochs in `stops`."""
    held: list[Record] = []
    for record in records:
        held.append(record)
        if record["epoch"] in stops:
            yield held
            held = []
    if held:
        yield held
