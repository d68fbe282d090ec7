"""The Ray cluster of a study: one started here, one that this process uses already, or one at an
address.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from distill_ray.errors import RequestError, first_line
from distill_ray.execution.machines import (
    Machines,
    possible_machines,
    present_machines,
    total,
    workers_on,
)
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import LIVE
from distill_ray.node_cache import VARIABLE
from distill_ray.study import StudyDefinition

if TYPE_CHECKING:
    from distill_ray.execution.tune_run import TuneRun

logger = logging.getLogger(__name__)

_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # what asks for no GPU sees none
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    # Machines have the package: under `uv run` Ray would give every process an environment of its
    # own, and several on one machine would take it from each other while they start
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # how far ahead the autoscaler sees
}

ON_THE_HEAD = {"node:__internal_head__": 0.001}
"""Where processes that only wait for workers run: on the head, which is no spot machine, and
without a CPU.
"""

WATCH_INTERVAL_S = 5.0
"""Seconds between two checks whether machines have joined."""


class Cluster:
    """Ray, connected when first needed: a study whose jobs are all done never starts it.

    Without an address it is a cluster of this machine alone, which ends with the context; or the
    one that this process is connected to already, as in a notebook, which is left running.
    """

    def __init__(self, address: str | None = None, *, verbose: bool = False) -> None:
        self.tune_run: TuneRun | None = None
        """What runs tasks of one worker each, and keeps their processes, once there were some."""
        self._address = address
        self._verbose = verbose
        self._checked = False
        self._done = threading.Event()
        self._cleanup = contextlib.ExitStack()
        self._connected = False
        # Now, since Ray reads some of them while it is imported
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self.end_processes()
        self._cleanup.close()

    def end_processes(self) -> None:
        """End the processes that were kept for later tasks, whatever they are doing."""
        if self.tune_run is not None:
            self.tune_run.close()
            self.tune_run = None

    def connect(self) -> None:
        """Start Ray here, or join the cluster at the address.

        Raises `RequestError` when nothing answers there and `RunError` when Ray does not start
        here.
        """
        if self._connected:
            return
        from distill_ray.execution._ray_internals import no_uv_environments

        no_uv_environments()
        # Ray puts a handler of its own in the place of ours
        with _termination_handler_kept():
            if _is_in_use():
                self._use_theirs()
            elif self._address is None:
                from distill_ray.execution.local_ray import start_ray

                self._cleanup.enter_context(start_ray(verbose=self._verbose))
            else:
                self._join(self._address)
        if not self._verbose:
            for name in ("ray", "ray.tune", "ray.train", "ray.data"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        self._connected = True

    def _use_theirs(self) -> None:
        """Use the cluster that this process is connected to, as long as it is the one asked for."""
        import ray

        theirs = ray.get_runtime_context().gcs_address
        if self._address not in (None, "auto", theirs):
            raise RequestError(
                f"--address {self._address}: this process uses the Ray cluster at {theirs} "
                "already; leave the address out to use it too, or call ray.shutdown() first"
            )
        logger.info("using the Ray cluster at %s, to which this process is connected", theirs)

    def _join(self, address: str) -> None:
        import ray

        from distill_ray.execution._ray_internals import job_config

        _check_address(address)
        try:
            ray.init(
                address=address,
                log_to_driver=self._verbose,
                logging_level=logging.INFO if self._verbose else logging.ERROR,
                runtime_env=_environment_of_workers(),
                job_config=job_config(),
            )
        except Exception as error:
            # Ray raises a bare one when its processes do not answer in time
            raise RequestError(
                f"no Ray cluster at --address {address}{_from_environment(address)}: "
                f"{first_line(error)}"
            ) from None
        self._cleanup.callback(ray.shutdown)

    def capacity(self, workers: int, resources: WorkerResources) -> int:
        """How many jobs with that many workers run at once, on the machines that are there or that
        an autoscaler may add.
        """
        present = workers_on(present_machines(), resources)
        fit = max(present, workers_on(self._possible(), resources))
        return sys.maxsize if math.isinf(fit) else int(fit // workers)

    def check_machine(self, study: StudyDefinition) -> None:
        """Raise `RequestError` when a job of the study wants more than this machine has, where Ray
        is about to be started on it alone, which takes a while.
        """
        if self._connected or self._address is not None or _is_in_use():
            return
        from distill_ray.execution._ray_internals import machine_offers

        offers = machine_offers()
        has = f"has {offers['CPU']:g} CPU and {offers['GPU']:g} GPU"
        resources = WorkerResources.of(study, LIVE)
        _check_fit(study, resources, [Machines(offers)], f"this machine, which {has}")

    def check(self, study: StudyDefinition) -> None:
        """Raise `RequestError` when a job of the study wants more than the cluster has or can ever
        have.

        What is worth knowing of the cluster is logged once: that its GPUs are not used, that
        machines have yet to join.
        """
        if self._checked:
            return
        resources = WorkerResources.of(study, LIVE)
        present, possible = present_machines(), self._possible()
        has = _description(present, possible)
        granted = study.resources
        most = max(granted.workers_per_teacher, granted.workers_per_trial)
        most_room = max(present, possible, key=lambda machines: workers_on(machines, resources))
        _check_fit(study, resources, most_room, f"the cluster, which {has}")
        self._checked = True
        if not resources.gpus and total([*present, *possible], "GPU"):
            logger.info(
                "training on CPUs: to use the cluster's GPUs set resources.gpus_per_worker to 1, "
                "or to 0.25 to share each"
            )
        fit = workers_on(present, resources)
        if fit < most:
            room = f"{fit:g} of {most} worker{'' if most == 1 else 's'}"
            logger.info("waiting for machines: the cluster has room for %s; it %s", room, has)
            threading.Thread(target=self._watch, args=(resources, most), daemon=True).start()

    def _watch(self, resources: WorkerResources, workers: int) -> None:
        while not self._done.wait(WATCH_INTERVAL_S):
            fit = workers_on(present_machines(), resources)
            if fit >= workers:
                plural = "" if fit == 1 else "s"
                logger.info("machines have joined: room for %g worker%s", fit, plural)
                return

    def _possible(self) -> list[Machines]:
        return [] if self._address is None else possible_machines()


def _check_fit(
    study: StudyDefinition, resources: WorkerResources, machines: list[Machines], where: str
) -> None:
    """Raise `RequestError` for the field that asks for more than the machines have."""
    needed = f"{resources.cpus:g} CPU and {resources.gpus:g} GPU"
    fit = workers_on(machines, resources)
    if fit < 1:
        without = replace(resources, gpus=0)
        field = "gpus_per_worker" if workers_on(machines, without) >= 1 else "cpus_per_worker"
        text = f"a worker of {needed} does not fit {where}"
        raise study.error([(f"resources.{field}", text)])
    problems = []
    for field in ("workers_per_teacher", "workers_per_trial"):
        workers = getattr(study.resources, field)
        if fit < workers:
            text = f"{workers} workers of {needed} do not fit {where}"
            problems.append((f"resources.{field}", text))
    if problems:
        raise study.error(problems)


@contextlib.contextmanager
def _termination_handler_kept() -> Any:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _is_in_use() -> bool:
    """Whether this process is connected to a cluster, without importing Ray to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _check_address(address: str) -> None:
    """Raise `RequestError` for an address that cannot work, before Ray tries for minutes."""
    place = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    origin = _from_environment(address)
    if "://" in place:
        # Ray Client has no place for Tune's driver; http is the address of the dashboard
        raise RequestError(
            f"--address {address}{origin}: {place.partition('://')[0]}:// is not supported; run "
            "the command on the cluster (ray job submit), or give the address that "
            "`ray start --head` printed, HOST:6379"
        )
    host, _, port = place.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise RequestError(
            f"no Ray cluster at --address {address}{origin}: {error}; start one, or leave it out"
        ) from None


def _from_environment(address: str) -> str:
    place = os.environ.get("RAY_ADDRESS")
    return f" (RAY_ADDRESS={place})" if address == "auto" and place else ""


def _description(present: list[Machines], possible: list[Machines]) -> str:
    plural = "" if len(present) == 1 else "s"
    text = (
        f"has {total(present, 'CPU'):g} CPU and {total(present, 'GPU'):g} GPU "
        f"in {len(present)} machine{plural}"
    )
    if possible:
        most = f"{total(possible, 'CPU'):g} CPU and {total(possible, 'GPU'):g} GPU"
        text += f" and can grow to {most}"
    return text


def _environment_of_workers() -> dict[str, Any]:
    """The variables of this process that workers on other machines need: where their caches are."""
    variables = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
    # What a job was submitted with reaches the workers anyway, and Ray refuses to get it twice
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    passed_on = submitted.get("runtime_env", {}).get("env_vars") or {}
    return {"env_vars": {name: value for name, value in variables.items() if name not in passed_on}}
