"""Optuna and MLflow on a PostgreSQL server: several drivers, a server that is restarted, and a
password that nobody sees.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from distill_ray.errors import RequestError, RunError
from distill_ray.job import Data, Split
from distill_ray.search import database
from distill_ray.search.history import open_history
from distill_ray.search.searcher import queue_first
from distill_ray.stages import lock
from distill_ray.stages.lock import search_lock
from distill_ray.store import Store
from distill_ray.study import load_study

TINY = Path(__file__).parents[1] / "tiny.yaml"
PASSWORD = "open-sesame-4711"
DATA = Data(
    name="digits", digest="d" * 32, location="digits", label="label", split=Split(validation=100)
)
QUEUED = 15
SMALL = ["teachers.members=1", "search.trials=3", "confirm.seeds=1", "confirm.baselines=[]"]


def opened(address: str, tmp_path: Path, *overrides: str) -> optuna.Study:
    study = load_study(str(TINY), overrides)
    return open_history(study, DATA, ["a", "b"], Store.open(str(tmp_path / "store")), address)


def test_processes_that_ask_one_search(postgresql: Any, tmp_path: Path) -> None:
    """Three processes draw and tell trials side by side: no number twice, nothing of the queue
    twice, nothing left running.
    """
    first = [
        {"temperature": 1 + number, "alpha": 0.5, "augmentation": "identity"}
        for number in range(QUEUED)
    ]
    history = opened(postgresql.address("optuna"), tmp_path)
    queue_first(
        history, load_study(str(TINY), [f"search.try_first={first}", "search.trials=30"]).search
    )
    command = [sys.executable, __file__, postgresql.address("optuna"), str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    trials = history.trials
    assert [trial.number for trial in trials] == list(range(30))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert Counter(trial.user_attrs["process"] for trial in trials) == {"0": 10, "1": 10, "2": 10}
    assert sorted(trial.params["temperature"] for trial in trials[:QUEUED]) == [
        1 + number for number in range(QUEUED)
    ]
    assert all(trial.intermediate_values == {1: trial.value} for trial in trials)


def ask_and_tell(address: str, folder: Path, name: str) -> None:
    study, history = load_study(str(TINY)), opened(address, folder)
    history.sampler = optuna.samplers.RandomSampler(seed=int(name))
    for _ in range(10):
        trial = history.ask()
        study.search.space.suggest(trial)
        trial.set_user_attr("process", name)
        trial.report(float(trial.number), 1)
        history.tell(trial, float(trial.number))


def test_one_driver_per_search(
    postgresql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The stores may differ: another driver of the same search is turned away, a dead one is not
    waited for long.
    """
    monkeypatch.setattr(lock, "BEAT", 0.5)
    monkeypatch.setattr(lock, "EXPIRY", 3.0)
    mine, other = Store.open(str(tmp_path / "mine")), Store.open(str(tmp_path / "other"))
    history, again = (opened(postgresql.address("optuna"), tmp_path) for _ in range(2))
    with (
        search_lock(history, mine),
        pytest.raises(
            RequestError, match=rf"is being run on store {mine.uri} by another process on"
        ),
        search_lock(again, other),
    ):
        pass
    assert all("waiting for the last driver of the search" in line for line in logged)
    with search_lock(again, other):
        pass
    gone = {"store": mine.uri, "host": "gone", "token": "x", "place": lock._place(mine)}
    history.set_user_attr(lock.DRIVER, gone)
    logged.clear()
    with search_lock(again, mine):
        assert logged == [], "a dead driver of the same store is not waited for"
    history.set_user_attr(lock.DRIVER, gone)
    with search_lock(again, other):
        assert "waiting for the last driver of the search" in logged[0]


def test_a_server_that_comes_back(postgresql: Any, tmp_path: Path, logged: list[str]) -> None:
    """What is asked while it is away is asked again; nothing is lost, nothing is there twice."""
    study = load_study(str(TINY))
    history = opened(postgresql.address("optuna", PASSWORD), tmp_path)

    def restart() -> None:
        for _ in range(2):
            time.sleep(1)
            postgresql.stop()
            time.sleep(1.5)
            postgresql.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    told = 0
    while restarting.is_alive() or told < 20:
        trial = history.ask()
        study.search.space.suggest(trial)
        trial.report(float(told), 1)
        history.tell(trial, float(told))
        told += 1
    restarting.join()
    trials = [trial for trial in history.trials if trial.state == TrialState.COMPLETE]
    assert [trial.value for trial in trials] == [float(number) for number in range(told)]
    assert all(
        trial.intermediate_values == {1: trial.value} and len(trial.params) == 3 for trial in trials
    )
    # A trial whose making could not be confirmed may be there a second time, empty; the next driver
    # settles it.
    assert not [
        trial for trial in history.trials if trial.state == TrialState.RUNNING and trial.params
    ]
    assert "does not answer; waiting" in logged[0] and "answers again" in logged[1]
    assert PASSWORD not in "".join(logged)


def test_a_server_that_stays_away(
    postgresql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 3.0)
    history = opened(postgresql.address("optuna", PASSWORD), tmp_path)
    history.ask()
    postgresql.stop()
    with pytest.raises(
        RunError,
        match=r"--search-storage postgresql://127.0.0.1:\d+/optuna has not answered",
    ) as error:
        history.ask()
    assert PASSWORD not in str(error.value)
    with pytest.raises(RequestError, match="cannot be used") as refused:
        opened(postgresql.address("optuna", PASSWORD), tmp_path)
    assert PASSWORD not in str(refused.value)


def test_a_wrong_password(postgresql: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be used") as error:
        opened(postgresql.address("optuna", "guessed"), tmp_path)
    assert "guessed" not in str(error.value)


def begin(study: str, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "distill_ray",
        "run",
        str(TINY),
        "--set",
        f"name={study}",
        *options,
    ]
    command += [argument for override in SMALL for argument in ("--set", override)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check(study: str, storage: str, tracking: str) -> None:
    """Three trials that ended once each, and one MLflow run for each job."""
    from mlflow import MlflowClient

    (name,) = [name for name in optuna.get_all_study_names(storage) if name.startswith(f"{study}-")]
    trials = optuna.load_study(study_name=name, storage=storage).trials
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == 3 and len({trial.user_attrs["job_id"] for trial in ended}) == 3
    assert not [trial for trial in trials if trial.state == TrialState.FAIL]
    client = MlflowClient(tracking)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.data.tags["stage"] for run in runs) == {
        "study": 1,
        "teach": 1,
        "search": 3,
        "confirm": 1,
    }
    assert not [run for run in runs if run.info.status in ("RUNNING", "SCHEDULED")]
    for run in runs:
        assert PASSWORD not in str(run.data.tags) + str(run.data.params)


@pytest.mark.slow
def test_two_studies_at_once(postgresql: Any, mlflow_server: str, tmp_path: Path) -> None:
    """Two drivers on one Optuna database and one MLflow server, which has its own database on the
    same PostgreSQL.
    """
    places = ["--search-storage", postgresql.address("optuna"), "--tracking-uri", mlflow_server]
    both = [begin(name, "--store", str(tmp_path / name), *places) for name in ("one", "two")]
    said = [process.communicate(timeout=1500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for name in ("one", "two"):
        check(name, postgresql.address("optuna"), mlflow_server)


@pytest.mark.slow
def test_restarted_during_a_search(postgresql: Any, tmp_path: Path) -> None:
    """Optuna's and MLflow's database goes away for a while in the search; the study finishes, and
    the password is nowhere.
    """
    store = tmp_path / "store"
    search, tracking = (postgresql.address(name, PASSWORD) for name in ("optuna", "mlflow"))
    printed = ""
    with begin(
        "one", "--store", str(store), "--search-storage", search, "--tracking-uri", tracking
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if line.startswith("[search 1/"):
                postgresql.stop()
                time.sleep(20)
                postgresql.start()
    assert process.returncode == 0, printed
    assert "does not answer; waiting" in printed and "answers again" in printed
    assert PASSWORD not in printed
    for path in store.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
    check("one", search, tracking)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ask_and_tell(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
