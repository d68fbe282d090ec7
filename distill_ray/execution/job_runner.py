"""The process in which Ray Tune does tasks, one after another."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from distill_ray.execution.messages import Epochs, Finished, Message, Task, messages

if TYPE_CHECKING:
    from distill_ray.errors import Failure


class JobRunner(tune.Trainable):
    """Does the task in its configuration, and then those of other trials. A step takes about a
    second, or an epoch where that takes longer.

    A step's result holds the record of its last epoch, by which Tune's scheduler decides; `epochs`,
    all its records; and in the last step `end`, how the task ended.
    """

    _packed: PackedTask
    _messages: Generator[Message, None, None] | None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        leave_vanished_directory()
        super().__init__(*arguments, **named)

    def setup(self, config: dict[str, Any]) -> None:
        """Take the task of `config`. It begins with the first step: a fault that comes before, as
        where it cannot be unpacked here, would not be tried again by Tune.
        """
        self.config = {}  # Tune would send it back with every result
        self._packed = config["task"]
        self._messages = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another task in this process, whose imports, data and teachers stay."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Do the next part of the task, its end together with its last epoch."""
        if self._messages is None:
            task = self._packed.unpacked()
            self._last_epoch = task.epochs
            self._messages = messages(task)
        result: dict[str, Any] = {}
        message = next(self._messages)
        if isinstance(message, Epochs):
            result = dict[str, Any](message.records[-1], epochs=message.records)
            if result["epoch"] < self._last_epoch:
                return result
            message = next(self._messages)
        end: Finished | Failure | Epochs = message
        return result | {"end": end, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the job's checkpoints are in the store."""
        return {}

    def cleanup(self) -> None:
        """Let go of the job, whose last checkpoint is in the store."""
        if self._messages is not None:
            self._messages.close()


@dataclass(frozen=True)
class PackedTask:
    """A task on its way to its process, by value where its class is no module's."""

    name: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, task: Task) -> PackedTask:
        """That task, packed."""
        return cls(task.name, ray.cloudpickle.dumps(task))

    def unpacked(self) -> Task:
        """The task again."""
        task: Task = ray.cloudpickle.loads(self.content)
        return task


def leave_vanished_directory() -> None:
    """Move to a directory that stays if the working directory is gone: Tune asks for it on the
    driver and in each process, and fails without one.
    """
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        os.chdir("/")
