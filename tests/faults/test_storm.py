"""Many kills at random over one study."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from optuna.trial import TrialState

KILLS = int(os.environ.get("DISTILL_RAY_STORM", "6"))
"""How many; the environment variable makes the storm longer."""

WORKING = ("Trainable", "TrainController", "RayTrainWorker")
"""What Ray calls the processes in which the study's work is done."""

EPOCHS = max(8, KILLS // 2)
OPTIONS = (
    f"teachers.epochs={EPOCHS}",
    f"student.epochs={EPOCHS}",
    "resources.retries=100",
    "resources.workers_per_teacher=2",
)


@pytest.mark.timeout(1800 + 60 * KILLS)
def test_a_storm_of_kills(steady: Any, tmp_path: Any) -> None:
    """kill -9 of the driver, of ranks, actors and tasks, each as soon as an epoch has passed since
    the last one.

    What was finished, or in a checkpoint, is never trained again, and in the end every job is the
    same to the byte.
    """
    options = tuple(argument for option in OPTIONS for argument in ("--set", option))
    alone, study = steady(*options, store=tmp_path / "alone"), steady(*options)
    began = time.monotonic()
    alone.finish()
    calm = time.monotonic() - began
    dice, kills, starts = random.Random(KILLS), Counter[str](), 0
    kept: dict[str, list[float]] = {}
    finished: dict[str, tuple[str, ...]] = {}
    began = time.monotonic()
    while sum(kills.values()) < KILLS and len(finished) < len(alone.results()):
        starts += 1
        with study.running() as driver:
            while driver.process.poll() is None and sum(kills.values()) < KILLS:
                seen = progress(study)
                while driver.process.poll() is None and progress(study) == seen:
                    time.sleep(0.05)
                time.sleep(dice.uniform(0, 0.5))
                for name, times in study.under_way().items():
                    if len(times) > len(kept.get(name, ())):
                        kept[name] = times
                workers = [process for name in WORKING for process in driver.workers(name)]
                if workers and dice.random() < 0.75:
                    victim = dice.choice(workers)
                    kind = (
                        " ".join(victim.cmdline())
                        .removeprefix("ray::")
                        .partition("(")[0]
                        .partition(".")[0]
                        .strip()
                    )
                    victim.kill()
                    kills[kind] += 1
                elif driver.process.poll() is None:
                    driver.process.kill()
                    kills["driver"] += 1
            ended = driver.process.poll()
            assert ended in (None, 0, 1, -9), "".join(study.printed)
            assert ended != 1 or "run the same command again" in study.printed[-1], "".join(
                study.printed
            )
        for job, files in finished.items():
            assert study.results().get(job, ())[:2] == files[:2], (
                "a finished job was lost or has changed"
            )
        finished = study.results()
    print(f"{sum(kills.values())} kills ({dict(kills)}), {starts} starts")
    study.finish()
    for name, times in kept.items():
        assert [record["time"] for record in study.epochs()[name]][: len(times)] == times, (
            "an epoch was trained twice"
        )
    assert study.results() == alone.results()
    counted = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    assert len(counted) == 3
    took = time.monotonic() - began
    epochs = sum(map(len, study.epochs().values()))
    print(f"{epochs} epochs in {took:.0f} s, and in {calm:.0f} s without kills: nothing was lost")


def progress(study: Any) -> tuple[int, int]:
    return sum(map(len, study.under_way().values())), len(
        list((study.store / "jobs").glob("*/manifest.json"))
    )
