"""What we use of Ray that is not part of its public interface. An upgrade of Ray is checked here:
each function has a test that fails when Ray has changed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Starting Ray on this machine


def no_uv_environments() -> None:
    """Workers share this process's environment, though Ray may have been imported before its
    variable for that was set. Under `uv run` each would otherwise make one of its own, which takes
    minutes.
    """
    from ray._private import ray_constants

    if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0":
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def on_loopback() -> None:
    """Let a cluster that is started now listen on 127.0.0.1 only. Ray does so by default on Windows
    and macOS, and turns the address into the machine's own where it is passed to `ray.init`.
    """
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def read_token_again() -> None:
    """Let this process use the token of its environment; Ray keeps the first that it has seen."""
    from ray import _raylet

    compiled: Any = _raylet  # its stubs leave these out
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def patient_start(seconds: float) -> Iterator[None]:
    """While Ray starts, wait for its raylet as long as that lives, at most `seconds`. Ray itself
    waits for 30.
    """
    from ray._private import services

    deadline = time.monotonic() + seconds

    impatient: Any = services.get_node

    @functools.wraps(impatient)
    def get_node(*arguments: Any) -> Any:
        while True:
            try:
                return impatient(*arguments)
            except RuntimeError:
                lives = any(_is_raylet(process) for process in processes_of_ray())
                if not lives or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = impatient


def processes_of_ray() -> set[Any]:
    """The processes that Ray has started from this one."""
    import psutil
    import ray  # noqa: F401 - brings psutil

    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and (
                "/ray/" in command or "ray::" in command
            ):
                found.add(process)
    return found


def end_processes(processes: set[Any]) -> None:
    """Kill processes of an attempt to start Ray that failed."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)


def _is_raylet(process: Any) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(process.name() == "raylet")
    return False


def job_config() -> Any:
    """What a driver passes to `ray.init` so that workers find modules where it does itself. Ray
    puts the working directory first on their path, where a `torch.py` would be taken for the real
    one.
    """
    from ray.job_config import JobConfig

    class Ours(JobConfig):
        def _serialize(self) -> str:
            here = os.path.abspath(os.path.curdir)  # noqa: PTH100 - as Ray writes it
            if not {"", here} & set(sys.path):
                self._py_driver_sys_path = [
                    folder for folder in self._py_driver_sys_path if folder != here
                ]
            serialized: str = super()._serialize()
            return serialized

    return Ours()


# A cluster's autoscaler


def autoscaler_groups() -> list[tuple[Mapping[str, float], float]]:
    """Kinds of machines that an autoscaler of version 2 may have: what each offers, and how many at
    most. Empty where it does not say.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    groups: list[tuple[Mapping[str, float], float]] = []
    for group in config.node_group_configs:
        count = float("inf") if group.max_count < 0 else float(group.max_count)
        groups.append((dict(group.resources), count))
    return groups


# Tune


def error_of(trial: Any) -> Exception:
    """The last error of a Tune trial, from the file in which Tune keeps it for the driver."""
    try:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return RuntimeError("its process died")
    assert isinstance(error, Exception)
    return error


def forget_ended(controller: Any) -> None:
    """Take the trials that have ended out of everything in which Tune's controller keeps them.

    Tune holds all trials until the search is over, ten kilobytes each, goes through all of them in
    every step, and writes all of them down at the end. What is wanted of them is in Optuna and in
    the store by then. Tune has no public way to say so: of its collections those that are not found
    under these names are left alone, and then memory grows as it would without this.
    """
    trials = controller.get_trials()
    ended = [trial for trial in trials if trial.is_finished()]
    if not ended:
        return
    trials[:] = [trial for trial in trials if trial not in ended]
    holder = getattr(controller, "_tune_controller", controller)
    for name in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        getattr(holder, name, set()).difference_update(ended)
    for trial in ended:
        getattr(holder, "_trial_metadata", {}).pop(trial.trial_id, None)
    _drop_orders_to_nobody(getattr(holder, "_actor_manager", None))


def _drop_orders_to_nobody(manager: Any) -> None:
    """Forget what processes were to do that Tune asked for and then did not need, since another one
    became free first.
    """
    orders = getattr(manager, "_pending_actors_to_enqueued_actor_tasks", {})
    expected = getattr(manager, "_pending_actors_to_attrs", orders)
    for actor in [actor for actor in orders if actor not in expected]:
        del orders[actor]
