"""What tests of several packages share."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_ray import registry
from distill_ray.job import Data, Job
from distill_ray.log_printing import log_printed
from distill_ray.metrics import score
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import Dataset
from distill_ray.training.device import AUTO_PRECISION
from support import small

# Extensions that are installed beside the package are no part of what is tested.
registry.entry_points = lambda *, group: EntryPoints()  # type: ignore[assignment]

# Tests run side by side, one on each core: more threads than that would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# What trains must not wait for the tests on the other core
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="what `precision: auto` is in every test that trains, whatever the processor",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Processes that tests start, Ray's among them, take it from here.
    os.environ[AUTO_PRECISION] = config.getoption("--precision")


LONGEST = (
    "stages/test_study_run",
    "execution/test_runner",
    "cluster/test_postgresql",
    "export/test_export.",
    "report/test_page",
    "execution/test_ray_internals",
    "export/test_extensions",
    "tracking/test_tracker",
    "execution/test_teacher_cache",
    "data/test_bombs",
)
"""The files that take longest begin first: a worker that got one last would work on alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of `LONGEST` first, in that order."""

    def place(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))

    items.sort(key=place)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the package logs during the test, as the command line prints it."""
    lines: list[str] = []
    with log_printed(lines.append):
        yield lines


@pytest.fixture(autouse=True)
def environment_without_mlflow() -> None:
    """Setting MLflow's tracking address, or loading a model, leaves variables behind that later
    tests would obey.
    """
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_registry_uri(None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout; tests that need it are skipped where there is
    none.
    """
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data, real images beside the checkout, is not there")
    return folder


@pytest.fixture(scope="session")
def small_dataset() -> Dataset:
    """Sixty images, 8 by 8, of three classes that a small network can tell apart."""
    return small.small_dataset()


@pytest.fixture(scope="session")
def small_data() -> Data:
    """How a job names `small_dataset`."""
    return small.DATA


@pytest.fixture
def tiny_study() -> Callable[..., StudyDefinition]:
    """Makes the study of `tiny.yaml`, small enough to be run whole, with overrides:
    `tiny_study("search.trials=2")`.
    """
    return lambda *overrides: load_study(Path(__file__).with_name("tiny.yaml"), overrides)


@dataclass(frozen=True)
class FinishedStudy:
    """A study whose store has everything that a run leaves there, made without Ray from networks
    that hardly learned.
    """

    file: Path
    store: Store


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """The tiny study of real digits, finished: two teachers, four trials of which one failed, two
    confirmations each.
    """
    return _finished(Path(__file__).with_name("tiny.yaml"), tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def finished_calibrated(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """A study whose teachers are calibrated, finished in the same way: one trial, one seed."""
    folder = tmp_path_factory.mktemp("calibrated")
    file = folder / "calibrated.yaml"
    file.write_text(CALIBRATED)
    return _finished(file, folder / "store")


@pytest.fixture(scope="session")
def finished_toy(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """The same for a study whose inputs are real numbers."""
    folder = tmp_path_factory.mktemp("toy")
    file = folder / "toy.yaml"
    file.write_text(TOY)
    return _finished(file, folder / "store")


CALIBRATED = """\
name: calibrated
data: {source: digits, train: 96, validation: 100}
teachers:
- {name: wide, members: 2, model: mlp-8, epochs: 1, batch_size: 32, calibrate: true}
- {name: narrow, members: 1, model: mlp-4, epochs: 1, batch_size: 32}
student: {model: mlp-8, method: kd, epochs: 1, batch_size: 32, augmentation: crop}
search: {trials: 1, scheduler: none, space: {temperature: {log: [1, 20]}}}
confirm: {seeds: 1, baselines: [scratch]}
"""

TOY = """\
name: toy
data: {source: toy-spiral, validation: 30}
teachers: {members: 2, model: mlp-8, epochs: 1, batch_size: 60, augmentation: identity}
student: {model: mlp-8, method: hydra, heads: 2, epochs: 1, batch_size: 60, augmentation: identity}
search:
  {trials: 3, objectives: {val/nll: min}, scheduler: none, space: {temperature: {log: [1, 20]}}}
confirm: {seeds: 2, baselines: [scratch]}
"""


def _finished(file: Path, folder: Path) -> FinishedStudy:
    import optuna

    from distill_ray.records import Predictions, find_job, save_job, save_test_predictions
    from distill_ray.resolve import confirm_runs, data_of, teacher_runs, trial_run
    from distill_ray.search.history import best_recipes, open_history
    from distill_ray.search.searcher import queue_first
    from distill_ray.training import Worker, load_dataset, load_split, make_network, predict

    study, store = load_study(file), Store.open(str(folder))
    data = data_of(study)
    dataset, tested = load_dataset(data), load_split(data, "test")
    worker = Worker(torch.device("cpu"))

    def finish(job: Job, *, test: bool) -> dict[str, float]:
        if find_job(store, job.id) is None:
            network = job.recipe.method.deployed_like(make_network(job, dataset)).train()
            network(
                torch.from_numpy(dataset.images[dataset.train[:32]]).permute(0, 3, 1, 2).float()
                / 255
            )
            said = predict(network, dataset.images, dataset.validation, worker=worker)
            labels = dataset.labels[dataset.validation]
            epochs = [
                {"epoch": 1, "time": 1e9, "seconds": 0.5}
                | {f"val/{name}": x for name, x in score(said, labels).items()}
            ]
            predictions, weights = Predictions(said, labels), dict(network.state_dict())
            save_job(
                store,
                job,
                weights=weights,
                epochs=epochs,
                kept_epoch=1,
                predictions=predictions,
                parameters=77_000,
            )
            store.write(
                f"logs/{job.id}.log",
                f"job {job.id}\n2026-01-01 12:00:00 epoch 1  val/nll 2.3\n".encode(),
            )
            if test:
                said = predict(network, tested.images, np.arange(len(tested.images)), worker=worker)
                save_test_predictions(store, job.id, Predictions(said, tested.labels))
        found = find_job(store, job.id)
        assert found is not None
        return found.metrics

    teachers = [run.job.id for run in teacher_runs(study, data) if finish(run.job, test=True)]
    history = open_history(study, data, teachers, store, None)
    queue_first(history, study.search)
    for number in range(study.search.trials):
        trial = history.ask()
        drawn = study.search.space.suggest(trial)
        if number == 2:
            trial.set_user_attr("reason", "the loss was nan in epoch 1")
            history.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            metrics = finish(trial_run(study, data, teachers, number, drawn).job, test=False)
            trial.report(metrics["val/nll"], 1)
            history.tell(trial, metrics["val/nll"])
    for run in confirm_runs(study, data, teachers, best_recipes(study, history, study.confirm.top)):
        finish(run.job, test=True)
    return FinishedStudy(file, store)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a database that MLflow has set up and nobody has written to."""
    from distill_ray.tracking import default_uri
    from distill_ray.tracking.environment import prepare

    prepare()
    from mlflow import MlflowClient

    uri = default_uri(tmp_path_factory.mktemp("empty"))
    MlflowClient(uri, uri).search_experiments()
    return Path(uri.removeprefix("sqlite:///"))


@pytest.fixture
def tracking_uri(empty_database: Path, tmp_path: Path) -> str:
    """The address of an MLflow database of the test's own, `tmp_path/mlflow.db`."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Finds a port of this machine that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@dataclass
class Machines:
    """A Ray cluster of several nodes on this machine, with tokens, that no other Ray here has to do
    with.
    """

    folder: Path
    port: int
    dashboard: int
    environment: dict[str, str]
    head: tuple[str, ...]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def job_server(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def run(self, study: Path, store: Path, *overrides: str) -> list[str]:
        """The command that runs a study on the cluster."""
        command = [
            sys.executable,
            "-m",
            "distill_ray",
            "run",
            str(study),
            "--address",
            self.address,
            "--store",
            str(store),
        ]
        return command + [argument for override in overrides for argument in ("--set", override)]

    def start_head(self) -> subprocess.Popen[bytes]:
        """Start the head, or another one in the place of one that was killed."""
        return self.start(*self.head)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a node, and wait until the cluster has it.

        Ray itself gives up after 30 seconds, which a busy machine exceeds: then once more.
        """
        limit = time.monotonic() + 400
        while True:
            node, log = self._begin(*options)
            while b"Ray runtime started" not in log.read_bytes():
                assert time.monotonic() < limit, log.read_text()
                if node.poll() is not None:
                    break
                time.sleep(0.5)
            else:
                return node
            assert b"timed out during startup" in log.read_bytes(), log.read_text()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            self.nodes.remove(node)

    def _begin(self, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A node that is being started, and the file of what it prints."""
        log = self.folder / f"node-{secrets.token_hex(4)}.log"
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--block",
            "--disable-usage-stats",
        ]
        command += ["--node-ip-address", "127.0.0.1", *options]
        with log.open("wb") as output:
            node = subprocess.Popen(
                command, stdout=output, stderr=output, env=self.environment, start_new_session=True
            )
        self.nodes.append(node)
        return node, log

    def kill(self, node: subprocess.Popen[bytes]) -> int:
        """Kill a node with all its processes at once; their number."""
        import psutil

        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()
        self.nodes.remove(node)
        return len(processes)


@pytest.fixture
def machines(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Machines]:
    """A cluster whose head has no CPU. `start("--address", machines.address, "--num-cpus", "2")`
    adds a node.
    """
    port, dashboard = free_port(), free_port()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "PYTHONDONTWRITE"))
    }
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # a machine with much else to do
        "RAY_gcs_server_request_timeout_seconds": "300",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DISTILL_RAY_CACHE": str(tmp_path / "cache"),
    }
    folder = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))  # sockets have short names
    head = (
        "--head",
        "--port",
        str(port),
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(dashboard),
    )
    head += (
        "--ray-client-server-port",
        str(free_port()),
        "--dashboard-agent-listen-port",
        str(free_port()),
    )
    head += ("--num-cpus", "0", "--temp-dir", str(folder), "--object-store-memory", "100000000")
    cluster = Machines(tmp_path, port, dashboard, environment, head)
    try:
        cluster.start_head()
        yield cluster
    finally:
        for node in reversed(list(cluster.nodes)):
            if node.poll() is None:
                cluster.kill(node)
        shutil.rmtree(folder, ignore_errors=True)
