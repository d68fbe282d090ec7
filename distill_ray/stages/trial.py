"""A trial of the search as Ray Tune runs it: one epoch of one job per step, in an actor that takes the next trial when done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune

from distill_ray.errors import DamagedError, StoreError
from distill_ray.job import Job
from distill_ray.records import find_job

if TYPE_CHECKING:
    from distill_ray.stages.execution import Epochs


class TrialRunner(tune.Trainable):
    """Runs the job of its configuration. A step's result is the record of an epoch; the last one also has the `outcome`.

    A job that fails on its own account ends its trial with `failure`, the reason, and is not tried again, since it would fail
    again. A store that cannot be written ends it with `store_error`, and with it the search. Another error of the system (a
    lost process, an unreadable disk) is raised, and Tune tries again as often as it may.
    """

    _epochs: Epochs

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the job of `config`."""
        from distill_ray.stages.execution import run_job  # torch: seconds that the driver need not spend

        self._config = config
        self._job = Job.from_dict(config["job"])
        self._epochs = run_job(config["store"], self._job, config["resources"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the job of another trial in this process, whose imports, data and teachers stay."""
        self._epochs.close()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one epoch; after the last one put the result into the store."""
        try:
            record = next(self._epochs)
            if record["epoch"] < self._job.recipe.epochs:
                return dict(record)
            for _ in self._epochs:
                pass
        except StoreError as error:
            return {"store_error": str(error), "damaged": isinstance(error, DamagedError), "done": True}
        except OSError:
            raise
        except Exception as error:
            return {"failure": str(error) or type(error).__name__, "done": True}
        found = find_job(self._config["store"], self._job.id)
        assert found is not None
        return record | {"outcome": found.metrics, "seconds_total": found.seconds, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the job's checkpoints are in the store."""
        return {}

    def cleanup(self) -> None:
        """Let go of the job, whose last checkpoint is in the store."""
        self._epochs.close()
