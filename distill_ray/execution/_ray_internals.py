"""What we use of Ray that is not part of its public interface. An upgrade of Ray is checked here:
each function has a test that fails when Ray has changed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import pickle
import random
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill_ray.errors import first_line

# Starting Ray on this machine


def machine_offers() -> dict[str, float]:
    """What Ray will find on this machine: `CPU` and `GPU`."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    resources = ResourceAndLabelSpec().resolve(is_head=True)
    return {"CPU": float(resources.num_cpus or 0), "GPU": float(resources.num_gpus or 0)}


def no_uv_environments() -> None:
    """Workers use the environment of their machine, though Ray may have been imported before its
    variable for that was set.
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


AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
"""Ports of the raylet's agents, as Ray's function that starts it calls them."""


@contextlib.contextmanager
def given_agent_ports() -> Iterator[None]:
    """While Ray starts, give the raylet's agents free ports.

    Where they choose their own, the raylet waits for the files in which they write them down, and
    ends after 15 seconds without, which no setting changes (ray-project/ray#65983): a busy machine
    needs longer.
    """
    from ray import _raylet
    from ray._private import services

    compiled: Any = _raylet  # its stubs leave these out
    start = services.start_raylet
    parameters = inspect.signature(start)

    @functools.wraps(start)
    def start_raylet(*arguments: Any, **options: Any) -> Any:
        ports = dict(zip(AGENT_PORTS, _free_ports(len(AGENT_PORTS)), strict=True))
        given = parameters.bind(*arguments, **(options | ports)).arguments
        # This one is passed to its agent alone
        compiled.persist_port(
            given["session_dir"],
            given["node_id"],
            compiled.DASHBOARD_AGENT_LISTEN_PORT_NAME,
            ports["dashboard_agent_listen_port"],
        )
        return start(*arguments, **(options | ports))

    services.start_raylet = start_raylet
    try:
        yield
    finally:
        services.start_raylet = start


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, drawn from below those that systems
    give to outgoing connections, so that none is taken before its process gets to it.
    """
    with contextlib.ExitStack() as probes:
        ports: list[int] = []
        while len(ports) < count:
            probe = probes.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.randint(20_000, 32_000)))
                ports.append(probe.getsockname()[1])
        return ports


@contextlib.contextmanager
def without_dashboard() -> Iterator[None]:
    """While Ray starts, leave out its dashboard's process. Ray starts it even where no dashboard is
    wanted, for statistics of its usage, and even where these are off it then asks the network which
    cloud this is.
    """
    from ray._private import services

    start = services.start_api_server
    services.start_api_server = lambda *arguments, **options: ("", None)
    try:
        yield
    finally:
        services.start_api_server = start


def processes_of_ray() -> set[Any]:
    """The processes that Ray has started from this one."""
    import psutil
    import ray  # noqa: F401 - brings psutil

    processes = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and (
                "/ray/" in command or "ray::" in command
            ):
                processes.add(process)
    return processes


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
        return bool(process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE)
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


@contextlib.contextmanager
def tune_takes_any_process() -> Iterator[None]:
    """Let Tune's actors be processes that Ray has started already. Tune asks for ones with a
    variable for Lightning, which none of these has.
    """
    from ray.tune.execution import class_cache

    variables = dict(class_cache.DEFAULT_ENV_VARS)
    class_cache.DEFAULT_ENV_VARS.clear()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(variables)


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

ANSWER_TIMEOUT_S = 10.0
"""Seconds after which a process without work that does not answer counts as dead."""


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
    holder = _tune_controller(controller)
    for name in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        getattr(holder, name, set()).difference_update(ended)
    for trial in ended:
        getattr(holder, "_trial_metadata", {}).pop(trial.trial_id, None)
    _drop_orders_to_nobody(getattr(holder, "_actor_manager", None))


def expect_any_death(controller: Any) -> None:
    """Let Tune try a trial again whatever ended its process.

    Tune knows processes that died and tasks that raised. Any other error of Ray, such as that of a
    process killed as the machine ran out of memory, would end the whole run.
    """
    from ray.exceptions import RayActorError, RayError, RayTaskError

    manager = _tune_controller(controller)._actor_manager
    failed = manager._actor_task_failed

    def actor_task_failed(tracked_actor_task: Any, exception: Exception) -> None:
        is_known = isinstance(exception, RayActorError | RayTaskError)
        if isinstance(exception, RayError) and not is_known:
            text = f"its process was killed: {first_line(exception)}"
            exception = RayActorError(error_msg=text)
        failed(tracked_actor_task, exception)

    manager._actor_task_failed = actor_task_failed


def keep_processes(controller: Any, resources: Any, keep: bool) -> None:
    """Let Tune keep the processes of trials that have ended, which hold `resources` each, though no
    other trial waits for one; or, without `keep`, end those that it has kept.

    Tune keeps as many as it expects to need, which is told here to be very many.
    """
    cache = _tune_controller(controller)._actor_cache
    many = 2**20
    kept = cache._max_num_objects[resources] >= many
    cache._may_keep_one = keep
    if keep and not kept:
        cache.increase_max(resources, many)
    elif kept and not keep:
        cache.decrease_max(resources, many)
    if not keep:
        # Tune would let go of them, and they would live on until Python collects their handles
        manager = _tune_controller(controller)._actor_manager
        for idle in cache._cached_objects.values():
            for actor in list(idle):
                _kill_kept(manager, cache, idle, actor)


def drop_dead_processes(controller: Any) -> None:
    """Forget those of the kept processes that do not answer.

    Tune does not look, and counts a failure twice where a trial is given to a process that has
    died.
    """
    import ray

    tune_controller = _tune_controller(controller)
    manager, cache = tune_controller._actor_manager, tune_controller._actor_cache
    for kept in cache._cached_objects.values():
        answers = {}
        for actor in kept:
            handle, _ = manager._live_actors_to_ray_actors_resources[actor]
            answers[handle.__ray_ready__.remote()] = actor
        if not answers:
            continue
        ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_TIMEOUT_S)
        for answer, actor in answers.items():
            try:
                ray.get(answer, timeout=0)
            except (ray.exceptions.RayError, TimeoutError):
                _kill_kept(manager, cache, kept, actor)


def _kill_kept(manager: Any, cache: Any, kept: list[Any], actor: Any) -> None:
    """Kill one of the `kept` processes, which has no task, and forget it."""
    kept.remove(actor)
    cache._num_cached_objects -= 1
    actor.set_on_stop(None)
    actor.set_on_error(None)
    manager.remove_actor(actor, kill=True)


def kill_processes(controller: Any) -> None:
    """Kill all processes of Tune's trials, so that Tune need not wait until they have stopped."""
    import ray

    if controller is not None:
        manager = _tune_controller(controller)._actor_manager
        for handle, _ in manager._live_actors_to_ray_actors_resources.values():
            ray.kill(handle)


def _tune_controller(controller: Any) -> Any:
    """What Tune shows to schedulers is a wrapper."""
    return getattr(controller, "_tune_controller", controller)


def _drop_orders_to_nobody(manager: Any) -> None:
    """Forget what processes were to do that Tune asked for and then did not need, since another one
    became free first.
    """
    orders = getattr(manager, "_pending_actors_to_enqueued_actor_tasks", {})
    expected = getattr(manager, "_pending_actors_to_attrs", orders)
    for actor in [actor for actor in orders if actor not in expected]:
        del orders[actor]
