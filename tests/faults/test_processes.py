"""Processes that are killed, or told to end. The study then has the same results, to the byte, as
one that was left alone.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from optuna.trial import TrialState

from distill_ray.records import find_job
from distill_ray.search.history import ABANDONED
from distill_ray.store import Store


def test_a_loss_that_is_not_finite_fails_its_trial_alone(undisturbed: Any) -> None:
    """The reason is kept, the search goes on, and what would only fail again is not retried."""
    states = [trial.state for trial in undisturbed.trials()]
    assert states == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    failed = undisturbed.trials()[1]
    assert (
        "the loss was" in failed.user_attrs["reason"] or "not finite" in failed.user_attrs["reason"]
    )
    log = (undisturbed.store / "logs" / f"{failed.user_attrs['job_id']}.log").read_text()
    assert log.count("Traceback") == 1


def test_workers_killed_while_they_train(steady: Any, undisturbed: Any) -> None:
    """The processes of the teachers, then the actors of the trials, each amid its job."""
    study = steady()
    with study.running() as driver:
        before = driver.kill_worker("Trainable")
        driver.wait_for("[search] trial 000")
        before |= driver.kill_worker("Trainable")
        assert driver.ended() == 0, "".join(study.printed)
    study.goes_on_from(before)
    assert study.results() == undisturbed.results()
    assert [trial.state for trial in study.trials()] == [
        trial.state for trial in undisturbed.trials()
    ]


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("RayTrainWorker", "training"),
        ("TrainController", "training"),
        ("TrainController", "starting"),
        ("Trainable", "training"),
    ],
)
def test_a_group_of_two_data_parallel_workers_killed(
    name: str, moment: str, steady: Any, group_alone: Any
) -> None:
    """One of them, the process that leads them, or the one that started all: they go on from the
    last checkpoint.

    What they held is free by then, or they would wait for it for ever: the machine has room for one
    group.
    """
    study = steady(*group_alone.options)
    with study.running() as driver:
        if moment == "training":
            before = driver.until_training()
        else:
            driver.until(lambda: len(driver.workers("RayTrainWorker")) == 2)
            before = study.under_way()
        victims = driver.workers(name)
        assert len(victims) == (2 if name == "RayTrainWorker" else 1)
        victims[-1].kill()
        assert driver.ended() == 0, "".join(study.printed)
    study.goes_on_from(before)
    assert study.results() == group_alone.results()


def test_the_driver_killed_in_every_stage(steady: Any, undisturbed: Any) -> None:
    """Killed with -9 while it teaches, screens, searches, confirms and reports."""
    study = steady()
    checkpoints: list[Any] = []

    def killed(wait: Any) -> None:
        with study.running() as driver:
            wait(driver)
            checkpoints.append(study.under_way())
            os.kill(driver.process.pid, signal.SIGKILL)
            driver.process.wait()
            time.sleep(3)  # its children notice, and end

    killed(lambda driver: driver.until_training())
    killed(lambda driver: driver.wait_for("[screen 1/"))
    killed(lambda driver: (driver.wait_for("[search] trial 000"), driver.until_training()))
    abandoned = [trial for trial in study.trials() if trial.state == TrialState.RUNNING]
    assert abandoned
    # A baseline may have begun beside the search
    killed(lambda driver: (driver.wait_for("search  "), driver.until_training()))
    killed(lambda driver: driver.wait_for("confirm  "))
    study.finish()
    for before in checkpoints:
        study.goes_on_from(before)
    assert study.results() == undisturbed.results()
    trials = study.trials()
    assert {
        trial.user_attrs.get("reason")
        for trial in trials
        if trial.number in {each.number for each in abandoned}
    } == {ABANDONED}
    counted = [trial.state for trial in trials if trial.user_attrs.get("reason") != ABANDONED]
    assert sorted(counted) == sorted(trial.state for trial in undisturbed.trials())


def test_how_soon_a_killed_study_trains_again(steady: Any) -> None:
    """From the command to the first new training step, of trials that take long enough not to end
    by themselves.
    """
    study = steady("--set", "teachers.epochs=1", "--set", "student.epochs=500")
    with study.running() as driver:
        driver.wait_for("[search] trial 000")
        before = driver.until_training()
        os.kill(driver.process.pid, signal.SIGKILL)
        driver.process.wait()
        time.sleep(3)  # its children notice, and end
    moment = time.time()

    def new_steps() -> list[float]:
        """When the first step was taken of every epoch that is new."""
        epochs = [record for records in study.histories().values() for record in records]
        return [
            begun for record in epochs if (begun := record["time"] - record["seconds"]) > moment
        ]

    with study.running() as driver:
        driver.until(new_steps)
    print(
        f"first new training step {min(new_steps()) - moment:.1f} s "
        "after the study was started again"
    )
    for name, times in before.items():
        assert study.under_way()[name][: len(times)] == times


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_told_to_end(name: str, steady: Any, undisturbed: Any) -> None:
    """As spot machines are, seconds before they are taken away: the study goes on from its last
    checkpoints.
    """
    study = steady()
    with study.running() as driver:
        driver.wait_for("[search] trial 000")
        before = driver.until_training()
        driver.process.send_signal(getattr(signal, name))
        began = time.monotonic()
        assert driver.ended(120) == 130, "".join(study.printed)
        seconds = time.monotonic() - began
    print(f"{name}: ended after {seconds:.1f} s")
    assert "the same command again goes on from here" in study.printed[-1]
    assert not [
        trial
        for trial in study.trials()
        if "its process died" in trial.user_attrs.get("reason", "")
    ]
    study.finish()
    study.goes_on_from(before)
    assert study.results() == undisturbed.results()


def test_a_finished_study_does_nothing_more(undisturbed: Any) -> None:
    store = Store(str(undisturbed.store))
    jobs = {name: find_job(store, name) for name in store.names("jobs")}
    undisturbed.finish()
    assert {name: find_job(store, name) for name in store.names("jobs")} == jobs
