"""What a process that does a task for the driver tells it. Teachers, screenings, trials and
confirmations use the same messages, and the same rule for what goes wrong (`distill_ray.errors`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from distill_ray.errors import Failure

Record = dict[str, float]
"""The metrics of an epoch by name, with its number as `epoch`."""


@dataclass(frozen=True)
class Epochs:
    """Epochs of a job that are in a checkpoint, or in its finished record."""

    records: Sequence[Record]


@dataclass(frozen=True)
class Finished:
    """The task is done and its result in the store: the metrics, and the seconds of work."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


Message = Epochs | Finished | Failure

Work = Generator[Sequence[Record], None, Finished]
"""What does a task: yields epochs, some at a time, and returns the result."""


class Task(ABC):
    """What a process is to do."""

    name: str
    """What people call it."""

    epochs: int
    """The number of the last epoch that it tells of; 0 where it has none."""

    @abstractmethod
    def work(self) -> Work:
        """Do it in this process, on one worker or by starting several."""

    def release(self) -> None:  # noqa: B027 - most hold nothing
        """On the driver: free what processes that died have held, beside their own resources."""


def messages(task: Task) -> Generator[Message, None, None]:
    """Do `task` in this process and tell of it; the last message is `Finished` or a `Failure`.

    Faults of the machine are raised, as the death of the process would be: then, too, the driver
    hears nothing from the task itself and tries it again.
    """
    work = task.work()
    try:
        while True:
            try:
                records = next(work)
            except StopIteration as end:
                yield end.value
                return
            yield Epochs(records)
    except Exception as error:
        failure = Failure.of(error)
        if failure.fault == "machine":
            raise
        yield failure
    finally:
        work.close()
