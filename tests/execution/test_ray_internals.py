"""What we use of Ray's private parts, tried on the real ones: an upgrade of Ray that changes them
shows here.
"""

from __future__ import annotations

import inspect
import ipaddress
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import ray
from ray._private import node, ray_constants, services
from ray.air.execution._internal import RayActorManager, TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError
from ray.train._internal.storage import StorageContext
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from distill_ray.execution import _ray_internals as internals
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.messages import Finished, Task
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.runner import run_in_parallel


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like Ray's raylet."""
    program = tmp_path / "ray" / "raylet"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    with subprocess.Popen([str(program), "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_node_is_waited_for_as_long_as_its_raylet_lives(
    raylet: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "services.get_node(" in inspect.getsource(node.Node.__init__)
    asked: list[Any] = []

    def get_node(*arguments: Any) -> dict[str, str]:
        asked.append(arguments)
        if len(asked) < 3:
            raise RuntimeError("no such node yet")
        return {"node": "here"}

    monkeypatch.setattr(services, "get_node", get_node)
    with internals.patient_start(600):
        assert services.get_node("address", "id") == {"node": "here"}
        assert asked == [("address", "id")] * 3
        asked.clear()
        internals.end_processes(internals.processes_of_ray())
        assert not internals.processes_of_ray()
        with pytest.raises(RuntimeError, match="no such node"):
            services.get_node("address", "id")
        assert len(asked) == 1
    assert services.get_node is get_node


def test_a_raylet_that_hangs_is_given_up(
    raylet: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_node(*arguments: Any) -> dict[str, str]:
        raise RuntimeError("no such node yet")

    monkeypatch.setattr(services, "get_node", get_node)
    with internals.patient_start(0.1), pytest.raises(RuntimeError, match="no such node"):
        services.get_node("address", "id")
    assert raylet.poll() is None


def test_agents_of_the_raylet_have_ports_before_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = inspect.getsource(node.Node.start_raylet)
    assert all(f"{name}=self._ray_params.{name}," in passed for name in internals.AGENT_PORTS)
    parameters = inspect.signature(services.start_raylet)
    asked: list[dict[str, Any]] = []

    def start_raylet(*arguments: Any, **options: Any) -> None:
        asked.append(parameters.bind(*arguments, **options).arguments)

    start_raylet.__signature__ = parameters  # type: ignore[attr-defined]
    monkeypatch.setattr(services, "start_raylet", start_raylet)
    needed: dict[str, Any] = {
        name: str(tmp_path)
        for name, parameter in parameters.parameters.items()
        if parameter.default is parameter.empty
    }
    for identity in ("1a" * 28, "2b" * 28):
        with internals.given_agent_ports():
            services.start_raylet(**(needed | {"node_id": identity}), metrics_agent_port=0)
    assert services.start_raylet is start_raylet
    ports = [options[name] for options in asked for name in internals.AGENT_PORTS]
    assert len(set(ports)) == 8
    assert all(20_000 <= port <= 32_000 for port in ports)
    for options in asked:
        file = tmp_path / f"dashboard_agent_listen_port_{options['node_id']}"
        assert int(file.read_text()) == options["dashboard_agent_listen_port"]


@pytest.mark.slow
def test_agents_may_take_longer_than_the_raylet_would_wait(tmp_path: Path) -> None:
    """As on a busy machine. It waits for 15 seconds where they choose their own ports."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if any('agent.py' in word or 'runtime_env/agent' in word for word in sys.orig_argv):\n"
        "    time.sleep(40)\n"
    )
    program = (
        "from distill_ray.execution.cluster import Cluster\n"
        "with Cluster() as cluster:\n"
        "    cluster.connect()\n"
        "    import ray\n"
        "    print(ray.get(ray.remote(lambda: 'done').remote()))\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stderr
    assert "starting it again" not in done.stderr


@pytest.mark.parametrize("error", [OutOfMemoryError("low\non memory"), NodeDiedError("low")])
def test_a_process_killed_for_want_of_memory_is_a_dead_process(error: Exception) -> None:
    manager = RayActorManager(resource_manager=MagicMock())
    manager._cleanup_actor = lambda tracked_actor: None  # it has no process
    actor = TrackedActor(actor_id=1)
    reports: list[Any] = []
    task = TrackedActorTask(actor, on_error=lambda actor, error: reports.append(error))
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        manager._actor_task_failed(task, error)
    internals.expect_any_death(SimpleNamespace(_actor_manager=manager))
    manager._actor_task_failed(task, error)
    died = ActorDiedError()
    manager._actor_task_failed(task, died)
    report, other = reports
    assert type(report) is RayActorError
    assert str(report) == "its process was killed: low"
    assert other is died


def test_the_constants_are_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    internals.no_uv_environments()
    internals.on_loopback()
    variables = dict(class_cache.DEFAULT_ENV_VARS)
    assert variables, "Tune asks for processes of its own"
    with internals.tune_takes_any_process():
        assert not class_cache.DEFAULT_ENV_VARS
    assert variables == class_cache.DEFAULT_ENV_VARS
    assert not ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    assert services.get_node_ip_address() in ("127.0.0.1", "::1")


def listening() -> dict[tuple[str, int], str]:
    """The sockets on which this process and those that it has started wait for connections."""
    sockets = {}
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            connections = process.net_connections(kind="inet")
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                sockets[connection.laddr.ip, connection.laddr.port] = command
    return sockets


def is_loopback(address: str) -> bool:
    place = ipaddress.ip_address(address)
    return (getattr(place, "ipv4_mapped", None) or place).is_loopback


def check_error_of_trial(folder: Path) -> None:
    """The error of a trial is the one that Tune keeps; it needs a session of Ray's."""
    storage = StorageContext(str(folder), experiment_dir_name="search", trial_dir_name="trial")
    trial = Trial("nothing", stub=True, storage=storage)
    assert isinstance(internals.error_of(trial), RuntimeError)
    Path(trial.local_path).mkdir(parents=True, exist_ok=True)
    trial.handle_error(ray.exceptions.RayTaskError("f", "trace", ValueError("no")))
    error = internals.error_of(trial)
    assert isinstance(error, ray.exceptions.RayTaskError) and str(error.cause) == "no"


def test_a_cluster_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens on loopback only, and its workers do not import from the working directory, nor
    need it once they have started.
    """
    here = tmp_path / "here"
    here.mkdir()
    (here / "colorsys.py").write_text("raise ImportError('the wrong one')\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", ".")])
    before = listening()
    with Cluster() as cluster:
        cluster.connect()

        @ray.remote
        def look() -> tuple[str, list[str]]:
            import colorsys

            return colorsys.__file__, sys.path

        file, path = ray.get(look.remote())
        assert Path(file).parent != here and str(here) not in path
        time.sleep(2)  # until agents listen too
        opened = {place: name for place, name in listening().items() if place not in before}
        assert opened
        assert not [place for place in opened if not is_loopback(place[0])], opened
        assert internals.autoscaler_groups() == []
        check_error_of_trial(tmp_path)
        commands = [" ".join(process.cmdline()) for process in internals.processes_of_ray()]
        assert commands and not [line for line in commands if "dashboard/dashboard.py" in line]
    deadline = time.monotonic() + 60
    while internals.processes_of_ray() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not internals.processes_of_ray()


def test_jobs_run_in_the_processes_that_ray_has_started() -> None:
    with Cluster() as cluster:
        cluster.connect()
        waited = time.monotonic()
        while not (there := idle_processes()) and time.monotonic() < waited + 60:
            time.sleep(0.1)

        class Telling(Task):
            name = "something"
            epochs = 0

            def work(self) -> Any:
                import os

                from distill_ray.execution.messages import Finished

                yield from ()
                return Finished({"pid": float(os.getpid())})

        told = Heard(Telling())
        run_in_parallel(cluster, [told], WorkerResources())
        assert told.metrics["pid"] in there


def idle_processes() -> set[int]:
    """Those that wait for work."""
    processes = internals.processes_of_ray()
    return {process.pid for process in processes if process.cmdline()[0].startswith("ray::IDLE")}


@dataclass
class Heard:
    """An assignment that keeps its result."""

    task: Any
    log: str = ""
    metrics: Any = None

    def on_start(self) -> None: ...

    def on_epochs(self, records: Any) -> None: ...

    def on_finish(self, result: Finished) -> None:
        self.metrics = result.metrics

    def on_failure(self, reason: str) -> None:
        raise AssertionError(reason)


def test_a_notebook_keeps_its_own_ray(tmp_path: Path) -> None:
    """A study in a process that uses Ray already takes that, and leaves it and its actors alone."""
    program = textwrap.dedent(
        """
        import ray
        from distill_ray.errors import RequestError
        from distill_ray.execution.cluster import Cluster

        ray.init(address="local", include_dashboard=False, object_store_memory=100 * 2**20)

        @ray.remote
        class Counter:
            def add(self):
                return 1

        counter = Counter.remote()
        address = ray.get_runtime_context().gcs_address
        for asked in (None, "auto", address):
            with Cluster(asked) as cluster:
                cluster.connect()
                assert ray.get_runtime_context().gcs_address == address
            assert ray.get(counter.add.remote()) == 1
        try:
            with Cluster("127.0.0.1:1") as cluster:
                cluster.connect()
        except RequestError as error:
            assert address in str(error), error
        else:
            raise AssertionError("another cluster")
        assert ray.get(counter.add.remote()) == 1
        print("kept")
        """
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.split()[-1:] == ["kept"], done.stderr
