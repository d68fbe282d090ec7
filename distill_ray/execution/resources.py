"""What each worker of a job takes of the cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill_ray.execution.sharing import Sharing
from distill_ray.models.own_modules import ModuleFile, load_module_files, loaded_module_files
from distill_ray.study import StudyDefinition

if TYPE_CHECKING:
    from distill_ray.training import Worker


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a job takes of the cluster, and how it shares teacher logits with other
    jobs.
    """

    cpus: float = 1
    gpus: float = 0
    sharing: Sharing = Sharing()
    retries: int = 1
    """How often a job is started again after a fault of the machine."""
    compile: Literal["auto", "always", "never"] = "auto"
    module_files: tuple[ModuleFile, ...] = ()
    """Files with networks of the user's own, which the worker's machine need not have."""

    @classmethod
    def of(cls, study: StudyDefinition, sharing: Sharing) -> WorkerResources:
        """What the study file grants."""
        granted = study.resources
        return cls(
            granted.cpus_per_worker,
            granted.gpus_per_worker,
            sharing,
            granted.retries,
            granted.compile,
            loaded_module_files(),
        )

    def prepare(self) -> None:
        """Make this process ready for jobs: run the files with networks, and set torch's number of
        threads.

        Raises `RequestError` when a file cannot be run here.
        """
        import torch

        load_module_files(self.module_files)
        torch.set_num_threads(max(1, int(self.cpus)))

    def worker(self) -> Worker:
        """This process's device: the GPU assigned by Ray, otherwise the CPU."""
        from distill_ray.training.device import Worker  # torch

        return Worker.here(gpu=self.gpus > 0)

    @property
    def share(self) -> float:
        """The part of its device that a worker has: of a GPU, otherwise of all processors."""
        return min(1.0, self.gpus or self.cpus / (os.cpu_count() or 1))
