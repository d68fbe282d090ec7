"""Where tasks come from: a list, or Optuna's suggestions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from distill_ray.errors import Failure
from distill_ray.execution.messages import Finished, Record, Task


class TaskSource(ABC):
    """What hands out the tasks of a stage, and hears how they go.

    It is asked and told in the thread that runs Ray Tune, while the driver's own one waits.
    """

    error: Exception | None = None
    """What ends the run of all tasks, once it is there."""

    @abstractmethod
    def next_task(self, trial_id: str) -> Task | None:
        """The next task, which Tune calls `trial_id`; None when there are no more."""

    @abstractmethod
    def on_start(self, trial_id: str) -> None:
        """A process begins the task, for the first time or again."""

    @abstractmethod
    def on_epochs(self, trial_id: str, records: Sequence[Record]) -> None:
        """A task has finished some epochs; one that was started again may repeat some."""

    @abstractmethod
    def on_end(self, trial_id: str, end: Finished | Failure | None) -> None:
        """A task has ended: as it says itself, by faults of the machine, or, without an `end`,
        because a scheduler stopped it, or the run in which it went on beside a stage.
        """
