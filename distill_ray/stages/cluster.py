"""The Ray cluster of a study: one started here, or one that is already there."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from types import TracebackType

from distill_ray.errors import RequestError, RunError
from distill_ray.stages.sharing import Sharing
from distill_ray.study import Study

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",  # an idle process has torch imported; the next job takes it
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_USAGE_STATS_ENABLED": "0",
}

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory for a cluster started here. Jobs pass records of epochs through it; images are memory-mapped files."""


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a job takes of the cluster, and how it shares the answers of teachers with other jobs."""

    cpus: float = 1
    gpus: float = 0
    sharing: Sharing = Sharing()


class Cluster:
    """Ray, connected when first needed: a study whose jobs are all done never starts it."""

    def __init__(self, address: str | None = None, *, verbose: bool = False) -> None:
        self._address = address
        self._verbose = verbose
        self._connected = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connected:
            import ray

            ray.shutdown()

    def connect(self) -> None:
        """Start Ray here, or join the cluster at the address. Raises `RequestError` when nobody answers there."""
        if self._connected:
            return
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        if self._address is None:  # processes started here have this environment already, without another `uv run` for each
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        host, _, port = (self._address or "").rpartition(":")
        if port.isdecimal():  # Ray itself would try for minutes
            try:
                socket.create_connection((host.rpartition("/")[2], int(port)), timeout=5).close()
            except OSError as error:
                raise RequestError(f"no Ray cluster at --address {self._address}: {error}; start one, or leave it out") from None
        import ray

        level = logging.INFO if self._verbose else logging.ERROR
        try:
            if self._address is None:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=self._verbose,
                    logging_level=level,
                    object_store_memory=OBJECT_STORE_BYTES,
                )
            else:
                ray.init(address=self._address, log_to_driver=self._verbose, logging_level=level)
        except Exception as error:  # Ray raises a bare one when its processes do not start in time
            where = f"--address {self._address}" if self._address else "this machine"
            cause = next(iter(str(error).splitlines()), type(error).__name__)
            raise (RequestError if self._address else RunError)(f"no Ray cluster at {where}: {cause}") from None
        if not self._verbose:
            for name in ("ray", "ray.tune", "ray.train", "ray.data"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        self._connected = True

    def capacity(self, workers: int, resources: WorkerResources) -> int:
        """How many jobs with that many workers the cluster runs at once."""
        import ray

        available = ray.cluster_resources()
        by_cpu = available.get("CPU", 0) / (workers * resources.cpus)
        by_gpu = available.get("GPU", 0) / (workers * resources.gpus) if resources.gpus else by_cpu
        return int(min(by_cpu, by_gpu) + 1e-9)

    def check(self, study: Study) -> None:
        """Raise `RequestError` when a job of the study wants more than the cluster has."""
        import ray

        wanted, available = study.resources, ray.cluster_resources()
        resources = WorkerResources(wanted.cpus_per_worker, wanted.gpus_per_worker)
        problems = []
        for field in ("workers_per_teacher", "workers_per_trial"):
            workers = getattr(wanted, field)
            if self.capacity(workers, resources) < 1:
                problems.append(
                    (
                        f"resources.{field}",
                        f"{workers} workers of {wanted.cpus_per_worker:g} CPU and {wanted.gpus_per_worker:g} GPU do not fit the "
                        f"cluster, which has {available.get('CPU', 0):g} CPU and {available.get('GPU', 0):g} GPU",
                    )
                )
        if problems:
            raise study.error(problems)
