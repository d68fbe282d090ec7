"""A trial of the search as Ray Tune runs it: some epochs of a job per step, in an actor that takes
the next trial when done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray import tune

from distill_ray.errors import DamagedError, StoreError
from distill_ray.execution.cluster import WorkerResources
from distill_ray.job import Job
from distill_ray.records import find_job
from distill_ray.store import Store

if TYPE_CHECKING:
    from distill_ray.execution.checkpoint_writer import Epochs


@dataclass(frozen=True, eq=False)
class Task:
    """What a trial's process is to do: run `job`, stopping to ask after the epochs in `stops`.

    Tune copies, flattens and prints the configuration of a trial again and again. This is one value
    to it.
    """

    number: int
    job: dict[str, Any] = field(repr=False)
    store: Store = field(repr=False)
    resources: WorkerResources = field(repr=False)
    stops: frozenset[int] = field(repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self


class TrialRunner(tune.Trainable):
    """Runs the `Task` in its configuration. A step takes about a second, or an epoch where that
    takes longer.

    Its result is the record of the last epoch, with all records under `epochs`; that of the last
    step also has the `outcome`. A job that fails on its own account ends its trial with `failure`,
    the reason, and is not tried again, since it would fail again. A store that cannot be written
    ends it with `store_error`, and with it the search. Another error of the system (a lost process,
    an unreadable disk) is raised, and Tune tries again as often as it may.
    """

    _epochs: Epochs

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the job of `config`."""
        # Torch: seconds that the driver need not spend
        from distill_ray.execution.run_job import run_job

        self.config = {}  # Tune would send it back with every result
        task: Task = config["task"]
        self._store, self._job = task.store, Job.from_dict(task.job)
        self._epochs = run_job(task.store, self._job, task.resources, stops=task.stops)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the job of another trial in this process, whose imports, data and teachers stay."""
        self._epochs.close()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run the next epochs; after the last one put the result into the store."""
        try:
            epochs = next(self._epochs)
            result = dict[str, Any](epochs[-1], epochs=epochs)
            if result["epoch"] < self._job.recipe.epochs:
                return result
            for _ in self._epochs:
                pass
        except StoreError as error:
            return {
                "store_error": str(error),
                "damaged": isinstance(error, DamagedError),
                "done": True,
            }
        except OSError:
            raise
        except Exception as error:
            return {"failure": str(error) or type(error).__name__, "done": True}
        found = find_job(self._store, self._job.id)
        assert found is not None
        return result | {"outcome": found.metrics, "seconds_total": found.seconds, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the job's checkpoints are in the store."""
        return {}

    def cleanup(self) -> None:
        """Let go of the job, whose last checkpoint is in the store."""
        self._epochs.close()
