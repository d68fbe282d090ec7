"""The Ray cluster of a study: one started here, or one that is already there."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import yaml

from distill_ray.data.cache import VARIABLE
from distill_ray.errors import RequestError, RunError
from distill_ray.execution.sharing import LIVE, Sharing
from distill_ray.study import Study

if TYPE_CHECKING:
    from distill_ray.training import Worker

_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # what asks for no GPU sees none
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    # An idle process has torch imported; the next job takes it
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # how far ahead the autoscaler sees
    "RAY_USAGE_STATS_ENABLED": "0",
}

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory for a cluster started here. Jobs pass records of epochs through it; images are
memory-mapped files.
"""

STARTS = 3
"""How often Ray is started on this machine before it is given up."""

ON_THE_HEAD = {"node:__internal_head__": 0.001}
"""Where processes that only wait for workers run: on the head, which is no spot machine, and
without a CPU.
"""

AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"
"""Where `ray up` leaves, on the head, what the autoscaler may add."""

LOOK_AGAIN = 5.0
"""Seconds between two checks whether machines have joined."""


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a job takes of the cluster, and how it shares teacher logits with other
    jobs.
    """

    cpus: float = 1
    gpus: float = 0
    sharing: Sharing = Sharing()
    retries: int = 1
    """How often a job is started again when one of its processes dies."""
    compile: Literal["auto", "always", "never"] = "auto"

    @classmethod
    def of(cls, study: Study, sharing: Sharing) -> WorkerResources:
        """What the study file grants."""
        wanted = study.resources
        return cls(
            wanted.cpus_per_worker,
            wanted.gpus_per_worker,
            sharing,
            wanted.retries,
            wanted.compile,
        )

    def worker(self) -> Worker:
        """The place of this process: on the GPU that it was given, and on none that it merely sees."""
        from distill_ray.training.device import Worker  # torch

        return Worker.here(gpu=self.gpus > 0)

    @property
    def share(self) -> float:
        """The part of its device that a worker has: of a GPU, or else of the machine's processors."""
        return min(1.0, self.gpus or self.cpus / (os.cpu_count() or 1))


@dataclass(frozen=True)
class Machines:
    """Machines of one kind: what each of them offers, and how many there are or may be."""

    offers: Mapping[str, float]
    count: float = 1

    def places(self, resources: WorkerResources) -> float:
        """How many workers they take together; a worker does not spread over two machines, nor a
        part of a GPU over two GPUs.
        """
        places = self.offers.get("CPU", 0) / resources.cpus
        if resources.gpus:
            gpus = self.offers.get("GPU", 0)
            places = min(
                places,
                gpus * int(1 / resources.gpus + 1e-9)
                if resources.gpus < 1
                else gpus / resources.gpus,
            )
        each = int(places + 1e-9)
        return each * self.count if each else 0


class Cluster:
    """Ray, connected when first needed: a study whose jobs are all done never starts it.

    `say` gets a line when the study has to wait for machines, and when they have joined.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        verbose: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._address = address
        self._verbose = verbose
        self._say = say
        self._connected = False
        self._checked = False
        self._done = threading.Event()
        # Now, since Ray reads some of them while it is imported
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        # Processes started here have this environment already, without another `uv run` for each
        if address is None:
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._connected:
            import ray

            ray.shutdown()

    def connect(self) -> None:
        """Start Ray here, or join the cluster at the address.

        Raises `RequestError` when nothing answers there and `RunError` when Ray does not start
        here.
        """
        if self._connected:
            return
        # Ray Client, which has no place for Tune's driver
        if (self._address or "").startswith("ray://"):
            raise RequestError(
                f"--address {self._address}: ray:// is not supported; run the command on the cluster (ray job submit), "
                "or give the address that `ray start --head` printed, HOST:6379"
            )
        host, _, port = (self._address or "").rpartition(":")
        if port.isdecimal():  # Ray itself would try for minutes
            try:
                socket.create_connection((host.rpartition("/")[2], int(port)), timeout=5).close()
            except OSError as error:
                raise RequestError(
                    f"no Ray cluster at --address {self._address}: {error}; start one, or leave it out"
                ) from None
        import ray
        from ray._private import ray_constants

        # Ray may have been imported before this was set
        if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0":
            ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
        level = logging.INFO if self._verbose else logging.ERROR
        on_termination = signal.getsignal(signal.SIGTERM)
        if self._address is None:
            _start_here(log_to_driver=self._verbose, logging_level=level)
        else:
            try:
                ray.init(
                    address=self._address,
                    log_to_driver=self._verbose,
                    logging_level=level,
                    runtime_env=_environment_of_workers(),
                )
            except Exception as error:
                # Ray raises a bare one when its processes do not answer in time
                raise RequestError(
                    f"no Ray cluster at --address {self._address}: {_first_line(error)}"
                ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)  # Ray has put its own in the place
        if not self._verbose:
            for name in ("ray", "ray.tune", "ray.train", "ray.data"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        self._connected = True

    def capacity(self, workers: int, resources: WorkerResources) -> int:
        """How many jobs with that many workers run at once, on the machines that are there or that
        an autoscaler may add.
        """
        places = max(_places(_present(), resources), _places(self._possible(), resources))
        return sys.maxsize if math.isinf(places) else int(places // workers)

    def check(self, study: Study) -> None:
        """Raise `RequestError` when a job of the study wants more than the cluster has or can ever
        have.

        What is worth knowing of the cluster is said once: that its GPUs are left alone, that
        machines have yet to come.
        """
        if self._checked:
            return
        wanted = study.resources
        resources = WorkerResources.of(study, LIVE)
        present, possible = _present(), self._possible()
        has = f"has {_total(present, 'CPU'):g} CPU and {_total(present, 'GPU'):g} GPU in {len(present)} machine"
        has += "" if len(present) == 1 else "s"
        if possible:
            has += f" and can grow to {_total(possible, 'CPU'):g} CPU and {_total(possible, 'GPU'):g} GPU"
        problems, most = [], 1
        for field in ("workers_per_teacher", "workers_per_trial"):
            workers = getattr(wanted, field)
            most = max(most, workers)
            if self.capacity(workers, resources) < 1:
                problems.append(
                    (
                        f"resources.{field}",
                        f"{workers} workers of {wanted.cpus_per_worker:g} CPU and {wanted.gpus_per_worker:g} GPU do not fit the "
                        f"cluster, which {has}",
                    )
                )
        if problems:
            raise study.error(problems)
        self._checked = True
        if not wanted.gpus_per_worker and _total([*present, *possible], "GPU"):
            self._say(
                "training on CPUs: to use the cluster's GPUs set resources.gpus_per_worker to 1, or to 0.25 to share each"
            )
        if _places(present, resources) < most:
            room = f"{_places(present, resources):g} of {most} worker{'' if most == 1 else 's'}"
            self._say(f"waiting for machines: the cluster has room for {room}; it {has}")
            threading.Thread(target=self._watch, args=(resources, most), daemon=True).start()

    def _watch(self, resources: WorkerResources, workers: int) -> None:
        while not self._done.wait(LOOK_AGAIN):
            if (places := _places(_present(), resources)) >= workers:
                self._say(
                    f"machines have come: room for {places:g} worker{'' if places == 1 else 's'}"
                )
                return

    def _possible(self) -> list[Machines]:
        """What there may be at most, as Ray's autoscaler has it; nothing where there is none, or
        where it does not say.
        """
        if self._address is None:
            return []
        from ray._private.state import state

        told = state.get_cluster_config()
        if told is not None and told.node_group_configs:
            return [
                Machines(
                    dict(group.resources), float("inf") if group.max_count < 0 else group.max_count
                )
                for group in told.node_group_configs
            ]
        try:
            file = yaml.safe_load(Path(AUTOSCALER_FILE).expanduser().read_text())
            left, machines = (
                file["max_workers"],
                [Machines(file["available_node_types"][file["head_node_type"]]["resources"])],
            )
            for name, kind in file["available_node_types"].items():
                if name != file["head_node_type"]:
                    count = min(left, kind.get("max_workers", 0))
                    left -= count
                    machines.append(Machines(kind.get("resources", {}), count))
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            return []
        return machines


def _start_here(*, log_to_driver: bool, logging_level: int) -> None:
    """A cluster of this machine alone. Ray gives its own processes half a minute; on a busy machine
    they get it again.
    """
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=log_to_driver,
                logging_level=logging_level,
                object_store_memory=OBJECT_STORE_BYTES,
            )
            return
        except Exception as error:  # a bare one when its processes do not answer in time
            ray.shutdown()
            if attempt == STARTS:
                raise RunError(
                    f"Ray did not start on this machine, tried {STARTS} times: {_first_line(error)}"
                ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _present() -> list[Machines]:
    import ray

    return [Machines(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _places(machines: list[Machines], resources: WorkerResources) -> float:
    return sum(each.places(resources) for each in machines)


def _total(machines: list[Machines], resource: str) -> float:
    return sum(
        each.offers.get(resource, 0) * each.count for each in machines if each.offers.get(resource)
    )


def _environment_of_workers() -> dict[str, Any]:
    """What workers on other machines are told of this process's environment: where their caches
    are.
    """
    own = {name: os.environ[name] for name in (VARIABLE,) if name in os.environ}
    # What a job was submitted with reaches the workers anyway, and Ray refuses to hear it twice.
    submitted = (
        json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        .get("runtime_env", {})
        .get("env_vars")
        or {}
    )
    return {"env_vars": {name: value for name, value in own.items() if name not in submitted}}
